"""Deployments: one ReplicaSet for each pod template, and the walk from the old to the new.

Source: kubernetes pkg/controller/deployment (sync.go, rolling.go, recreate.go, progress.go).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pocketkube import selectors
from pocketkube.controllers import conditions, owners, pods, replicaset, rollout
from pocketkube.controllers.moments import seconds, stamp
from pocketkube.controllers.reconciler import Context, Key, key_of, keys
from pocketkube.errors import AlreadyExists, ApiError
from pocketkube.storage import Event, Object, clone

API_VERSION, KIND = "apps/v1", "Deployment"
NEVER = 2**31 - 1  # progressDeadlineSeconds that means no deadline


class DeploymentController:
    """Rolls Deployments out."""

    name = "deployment-controller"

    def __init__(self, context: Context) -> None:
        self._store, self._clock = context.store, context.clock

    def touched(self, event: Event) -> Iterable[Key]:
        """The Deployment itself; that of a ReplicaSet; that of a pod which went away (Recreate waits for it)."""
        if event.resource == "deployments":
            yield key_of(event)
        elif event.resource == "replicasets":
            yield from self._of_replica_set(event.object)
        elif event.resource == "pods" and event.type == "DELETED":
            by = owners.controller_of(event.object)
            namespace = event.object["metadata"]["namespace"]
            if by is not None and (rs := self._store.find("replicasets", namespace, by["name"])) is not None:
                yield from self._of_replica_set(rs)

    def _of_replica_set(self, rs: Object) -> Iterable[Key]:
        namespace, by = rs["metadata"]["namespace"], owners.controller_of(rs)
        if by is not None:
            yield namespace, by["name"]
            return
        for deployment in self._store.list("deployments", namespace):
            if selectors.of(deployment["spec"].get("selector"))(rs):
                yield namespace, deployment["metadata"]["name"]

    def known(self) -> Iterable[Key]:
        """All Deployments."""
        return keys(self._store, "deployments")

    def reconcile(self, key: Key) -> float | None:
        """One step of the rollout; the changes that it makes bring the next."""
        deployment = self._store.find("deployments", *key)
        if deployment is None:
            return None
        return _Step(self, deployment).run()


class _Step:
    """One look at one Deployment."""

    def __init__(self, controller: DeploymentController, deployment: Object) -> None:
        self._store, self._source = controller._store, controller.name
        self._now_s = controller._clock()
        self._d = deployment
        self._key = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
        self._sets: list[Object] = []
        self._templates: dict[str, Object] = {}

    def run(self) -> float | None:
        matches = selectors.of(self._d["spec"].get("selector"))
        self._sets = owners.claim(self._store, self._d, API_VERSION, KIND, "replicasets", matches)
        self._sets.sort(
            key=lambda rs: (rs["metadata"]["creationTimestamp"], rollout.revision(rs), rs["metadata"]["name"])
        )
        if "deletionTimestamp" in self._d["metadata"]:
            return self._status(rolling=False)
        self._note_pause()
        if self._d["spec"].get("paused") or self._is_scaling():
            self._find_new()
            self._scale()
            if self._d["spec"].get("paused"):
                self._clean_up()
            return self._status(rolling=False)
        if rollout.is_recreate(self._d):
            self._recreate()
        else:
            self._roll()
        return self._status(rolling=True)

    # Which ReplicaSet is which

    def _new(self) -> Object | None:
        wanted = self._template(self._d)
        return next((rs for rs in self._sets if self._template(rs) == wanted), None)

    def _template(self, owner: Object) -> Object:
        """To compare; a template does not change within one look."""
        uid = owner["metadata"]["uid"]
        if uid not in self._templates:
            self._templates[uid] = rollout.without_hash(owner["spec"]["template"])
        return self._templates[uid]

    def _old(self) -> list[Object]:
        new = self._new()
        return [rs for rs in self._sets if new is None or rs["metadata"]["uid"] != new["metadata"]["uid"]]

    def _refresh(self, rs: Object) -> None:
        uid = rs["metadata"]["uid"]
        self._sets = [rs if s["metadata"]["uid"] == uid else s for s in self._sets]

    def _find_new(self) -> Object | None:
        """The ReplicaSet of the present template, with its revision and annotations brought up to date."""
        new = self._new()
        if new is None:
            return None
        number = max((rollout.revision(rs) for rs in self._old()), default=0) + 1
        draft = clone(new)
        self._annotate(draft, number)
        min_ready_s = self._d["spec"].get("minReadySeconds") or 0
        if min_ready_s != (new["spec"].get("minReadySeconds") or 0):
            draft["spec"]["minReadySeconds"] = min_ready_s
        new = self._store.update("replicasets", draft, check_version=False)
        self._refresh(new)
        self._set_revision(str(rollout.revision(new)))
        if self._deadline() and conditions.find(self._d, "Progressing") is None:
            self._progressing("True", "FoundNewReplicaSet", f'Found new replica set "{new["metadata"]["name"]}"')
        return new

    def _new_or_create(self) -> Object | None:
        return self._find_new() or self._create_new()

    def _create_new(self) -> Object | None:
        spec, (namespace, name) = self._d["spec"], self._key
        digest = rollout.template_hash(spec["template"], (self._d.get("status") or {}).get("collisionCount") or 0)
        template = clone(spec["template"])
        labels = template.setdefault("metadata", {}).setdefault("labels", {})
        labels[rollout.HASH_LABEL] = digest
        selector = clone(spec["selector"])
        selector.setdefault("matchLabels", {})[rollout.HASH_LABEL] = digest
        size = rollout.new_size(self._d, [self._member(rs) for rs in self._sets], 0)
        made: Object = {
            "apiVersion": API_VERSION, "kind": replicaset.KIND,
            "metadata": {"name": f"{name}-{digest}", "namespace": namespace, "labels": dict(labels),
                         "ownerReferences": [owners.reference(self._d, API_VERSION, KIND)]},
            "spec": {"replicas": size, "selector": selector, "template": template,
                     **({"minReadySeconds": spec["minReadySeconds"]} if spec.get("minReadySeconds") else {})},
            "status": {"replicas": 0},
        }  # fmt: skip
        number = max((rollout.revision(rs) for rs in self._sets), default=0) + 1
        self._annotate(made, number)
        made["metadata"]["annotations"].update(self._size_annotations())
        try:
            new = self._store.create("replicasets", made)
        except AlreadyExists:
            self._mutate_status(lambda s: s.update(collisionCount=(s.get("collisionCount") or 0) + 1))
            return None
        except ApiError as error:
            why = f'Failed to create new replica set "{made["metadata"]["name"]}": {error}'
            self._progressing("False", "ReplicaSetCreateError", why)
            raise
        self._sets.append(new)
        if size:
            self._tell(f"Scaled up replica set {new['metadata']['name']} from 0 to {size}")
        self._set_revision(str(number))
        if self._deadline():
            self._progressing("True", "NewReplicaSetCreated", f'Created new replica set "{new["metadata"]["name"]}"')
        return new

    def _annotate(self, rs: Object, number: int) -> None:
        annotations = rs["metadata"].setdefault("annotations", {})
        for name, value in (self._d["metadata"].get("annotations") or {}).items():
            if name not in rollout.NOT_COPIED:
                annotations[name] = value
        before = rollout.revision(rs)
        if before < number:
            annotations[rollout.REVISION] = str(number)
            if before:
                history = annotations.get(rollout.REVISION_HISTORY)
                annotations[rollout.REVISION_HISTORY] = f"{history},{before}" if history else str(before)

    def _set_revision(self, number: str) -> None:
        if (self._d["metadata"].get("annotations") or {}).get(rollout.REVISION) != number:
            self._d = self._store.mutate("deployments", *self._key, lambda d: d["metadata"].setdefault("annotations", {}).update(
                {rollout.REVISION: number}))  # fmt: skip

    # Sizes

    def _size_annotations(self) -> dict[str, str]:
        wanted = rollout.replicas_of(self._d)
        return {rollout.DESIRED: str(wanted), rollout.MAX: str(wanted + rollout.bounds(self._d)[0])}

    def _member(self, rs: Object) -> rollout.Member:
        """Counted from the pods as they are, not from a status that may be a step behind."""
        active = replicaset.active_pods(self._store.list("pods", self._key[0]), rs)
        wanted = rollout.replicas_of(rs)
        return rollout.Member(
            rs["metadata"]["name"], wanted, min(wanted, replicaset.count(rs, active, self._now_s).available)
        )

    def _resize(self, rs: Object, size: int) -> bool:
        before = rollout.replicas_of(rs)

        def change(draft: Object) -> None:
            draft["spec"]["replicas"] = size
            draft["metadata"].setdefault("annotations", {}).update(self._size_annotations())

        self._refresh(self._store.mutate("replicasets", self._key[0], rs["metadata"]["name"], change))
        if size != before:
            up = "up" if size > before else "down"
            self._tell(f"Scaled {up} replica set {rs['metadata']['name']} from {before} to {size}")
        return size != before

    def _is_scaling(self) -> bool:
        wanted = str(rollout.replicas_of(self._d))
        return any(
            rollout.replicas_of(rs) > 0 and (rs["metadata"].get("annotations") or {}).get(rollout.DESIRED, wanted) != wanted
            for rs in self._sets
        )  # fmt: skip

    def _scale(self) -> None:
        new, old = self._new(), self._old()
        wanted = rollout.replicas_of(self._d)
        active = [rs for rs in self._sets if rollout.replicas_of(rs) > 0]
        if len(active) <= 1:
            only = active[0] if active else new or (old[-1] if old else None)
            if only is not None and (rollout.replicas_of(only) != wanted or active):
                self._resize(only, wanted)
            return
        if new is not None and rollout.replicas_of(new) == wanted == self._member(new).available:
            for rs in old:
                if rollout.replicas_of(rs):
                    self._resize(rs, 0)
            self._resize(new, wanted)
            return
        if rollout.is_recreate(self._d):
            return
        growing = wanted + rollout.bounds(self._d)[0] > sum(rollout.replicas_of(rs) for rs in active)
        order = (
            list(reversed(active)) if growing else active
        )  # of two that are equally large, grow the newer, shrink the older
        order.sort(key=rollout.replicas_of, reverse=True)
        sizes = rollout.proportional(
            self._d, [(rs["metadata"]["name"], rollout.replicas_of(rs), self._max_before(rs)) for rs in order]
        )
        for rs in order:
            self._resize(rs, sizes[rs["metadata"]["name"]])

    def _max_before(self, rs: Object) -> int | None:
        text = (rs["metadata"].get("annotations") or {}).get(rollout.MAX, "")
        return int(text) if text.isdigit() else (self._d.get("status") or {}).get("replicas")

    # Strategies

    def _roll(self) -> None:
        new = self._new_or_create()
        if new is None:
            return
        size = rollout.new_size(self._d, [self._member(rs) for rs in self._sets], rollout.replicas_of(new))
        if min(size, rollout.replicas_of(self._d)) != rollout.replicas_of(new):
            self._resize(new, min(size, rollout.replicas_of(self._d)))
            return
        old = self._old()
        if any(rollout.replicas_of(rs) for rs in old):
            sizes = rollout.shrink_old(self._d, [self._member(rs) for rs in old], self._member(new))
            for rs in old:
                if rs["metadata"]["name"] in sizes:
                    self._resize(rs, sizes[rs["metadata"]["name"]])
        if self._is_complete():
            self._clean_up()

    def _recreate(self) -> None:
        self._find_new()
        shrunk = [self._resize(rs, 0) for rs in self._old() if rollout.replicas_of(rs)]
        if shrunk or self._old_pods_run():
            return
        new = self._new_or_create()
        if new is not None and rollout.replicas_of(new) != rollout.replicas_of(self._d):
            self._resize(new, rollout.replicas_of(self._d))
        if self._is_complete():
            self._clean_up()

    def _old_pods_run(self) -> bool:
        every = self._store.list("pods", self._key[0])
        return any(owners.controls(rs, p) and pods.phase(p) not in pods.TERMINAL for rs in self._old() for p in every)

    def _clean_up(self) -> None:
        limit = self._d["spec"].get("revisionHistoryLimit", 10)
        if limit is None:
            return
        old = [rs for rs in self._old() if "deletionTimestamp" not in rs["metadata"]]
        for rs in sorted(old, key=rollout.revision)[: max(0, len(old) - limit)]:
            status, meta = rs.get("status") or {}, rs["metadata"]
            seen = status.get("observedGeneration", 0) >= meta.get("generation", 1)
            if rollout.replicas_of(rs) == 0 and not status.get("replicas") and seen:
                self._store.delete("replicasets", meta["namespace"], meta["name"], meta["uid"])
                self._sets = [s for s in self._sets if s["metadata"]["uid"] != meta["uid"]]

    # Status

    def _deadline(self) -> int | None:
        deadline = self._d["spec"].get("progressDeadlineSeconds", 600)
        return None if deadline in (None, NEVER) else int(deadline)

    def _counts(self) -> dict[str, int]:
        statuses = [rs.get("status") or {} for rs in self._sets]
        new = self._new()
        available = sum(s.get("availableReplicas") or 0 for s in statuses)
        counts = {
            "replicas": sum(s.get("replicas") or 0 for s in statuses),
            "updatedReplicas": ((new or {}).get("status") or {}).get("replicas") or 0,
            "readyReplicas": sum(s.get("readyReplicas") or 0 for s in statuses),
            "availableReplicas": available,
            "unavailableReplicas": max(0, sum(rollout.replicas_of(rs) for rs in self._sets) - available),
        }
        return {k: v for k, v in counts.items() if v}

    def _is_complete(self, counts: dict[str, int] | None = None) -> bool:
        counts, wanted = self._counts() if counts is None else counts, rollout.replicas_of(self._d)
        return all(counts.get(k, 0) == wanted for k in ("replicas", "updatedReplicas", "availableReplicas"))

    def _status(self, *, rolling: bool) -> float | None:
        counts = self._counts()
        before = self._d.get("status") or {}
        known: list[dict[str, Any]] = before.get("conditions") or []
        now = stamp(self._now_s)
        least = rollout.replicas_of(self._d) - rollout.bounds(self._d)[1]
        enough = counts.get("availableReplicas", 0) >= least
        known = conditions.put(known, {
            "type": "Available", "status": "True" if enough else "False",
            "reason": "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
            "message": f"Deployment {'has' if enough else 'does not have'} minimum availability.",
        }, now, updated=True)  # fmt: skip
        if rolling:
            known = self._progress(known, counts, before, now)
        if not self._deadline():
            known = [c for c in known if c["type"] != "Progressing"]
        failed = next((c for rs in reversed(self._sets) if (c := conditions.find(rs, "ReplicaFailure"))), None)
        known = [c for c in known if c["type"] != "ReplicaFailure"]
        if failed is not None:
            known.append({**failed, "lastUpdateTime": failed["lastTransitionTime"]})
        status = {"observedGeneration": self._d["metadata"].get("generation", 1), **counts, "conditions": known}
        if before.get("collisionCount"):
            status["collisionCount"] = before["collisionCount"]
        self._d = self._store.mutate("deployments", *self._key, lambda d: d.update(status=status))
        return self._deadline_in_s(counts)

    def _progress(
        self, known: list[dict[str, Any]], counts: dict[str, int], before: Object, now: str
    ) -> list[dict[str, Any]]:
        deadline, new = self._deadline(), self._new()
        current = next((c for c in known if c["type"] == "Progressing"), None)
        settled = current is not None and current["reason"] == "NewReplicaSetAvailable"
        if not deadline or (settled and counts.get("replicas", 0) == counts.get("updatedReplicas", 0)):
            return known
        what = f'ReplicaSet "{new["metadata"]["name"]}"' if new is not None else f'Deployment "{self._key[1]}"'
        if self._is_complete(counts):
            return self._with_progress(
                known, "True", "NewReplicaSetAvailable", f"{what} has successfully progressed.", now
            )
        if _progressed(counts, before):
            fresh = self._with_progress(known, "True", "ReplicaSetUpdated", f"{what} is progressing.", now)
            return [{**c, "lastUpdateTime": now} if c["type"] == "Progressing" else c for c in fresh]
        if current is not None and not settled and self._now_s >= seconds(current.get("lastUpdateTime")) + deadline:
            return self._with_progress(
                known, "False", "ProgressDeadlineExceeded", f"{what} has timed out progressing.", now
            )
        return known

    def _deadline_in_s(self, counts: dict[str, int]) -> float | None:
        current, deadline = conditions.find(self._d, "Progressing"), self._deadline()
        if not deadline or current is None or self._d["spec"].get("paused") or self._is_complete(counts):
            return None
        if current["reason"] in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded"):
            return None
        return max(0.1, seconds(current.get("lastUpdateTime")) + deadline - self._now_s)

    def _note_pause(self) -> None:
        current = conditions.find(self._d, "Progressing") or {}
        if not self._deadline() or current.get("reason") == "ProgressDeadlineExceeded":
            return
        paused, noted = bool(self._d["spec"].get("paused")), current.get("reason") == "DeploymentPaused"
        if paused and not noted:
            self._progressing("Unknown", "DeploymentPaused", "Deployment is paused")
        elif noted and not paused:
            self._progressing("Unknown", "DeploymentResumed", "Deployment is resumed")

    def _with_progress(
        self, known: list[dict[str, Any]], status: str, reason: str, message: str, now: str
    ) -> list[dict[str, Any]]:
        wanted = {"type": "Progressing", "status": status, "reason": reason, "message": message}
        return conditions.put(known, wanted, now, updated=True)

    def _progressing(self, status: str, reason: str, message: str) -> None:
        now = stamp(self._now_s)
        self._mutate_status(lambda s: s.update(
            conditions=self._with_progress(s.get("conditions") or [], status, reason, message, now)))  # fmt: skip

    def _mutate_status(self, change: Any) -> None:
        self._d = self._store.mutate("deployments", *self._key, lambda d: change(d.setdefault("status", {})))

    def _tell(self, note: str) -> None:
        self._store.record_event(self._d, "ScalingReplicaSet", note, source=self._source)


def _progressed(counts: dict[str, int], before: Object) -> bool:
    def of(name: str) -> tuple[int, int]:
        return counts.get(name, 0), before.get(name) or 0

    (replicas, replicas_before), (updated, updated_before) = of("replicas"), of("updatedReplicas")
    more = any(now > then for now, then in (of("updatedReplicas"), of("readyReplicas"), of("availableReplicas")))
    return more or replicas - updated < replicas_before - updated_before
