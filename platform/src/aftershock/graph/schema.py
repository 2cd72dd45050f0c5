"""What the graph may hold: labels with their properties, edges with their ends. Engines build their tables or indexes from it.

Every node has `id` (`<run id>/<label>/<local id>`, so that many runs share one graph), `run_id`, and where it came from: `file` and `ref`.
"""

from __future__ import annotations

from collections.abc import Mapping

PROPERTY_TYPES: Mapping[str, type] = {"s": str, "i": int, "d": float, "b": bool}


def _properties(spec: str) -> dict[str, type]:
    pairs = (word.split(":") for word in ("id:s run_id:s file:s ref:s seq:i " + spec).split())
    return {name: PROPERTY_TYPES[kind] for name, kind in pairs}


NODES: Mapping[str, Mapping[str, type]] = {
    "Run": _properties(
        "experiment:s title:s started_us:i ended_us:i duration_s:d seed:i expect:s weakness:s verdict:s judged_us:i git_commit:s"
        " cluster_kind:s cluster_context:s server_version:s nodes:s nodes_count:i load_tool:s load_scenario:s load_rate_per_s:d"
    ),
    "Experiment": _properties("name:s title:s expect:s"),
    "Fault": _properties("name:s activity:s action:s targets_count:i refused:s"),
    "Target": _properties("kind:s namespace:s name:s uid:s node:s service:s fault:s"),
    "Service": _properties("name:s"),
    "Pod": _properties("name:s uid:s service:s node:s ip:s"),
    "Node": _properties("name:s"),
    "Event": _properties("time_us:i source:s type:s kind:s namespace:s name:s reason:s text:s"),
    "Window": _properties("name:s from_us:i to_us:i length_s:d"),
    # One scalar that was measured: `metric` of `subject` (kind says what sort of subject), at a time or in a window.
    "Observation": _properties("kind:s subject:s metric:s value:d unit:s text:s time_us:i window:s"),
    "Slo": _properties("name:s journey:s indicator:s bound:d unit:s window:s measured:d samples:i held:s"),
    "Invariant": _properties("name:s outcome:s checked:i violations:i summary:s"),
    "Finding": _properties("name:s rule:s outcome:s summary:s advice:s measured:d bound:d unit:s window:s"),
    "Order": _properties(
        "name:s state:s reason:s total_cents:i created_us:i updated_us:i trace_id:s latency_ms:d failed:b slow:b touched:b"
    ),
    "Payment": _properties("name:s state:s amount_cents:i created_us:i"),
    "Shipment": _properties("name:s state:s created_us:i"),
    "Hypothesis": _properties("rank:i entity:s indicator:s score:d path:s"),
    "Claim": _properties("language:s section:s text:s facts:s origin:s"),
}

CITED = (
    "Run",
    "Fault",
    "Window",
    "Observation",
    "Slo",
    "Invariant",
    "Finding",
    "Hypothesis",
)  # what a fact can come from
_CAUSES = tuple((a, b) for a in ("Service", "Pod", "Node") for b in ("Service", "Pod", "Node"))

EDGES: Mapping[str, tuple[tuple[tuple[str, str], ...], Mapping[str, type]]] = {
    name: (ends, {"run_id": str, **{n: PROPERTY_TYPES[k] for n, k in (w.split(":") for w in spec.split())}})
    for name, ends, spec in (
        ("TESTED", (("Run", "Experiment"),), ""),
        ("INJECTED", (("Run", "Fault"),), "time_us:i"),
        ("HIT", (("Fault", "Target"),), "time_us:i evidence:s"),
        ("IS", (("Target", "Pod"), ("Target", "Node"), ("Target", "Service")), ""),
        ("PROVED_BY", (("Fault", "Event"), ("Finding", "Event"), ("Finding", "Fault"), ("Finding", "Slo")), "step:s time_us:i"),
        ("INSTANCE_OF", (("Pod", "Service"),), ""),
        ("RUNS_ON", (("Pod", "Node"),), ""),
        ("CALLS", (("Service", "Service"),), "calls:i errors:i"),
        ("ABOUT", (("Event", "Pod"), ("Event", "Node"), ("Event", "Service")), "time_us:i"),
        ("HAS_WINDOW", (("Run", "Window"),), "time_us:i"),
        ("MEASURED_IN", (("Observation", "Window"), ("Slo", "Window")), ""),
        ("OBSERVED", (("Run", "Observation"),), ""),
        ("HAS_SLO", (("Run", "Slo"),), ""),
        ("CHECKED", (("Run", "Invariant"),), "time_us:i"),
        ("VIOLATED_BY", (("Invariant", "Order"),), "what:s"),
        ("FOUND", (("Run", "Finding"),), "time_us:i"),
        ("PLACED_IN", (("Order", "Window"),), "time_us:i"),
        ("PAID_BY", (("Order", "Payment"),), "time_us:i"),
        ("SHIPPED_BY", (("Order", "Shipment"),), "time_us:i"),
        ("HANDLED_BY", (("Order", "Pod"),), "time_us:i error:b evidence:s"),
        ("TOUCHED", (("Fault", "Order"),), "time_us:i evidence:s"),
        ("SUSPECTS", (("Run", "Hypothesis"),), "rank:i"),
        ("BLAMES", (("Hypothesis", "Service"), ("Hypothesis", "Pod"), ("Hypothesis", "Node")), ""),
        # Only what passed structure, deviation and order in time; the rest is kept as REJECTED with its reason.
        ("CAUSED", _CAUSES, "why:s evidence:s rank:i"),
        ("REJECTED", _CAUSES, "why:s evidence:s rank:i"),
        ("CLAIMS", (("Run", "Claim"),), ""),
        ("CITES", tuple(("Claim", to) for to in CITED), "fact:s"),
    )
}  # fmt: skip
