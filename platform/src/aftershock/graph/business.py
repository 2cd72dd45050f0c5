"""The business chain order -> payment -> shipment, for every order that failed, was slow or was touched by the fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aftershock import slo
from aftershock.folder import RunFolder
from aftershock.graph.rows import Json, Rows

ORDERS_MAX = 500  # the chain is for reading; counts are of all orders
SLOW_FACTOR = 3.0  # without a latency objective, slow is this many times the baseline's p95
SAMPLE_COLUMNS = (
    "iteration",
    "journey",
    "intended_us",
    "end_us",
    "status",
    "error",
    "order_id",
    "idempotency_key",
    "trace_id",
)
SPAN_COLUMNS = ("trace_id", "service", "pod", "kind", "peer", "start_us", "duration_us", "error")


@dataclass(frozen=True)
class Request:
    """What the customer saw of one order."""

    ok: bool
    latency_ms: float
    intended_us: int
    trace_id: str | None


def chain(rows: Rows, folder: RunFolder, run: Json, verdict: Json, evidence: Json, invariants: Json) -> None:
    """Add services' calls, orders, payments, shipments and what joins them; counts go to Observations."""
    spans = columns(folder, "traces.parquet", SPAN_COLUMNS)
    _calls(rows, spans)
    if not folder.has("ledger.ndjson"):
        return
    ledger: dict[str, list[Json]] = {"order": [], "payment": [], "shipment": []}
    for line in folder.lines("ledger.ndjson"):
        ledger.get(line.get("kind", ""), []).append(line)
    requests = _requests(folder)
    slow_ms = _slow_ms(verdict, requests, run)
    hits = _hits(evidence, run, spans)
    violated = {v.get("order_id") for r in invariants["results"] for v in r.get("violations") or []}
    chosen: list[tuple[int, str, dict[str, Any]]] = []
    states: dict[str, int] = {}
    totals = {"failed": 0, "slow": 0, "touched": 0}
    for order in ledger["order"]:
        states[order["state"]] = states.get(order["state"], 0) + 1
        request = requests.get(order["id"]) or requests.get(order.get("idempotency_key") or "")
        trace = order.get("trace_id") or (request.trace_id if request else None)
        flags = {
            "failed": order["state"] in ("pending", "cancelled") or (request is not None and not request.ok),
            "slow": request is not None and slow_ms is not None and request.latency_ms > slow_ms,
            "touched": trace in hits,
        }
        for name, flag in flags.items():
            totals[name] += flag
        if any(flags.values()) or order["id"] in violated:
            rank = 0 if order["id"] in violated or flags["failed"] else 1 if flags["slow"] else 2
            found = {**flags, "latency_ms": request.latency_ms if request else None, "trace_id": trace, "order": order,
                     "placed_us": request.intended_us if request else order["created_us"]}  # fmt: skip
            chosen.append((rank, order["id"], found))
    chosen.sort(key=lambda item: item[:2])
    _counts(rows, len(ledger["order"]), totals, states, max(0, len(chosen) - ORDERS_MAX))
    kept = chosen[:ORDERS_MAX]
    for _, oid, found in kept:
        _order(rows, oid, found, hits)
    _payments(rows, ledger["payment"], ledger["shipment"])
    _handled(rows, spans, {found["trace_id"]: oid for _, oid, found in kept if found["trace_id"]})
    for result in invariants["results"]:
        for violation in result.get("violations") or []:
            oid = str(violation.get("order_id"))
            rows.edge("VIOLATED_BY", ("Invariant", result["name"]), ("Order", oid), what=violation.get("what"))


def columns(folder: RunFolder, name: str, wanted: Sequence[str]) -> list[tuple[Any, ...]]:
    """Rows of some columns; none if the file is not there."""
    if not folder.has(name):
        return []
    table = folder.table(name, wanted).to_pydict()
    return list(zip(*(table[column] for column in wanted), strict=True))


def _calls(rows: Rows, spans: Sequence[tuple[Any, ...]]) -> None:
    """Calls as seen in client spans, then those that the topology names and nobody saw."""
    seen: dict[tuple[str, str], list[int]] = {}
    for _, service, _, kind, peer, _, _, error in spans:
        if kind == "CLIENT" and service and peer:
            count = seen.setdefault((service, peer), [0, 0])
            count[0] += 1
            count[1] += bool(error)
    for (caller, callee), (calls, errors) in sorted(seen.items()):
        for name in (caller, callee):
            rows.node("Service", name, "traces.parquet", f"service {name}", name=name)
        rows.edge("CALLS", ("Service", caller), ("Service", callee), calls=calls, errors=errors)


def _requests(folder: RunFolder) -> dict[str, Request]:
    """What customers saw, by order id and by idempotency key; a journey is judged whole."""
    journeys: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
    for row in columns(folder, "samples.parquet", SAMPLE_COLUMNS):
        journeys.setdefault((row[1], row[0]), []).append(row)
    found: dict[str, Request] = {}
    for group in journeys.values():
        start, end = min(r[2] for r in group), max(r[3] for r in group)
        ok = all(r[5] is None and r[4] is not None and 200 <= r[4] < 400 for r in group)
        trace = next((r[8] for r in group if r[6] and r[8]), None) or next((r[8] for r in group if r[8]), None)
        request = Request(ok, (end - start) / 1000, start, trace)
        for row in group:
            for key in (row[6], row[7]):
                if key:
                    found[key] = request
    return found


def _slow_ms(verdict: Json, requests: Mapping[str, Request], run: Json) -> float | None:
    bounds = [s["bound"] for s in verdict.get("slos") or [] if s["indicator"].startswith("latency_ms")]
    if bounds:
        return float(min(bounds))
    window = (run.get("windows") or {}).get("baseline")
    usual = [r.latency_ms for r in requests.values() if window and window["from_us"] <= r.intended_us < window["to_us"]]
    return slo.percentile(usual, 95) * SLOW_FACTOR if usual else None


def _hits(evidence: Json, run: Json, spans: Sequence[tuple[Any, ...]]) -> dict[str, tuple[str, int, str]]:
    """Traces that met a target between request and recovery, or failed to: trace -> (fault, time, pod)."""
    windows = run.get("windows") or {}
    end_us = max((w["to_us"] for w in windows.values() if w), default=2**62)
    on_node: dict[str, set[str]] = {}
    for pod in (run.get("topology") or {}).get("pods") or []:
        on_node.setdefault(pod.get("node") or "", set()).add(pod["name"])
    hits: dict[str, tuple[str, int, str]] = {}
    for fault in evidence.get("faults") or []:
        steps = fault.get("steps") or {}
        start = (steps.get("requested") or {}).get("time_us")
        if start is None or not steps.get("accepted"):
            continue
        until = min((s["time_us"] for s in (steps.get("recovered"), steps.get("undone")) if s), default=end_us)
        pods: set[str] = set()
        services: set[str] = set()
        for target in fault.get("targets") or []:
            pods |= on_node.get(target["name"], set()) if target.get("kind") == "Node" else {target["name"]}
            if target.get("service"):
                services.add(target["service"])
        for trace, _, pod, kind, peer, start_us, duration_us, error in spans:
            # A call that a dead pod never answered leaves a span at its caller only.
            met = pod in pods or (kind == "CLIENT" and error and peer in services)
            if met and start_us <= until and start_us + (duration_us or 0) >= start and trace not in hits:
                hits[trace] = (fault["id"], start_us, pod or "")
    return hits


def _counts(rows: Rows, total: int, totals: Mapping[str, int], states: Mapping[str, int], left_out: int) -> None:
    counted = {
        "total": total,
        **totals,
        **{f"state.{state}": count for state, count in sorted(states.items())},
        "left_out": left_out,
    }
    for metric, count in counted.items():
        rows.node("Observation", f"orders.{metric}", "ledger.ndjson", f"orders.{metric}", kind="orders", subject="orders",
                  metric=metric, value=count, unit="orders")  # fmt: skip
        rows.edge("OBSERVED", ("Run", "run"), ("Observation", f"orders.{metric}"))


def _order(rows: Rows, oid: str, found: Json, hits: Mapping[str, tuple[str, int, str]]) -> None:
    order = found["order"]
    rows.node("Order", oid, "ledger.ndjson", f"order {oid}", name=oid, trace_id=found["trace_id"], latency_ms=found["latency_ms"],
              failed=found["failed"], slow=found["slow"], touched=found["touched"],
              **{k: order.get(k) for k in ("state", "reason", "total_cents", "created_us", "updated_us")})  # fmt: skip
    for window in rows.nodes.get("Window", {}).values():
        if int(window["from_us"]) <= found["placed_us"] < int(window["to_us"]):
            rows.edge("PLACED_IN", ("Order", oid), ("Window", str(window["name"])), time_us=found["placed_us"])
    hit = hits.get(found["trace_id"])
    if hit:
        rows.edge("TOUCHED", ("Fault", hit[0]), ("Order", oid), time_us=hit[1], evidence=f"trace {found['trace_id']}")


def _payments(rows: Rows, payments: Sequence[Json], shipments: Sequence[Json]) -> None:
    for payment in payments:
        if rows.has("Order", payment["order_id"]):
            rows.node("Payment", payment["id"], "ledger.ndjson", f"payment {payment['id']}", name=payment["id"],
                      **{k: payment.get(k) for k in ("state", "amount_cents", "created_us")})  # fmt: skip
            rows.edge(
                "PAID_BY", ("Order", payment["order_id"]), ("Payment", payment["id"]), time_us=payment.get("created_us")
            )
    for shipment in shipments:
        if rows.has("Order", shipment["order_id"]):
            rows.node("Shipment", shipment["id"], "ledger.ndjson", f"shipment {shipment['id']}", name=shipment["id"],
                      state=shipment.get("state"), created_us=shipment.get("created_us"))  # fmt: skip
            rows.edge(
                "SHIPPED_BY",
                ("Order", shipment["order_id"]),
                ("Shipment", shipment["id"]),
                time_us=shipment.get("created_us"),
            )


def _handled(rows: Rows, spans: Sequence[tuple[Any, ...]], order_of: Mapping[str, str]) -> None:
    seen: dict[tuple[str, str], tuple[int, bool, str]] = {}
    for trace, _, pod, _, _, start_us, _, error in spans:
        if trace in order_of and pod:
            first, failed, _ = seen.get((order_of[trace], pod), (start_us, False, trace))
            seen[order_of[trace], pod] = (min(first, start_us), failed or bool(error), trace)
    for (oid, pod), (time_us, failed, trace) in seen.items():
        rows.edge("HANDLED_BY", ("Order", oid), ("Pod", pod), time_us=time_us, error=failed, evidence=f"trace {trace}")
