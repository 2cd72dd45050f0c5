"""PodDisruptionBudgets: how many pods may be evicted now. Source: kubernetes pkg/controller/disruption/disruption.go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pocketkube import selectors
from pocketkube.controllers import conditions, owners, pods
from pocketkube.controllers.moments import seconds, stamp
from pocketkube.controllers.reconciler import Context, Key, key_of, keys
from pocketkube.controllers.rollout import replicas_of, scaled
from pocketkube.storage import Event, Object

RESOURCE = "poddisruptionbudgets"
DELETION_TIMEOUT_S = 120  # an evicted pod that is still there and not ending after this counts as healthy again
SCALED = {"ReplicaSet": "replicasets", "Deployment": "deployments", "StatefulSet": "statefulsets"}


class Unscaled(Exception):
    """A pod's controller is not known, so what its pods are a part of cannot be said."""


@dataclass(frozen=True)
class Budget:
    """The numbers of a budget's status."""

    expected: int
    healthy: int
    desired: int

    @property
    def allowed(self) -> int:
        """Pods that may be disrupted now."""
        return max(0, self.healthy - self.desired) if self.expected > 0 else 0


def desired(spec: Object, pods_found: int, scale: int) -> tuple[int, int]:
    """(expected, desired healthy): of `pods_found` pods, whose controllers want `scale` in all. Raises ValueError."""
    if spec.get("maxUnavailable") is not None:
        return scale, max(0, scale - scaled(spec["maxUnavailable"], scale, up=True))
    least = spec.get("minAvailable", 1)
    return (scale, scaled(least, scale, up=True)) if isinstance(least, str) else (pods_found, int(least))


class DisruptionController:
    """Keeps the status of budgets, from which the eviction API decides."""

    name = "controllermanager"

    def __init__(self, context: Context) -> None:
        self._store, self._clock = context.store, context.clock

    def touched(self, event: Event) -> Iterable[Key]:
        """The budget itself, those that select a pod, those in the namespace of a controller whose scale changed."""
        if event.resource == RESOURCE:
            yield key_of(event)
            return
        namespace = event.object["metadata"].get("namespace") or ""
        if event.resource == "pods":
            for budget in self._store.list(RESOURCE, namespace):
                matches = selectors.of(budget["spec"].get("selector"))
                if matches(event.object) or (event.old is not None and matches(event.old)):
                    yield namespace, budget["metadata"]["name"]
        elif event.resource in SCALED.values() and (event.old is None or event.old["spec"] != event.object["spec"]):
            yield from keys(self._store, RESOURCE, namespace)

    def known(self) -> Iterable[Key]:
        """All budgets."""
        return keys(self._store, RESOURCE)

    def reconcile(self, key: Key) -> float | None:
        """Write one budget's status; the answer is when an eviction that led to nothing is forgotten."""
        budget = self._store.find(RESOURCE, *key)
        if budget is None:
            return None
        matches = selectors.of(budget["spec"].get("selector"))
        found = [p for p in self._store.list("pods", key[0]) if matches(p) and pods.phase(p) not in pods.TERMINAL]
        if not found:
            self._store.record_event(budget, "NoPods", "No matching pods found", source=self.name)
        disrupted, again_s = self._disrupted(budget, found)
        healthy = sum(
            pods.is_ready(p) and not pods.is_terminating(p) and p["metadata"]["name"] not in disrupted for p in found
        )  # fmt: skip
        try:
            expected, least = desired(budget["spec"], len(found), self._scale(budget, found))
        except (Unscaled, ValueError) as error:
            why = f"Failed to calculate the number of expected pods: {error}"
            self._store.record_event(budget, "CalculateExpectedPodCountFailed", why, kind="Warning", source=self.name)
            self._write(budget, None, disrupted, "SyncFailed", str(error))
            return again_s
        numbers = Budget(expected, healthy, least)
        self._write(budget, numbers, disrupted, "SufficientPods" if numbers.allowed else "InsufficientPods", "")
        return again_s

    def _scale(self, budget: Object, found: list[Object]) -> int:
        """What the controllers of the pods want, each controller once."""
        if isinstance(budget["spec"].get("minAvailable", 1), int) and budget["spec"].get("maxUnavailable") is None:
            return 0  # a fixed minimum needs no scale
        scales: dict[str, int] = {}
        for pod in found:
            by = owners.controller_of(pod)
            if by is None:
                continue  # upstream leaves pods without a controller out of the scale
            owner = self._owner(pod, by)
            scales[owner["metadata"]["uid"]] = replicas_of(owner)
        return sum(scales.values())

    def _owner(self, pod: Object, by: dict[str, Any]) -> Object:
        namespace, resource = pod["metadata"]["namespace"], SCALED.get(by["kind"])
        owner = self._store.find(resource, namespace, by["name"]) if resource else None
        if owner is None or owner["metadata"]["uid"] != by["uid"]:
            raise Unscaled(f"found no controllers for pod {pod['metadata']['name']!r}")
        above = owners.controller_of(owner)
        return self._owner(owner, above) if above is not None and above["kind"] == "Deployment" else owner

    def _disrupted(self, budget: Object, found: list[Object]) -> tuple[dict[str, str], float | None]:
        """Pods whose eviction was granted and that do not end yet, and when the next grant expires."""
        kept, waits = {}, []
        by_name = {p["metadata"]["name"]: p for p in found}
        for name, since in ((budget.get("status") or {}).get("disruptedPods") or {}).items():
            pod = by_name.get(name)
            if pod is None or pods.is_terminating(pod):
                continue
            left_s = seconds(since) + DELETION_TIMEOUT_S - self._clock()
            if left_s > 0:
                kept[name] = since
                waits.append(left_s)
            else:
                meta = budget["metadata"]
                note = f"Pod was expected by PDB {meta['namespace']}/{meta['name']} to be deleted but it wasn't"
                self._store.record_event(pod, "NotDeleted", note, kind="Warning", source=self.name)
        return kept, min(waits, default=None)

    def _write(
        self, budget: Object, numbers: Budget | None, disrupted: dict[str, str], reason: str, message: str
    ) -> None:
        meta, before = budget["metadata"], budget.get("status") or {}
        generation = meta.get("generation", 1)
        condition = {"type": "DisruptionAllowed", "status": "True" if numbers and numbers.allowed else "False", "reason": reason,
                     "message": message, "observedGeneration": generation}  # fmt: skip
        status = {
            "currentHealthy": numbers.healthy if numbers else before.get("currentHealthy", 0),
            "desiredHealthy": numbers.desired if numbers else before.get("desiredHealthy", 0),
            "expectedPods": numbers.expected if numbers else before.get("expectedPods", 0),
            "disruptionsAllowed": numbers.allowed if numbers else 0,  # in doubt nothing may be disrupted
            "observedGeneration": generation, **({"disruptedPods": disrupted} if disrupted else {}),
            "conditions": conditions.put(before.get("conditions") or [], condition, stamp(self._clock())),
        }  # fmt: skip
        self._store.mutate(RESOURCE, meta["namespace"], meta["name"], lambda o: o.update(status=status))
