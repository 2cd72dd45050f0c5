"""One node: its registration, its heartbeat, and the pods that are bound to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
from dataclasses import dataclass, field
from typing import Any

from pocketkube.errors import AlreadyExists
from pocketkube.pod import Host, Pod
from pocketkube.storage import Event, Object, now

LEASES = "kube-node-lease"
HEARTBEAT_S = 1.0
LEASE_S = 4
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

    def __init__(self, host: Host, node: NodeSpec) -> None:
        self._host = host
        self._node = node
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

    def power_off(self) -> None:
        """The node loses its power: all its processes die at once and nothing is told to the API."""
        self.off = True
        for pod in list(self.pods.values()):
            pod.power_off()
        self.pods.clear()

    def power_on(self) -> None:
        """The node boots: what the API still binds to it is started anew."""
        self.off = False
        self._register()
        self._beat()
        for pod in self._host.store.list("pods"):
            self._take(pod)

    def _changed(self, event: Event) -> None:
        if self.off:
            return
        if event.resource in ("configmaps", "secrets") and event.type == "MODIFIED":
            for pod in self.pods.values():
                pod.refresh(event.object["metadata"]["namespace"])
        if event.resource != "pods":
            return
        running = self.pods.get(event.object["metadata"]["uid"])
        if event.type == "DELETED":
            if running is not None:
                running.removed()
        elif running is not None:
            running.update(event.object)
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
                "spec": {"holderIdentity": node.name, "leaseDurationSeconds": LEASE_S, "renewTime": now(micro=True)},
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
                "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": platform.release(), "osImage": "pocketkube",
                "containerRuntimeVersion": "pocketkube://1", "kubeletVersion": VERSION, "kubeProxyVersion": VERSION,
                "operatingSystem": "linux", "architecture": _architecture(),
            },
        }  # fmt: skip


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
