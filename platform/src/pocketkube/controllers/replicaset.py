"""ReplicaSets: as many pods as asked for, now.

Source: kubernetes pkg/controller/replicaset and ActivePodsWithRanks in pkg/controller/controller_utils.go.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pocketkube import selectors
from pocketkube.controllers import conditions, owners, pods
from pocketkube.controllers.moments import seconds, stamp
from pocketkube.controllers.reconciler import Context, Key, key_of, keys
from pocketkube.errors import ApiError
from pocketkube.storage import Event, Object

API_VERSION, KIND = "apps/v1", "ReplicaSet"
RETRY_S = 1.0  # after a pod could not be created
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True)
class Counts:
    """Pods of one ReplicaSet; `settles_in_s`: when the next ready one becomes available."""

    replicas: int
    labeled: int
    ready: int
    available: int
    settles_in_s: float | None


def count(rs: Object, active: list[Object], now_s: float) -> Counts:
    """Count active pods of a ReplicaSet."""
    min_ready_s = rs["spec"].get("minReadySeconds") or 0
    labels = (rs["spec"].get("template") or {}).get("metadata", {}).get("labels") or {}
    waits = [w for p in active if (w := pods.available_in_s(p, min_ready_s, now_s)) is not None]
    pending = [w for w in waits if w > 0]
    labeled = sum(labels.items() <= (p["metadata"].get("labels") or {}).items() for p in active)
    return Counts(len(active), labeled, len(waits), len(waits) - len(pending), min(pending, default=None))


def deletion_order(active: list[Object], related: list[Object], now_s: float) -> list[Object]:
    """Pods, those to delete first first: unassigned, not running, not ready, cheap, doubled up on a node, youngest."""
    crowd = Counter(p["spec"].get("nodeName") for p in related)

    def rank(pod: Object) -> tuple[float, ...]:
        status, meta = pod.get("status") or {}, pod["metadata"]
        ready = conditions.find(pod, "Ready")
        is_ready = pods.is_ready(pod)
        ready_for_s = now_s - seconds((ready or {}).get("lastTransitionTime")) if is_ready else 0.0
        restarts = max((c.get("restartCount", 0) for c in status.get("containerStatuses") or []), default=0)
        return (
            bool(pod["spec"].get("nodeName")),
            {"Pending": 0, "Unknown": 1}.get(pods.phase(pod), 2),
            is_ready,
            _cost(meta),
            -crowd[pod["spec"].get("nodeName")],
            _logarithm(ready_for_s),
            -restarts,
            _logarithm(now_s - seconds(meta.get("creationTimestamp"))),
            # Ages within one power of two count as the same (KEP-2185); upstream then takes any, here the youngest for good.
            -int(meta.get("resourceVersion") or 0),
        )

    return sorted(active, key=rank)


def _logarithm(age_s: float) -> float:
    return math.floor(math.log2(age_s)) if age_s >= 1 else -1


def _cost(meta: Object) -> int:
    try:
        return int((meta.get("annotations") or {}).get(DELETION_COST, 0))
    except ValueError:
        return 0


class ReplicaSetController:
    """Keeps spec.replicas active pods; a pod with a deletionTimestamp is replaced at once."""

    name = "replicaset-controller"

    def __init__(self, context: Context) -> None:
        self._store, self._clock = context.store, context.clock

    def touched(self, event: Event) -> Iterable[Key]:
        """The ReplicaSet itself, the controller of a pod, or those that could adopt it."""
        if event.resource == "replicasets":
            yield key_of(event)
        elif event.resource == "pods":
            yield from owners.of_pod(self._store, event, "replicasets", KIND)

    def known(self) -> Iterable[Key]:
        """All ReplicaSets."""
        return keys(self._store, "replicasets")

    def reconcile(self, key: Key) -> float | None:
        """Create or end pods, then write the status."""
        rs = self._store.find("replicasets", *key)
        if rs is None:
            return None
        matches = selectors.of(rs["spec"].get("selector"))
        active = [
            p for p in owners.claim(self._store, rs, API_VERSION, KIND, "pods", matches) if pods.is_active(p)
        ]  # fmt: skip
        failure = None
        if "deletionTimestamp" not in rs["metadata"]:
            failure = self._manage(rs, active)
        rs = self._store.find("replicasets", *key)
        if rs is None:
            return None
        counts = count(rs, self._active(rs), self._clock())
        self._write_status(rs, counts, failure)
        return counts.settles_in_s if failure is None else RETRY_S

    def _active(self, rs: Object) -> list[Object]:
        return active_pods(self._store.list("pods", rs["metadata"]["namespace"]), rs)

    def _manage(self, rs: Object, active: list[Object]) -> str | None:
        missing = rs["spec"].get("replicas", 1) - len(active)
        meta = rs["metadata"]
        for _ in range(missing):
            made = pods.from_template(rs["spec"]["template"], meta["namespace"],
                                      owners.reference(rs, API_VERSION, KIND), generateName=meta["name"] + "-")  # fmt: skip
            try:
                pod = self._store.create("pods", made)
            except ApiError as error:
                self._store.record_event(
                    rs, "FailedCreate", f"Error creating: {error}", kind="Warning", source=self.name
                )
                return str(error)
            self._store.record_event(
                rs, "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}", source=self.name
            )
        if missing < 0:
            for pod in deletion_order(active, self._related(rs), self._clock())[:-missing]:
                pods.end(self._store, pod, self._clock())
                self._store.record_event(
                    rs, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}", source=self.name
                )
        return None

    def _related(self, rs: Object) -> list[Object]:
        """Active pods of this ReplicaSet and of its siblings under the same Deployment."""
        namespace, by = rs["metadata"]["namespace"], owners.controller_of(rs)
        family = [rs] if by is None else [
            s for s in self._store.list("replicasets", namespace) if (owners.controller_of(s) or {}).get("uid") == by["uid"]
        ]  # fmt: skip
        every = self._store.list("pods", namespace)
        return [p for member in family for p in active_pods(every, member)]

    def _write_status(self, rs: Object, counts: Counts, failure: str | None) -> None:
        status = {"replicas": counts.replicas, "observedGeneration": rs["metadata"].get("generation", 1)}
        for name, value in (("fullyLabeledReplicas", counts.labeled), ("readyReplicas", counts.ready),
                            ("availableReplicas", counts.available)):  # fmt: skip
            if value:
                status[name] = value
        kept = (rs.get("status") or {}).get("conditions") or []
        if failure is not None:
            kept = conditions.put(kept, {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": failure},
                                  stamp(self._clock()))  # fmt: skip
        else:
            kept = [c for c in kept if c["type"] != "ReplicaFailure"]
        self._store.mutate("replicasets", rs["metadata"]["namespace"], rs["metadata"]["name"], lambda o: o.update(
            status={**status, **({"conditions": kept} if kept else {})}))  # fmt: skip


def active_pods(every: Iterable[Object], rs: Object) -> list[Object]:
    """Of `every` pod, the active ones that this ReplicaSet controls."""
    return [p for p in every if owners.controls(rs, p) and pods.is_active(p)]
