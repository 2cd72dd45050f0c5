"""Evictions: a pod is asked to go, within its disruption budget, and only the pod that was meant."""

from __future__ import annotations

from typing import Any

from aftershock.cluster import Cluster
from aftershock.errors import ClusterError, NotFound

Json = dict[str, Any]


def evict(cluster: Cluster, pod: Json, grace_period_s: int | None = None) -> str | None:
    """Ask for one eviction; None if it was granted or needed no more, else why not (yet). Raises ClusterError for any other refusal."""
    meta = pod["metadata"]
    options: Json = {"preconditions": {"uid": meta["uid"]}}
    if grace_period_s is not None:
        options["gracePeriodSeconds"] = grace_period_s
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "deleteOptions": options,
            "metadata": {"name": meta["name"], "namespace": meta["namespace"]}}  # fmt: skip
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/eviction"
    try:
        cluster.request("POST", path, body=body)
    except NotFound:
        return None
    except ClusterError as error:
        if error.status == 429:
            causes = (error.body.get("details") or {}).get("causes") or []
            detail = "; ".join(str(c.get("message")) for c in causes if c.get("message"))
            return f"{error.body.get('message') or error.reason}{f' {detail}' if detail else ''}"
        if (
            error.status == 409
        ):  # its uid is another: it was replaced, which no drain can be after; or it is being changed
            return None if not _still_there(cluster, pod) else str(error)
        raise
    return None


def _still_there(cluster: Cluster, pod: Json) -> bool:
    meta = pod["metadata"]
    try:
        live = cluster.request("GET", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}")
    except NotFound:
        return False
    return bool(live["metadata"]["uid"] == meta["uid"])
