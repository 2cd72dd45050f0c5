"""StatefulSets: pods with ordinals, each with its name and its claims for good.

Source: kubernetes pkg/controller/statefulset (stateful_set_control.go, stateful_set_utils.go).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pocketkube import selectors
from pocketkube.controllers import claims, owners, pods, revisions
from pocketkube.controllers.reconciler import Context, Key, key_of, keys
from pocketkube.controllers.rollout import replicas_of
from pocketkube.storage import Event, Object

API_VERSION, KIND = "apps/v1", "StatefulSet"
POD_NAME, POD_INDEX = "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"


def ordinal(pod: Mapping[str, Any]) -> int:
    """The number at the end of a pod's name; -1 if there is none."""
    found = re.fullmatch(r".*-(\d+)", pod["metadata"]["name"])
    return int(found[1]) if found else -1


class StatefulSetController:
    """Brings pods up in order and down in reverse, one by one unless podManagementPolicy is Parallel."""

    name = "statefulset-controller"

    def __init__(self, context: Context) -> None:
        self._store, self._clock = context.store, context.clock

    def touched(self, event: Event) -> Iterable[Key]:
        """The StatefulSet itself, the controller of a pod, or those that could adopt it."""
        if event.resource == "statefulsets":
            yield key_of(event)
        elif event.resource == "pods":
            yield from owners.of_pod(self._store, event, "statefulsets", KIND)

    def known(self) -> Iterable[Key]:
        """All StatefulSets."""
        return keys(self._store, "statefulsets")

    def reconcile(self, key: Key) -> float | None:
        """One step: at most one pod is made or ended where order counts."""
        owner = self._store.find("statefulsets", *key)
        if owner is None:
            return None
        again_s = None
        update = revisions.current(self._store, owner, API_VERSION, KIND)
        name = (owner.get("status") or {}).get("currentRevision")
        current = self._store.find(revisions.RESOURCE, key[0], name) if name else None
        if "deletionTimestamp" not in owner["metadata"]:
            again_s = self._step(owner, current or update, update)
        owner = self._store.get("statefulsets", *key)
        self._write_status(owner, (current or update)["metadata"]["name"], update["metadata"]["name"])
        return again_s

    def _pods(self, owner: Object) -> dict[int, Object]:
        matches, prefix = selectors.of(owner["spec"].get("selector")), owner["metadata"]["name"] + "-"
        claimed = owners.claim(self._store, owner, API_VERSION, KIND, "pods",
                               lambda p: matches(p) and p["metadata"]["name"].startswith(prefix) and ordinal(p) >= 0)  # fmt: skip
        return {ordinal(p): p for p in claimed}

    def _step(self, owner: Object, current: Object, update: Object) -> float | None:
        spec, now_s = owner["spec"], self._clock()
        start = (spec.get("ordinals") or {}).get("start") or 0
        wanted = range(start, start + replicas_of(owner))
        ordered = spec.get("podManagementPolicy") != "Parallel"
        min_ready_s = spec.get("minReadySeconds") or 0
        rolling = (spec.get("updateStrategy") or {}).get("rollingUpdate") or {}
        partition = start + (rolling.get("partition") or 0)
        have, wait_s = self._pods(owner), None
        claims.retain(self._store, owner, have, wanted)
        for n in wanted:
            pod = have.get(n)
            if pod is None:
                self._create(owner, n, current if n < partition else update)
                if ordered:
                    return None
                continue
            if pods.phase(pod) in pods.TERMINAL and not pods.is_terminating(pod):
                note = f"StatefulSet {owner['metadata']['namespace']}/{owner['metadata']['name']} is "
                self._tell(
                    owner, "RecreatingFailedPod", f"{note}recreating failed Pod {pod['metadata']['name']}", "Warning"
                )
                pods.end(self._store, pod, now_s)
                return None
            left_s = None if pods.is_terminating(pod) else pods.available_in_s(pod, min_ready_s, now_s)
            wait_s = left_s or wait_s
            if ordered and left_s != 0:
                return left_s
        for n in sorted(set(have) - set(wanted), reverse=True):
            if not pods.is_terminating(have[n]):
                self._end(owner, have[n])
            if ordered:
                return wait_s
        if (spec.get("updateStrategy") or {}).get("type") == "OnDelete":
            return wait_s
        for n in sorted((n for n in wanted if n >= partition), reverse=True):
            pod = have.get(n)
            if pod is None or pods.is_terminating(pod):
                return wait_s
            if pod["metadata"].get("labels", {}).get(revisions.LABEL) != update["metadata"]["name"]:
                self._end(owner, pod)
                return wait_s
            if pods.available_in_s(pod, min_ready_s, now_s) != 0:
                return wait_s
        return wait_s

    def _end(self, owner: Object, pod: Object) -> None:
        pods.end(self._store, pod, self._clock())
        what = f"delete Pod {pod['metadata']['name']} in StatefulSet {owner['metadata']['name']} successful"
        self._tell(owner, "SuccessfulDelete", what)

    def _create(self, owner: Object, n: int, revision: Object) -> None:
        meta, spec = owner["metadata"], owner["spec"]
        name = f"{meta['name']}-{n}"
        pod = pods.from_template(revisions.template_of(revision), meta["namespace"],
                                 owners.reference(owner, API_VERSION, KIND), name=name)  # fmt: skip
        pod["metadata"].setdefault("labels", {}).update(
            {POD_NAME: name, POD_INDEX: str(n), revisions.LABEL: revision["metadata"]["name"]}
        )
        pod["spec"]["hostname"] = name
        if spec.get("serviceName"):
            pod["spec"]["subdomain"] = spec["serviceName"]
        for claim in claims.create(self._store, owner, name):
            self._tell(
                owner, "SuccessfulCreate", f"create Claim {claim} Pod {name} in StatefulSet {meta['name']} success"
            )
        if volumes := claims.volumes(owner, name, pod["spec"].get("volumes") or []):
            pod["spec"]["volumes"] = volumes
        self._store.create("pods", pod)
        self._tell(owner, "SuccessfulCreate", f"create Pod {name} in StatefulSet {meta['name']} successful")

    def _tell(self, owner: Object, reason: str, note: str, kind: str = "Normal") -> None:
        self._store.record_event(owner, reason, note, kind=kind, source=self.name)

    def _write_status(self, owner: Object, current: str, update: str) -> None:
        every, wanted = list(self._pods(owner).values()), replicas_of(owner)
        min_ready_s, now_s = owner["spec"].get("minReadySeconds") or 0, self._clock()
        staying = [p for p in every if pods.phase(p) != "Failed" and not pods.is_terminating(p)]
        has = [p["metadata"].get("labels", {}).get(revisions.LABEL) for p in staying]
        ready = sum(pods.is_ready(p) for p in every)
        on_update, on_delete = has.count(update), (owner["spec"].get("updateStrategy") or {}).get("type") == "OnDelete"
        if not on_delete and on_update == len(every) == ready == wanted:
            current = update
        before = owner.get("status") or {}
        status = {
            "observedGeneration": owner["metadata"].get("generation", 1), "replicas": len(every), "readyReplicas": ready,
            "availableReplicas": sum(pods.is_available(p, min_ready_s, now_s) for p in every), "currentReplicas": has.count(current),
            "updatedReplicas": on_update, "currentRevision": current, "updateRevision": update,
            "collisionCount": before.get("collisionCount", 0),
        }  # fmt: skip
        kept = {k: v for k, v in status.items() if v or k in ("replicas", "availableReplicas", "collisionCount")}
        if before.get("conditions"):
            kept["conditions"] = before["conditions"]
        self._store.mutate(
            "statefulsets", owner["metadata"]["namespace"], owner["metadata"]["name"], lambda o: o.update(status=kept)
        )
        revisions.trim(self._store, owner, {current, update, *(h for h in has if h)})
