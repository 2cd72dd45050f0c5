"""Who calls whom, as spans show it, and which pods there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aftershock.cluster import Cluster
from aftershock.observe.reach import Columns, Table
from aftershock.observe.summary import finished

CALL_COLUMNS = ("service", "kind", "peer")


def calls(traces: Table | Columns) -> list[list[str]]:
    """`[caller, callee]` for every pair of which at least one call was recorded, sorted. Needs the columns CALL_COLUMNS."""
    columns = traces if isinstance(traces, Mapping) else traces.to_pydict()
    rows = zip(*(columns[name] for name in CALL_COLUMNS), strict=True)
    seen = {
        (service, peer) for service, kind, peer in rows if kind == "CLIENT" and service and peer and peer != service
    }
    return [list(pair) for pair in sorted(seen)]


def pods(cluster: Cluster, namespaces: Sequence[str], label_selector: str | None = None) -> list[dict[str, Any]]:
    """The pods of run.json's topology, by name; finished ones and our own are left out. Raises ClusterError."""
    found = []
    for namespace in namespaces:
        for pod in cluster.list(f"/api/v1/namespaces/{namespace}/pods", label_selector):
            meta = pod["metadata"]
            ours = (meta.get("labels") or {}).get("app.kubernetes.io/part-of") == "aftershock"
            if ours or finished(pod):
                continue
            found.append({
                "name": meta["name"], "uid": meta.get("uid"), "service": (meta.get("labels") or {}).get("app"),
                "node": (pod.get("spec") or {}).get("nodeName"), "ip": (pod.get("status") or {}).get("podIP"),
            })  # fmt: skip
    return sorted(found, key=lambda p: str(p["name"]))
