"""HorizontalPodAutoscalers: sizes of workloads that follow what their pods use.

Source: kubernetes pkg/controller/podautoscaler/horizontal.go; the arithmetic is in `scaling.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pocketkube import selectors
from pocketkube.controllers import conditions
from pocketkube.controllers.moments import stamp
from pocketkube.controllers.reconciler import Context, Key, key_of, keys
from pocketkube.controllers.rollout import replicas_of
from pocketkube.controllers.scaling import History, NoMetric, Proposal, longest_s, normalized, proposal
from pocketkube.storage import Event, Object
from pocketkube.usage import Usage

RESOURCE = "horizontalpodautoscalers"
TARGETS = {("apps/v1", "Deployment"): "deployments", ("apps/v1", "ReplicaSet"): "replicasets",
           ("apps/v1", "StatefulSet"): "statefulsets"}  # fmt: skip


class AutoscalerController:
    """Looks at each autoscaler once a sync period, the first time one period after it was made."""

    name = "horizontal-pod-autoscaler"

    def __init__(self, context: Context) -> None:
        self._store, self._clock = context.store, context.clock
        self._usage, self._sync_s = context.usage, context.autoscaler_sync_s
        self._due_s: dict[Key, float] = {}
        self._histories: dict[str, History] = {}  # by uid

    def touched(self, event: Event) -> Iterable[Key]:
        """The autoscaler itself; its target tells by its usage."""
        if event.resource == RESOURCE:
            yield key_of(event)

    def known(self) -> Iterable[Key]:
        """All autoscalers."""
        return keys(self._store, RESOURCE)

    def reconcile(self, key: Key) -> float | None:
        """Rescale one target if it is time; the answer is when it is the next."""
        autoscaler = self._store.find(RESOURCE, *key)
        if autoscaler is None:
            self._due_s.pop(key, None)
            alive = {o["metadata"]["uid"] for o in self._store.list(RESOURCE)}
            self._histories = {uid: h for uid, h in self._histories.items() if uid in alive}
            return None
        now_s = self._clock()
        due_s = self._due_s.setdefault(key, now_s + self._sync_s)
        if now_s < due_s <= now_s + self._sync_s:  # a clock that was set back must not stop it
            return due_s - now_s
        self._due_s[key] = now_s + self._sync_s
        history = self._histories.setdefault(autoscaler["metadata"]["uid"], History())
        _Look(self, autoscaler, history, now_s).run()
        return self._sync_s


class _Look:
    """One look at one autoscaler."""

    def __init__(self, controller: AutoscalerController, autoscaler: Object, history: History, now_s: float) -> None:
        self._store, self._source, self._usage = controller._store, controller.name, controller._usage
        self._autoscaler, self._history, self._now_s = autoscaler, history, now_s
        self._spec: Object = autoscaler["spec"]
        self._before: Object = autoscaler.get("status") or {}
        self._conditions: list[dict[str, Any]] = self._before.get("conditions") or []

    def run(self) -> None:
        reference = self._spec["scaleTargetRef"]
        namespace = self._autoscaler["metadata"]["namespace"]
        resource = TARGETS.get((reference.get("apiVersion", ""), reference["kind"]))
        target = self._store.find(resource, namespace, reference["name"]) if resource else None
        if resource is None or target is None:
            why = f'{resource}.apps "{reference["name"]}" not found' if resource else (
                f'no matches for kind "{reference["kind"]}" in group "{reference.get("apiVersion", "").rpartition("/")[0]}"')  # fmt: skip
            self._tell("FailedGetScale", why, "Warning")
            message = f"the HPA controller was unable to get the target's current scale: {why}"
            self._condition("AbleToScale", "False", "FailedGetScale", message)
            self._write(self._before.get("currentReplicas", 0), self._before.get("desiredReplicas", 0), None)
            return
        current = replicas_of(target)
        self._condition(
            "AbleToScale",
            "True",
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        )
        if not self._history.recommended:
            self._history.recommended.append((self._now_s, current))
        found = self._desired(current, self._pods(namespace, target))
        if found is None:
            self._write(current, self._before.get("desiredReplicas", 0), self._shown)
            return
        desired, reason, metrics = found
        if desired != current:
            self._store.mutate(resource, namespace, reference["name"], lambda o: o["spec"].update(replicas=desired))
            message = f"the HPA controller was able to update the target scale to {desired}"
            self._condition("AbleToScale", "True", "SucceededRescale", message)
            self._tell("SuccessfulRescale", f"New size: {desired}; reason: {reason}")
            behavior = self._spec.get("behavior")
            if behavior is not None:
                direction = "scaleUp" if desired > current else "scaleDown"
                self._history.did(current, desired, self._now_s, longest_s(behavior, direction))
        self._write(current, desired, metrics, scaled=desired != current)

    def _pods(self, namespace: str, target: Object) -> list[Object]:
        return self._store.list("pods", namespace, selectors.of(target["spec"].get("selector")))

    def _desired(self, current: int, every: list[Object]) -> tuple[int, str, list[Object] | None] | None:
        """(replicas, why, metrics); None if it cannot be told."""
        least, most = self._spec.get("minReplicas") or 1, self._spec["maxReplicas"]
        if current == 0:
            self._condition("ScalingActive", "False", "ScalingDisabled",
                            "scaling is disabled since the replica count of the target is zero")  # fmt: skip
            return 0, "", None
        if current > most:
            return most, "Current number of replicas above Spec.MaxReplicas", None
        if current < least:
            return least, "Current number of replicas below Spec.MinReplicas", None
        best = self._metrics(current, every)
        if best is None:
            return None
        wanted, metrics = best.replicas, self._shown
        reason = f"{best.name} above target" if wanted > current else "All metrics below target"
        size, able, (limited, why) = normalized(self._spec, self._history, current, wanted, self._now_s)
        self._condition("AbleToScale", "True", *able)
        self._condition("ScalingLimited", "True" if limited else "False", *why)
        return size, reason, metrics

    def _metrics(self, current: int, every: list[Object]) -> Proposal | None:
        """The highest wish of all metrics; a metric without a value forbids to scale down."""
        usages: dict[str, Usage] = {
            p["metadata"]["name"]: u for p in every if (u := self._usage(p["metadata"]["uid"])) is not None
        }
        wishes, failures, self._shown = [], [], list[Object]()
        for metric in self._spec["metrics"]:
            try:
                if not every:
                    raise NoMetric("no pods returned by selector while calculating replica count")
                wishes.append(proposal(metric, every, usages, current, self._now_s))
                self._shown.append(wishes[-1].current)
            except NoMetric as error:
                failures.append((metric["resource"]["name"], str(error)))
                self._shown.append({"type": ""})  # so upstream shows what has no value
                self._tell("FailedGetResourceMetric", str(error), "Warning")
        best = max(wishes, key=lambda w: w.replicas, default=None)
        if failures and (best is None or best.replicas < current):
            resource, why = failures[0]
            message = f"the HPA was unable to compute the replica count: {why}"
            self._condition("ScalingActive", "False", "FailedGetResourceMetric", message)
            count = f"{len(failures)} invalid out of {len(self._spec['metrics'])}"
            told = f"invalid metrics ({count}), first error is: failed to get {resource} resource metric value: {why}"
            self._tell("FailedComputeMetricsReplicas", told, "Warning")
            return None
        assert best is not None
        message = f"the HPA was able to successfully calculate a replica count from {best.name}"
        self._condition("ScalingActive", "True", "ValidMetricFound", message)
        return best

    def _condition(self, kind: str, status: str, reason: str, message: str) -> None:
        wanted = {"type": kind, "status": status, "reason": reason, "message": message}
        self._conditions = conditions.put(self._conditions, wanted, stamp(self._now_s))

    def _tell(self, reason: str, note: str, kind: str = "Normal") -> None:
        self._store.record_event(self._autoscaler, reason, note, kind=kind, source=self._source)

    def _write(self, current: int, desired: int, metrics: list[Object] | None, *, scaled: bool = False) -> None:
        meta = self._autoscaler["metadata"]
        status: Object = {"currentReplicas": current, "desiredReplicas": desired, "conditions": self._conditions}
        if metrics is not None:
            status["currentMetrics"] = metrics
        if scaled or self._before.get("lastScaleTime"):
            status["lastScaleTime"] = stamp(self._now_s) if scaled else self._before["lastScaleTime"]
        self._store.mutate(RESOURCE, meta["namespace"], meta["name"], lambda o: o.update(status=status))
