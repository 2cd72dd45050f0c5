"""What one may see of the graph: `truth` is everything, `blind` is what an observer without the experiment could know.

`blind` is an allow-list of labels, properties and edges, applied to rows, so that a graph written from it holds no more than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from aftershock.graph.rows import Rows, Value

View = Literal["truth", "blind"]

_ORIGIN = ("id", "run_id", "seq")

# No title, experiment, window or finding: their names and texts say what was injected, and when.
BLIND_NODES: Mapping[str, tuple[str, ...]] = {
    "Run": (*_ORIGIN, "started_us", "ended_us"),
    "Service": (*_ORIGIN, "name"),
    "Pod": (*_ORIGIN, "name", "uid", "service", "node", "ip"),
    "Node": (*_ORIGIN, "name"),
    "Event": (*_ORIGIN, "time_us", "source", "type", "kind", "namespace", "name", "reason"),
    "Order": (*_ORIGIN, "name", "state", "reason", "total_cents", "created_us", "updated_us", "trace_id", "latency_ms", "failed", "slow"),
    "Payment": (*_ORIGIN, "name", "state", "amount_cents", "created_us"),
    "Shipment": (*_ORIGIN, "name", "state", "created_us"),
}  # fmt: skip

BLIND_EDGES: Mapping[str, tuple[str, ...]] = {
    "INSTANCE_OF": ("run_id",),
    "RUNS_ON": ("run_id",),
    "CALLS": ("run_id", "calls", "errors"),
    "ABOUT": ("run_id", "time_us"),
    "PAID_BY": ("run_id", "time_us"),
    "SHIPPED_BY": ("run_id", "time_us"),
    "HANDLED_BY": ("run_id", "time_us", "error", "evidence"),
}

# Events that the cluster tells of itself; the runner's own, those about chaos objects and markers of injection are not among them.
BLIND_EVENT_KINDS = ("Pod", "Node", "EndpointSlice", "Deployment", "Event")
BLIND_EVENT_SOURCES = ("watch",)
BLIND_EVENT_TYPES = ("ADDED", "MODIFIED", "DELETED", "NORMAL", "WARNING")


def blind(rows: Rows) -> Rows:
    """The rows that the blind view allows."""
    secrets = _secrets(rows)
    seen = Rows(rows.run_id)
    for label, allowed in BLIND_NODES.items():
        table = {
            key: {name: value for name, value in row.items() if name in allowed}
            for key, row in rows.nodes.get(label, {}).items()
            if _visible(label, row)
        }
        seen.nodes[label] = {key: row for key, row in table.items() if not _tells(row, secrets)}
    # What hangs on an order that is not shown would tell that there is one.
    for label, type_ in (("Payment", "PAID_BY"), ("Shipment", "SHIPPED_BY")):
        edges = rows.edges.get((type_, "Order", label), {})
        shown = {end for start, end in edges if start in seen.nodes["Order"]}
        seen.nodes[label] = {key: row for key, row in seen.nodes[label].items() if key in shown}
    known = {key for table in seen.nodes.values() for key in table}
    for (type_, start, end), edges in rows.edges.items():
        if type_ in BLIND_EDGES and start in BLIND_NODES and end in BLIND_NODES:
            kept = {
                ends: {name: value for name, value in row.items() if name in BLIND_EDGES[type_]}
                for ends, row in edges.items()
                if ends[0] in known and ends[1] in known
            }
            if kept:
                seen.edges[type_, start, end] = kept
    return seen


def _visible(label: str, row: Mapping[str, Value]) -> bool:
    if label == "Event":
        return (row.get("kind") in BLIND_EVENT_KINDS and row.get("source") in BLIND_EVENT_SOURCES
                and row.get("type") in BLIND_EVENT_TYPES)  # fmt: skip
    if label == "Order":  # an order that was only touched is in the graph because of the fault
        return bool(row.get("failed") or row.get("slow"))
    return True


def _secrets(rows: Rows) -> tuple[str, ...]:
    """Texts that name what was done: a second line of defence behind the allow-list."""
    words: set[str] = set()
    for row in rows.nodes.get("Run", {}).values():
        words |= {str(row[name]) for name in ("experiment", "title", "weakness") if row.get(name)}
    for row in rows.nodes.get("Fault", {}).values():
        words |= {str(row[name]) for name in ("activity", "action") if row.get(name)}
    return tuple(sorted(words))


def _tells(row: Mapping[str, Value], secrets: tuple[str, ...]) -> bool:
    return any(secret in value for value in row.values() if isinstance(value, str) for secret in secrets)
