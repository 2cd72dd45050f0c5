"""Pods that no kubelet will ever end: their node is gone, or is declared out of service. Source: kubernetes pkg/controller/podgc."""

from __future__ import annotations

from collections.abc import Iterable

from pocketkube.controllers import conditions, pods
from pocketkube.controllers.eviction import taints_of
from pocketkube.controllers.moments import stamp
from pocketkube.controllers.reconciler import Context, Key, key_of
from pocketkube.storage import Event, Object

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


class PodGarbageCollector:
    """Removes such pods, the ones of a missing node after a grace in which it may register again."""

    name = "pod-garbage-collector"

    def __init__(self, context: Context) -> None:
        self._store, self._clock, self._quarantine_s = context.store, context.clock, context.node_grace_s
        self._missing_since_s: dict[str, float] = {}

    def touched(self, event: Event) -> Iterable[Key]:
        """All pods of a node that came, went or was tainted; a pod that was bound or is to end."""
        if event.resource == "nodes":
            if event.type != "MODIFIED" or taints_of(event.object) != taints_of(event.old or {}):
                yield from self._on(event.object["metadata"]["name"])
        elif event.resource == "pods" and event.object["spec"].get("nodeName") and event.type != "DELETED":
            old = event.old
            if (
                old is None
                or not old["spec"].get("nodeName")
                or pods.is_terminating(old) != pods.is_terminating(event.object)
            ):
                yield key_of(event)

    def _on(self, node: str) -> Iterable[Key]:
        for pod in self._store.list("pods"):
            if pod["spec"].get("nodeName") == node:
                yield pod["metadata"]["namespace"], pod["metadata"]["name"]

    def known(self) -> Iterable[Key]:
        """All bound pods."""
        for pod in self._store.list("pods"):
            if pod["spec"].get("nodeName"):
                yield pod["metadata"]["namespace"], pod["metadata"]["name"]

    def reconcile(self, key: Key) -> float | None:
        """Remove one pod if nobody else can."""
        pod = self._store.find("pods", *key)
        name = pod["spec"].get("nodeName") if pod is not None else None
        if pod is None or not name:
            return None
        node, now_s = self._store.find("nodes", None, name), self._clock()
        if node is not None:
            self._missing_since_s.pop(name, None)
            out = any(t["key"] == OUT_OF_SERVICE for t in taints_of(node))
            if out and pods.is_terminating(pod) and not conditions.is_true(node, "Ready"):
                self._remove(pod, "PodGC: node is out of service")
            return None
        left_s = self._missing_since_s.setdefault(name, now_s) + self._quarantine_s - now_s
        if left_s > 0:
            return left_s
        self._remove(pod, "PodGC: node no longer exists")
        return None

    def _remove(self, pod: Object, why: str) -> None:
        meta, now = pod["metadata"], stamp(self._clock())
        wanted = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": why}

        def fail(draft: Object) -> None:
            status = draft["status"]
            status["conditions"] = conditions.put(status.get("conditions") or [], wanted, now)
            if pods.phase(draft) not in pods.TERMINAL:
                status["phase"] = "Failed"

        self._store.mutate("pods", meta["namespace"], meta["name"], fail)
        self._store.delete("pods", meta["namespace"], meta["name"], meta["uid"])
