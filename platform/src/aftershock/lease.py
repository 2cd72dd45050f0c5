"""One run at a time in a namespace: a Lease `aftershock-run`, taken before anything else and let go at the end.

A lease of a run that is dead (its process on this machine is gone, or its time is over) is taken over.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aftershock import processes
from aftershock.errors import ClusterError, NotFound, Refused

if TYPE_CHECKING:
    from aftershock.cluster import Cluster

NAME = "aftershock-run"
_TRIES = 5


def take(cluster: Cluster, namespace: str, run_id: str, duration_s: float) -> None:
    """Take the lease for at most `duration_s` seconds. Raises Refused naming the run that holds it."""
    collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    for _ in range(_TRIES):
        body: dict[str, Any] = {
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME, "namespace": namespace},
            "spec": {"holderIdentity": _identity(run_id), "leaseDurationSeconds": max(1, round(duration_s)),
                     "acquireTime": _now(), "renewTime": _now()},
        }  # fmt: skip
        try:
            cluster.request("POST", collection, body=body)
            return
        except ClusterError as error:
            if error.status != 409:
                raise
        try:
            held = cluster.request("GET", f"{collection}/{NAME}")
        except NotFound:
            continue
        if alive(held):
            raise Refused(f"another run works in namespace {namespace}: {held['spec'].get('holderIdentity')}",
                          hint="two faults at once prove nothing; wait for it to end")  # fmt: skip
        body["metadata"]["resourceVersion"] = held["metadata"]["resourceVersion"]
        try:
            cluster.request("PUT", f"{collection}/{NAME}", body=body)
            return
        except ClusterError as error:
            if error.status not in (404, 409):
                raise
    raise Refused(f"the lease {NAME} in namespace {namespace} changes too fast to be taken")


def holder(cluster: Cluster, namespace: str) -> str | None:
    """The run that holds the lease now and may still be at work. Raises ClusterError."""
    try:
        held = cluster.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{NAME}")
    except NotFound:
        return None
    return str(held["spec"].get("holderIdentity")) if alive(held) else None


def release(cluster: Cluster, namespace: str, run_id: str) -> bool:
    """Let the lease go if this run holds it; says whether it did. Raises ClusterError."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{NAME}"
    try:
        held = cluster.request("GET", path)
        if str(held["spec"].get("holderIdentity", "")).split("/")[0] != run_id:
            return False
        cluster.request("DELETE", path, body={"preconditions": {"uid": held["metadata"]["uid"]}})
    except NotFound:
        return False
    return True


def alive(held: dict[str, Any]) -> bool:
    """Whether the run behind a lease may still be at work; in doubt it is."""
    spec = held.get("spec") or {}
    try:
        renewed = datetime.fromisoformat(str(spec["renewTime"]).replace("Z", "+00:00"))
        if datetime.now(UTC) > renewed + timedelta(seconds=int(spec["leaseDurationSeconds"])):
            return False
    except (KeyError, ValueError, TypeError):
        return False  # nobody's: a lease of ours has a time
    parts = str(spec.get("holderIdentity", "")).split("/")
    if len(parts) == 4 and parts[1] == _host():
        return processes.alive(int(parts[2]), int(parts[3]))
    return True


def _identity(run_id: str) -> str:
    return f"{run_id}/{_host()}/{os.getpid()}/{processes.start_time(os.getpid())}"


def _host() -> str:
    """This machine and this boot of it, since process ids mean something only within one."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()[:8]
    except OSError:
        boot = "unknown"
    return f"{socket.gethostname()}.{boot}"


def _now() -> str:
    return f"{datetime.fromtimestamp(time.time(), UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
