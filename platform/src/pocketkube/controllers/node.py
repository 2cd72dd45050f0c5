"""Nodes: a node whose lease is not renewed is Unknown and tainted, and its pods are not ready; what is cordoned is tainted too.

Source: kubernetes pkg/controller/nodelifecycle/node_lifecycle_controller.go.
"""

from __future__ import annotations

from collections.abc import Iterable

from pocketkube.controllers import conditions, pods
from pocketkube.controllers.moments import stamp
from pocketkube.controllers.reconciler import Context, Key, key_of, keys
from pocketkube.placement import UNSCHEDULABLE
from pocketkube.storage import Event, Object

LEASES = "kube-node-lease"
PRESSURE = {"MemoryPressure": "memory-pressure", "DiskPressure": "disk-pressure", "PIDPressure": "pid-pressure",
            "NetworkUnavailable": "network-unavailable"}  # fmt: skip
OURS = frozenset(
    {pods.NOT_READY, pods.UNREACHABLE, UNSCHEDULABLE, *(f"node.kubernetes.io/{t}" for t in PRESSURE.values())}
)


class NodeController:
    """Watches leases. Times are those at which a renewal was seen here, so that clocks need not agree."""

    name = "node-controller"

    def __init__(self, context: Context) -> None:
        self._store, self._clock, self._grace_s = context.store, context.clock, context.node_grace_s
        self._renewals: dict[str, tuple[str | None, float]] = {}  # node -> last renewTime, when it was seen
        self._looked_s: float | None = None

    def touched(self, event: Event) -> Iterable[Key]:
        """The node itself, or that of a lease."""
        if event.resource == "nodes":
            yield key_of(event)
        elif event.resource == "leases" and event.object["metadata"].get("namespace") == LEASES:
            yield "", event.object["metadata"]["name"]

    def known(self) -> Iterable[Key]:
        """All nodes."""
        return keys(self._store, "nodes")

    def reconcile(self, key: Key) -> float | None:
        """Judge one node; the answer is when to look again if nothing is heard of it."""
        name = key[1]
        node = self._store.find("nodes", None, name)
        if node is None:
            self._renewals.pop(name, None)
            return None
        left_s = self._left_s(name)
        ready = conditions.find(node, "Ready")
        if left_s <= 0:
            if ready is None or ready["status"] != "Unknown":
                node = self._lost(node, ready)
        elif ready is not None and ready.get("reason") == "NodeStatusUnknown":
            node = self._back(node)
        ready = conditions.find(node, "Ready")
        self._taint(node, ready)
        if ready is None or ready["status"] != "True":
            self._unready_pods(name)
        return max(0.05, min(self._grace_s / 4, left_s)) if left_s > 0 else self._grace_s / 4

    def _left_s(self, name: str) -> float:
        """Seconds until the node's grace ends."""
        now_s = self._clock()
        if self._looked_s is not None and now_s - self._looked_s > self._grace_s / 2:
            # Nobody was looked at for long: it is we who stood still, so nobody's silence proves anything.
            self._renewals = {n: (renewed, now_s) for n, (renewed, _) in self._renewals.items()}
        self._looked_s = now_s
        lease = self._store.find("leases", LEASES, name)
        renewed = (lease["spec"].get("renewTime") if lease else None) or None
        if name not in self._renewals or self._renewals[name][0] != renewed:
            self._renewals[name] = (renewed, now_s)
        return self._renewals[name][1] + self._grace_s - now_s

    def _lost(self, node: Object, ready: Object | None) -> Object:
        reason, message = (
            ("NodeStatusUnknown", "Kubelet stopped posting node status.") if ready is not None
            else ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
        )  # fmt: skip
        name, now = node["metadata"]["name"], stamp(self._clock())

        def change(draft: Object) -> None:
            status = draft.setdefault("status", {})
            known = status.get("conditions") or []
            for kind in [
                "Ready",
                *(c["type"] for c in known if c["type"] in PRESSURE and c["type"] != "NetworkUnavailable"),
            ]:
                known = conditions.put(
                    known, {"type": kind, "status": "Unknown", "reason": reason, "message": message}, now
                )
            status["conditions"] = known

        lost = self._store.mutate("nodes", None, name, change)
        self._store.record_event(lost, "NodeNotReady", f"Node {name} status is now: NodeNotReady", source=self.name)
        return lost

    def _back(self, node: Object) -> Object:
        """The kubelet renews its lease again: what was Unknown is as before, until the kubelet says otherwise."""
        now = stamp(self._clock())

        def change(draft: Object) -> None:
            known = draft["status"]["conditions"]
            for condition in list(known):
                if condition.get("reason") != "NodeStatusUnknown":
                    continue
                kind = condition["type"]
                wanted = {"type": kind, "status": "False", "reason": f"KubeletHasNo{kind}", "message": ""}
                if kind == "Ready":
                    wanted = {
                        "type": kind,
                        "status": "True",
                        "reason": "KubeletReady",
                        "message": "kubelet is posting ready status",
                    }
                known = conditions.put(known, wanted, now)
            draft["status"]["conditions"] = known

        back = self._store.mutate("nodes", None, node["metadata"]["name"], change)
        self._store.record_event(
            back, "NodeReady", f"Node {node['metadata']['name']} status is now: NodeReady", source=self.name
        )
        return back

    def _taint(self, node: Object, ready: Object | None) -> None:
        wanted: list[tuple[str, str]] = []
        spec = node.get("spec") or {}
        if spec.get("unschedulable"):
            wanted.append((UNSCHEDULABLE, "NoSchedule"))
        status = ready["status"] if ready is not None else "Unknown"
        if status != "True":
            key = pods.UNREACHABLE if status == "Unknown" else pods.NOT_READY
            wanted += [(key, "NoSchedule"), (key, "NoExecute")]
        wanted += [
            (f"node.kubernetes.io/{t}", "NoSchedule") for kind, t in PRESSURE.items() if conditions.is_true(node, kind)
        ]
        has = spec.get("taints") or []
        kept = [t for t in has if t["key"] not in OURS or (t["key"], t["effect"]) in wanted]
        added = [w for w in wanted if w not in [(t["key"], t["effect"]) for t in kept]]
        if kept == has and not added:
            return
        now = stamp(self._clock())
        taints = kept + [{"key": key, "effect": effect, "timeAdded": now} for key, effect in added]
        self._store.mutate(
            "nodes", None, node["metadata"]["name"], lambda n: n.setdefault("spec", {}).update(taints=taints)
        )

    def _unready_pods(self, name: str) -> None:
        now = stamp(self._clock())
        for pod in self._store.list("pods"):
            if pod["spec"].get("nodeName") != name or not pods.is_ready(pod):
                continue
            meta = pod["metadata"]
            self._store.mutate("pods", meta["namespace"], meta["name"], lambda p: p["status"].update(
                conditions=conditions.put(p["status"]["conditions"], {"type": "Ready", "status": "False"}, now)))  # fmt: skip
            self._store.record_event(pod, "NodeNotReady", "Node is not ready", kind="Warning", source=self.name)
