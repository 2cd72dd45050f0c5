"""The scheduler: gives each pending pod a node, and says why when there is none."""

from __future__ import annotations

from collections.abc import Iterable

from pocketkube.controllers import conditions, pods
from pocketkube.controllers.moments import stamp
from pocketkube.controllers.reconciler import Context, Key, key_of
from pocketkube.placement import Node, Nowhere, claims_of, place
from pocketkube.storage import Event, Object

SCHEDULER = "default-scheduler"
SELECTED = "volume.kubernetes.io/selected-node"  # upstream's name for the node that a claim's volume is made for


class Scheduler:
    """Binds pods; those that fit nowhere are tried again when a node or another pod changes."""

    name = SCHEDULER

    def __init__(self, context: Context) -> None:
        self._store, self._clock = context.store, context.clock
        self._refused: set[Key] = set()

    def touched(self, event: Event) -> Iterable[Key]:
        """A new pod; and all refused ones when room may have come up."""
        if event.resource == "pods":
            if event.type != "DELETED" and _is_waiting(event.object) and _is_news(event):
                yield key_of(event)
            elif self._refused and _may_make_room(event):
                yield from self._refused
        elif event.resource == "nodes" and self._refused and _node_differs(event):
            yield from self._refused

    def known(self) -> Iterable[Key]:
        """All pods without a node, the most important first, then the oldest."""
        waiting = [p for p in self._store.list("pods") if _is_waiting(p)]
        waiting.sort(key=lambda p: (-(p["spec"].get("priority") or 0), int(p["metadata"]["resourceVersion"])))
        return [(p["metadata"]["namespace"], p["metadata"]["name"]) for p in waiting]

    def reconcile(self, key: Key) -> float | None:
        """Bind one pod, or write down why not."""
        pod = self._store.find("pods", *key)
        if pod is None or not _is_waiting(pod):
            self._refused.discard(key)
            return None
        found = place(pod, self._nodes())
        if isinstance(found, Nowhere):
            self._refused.add(key)
            self._refuse(pod, found.message())
        else:
            self._refused.discard(key)
            self._bind(pod, found)
        return None

    def _nodes(self) -> list[Node]:
        on: dict[str, list[Object]] = {}
        for pod in self._store.list("pods"):
            if (name := pod["spec"].get("nodeName")) and pods.phase(pod) not in pods.TERMINAL:
                on.setdefault(name, []).append(pod)
        homes = {
            (c["metadata"].get("namespace") or "", c["metadata"]["name"]): home
            for c in self._store.list("persistentvolumeclaims")
            if (home := (c["metadata"].get("annotations") or {}).get(SELECTED))
        }
        return [
            Node(n, tuple(on.get(n["metadata"]["name"], ())),
                 frozenset(claim for claim, home in homes.items() if home != n["metadata"]["name"]))
            for n in self._store.list("nodes") if "deletionTimestamp" not in n["metadata"]
        ]  # fmt: skip

    def _bind(self, pod: Object, node: str) -> None:
        meta = pod["metadata"]

        def bind(draft: Object) -> None:
            draft["spec"]["nodeName"] = node
            self._condition(draft, {"type": "PodScheduled", "status": "True"})

        self._bind_claims(pod, node)
        bound = self._store.mutate("pods", meta["namespace"], meta["name"], bind)
        note = f"Successfully assigned {meta['namespace']}/{meta['name']} to {node}"
        self._store.record_event(bound, "Scheduled", note, source=SCHEDULER)

    def _bind_claims(self, pod: Object, node: str) -> None:
        def settle(claim: Object) -> None:
            claim["metadata"].setdefault("annotations", {}).setdefault(SELECTED, node)

        for name in claims_of(pod):
            if self._store.find("persistentvolumeclaims", pod["metadata"]["namespace"], name) is not None:
                self._store.mutate("persistentvolumeclaims", pod["metadata"]["namespace"], name, settle)

    def _refuse(self, pod: Object, why: str) -> None:
        wanted = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
        meta = pod["metadata"]
        refused = self._store.mutate("pods", meta["namespace"], meta["name"], lambda p: self._condition(p, wanted))
        self._store.record_event(refused, "FailedScheduling", why, kind="Warning", source=SCHEDULER)

    def _condition(self, draft: Object, wanted: dict[str, str]) -> None:
        status = draft.setdefault("status", {})
        kept = [
            c for c in status.get("conditions") or []
            if c["type"] != wanted["type"] or c["status"] == wanted["status"]
        ]  # fmt: skip
        status["conditions"] = conditions.put(kept, wanted, stamp(self._clock()))


def _is_waiting(pod: Object) -> bool:
    spec = pod["spec"]
    return (
        not spec.get("nodeName") and pods.is_active(pod) and not spec.get("schedulingGates")
        and spec.get("schedulerName", SCHEDULER) == SCHEDULER
    )  # fmt: skip


def _is_news(event: Event) -> bool:
    """False for our own note that the pod fits nowhere."""
    return event.old is None or event.old["spec"] != event.object["spec"] or (
        event.old["metadata"].get("labels") != event.object["metadata"].get("labels"))  # fmt: skip


def _may_make_room(event: Event) -> bool:
    if event.type == "DELETED" or event.old is None:
        return True
    pod, old = event.object, event.old
    ended = pods.phase(pod) in pods.TERMINAL and pods.phase(old) not in pods.TERMINAL
    moved = bool(pod["spec"].get("nodeName")) and not old["spec"].get("nodeName")
    return ended or moved or pods.is_terminating(pod) != pods.is_terminating(old) or (
        pod["metadata"].get("labels") != old["metadata"].get("labels"))  # fmt: skip


def _node_differs(event: Event) -> bool:
    """False for heartbeats."""
    node, old = event.object, event.old
    if old is None or event.type == "DELETED":
        return True
    allocatable = [(n.get("status") or {}).get("allocatable") for n in (node, old)]
    return bool(node.get("spec") != old.get("spec") or allocatable[0] != allocatable[1]
                or node["metadata"].get("labels") != old["metadata"].get("labels"))  # fmt: skip
