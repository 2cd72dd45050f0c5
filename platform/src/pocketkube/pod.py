"""One pod on its node: addresses, volumes, containers, status, and its end. Follows pkg/kubelet (getPhase, status manager, pod worker)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketkube import environment, volumes
from pocketkube.addresses import Addresses
from pocketkube.container import MISSING_S, Container
from pocketkube.errors import NotFound
from pocketkube.images import Images
from pocketkube.proxy_control import ProxyControl
from pocketkube.storage import Object, Store, now
from pocketkube.supervisor import Supervisor

SOURCE = "kubelet"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Host:
    """What all nodes of a cluster share."""

    store: Store
    supervisor: Supervisor
    images: Images
    addresses: Addresses
    proxy: ProxyControl
    state: Path  # the cluster's folder

    @property
    def claims(self) -> Path:
        """Where persistent volume claims are."""
        return self.state / "claims"


class Pod:
    """A bound pod; `run` is its whole life."""

    def __init__(self, obj: Object, host: Host, node: str, source: str, gone: Callable[[str], None]) -> None:
        self.pod = obj
        self.uid: str = obj["metadata"]["uid"]
        self.host = host
        self.store, self.supervisor, self.images = host.store, host.supervisor, host.images
        self.node = node
        self.source = source
        self.address = ""
        self.volumes: dict[str, Path] = {}
        policy = obj["spec"].get("restartPolicy") or "Always"
        self.containers = [Container(spec, self, policy) for spec in obj["spec"]["containers"]]
        self.inits = [
            Container(spec, self, "Never" if policy == "Never" else "OnFailure", init=True)
            for spec in obj["spec"].get("initContainers") or []
        ]
        self._initialized = not self.inits
        before = obj.get("status") or {}
        self._begun: str = before.get("startTime") or now()
        self._resume(before.get("containerStatuses") or [])
        self._gone = gone
        self._dirty: asyncio.Handle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._end_s = float("inf")
        self._frozen = False
        self._life = asyncio.get_running_loop().create_task(self._run())

    def _resume(self, before: list[Object]) -> None:
        """A pod that has a status already is one whose node was off."""
        for status in before:
            for container in self.containers:
                if container.name == status["name"]:
                    container.resume(status)

    @property
    def links(self) -> dict[str, str]:
        """Service variables: of the namespace's Services, each at the address that only this pod has for it."""
        api = self.host.addresses.api
        made = {
            "KUBERNETES_SERVICE_HOST": api,
            "KUBERNETES_SERVICE_PORT": "6443",
            "KUBERNETES_SERVICE_PORT_HTTPS": "6443",
        }
        if self.pod["spec"].get("enableServiceLinks", True) is False:
            return made
        for service in self.store.list("services", self.pod["metadata"]["namespace"]):
            if (service["spec"].get("clusterIP") or "None") == "None":
                continue
            address = self.host.addresses.service(self.uid, service["metadata"]["uid"])
            if address is not None:
                made |= environment.service_variables(service, address)
        return made

    def folder(self, container: str) -> Path:
        """Where a container's files are."""
        path = self._home / container
        path.mkdir(parents=True, exist_ok=True)
        return path

    def event(self, reason: str, note: str, kind: str = "Normal") -> None:
        """Tell what happened."""
        if not self._frozen:
            self.store.record_event(self.pod, reason, note, kind=kind, source=SOURCE)

    def changed(self) -> None:
        """A status has changed: write it, once for all changes of this turn of the loop."""
        if self._dirty is None:
            self._dirty = asyncio.get_running_loop().call_soon(self._write)

    def update(self, obj: Object) -> None:
        """The object has changed."""
        self.pod = obj
        if "deletionTimestamp" in obj["metadata"]:
            self.end(float(obj["metadata"].get("deletionGracePeriodSeconds") or 0))

    def reconcile(self) -> None:
        """Somebody else may have written our status, and we know better: what the node controller said is over."""
        told = any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in (self.pod.get("status") or {}).get("conditions") or []
        )
        ready = all(c.ready for c in self.containers) and not self._gated(self.pod)
        if self._ending is None and self.address and told != ready:
            self.changed()

    def refresh(self, namespace: str) -> None:
        """A ConfigMap or Secret of this namespace has changed: files of volumes follow, the environment does not."""
        if self.volumes and self._ending is None and self.pod["metadata"]["namespace"] == namespace:
            with contextlib.suppress(environment.Missing):  # what is there stays, as upstream
                volumes.prepare(self.store, self.pod, self._home / "volumes", self.host.claims)

    def end(self, grace_s: float) -> None:
        """End it gracefully; a second call may shorten the grace."""
        loop = asyncio.get_running_loop()
        if self._ending is None:
            self._end_s = loop.time() + grace_s
            self._ending = loop.create_task(self._end(grace_s))
        elif loop.time() + grace_s < self._end_s:
            self._end_s = loop.time() + grace_s
            loop.call_at(self._end_s, self._kill)

    def removed(self) -> None:
        """The object is gone: end at once whatever is left."""
        if self._ending is None or self._end_s > asyncio.get_running_loop().time():
            self.end(0)
            self._kill()

    def power_off(self) -> list[int]:
        """The node is off: nobody tells anything any more; the processes to end."""
        self._frozen = True
        self._life.cancel()
        if self._ending is not None:
            self._ending.cancel()
        self._leave()
        return [pid for container in (*self.containers, *self.inits) for pid in container.power_off()]

    async def disturbed(self, timeout_s: float) -> bool:
        """Wait as long as network faults hold the packets of a probe; True if it takes longer than its timeout."""
        faults = [
            d for d in (self.host.proxy.disturbance(None, self.uid), self.host.proxy.disturbance(self.uid, None)) if d
        ]
        if not faults:
            return False
        blocked = any(d.blocked for d in faults)
        hold_s = timeout_s if blocked else sum(d.handshake_s() + d.hold_s(1) for d in faults)
        await asyncio.sleep(min(hold_s, timeout_s))
        return hold_s >= timeout_s

    @property
    def _home(self) -> Path:
        return self.host.state / "pods" / self.uid

    async def _run(self) -> None:
        try:
            if await self._prepare() and await self._initialize():
                async with asyncio.TaskGroup() as group:
                    for container in self.containers:
                        group.create_task(container.run())
        except Exception:  # one pod must never end a node; it shows as what it is, and its log has the trace
            log.exception("pod %s", self.pod["metadata"]["name"])
            self.event("FailedSync", "error syncing pod; see daemon.log", "Warning")
            return
        if self._ending is None:
            self._write()
            self._leave()  # it is over for good: its addresses are free

    async def _initialize(self) -> bool:
        for init in self.inits:
            code = await init.run()
            if code != 0 or self._ending is not None:
                return False
        self._initialized = True
        self.changed()
        return True

    async def _prepare(self) -> bool:
        """Addresses and volumes; False if the pod is ended before."""
        told = ""
        while (address := self.host.addresses.pod(self.uid)) is None:
            if not told:
                told = "no address is free: a cluster has 253 pods"
                self.event("FailedCreatePodSandBox", told, "Warning")
            await asyncio.sleep(MISSING_S)
        self.address = address
        self.host.proxy.add_caller(self.uid, self.pod["metadata"]["namespace"])
        self._write()
        while True:
            try:
                self.volumes = volumes.prepare(self.store, self.pod, self._home / "volumes", self.host.claims)
                break
            except environment.Missing as error:
                if told != str(error):
                    told = str(error)
                    self.event("FailedMount", f"MountVolume.SetUp failed: {told}", "Warning")
                await asyncio.sleep(MISSING_S)
        await self.host.proxy.settled()
        return self._ending is None

    async def _end(self, grace_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            for container in (*self.containers, *self.inits):
                group.create_task(container.stop(grace_s))
        await asyncio.sleep(0)
        self._life.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._life
        self._kill()
        self._write()
        self._leave()
        meta = self.pod["metadata"]
        if "deletionTimestamp" in meta:
            with contextlib.suppress(NotFound):
                self.store.delete("pods", meta["namespace"], meta["name"], self.uid)
        await asyncio.to_thread(shutil.rmtree, self._home, ignore_errors=True)
        self._gone(self.uid)

    def _kill(self) -> None:
        for container in (*self.containers, *self.inits):
            container.kill()

    def _leave(self) -> None:
        self.host.proxy.remove_caller(self.uid)
        self.host.addresses.release(self.uid)

    def _write(self) -> None:
        if self._dirty is not None:
            self._dirty.cancel()
            self._dirty = None
        meta = self.pod["metadata"]
        live = self.store.find("pods", meta["namespace"], meta["name"])
        if self._frozen or live is None or live["metadata"]["uid"] != self.uid:
            return
        self.pod = self.store.mutate("pods", meta["namespace"], meta["name"], self._status)

    def _status(self, draft: Object) -> None:
        status = draft.setdefault("status", {})
        phase = self._phase()
        before = status.get("phase")
        status.update(phase=before if before in ("Succeeded", "Failed") else phase, hostIP=self.source,
                      hostIPs=[{"ip": self.source}], startTime=self._begun,
                      containerStatuses=[c.status() for c in self.containers])  # fmt: skip
        if self.address:
            status.update(podIP=self.address, podIPs=[{"ip": self.address}])
        if self.inits:
            status["initContainerStatuses"] = [c.status() for c in self.inits]
        unready = [c.name for c in self.containers if not c.ready]
        not_ready = {
            "reason": "ContainersNotReady",
            "message": f"containers with unready status: [{' '.join(unready)}]",
        }
        if phase in ("Succeeded", "Failed"):
            not_ready = {"reason": "PodCompleted" if phase == "Succeeded" else "PodFailed"}
        gated = self._gated(draft)
        ready_reason = not_ready if unready else (
            {"reason": "ReadinessGatesNotReady", "message": f"the status of pod readiness gate {gated[0]!r} is not \"True\""}
            if gated else {})  # fmt: skip
        for kind, true, why in (
            ("PodReadyToStartContainers", bool(self.address), {}),
            ("Initialized", self._initialized, {"reason": "ContainersNotInitialized"}),
            ("ContainersReady", not unready, not_ready),
            ("Ready", not unready and not gated, ready_reason),
            ("PodScheduled", True, {}),
        ):
            _condition(status.setdefault("conditions", []), kind, true, why)

    def _gated(self, pod: Object) -> list[str]:
        gates = [g["conditionType"] for g in pod["spec"].get("readinessGates") or []]
        met = {c["type"] for c in (pod.get("status") or {}).get("conditions") or [] if c["status"] == "True"}
        return [gate for gate in gates if gate not in met]

    def _phase(self) -> str:
        inits_failed = any(c.over and "terminated" in c.state and c.state["terminated"]["exitCode"] for c in self.inits)
        if inits_failed:
            return "Failed"
        if all(c.over for c in self.containers):
            return "Succeeded" if all(c.state["terminated"]["exitCode"] == 0 for c in self.containers) else "Failed"
        waiting = any("waiting" in c.state and not c.last for c in self.containers)
        return "Pending" if waiting or not self._initialized else "Running"


def _condition(found: list[dict[str, Any]], kind: str, true: bool, why: dict[str, str]) -> None:
    entry = next((c for c in found if c["type"] == kind), None)
    status = "True" if true else "False"
    if entry is None:
        entry = {"type": kind, "status": "", "lastProbeTime": None}
        found.append(entry)
    if entry["status"] != status:
        entry.update(status=status, lastTransitionTime=now())
    for name in ("reason", "message"):
        if not true and name in why:
            entry[name] = why[name]
        else:
            entry.pop(name, None)
