"""One node: its registration, its heartbeat, and the pods that are bound to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pocketkube import processes
from pocketkube.errors import AlreadyExists
from pocketkube.pod import SOURCE, Host, Pod
from pocketkube.storage import Event, Object, now
from pocketkube.usage import Metered

LEASES = "kube-node-lease"
HEARTBEAT_S = 1.0
VERSION = "v1.34.0+pocketkube"
PODS_MOST = 60


@dataclass(frozen=True)
class NodeSpec:
    """How a node presents itself."""

    name: str
    address: str
    share: int  # the machine is divided by this
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[dict[str, str], ...] = ()


def spec_of(name: str, address: str, share: int) -> NodeSpec:
    """The node of this name: `brain` is the control plane, `bodyN` runs services, `memoryN` the database."""
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": _architecture()}
    role = name.rstrip("0123456789")
    if role == "brain":
        labels["node-role.kubernetes.io/control-plane"] = ""
        taint = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
        return NodeSpec(name, address, share, labels, (taint,))
    return NodeSpec(name, address, share, {**labels, "aftershock.dev/role": role})


class Kubelet:
    """Runs the pods of one node."""

    def __init__(self, host: Host, node: NodeSpec, lease_s: float = 4.0) -> None:
        self._host = host
        self._node = node
        self._lease_s = lease_s
        self._boot = str(uuid.uuid4())
        self.pods: dict[str, Pod] = {}
        self.off = False

    async def run(self) -> None:
        """Register, then send heartbeats; until cancelled."""
        self._register()
        self._host.store.listen(self._changed)
        for pod in self._host.store.list("pods"):
            self._take(pod)
        while True:
            if not self.off:
                self._beat()
            await asyncio.sleep(HEARTBEAT_S)

    @property
    def name(self) -> str:
        """The node's."""
        return self._node.name

    def metered(self) -> Iterator[Metered]:
        """The containers that run."""
        for uid, pod in self.pods.items():
            for container in pod.containers:
                if (process := container.process) is not None and process.running:
                    yield Metered(uid, self.name, container.name, process.pid, process.started)

    async def power_off(self) -> None:
        """The node loses its power: all its processes die at once, its connections fall silent, and nothing is told to the API."""
        if self.off:
            return
        self.off = True
        await self._host.proxy.unpower(self.name, frozenset(self.pods))
        pids = [pid for pod in self.pods.values() for pid in pod.power_off()]
        processes.end(processes.tree(*pids))

    def power_on(self) -> None:
        """The node boots: what the API still binds to it is started anew, the files of what it does not are removed."""
        if not self.off:
            return
        self.off, self._boot = False, str(uuid.uuid4())
        before, self.pods = self.pods, {}
        self._host.proxy.power(self.name)
        self._register()
        self._beat()
        node = self._host.store.get("nodes", None, self.name)
        self._host.store.record_event(node, "Starting", "Starting kubelet.", source=SOURCE)
        note = f"Node {self.name} has been rebooted, boot id: {self._boot}"
        ready = f"Node {self.name} status is now: NodeReady"
        self._host.store.record_event(node, "NodeReady", ready, source=SOURCE)
        self._host.store.record_event(node, "Rebooted", note, kind="Warning", source=SOURCE)
        every = self._host.store.list("pods")
        for pod in every:
            self._take(pod)
        for uid in before.keys() - {pod["metadata"]["uid"] for pod in every}:
            shutil.rmtree(self._host.state / "pods" / uid, ignore_errors=True)

    def _changed(self, event: Event) -> None:
        if self.off:
            return
        if event.resource in ("configmaps", "secrets") and event.type == "MODIFIED":
            for pod in self.pods.values():
                pod.refresh(event.object["metadata"]["namespace"])
        if event.resource == "nodes" and event.object["metadata"]["name"] == self.name and _is_ready(event.object):
            if event.old is not None and not _is_ready(event.old):
                for pod in self.pods.values():
                    pod.reconcile()
            return
        if event.resource != "pods":
            return
        running = self.pods.get(event.object["metadata"]["uid"])
        if event.type == "DELETED":
            if running is not None:
                running.removed()
        elif running is not None:
            running.update(event.object)
            node = self._host.store.find("nodes", None, self.name)
            if node is not None and _is_ready(node):  # until then the node controller has the say
                running.reconcile()
        else:
            self._take(event.object)

    def _take(self, pod: Object) -> None:
        meta = pod["metadata"]
        if pod["spec"].get("nodeName") != self._node.name or meta["uid"] in self.pods:
            return
        if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return
        self.pods[meta["uid"]] = made = Pod(pod, self._host, self._node.name, self._node.address, self._gone)
        if "deletionTimestamp" in meta:
            made.update(pod)

    def _gone(self, uid: str) -> None:
        self.pods.pop(uid, None)

    def _register(self) -> None:
        node, store = self._node, self._host.store
        if store.find("nodes", None, node.name) is None:
            store.create("nodes", {
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": dict(node.labels)},
                "spec": {"taints": [dict(t) for t in node.taints], "providerID": f"pocketkube://{node.name}"}
                if node.taints else {"providerID": f"pocketkube://{node.name}"},
            })  # fmt: skip
        store.mutate(
            "nodes", None, node.name, lambda n: n.update(status={**(n.get("status") or {}), **self._status(n)})
        )
        with contextlib.suppress(AlreadyExists):
            store.create("leases", {
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": node.name, "namespace": LEASES},
                "spec": {"holderIdentity": node.name, "leaseDurationSeconds": max(1, round(self._lease_s)), "renewTime": now(micro=True)},
            })  # fmt: skip

    def _beat(self) -> None:
        if self._host.store.find("leases", LEASES, self._node.name) is None or (
            self._host.store.find("nodes", None, self._node.name) is None
        ):
            self._register()
        self._host.store.mutate(
            "leases", LEASES, self._node.name, lambda o: o["spec"].update(renewTime=now(micro=True))
        )

    def _status(self, node: Object) -> dict[str, Any]:
        at = now()
        known = {c["type"]: c for c in (node.get("status") or {}).get("conditions") or []}
        conditions = []
        for kind, true, reason, message in (
            ("MemoryPressure", False, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ("DiskPressure", False, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ("PIDPressure", False, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ("Ready", True, "KubeletReady", "kubelet is posting ready status"),
        ):
            status = "True" if true else "False"
            before = known.get(kind, {})
            since = before.get("lastTransitionTime") if before.get("status") == status else None
            conditions.append({"type": kind, "status": status, "reason": reason, "message": message,
                               "lastHeartbeatTime": at, "lastTransitionTime": since or at})  # fmt: skip
        amount = capacity(self._node.share, str(self._host.state))
        return {
            "capacity": amount, "allocatable": amount, "conditions": conditions,
            "addresses": [{"type": "InternalIP", "address": self._node.address}, {"type": "Hostname", "address": self._node.name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
            "images": [{"names": [name], "sizeBytes": 0} for name in sorted(self._host.images.all)],
            "nodeInfo": {
                "machineID": "", "systemUUID": "", "bootID": self._boot, "kernelVersion": platform.release(), "osImage": "pocketkube",
                "containerRuntimeVersion": "pocketkube://1", "kubeletVersion": VERSION, "kubeProxyVersion": VERSION,
                "operatingSystem": "linux", "architecture": _architecture(),
            },
        }  # fmt: skip


def _is_ready(node: Object) -> bool:
    return any(
        c["type"] == "Ready" and c["status"] == "True" for c in (node.get("status") or {}).get("conditions") or []
    )


def capacity(share: int, folder: str) -> dict[str, str]:
    """The machine divided by `share`; at least one core each, so that small machines are overcommitted."""
    cores = max(1, (os.cpu_count() or 1) // share)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // share
    disk = shutil.disk_usage(folder).total // share
    return {
        "cpu": str(cores),
        "memory": f"{memory // 1024}Ki",
        "ephemeral-storage": f"{disk // 1024}Ki",
        "pods": str(PODS_MOST),
    }


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
