"""One run at a time in a namespace: a Lease `aftershock-run`, taken before anything else, renewed all the time, let go at the end.

Whether the run behind a lease still lives is never read from its times, which another machine's clock wrote: on this machine its process
is looked up, and of any other machine a renewal must be seen, or none for the lease's whole duration by our own clock (as client-go's
leader election does). A run that leaves faults behind leaves the lease with a mark, so that no other machine starts over them.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aftershock import processes
from aftershock.errors import ClusterError, Forbidden, NotFound, Refused

if TYPE_CHECKING:
    from aftershock.cluster import Cluster

NAME = "aftershock-run"
DURATION_S = 20  # without a renewal for so long a run is dead
RENEW_S, AGAIN_S = 4.0, 1.0
LOOK_S = 0.5
DURATION_MAX_S = 120  # what a stranger's lease may make us wait
REQUEST_S = 3.0
LEFT = "aftershock.dev/left"  # annotation: the faults that the run behind a lease could not undo
_TRIES = 5
Object = dict[str, Any]


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its own identity says: `run/host/pid/start`."""

    run: str
    host: str
    pid: int
    started: int
    since: str  # by the holder's clock
    left: str  # what it could not undo

    @classmethod
    def of(cls, lease: Mapping[str, Any]) -> Holder:
        """The holder of a lease object; one that is not ours has no host."""
        spec, meta = lease.get("spec") or {}, lease.get("metadata") or {}
        identity = str(spec.get("holderIdentity") or "")
        since, left = str(spec.get("acquireTime") or ""), str((meta.get("annotations") or {}).get(LEFT) or "")
        parts = identity.split("/")
        if len(parts) == 4 and parts[2].isdigit() and parts[3].isdigit():
            return cls(parts[0], parts[1], int(parts[2]), int(parts[3]), since, left)
        return cls(identity, "", 0, 0, since, left)

    @property
    def here(self) -> bool:
        """True if it is, or was, a process that this one could see."""
        return self.host == _host()

    def __str__(self) -> str:
        where = f" on {self.host.split('.')[0]}" if self.host else ""
        return f"{self.run}{where}{f', since {_second(self.since)}' if self.since else ''}"


def take(cluster: Cluster, namespace: str, run_id: str, duration_s: float = DURATION_S) -> None:
    """Take the lease; whoever does not renew it (`Renewal`) holds it for `duration_s` seconds.

    A lease of another machine takes up to its duration to be seen abandoned. Raises Refused naming the run that holds it, since when.
    """
    for _ in range(_TRIES):
        body = _body(namespace, run_id, duration_s)
        try:
            cluster.request("POST", _path(namespace), body=body)
            return
        except ClusterError as error:
            if error.status != 409:
                raise
        try:
            held = cluster.request("GET", _path(namespace, NAME))
            holder = Holder.of(held)
            if holder.left and not holder.here:
                raise _left(namespace, holder)
            if _lives(cluster, namespace, held):
                raise Refused(f"another run works in namespace {namespace}: {holder}",
                              hint="two faults at once prove nothing; wait for it to end")  # fmt: skip
        except NotFound:
            continue
        body["metadata"]["resourceVersion"] = held["metadata"]["resourceVersion"]
        try:
            cluster.request("PUT", _path(namespace, NAME), body=body)
            return
        except ClusterError as error:
            if error.status not in (404, 409):
                raise
    raise Refused(f"the lease {NAME} in namespace {namespace} changes too fast to be taken")


def holder(cluster: Cluster, namespace: str) -> str | None:
    """The run that holds the lease and may still be at work, or left something; looks once, so in doubt it is. Raises ClusterError."""
    try:
        held = Holder.of(cluster.request("GET", _path(namespace, NAME)))
    except NotFound:
        return None
    if not held.here:
        return f"{held}{f' (it left {held.left})' if held.left else ''}"
    return str(held) if processes.alive(held.pid, held.started) else None


def forget(cluster: Cluster, runs: Collection[str], namespaces: Collection[str] = ()) -> None:
    """Let go every lease of these runs, or those in `namespaces` if no others may be seen: what they left has been undone.

    Raises ClusterError.
    """
    found: list[Object] = []
    try:
        found = cluster.list("/apis/coordination.k8s.io/v1/leases", field_selector=f"metadata.name={NAME}")
    except Forbidden:  # these may look into some namespaces only
        for namespace in namespaces:
            try:
                found.append(cluster.request("GET", _path(namespace, NAME)))
            except (Forbidden, NotFound):
                continue
    for lease in found:
        held = Holder.of(lease)
        if (
            lease["metadata"]["name"] == NAME
            and held.run in runs
            and not (held.here and processes.alive(held.pid, held.started))
        ):
            release(cluster, lease["metadata"]["namespace"], held.run)


def release(cluster: Cluster, namespace: str, run_id: str, left: str = "", timeout_s: float = REQUEST_S) -> bool:
    """Let the lease go if this run holds it; says whether it did. With `left` it stays, marked with what is not undone.

    Raises ClusterError.
    """
    path = _path(namespace, NAME)
    try:
        held = cluster.request("GET", path, timeout_s=timeout_s)
        if Holder.of(held).run != run_id:
            return False
        if left:
            held["metadata"]["annotations"] = {**(held["metadata"].get("annotations") or {}), LEFT: left[:200]}
            cluster.request("PUT", path, body=held, timeout_s=timeout_s)
        else:
            options = {"preconditions": {"uid": held["metadata"]["uid"]}}
            cluster.request("DELETE", path, body=options, timeout_s=timeout_s)
    except NotFound:
        return False
    return True


class Renewal:
    """Renews a run's leases from a thread of its own until `stop`; `lost` says who took one."""

    def __init__(self, cluster: Cluster, namespaces: Sequence[str], run_id: str, every_s: float = RENEW_S) -> None:
        self.lost: str | None = None
        self._cluster, self._namespaces, self._run_id, self._every_s = cluster, tuple(namespaces), run_id, every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Renew no more; the leases stay."""
        self._ended.set()
        self._thread.join(REQUEST_S + 1)

    def _work(self) -> None:
        wait_s = self._every_s
        while not self._ended.wait(wait_s):
            wait_s = self._every_s
            for namespace in self._namespaces:
                try:
                    self.lost = self.lost or renew(self._cluster, namespace, self._run_id)
                except ClusterError:
                    wait_s = min(self._every_s, AGAIN_S)  # who cannot be reached cannot give it to another either


def renew(cluster: Cluster, namespace: str, run_id: str) -> str | None:
    """Say once that this run lives; None, or who holds the lease instead. A lease that was removed is made again. Raises ClusterError."""
    path = _path(namespace, NAME)
    try:
        held = cluster.request("GET", path, timeout_s=REQUEST_S)
    except NotFound:
        try:
            cluster.request("POST", _path(namespace), body=_body(namespace, run_id, DURATION_S), timeout_s=REQUEST_S)
            return None
        except ClusterError as error:
            if error.status != 409:
                raise
            held = cluster.request("GET", path, timeout_s=REQUEST_S)
    if Holder.of(held).run != run_id:
        return str(Holder.of(held))
    held["spec"] |= {"renewTime": _now(), "leaseDurationSeconds": DURATION_S}
    cluster.request("PUT", path, body=held, timeout_s=REQUEST_S)
    return None


def _lives(cluster: Cluster, namespace: str, held: Object, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Whether the run behind a lease is at work. Raises NotFound once the lease is gone, ClusterUnreachable."""
    holder = Holder.of(held)
    if holder.here:
        return processes.alive(holder.pid, holder.started)
    try:
        duration_s = min(DURATION_MAX_S, max(1, int(held["spec"]["leaseDurationSeconds"])))
        first = (str(held["spec"]["holderIdentity"]), str(held["spec"]["renewTime"]))
    except (KeyError, ValueError, TypeError):
        return False  # nobody's: a lease of ours says these
    ends = time.monotonic() + duration_s
    while time.monotonic() < ends:
        sleep(min(LOOK_S, max(0.0, ends - time.monotonic())))
        spec = cluster.request("GET", _path(namespace, NAME)).get("spec") or {}
        if (str(spec.get("holderIdentity")), str(spec.get("renewTime"))) != first:
            return True
    return False


def _left(namespace: str, holder: Holder) -> Refused:
    return Refused(f"namespace {namespace} is not as it was: run {holder} left {holder.left}",
                   hint=f"run `aftershock undo` on {holder.host.split('.')[0]}, whose journal has it; if you have put all right by hand:"
                        f" kubectl delete lease {NAME} -n {namespace}")  # fmt: skip


def _body(namespace: str, run_id: str, duration_s: float) -> Object:
    return {
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME, "namespace": namespace},
        "spec": {"holderIdentity": f"{run_id}/{_host()}/{os.getpid()}/{processes.start_time(os.getpid())}",
                 "leaseDurationSeconds": max(1, round(duration_s)), "acquireTime": _now(), "renewTime": _now()},
    }  # fmt: skip


def _path(namespace: str, name: str = "") -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases{f'/{name}' if name else ''}"


def _host() -> str:
    """This machine, this boot of it and this process namespace, since process ids mean something only within one."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()[:8]
        inside = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        boot, inside = "unknown", "0"
    return f"{socket.gethostname().split('.')[0]}.{boot}.{inside}"


def _now() -> str:
    return f"{datetime.fromtimestamp(time.time(), UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _second(text: str) -> str:
    return re.sub(r"\.\d+", "", text)
