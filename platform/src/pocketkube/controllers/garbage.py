"""What is owned goes with its owner: background, foreground and orphan deletion by ownerReferences.

Foreground and orphan deletion are asked for by the finalizers `foregroundDeletion` and `orphan` on an object with a deletionTimestamp.
Source: kubernetes pkg/controller/garbagecollector.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pocketkube.controllers import pods
from pocketkube.controllers.reconciler import Context, Key
from pocketkube.storage import Event, Object

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


@dataclass(frozen=True)
class _Place:
    resource: str
    namespace: str
    name: str

    def key(self) -> Key:
        """As a key of the queue: the resource goes in front of the namespace."""
        return f"{self.resource} {self.namespace}", self.name


class GarbageCollector:
    """Keeps an index of uids, so that owners and dependents are found without a search."""

    name = "garbage-collector-controller"

    def __init__(self, context: Context) -> None:
        self._store, self._clock = context.store, context.clock
        self._places: dict[str, _Place] = {}  # uid -> where it is
        self._dependents: dict[str, set[str]] = {}  # uid of the owner -> uids
        for resource in self._store.resources():
            for obj in self._store.list(resource):
                self._index(resource, obj, None)

    def touched(self, event: Event) -> Iterable[Key]:
        """The object itself when it has owners or waits for its dependents; around a deletion, dependents and owners."""
        meta, uid = event.object["metadata"], event.object["metadata"]["uid"]
        old = event.old["metadata"] if event.old else {}
        if event.type == "DELETED":
            affected = [*self._dependents.get(uid, ()), *_owner_uids(old)]
            self._forget(uid, old)
        else:
            self._index(event.resource, event.object, event.old)
            watched = ("ownerReferences", "finalizers", "deletionTimestamp")
            if all(meta.get(k) == old.get(k) for k in watched) or not any(meta.get(k) for k in watched):
                return
            affected = [uid, *_owner_uids(old)]
            if _leaves_last(event.object):
                affected += self._dependents.get(uid, ())
        yield from (self._places[u].key() for u in affected if u in self._places)

    def known(self) -> Iterable[Key]:
        """All objects with owners or with a deletion that waits."""
        for uid, place in list(self._places.items()):
            obj = self._find(uid)
            if obj is not None and (obj["metadata"].get("ownerReferences") or "deletionTimestamp" in obj["metadata"]):
                yield place.key()

    def reconcile(self, key: Key) -> float | None:
        """Let one object go, or let go of its owners."""
        resource, _, namespace = key[0].partition(" ")
        obj = self._store.find(resource, namespace, key[1])
        if obj is None:
            return None
        if "deletionTimestamp" in obj["metadata"]:
            self._finish(resource, obj)
        if (obj := self._store.find(resource, namespace, key[1])) is not None and "deletionTimestamp" not in obj[
            "metadata"
        ]:
            self._follow(resource, obj)
        return None

    def _finish(self, resource: str, obj: Object) -> None:
        finalizers, uid = obj["metadata"].get("finalizers") or [], obj["metadata"]["uid"]
        dependents = [
            (self._places[u], o) for u in sorted(self._dependents.get(uid, ())) if (o := self._find(u)) is not None
        ]
        if ORPHAN in finalizers:
            for place, dependent in dependents:
                self._let_go(place.resource, dependent, {uid})
            self._drop_finalizer(resource, obj, ORPHAN)
        elif FOREGROUND in finalizers:
            blocking = [d for _, d in dependents if any(
                r["uid"] == uid and r.get("blockOwnerDeletion") for r in d["metadata"]["ownerReferences"])]  # fmt: skip
            if not blocking:
                self._drop_finalizer(resource, obj, FOREGROUND)

    def _follow(self, resource: str, obj: Object) -> None:
        """Delete an object none of whose owners stays; otherwise forget the owners that do not."""
        gone: set[str] = set()
        foreground = solid = False
        for reference in obj["metadata"].get("ownerReferences") or []:
            owner = self._find(reference["uid"])
            if owner is not None and not _leaves_last(owner):
                solid = True
                continue
            gone.add(reference["uid"])
            foreground = foreground or owner is not None
        if not gone:
            return
        if solid:
            self._let_go(resource, obj, gone)
            return
        if foreground and self._dependents.get(obj["metadata"]["uid"]):
            meta = obj["metadata"]
            if FOREGROUND not in (meta.get("finalizers") or []):
                self._store.mutate(resource, meta.get("namespace"), meta["name"], lambda o: o["metadata"].setdefault(
                    "finalizers", []).append(FOREGROUND))  # fmt: skip
        self._delete(resource, self._store.get(resource, obj["metadata"].get("namespace"), obj["metadata"]["name"]))

    def _delete(self, resource: str, obj: Object) -> None:
        if resource == "pods":
            pods.end(self._store, obj, self._clock())
        else:
            self._store.delete(resource, obj["metadata"].get("namespace"), obj["metadata"]["name"])

    def _let_go(self, resource: str, obj: Object, uids: set[str]) -> None:
        def change(draft: Object) -> None:
            kept = [r for r in draft["metadata"].get("ownerReferences") or [] if r["uid"] not in uids]
            draft["metadata"]["ownerReferences"] = kept
            if not kept:
                del draft["metadata"]["ownerReferences"]

        self._store.mutate(resource, obj["metadata"].get("namespace"), obj["metadata"]["name"], change)

    def _drop_finalizer(self, resource: str, obj: Object, finalizer: str) -> None:
        def change(draft: Object) -> None:
            draft["metadata"]["finalizers"] = [f for f in draft["metadata"].get("finalizers") or [] if f != finalizer]

        self._store.mutate(resource, obj["metadata"].get("namespace"), obj["metadata"]["name"], change)

    def _find(self, uid: str) -> Object | None:
        place = self._places.get(uid)
        obj = self._store.find(place.resource, place.namespace, place.name) if place else None
        return obj if obj is not None and obj["metadata"]["uid"] == uid else None

    def _index(self, resource: str, obj: Object, old: Object | None) -> None:
        meta = obj["metadata"]
        self._places[meta["uid"]] = _Place(resource, meta.get("namespace") or "", meta["name"])
        before, after = set(_owner_uids(old["metadata"]) if old else ()), set(_owner_uids(meta))
        for uid in after - before:
            self._dependents.setdefault(uid, set()).add(meta["uid"])
        for uid in before - after:
            self._unlink(uid, meta["uid"])

    def _forget(self, uid: str, old: Object) -> None:
        self._places.pop(uid, None)
        for owner in _owner_uids(old):
            self._unlink(owner, uid)

    def _unlink(self, owner: str, uid: str) -> None:
        dependents = self._dependents.get(owner, set())
        dependents.discard(uid)
        if not dependents:
            self._dependents.pop(owner, None)


def _owner_uids(meta: Object) -> list[str]:
    return [r["uid"] for r in meta.get("ownerReferences") or []]


def _leaves_last(obj: Object) -> bool:
    """True while an object is deleted in the foreground: it waits for its dependents."""
    return "deletionTimestamp" in obj["metadata"] and FOREGROUND in (obj["metadata"].get("finalizers") or [])
