"""Pods on nodes with NoExecute taints that they do not tolerate, or not for longer, are ended.

Source: kubernetes pkg/controller/tainteviction/taint_eviction.go.
"""

from __future__ import annotations

from collections.abc import Iterable

from pocketkube.controllers import conditions, pods
from pocketkube.controllers.moments import seconds, stamp
from pocketkube.controllers.reconciler import Context, Key
from pocketkube.placement import tolerates
from pocketkube.storage import Event, Object


def taints_of(node: Object) -> list[Object]:
    """spec.taints."""
    return (node.get("spec") or {}).get("taints") or []


def leaves_at_s(pod: Object, taints: list[Object], since_s: float) -> float | None:
    """When a pod must go for these taints, in Unix seconds; None if it may stay for good."""
    tolerations = pod["spec"].get("tolerations") or []
    bounds: list[float] = []
    for taint in taints:
        if taint["effect"] != "NoExecute":
            continue
        fitting = [t for t in tolerations if tolerates([t], taint)]
        began_s = seconds(taint.get("timeAdded")) or since_s
        if not fitting:
            return since_s
        bounded = [t["tolerationSeconds"] for t in fitting if t.get("tolerationSeconds") is not None]
        if bounded:
            bounds.append(began_s + max(0, min(bounded)))
    return min(bounds, default=None)


class TaintEvictionController:
    """Ends pods when their toleration of a taint runs out."""

    name = "taint-eviction-controller"

    def __init__(self, context: Context) -> None:
        self._store, self._clock = context.store, context.clock
        self._marked: set[Key] = set()

    def touched(self, event: Event) -> Iterable[Key]:
        """A pod that got its node; all pods of a node whose taints changed."""
        if event.resource == "pods" and event.object["spec"].get("nodeName"):
            old = event.old["spec"] if event.old else {}
            if any(old.get(k) != event.object["spec"].get(k) for k in ("nodeName", "tolerations")):
                yield event.object["metadata"]["namespace"], event.object["metadata"]["name"]
            return
        if (
            event.resource == "nodes"
            and event.type != "DELETED"
            and taints_of(event.object) != taints_of(event.old or {})
        ):
            yield from self._on(event.object["metadata"]["name"])

    def _on(self, node: str) -> Iterable[Key]:
        for pod in self._store.list("pods"):
            if pod["spec"].get("nodeName") == node:
                yield pod["metadata"]["namespace"], pod["metadata"]["name"]

    def known(self) -> Iterable[Key]:
        """Pods on tainted nodes."""
        for node in self._store.list("nodes"):
            if any(t["effect"] == "NoExecute" for t in taints_of(node)):
                yield from self._on(node["metadata"]["name"])

    def reconcile(self, key: Key) -> float | None:
        """End one pod if it is time; the answer is when it will be."""
        pod = self._store.find("pods", *key)
        node = self._store.find("nodes", None, pod["spec"].get("nodeName") or "") if pod is not None else None
        if pod is None or node is None or pods.is_terminating(pod):
            self._marked.discard(key)
            return None
        now_s = self._clock()
        at_s = leaves_at_s(pod, taints_of(node), now_s)
        if at_s is None:
            if key in self._marked:
                self._marked.discard(key)
                self._store.record_event(
                    pod, "TaintManagerEviction", f"Cancelling deletion of Pod {key[0]}/{key[1]}", source=self.name
                )
            return None
        if at_s > now_s:
            self._marked.add(key)
            return at_s - now_s
        self._store.record_event(
            pod, "TaintManagerEviction", f"Marking for deletion Pod {key[0]}/{key[1]}", source=self.name
        )
        self._end(pod, now_s)
        self._marked.discard(key)
        return None

    def _end(self, pod: Object, now_s: float) -> None:
        wanted = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                  "message": "Taint manager: deleting due to NoExecute taint"}  # fmt: skip
        marked = self._store.mutate("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], lambda p: p["status"].update(
            conditions=conditions.put(p["status"].get("conditions") or [], wanted, stamp(now_s))))  # fmt: skip
        pods.end(self._store, marked, now_s)
