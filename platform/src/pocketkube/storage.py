"""The store: all objects of a cluster in memory, one resourceVersion over all, and watches with a bounded history.

Objects are plain JSON dicts. What the store hands out is shared and must not be changed; `mutate` works on a copy.
All calls are synchronous and come from one thread, so each is atomic. A cluster lives as long as its daemon.
"""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pocketkube.errors import AlreadyExists, BadRequest, Conflict, Expired, NotFound
from pocketkube.selectors import Matches

Object = dict[str, Any]
HISTORY = 8000  # changes kept for watches that resume
EVENTS = 2000  # Events kept that this cluster itself recorded


@dataclass(frozen=True)
class Event:
    """One change; `old` is the object before it, None for ADDED."""

    version: int
    resource: str
    type: str  # ADDED, MODIFIED or DELETED
    object: Object
    old: Object | None = None


def clone(value: Any) -> Any:
    """A copy of a JSON document; several times faster than `copy.deepcopy`."""
    if isinstance(value, dict):
        return {key: clone(below) for key, below in value.items()}
    if isinstance(value, list):
        return [clone(below) for below in value]
    return value


def now(micro: bool = False) -> str:
    """RFC 3339 UTC time as Kubernetes writes it; `micro` for MicroTime fields."""
    at = datetime.datetime.now(datetime.UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


class Store:
    """Objects by (resource, namespace, name)."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._version = 1
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._watchers: set[Subscription] = set()
        self._told: dict[
            tuple[str, str | None, str, str], str
        ] = {}  # (namespace, uid, reason, note) -> name of its Event
        self._listeners: list[Callable[[Event], None]] = []
        self._compacted = 0  # no watch can resume from before this version

    @property
    def version(self) -> str:
        """The newest resourceVersion."""
        return str(self._version)

    def resources(self) -> list[str]:
        """Names of the resources that have or had objects."""
        return sorted(self._objects)

    def listen(self, callback: Callable[[Event], None]) -> None:
        """Call back on every change, after it, in the same thread; callbacks must be quick and must not raise."""
        self._listeners.append(callback)

    def get(self, resource: str, namespace: str | None, name: str) -> Object:
        """One object. Raises NotFound."""
        found = self._objects.get(resource, {}).get((namespace or "", name))
        if found is None:
            raise NotFound(f'{resource} "{name}" not found', {"name": name, "kind": resource})
        return found

    def find(self, resource: str, namespace: str | None, name: str) -> Object | None:
        """One object or None."""
        return self._objects.get(resource, {}).get((namespace or "", name))

    def list(self, resource: str, namespace: str | None = None, *matches: Matches) -> list[Object]:
        """Objects in a stable order, by namespace and name; None or "" is all namespaces."""
        kept = self._objects.get(resource, {})
        return [
            kept[key] for key in sorted(kept)
            if (not namespace or key[0] == namespace) and all(match(kept[key]) for match in matches)
        ]  # fmt: skip

    def create(self, resource: str, obj: Object) -> Object:
        """Store a new object; name from generateName if need be. Raises AlreadyExists."""
        obj = clone(obj)
        meta = obj.setdefault("metadata", {})
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        key = (meta.get("namespace") or "", meta["name"])
        kept = self._objects.setdefault(resource, {})
        if key in kept:
            raise AlreadyExists(f'{resource} "{key[1]}" already exists', {"name": key[1], "kind": resource})
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = now()
        if "spec" in obj:
            meta["generation"] = 1
        return self._put(kept, key, resource, "ADDED", obj, None)

    def update(self, resource: str, obj: Object, *, check_version: bool = True) -> Object:
        """Replace an object; changing nothing emits nothing. Raises NotFound, Conflict."""
        meta = obj["metadata"]
        old = self.get(resource, meta.get("namespace"), meta["name"])
        version = meta.get("resourceVersion")
        if check_version and version and version != old["metadata"]["resourceVersion"]:
            what = f'Operation cannot be fulfilled on {resource} "{meta["name"]}": the object has been modified; '
            raise Conflict(
                f"{what}please apply your changes to the latest version and try again",
                {"name": meta["name"], "kind": resource},
            )
        obj = clone(obj)
        meta = obj["metadata"]
        for name in ("uid", "creationTimestamp", "generation", "resourceVersion"):
            meta.pop(name, None)
            if name in old["metadata"]:
                meta[name] = old["metadata"][name]
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds"):  # once set they stay, whatever is written
            if name in old["metadata"]:
                meta.setdefault(name, old["metadata"][name])
        if obj == old:
            return old
        if "spec" in obj and obj["spec"] != old.get("spec"):
            meta["generation"] = int(meta.get("generation") or 0) + 1
        key = (meta.get("namespace") or "", meta["name"])
        if meta.get("deletionTimestamp") and not meta.get("finalizers") and not _held(resource, obj):
            return self._remove(resource, key, obj)
        return self._put(self._objects[resource], key, resource, "MODIFIED", obj, old)

    def mutate(
        self, resource: str, namespace: str | None, name: str, change: Callable[[Object], Object | None]
    ) -> Object:
        """Read, change a copy, write. `change` may edit in place and return None. Raises NotFound."""
        draft = clone(self.get(resource, namespace, name))
        changed = change(draft)
        return self.update(resource, draft if changed is None else changed, check_version=False)

    def delete(self, resource: str, namespace: str | None, name: str, uid: str | None = None) -> Object:
        """Take an object out for good; with finalizers it only gets its deletionTimestamp. Raises NotFound, Conflict."""
        old = self.get(resource, namespace, name)
        if uid and old["metadata"]["uid"] != uid:
            raise Conflict(f"the UID in the precondition ({uid}) does not match {old['metadata']['uid']}")
        if old["metadata"].get("finalizers"):
            meta = {"deletionTimestamp": now(), **({"deletionGracePeriodSeconds": 0} if resource == "pods" else {})}
            if meta.keys() - old["metadata"].keys() or old["metadata"].get("deletionGracePeriodSeconds"):
                meta["deletionTimestamp"] = old["metadata"].get("deletionTimestamp") or meta["deletionTimestamp"]
                return self.mutate(resource, namespace, name, lambda o: o["metadata"].update(meta))
            return old
        return self._remove(resource, (namespace or "", name), clone(old))

    def record_event(
        self, regarding: Object, reason: str, note: str, *, kind: str = "Normal", source: str = "pocketkube"
    ) -> None:
        """Tell what happened to an object, as an Event of events.k8s.io/v1; repeats are counted."""
        meta = regarding["metadata"]
        namespace = meta.get("namespace") or "default"
        about = (namespace, meta.get("uid"), reason, note)
        if (name := self._told.get(about)) is not None and self.find("events", namespace, name) is not None:
            self.mutate("events", namespace, name, lambda o: o.update(
                deprecatedCount=o["deprecatedCount"] + 1, deprecatedLastTimestamp=now(),
                series={"count": o["deprecatedCount"] + 1, "lastObservedTime": now(micro=True)}))  # fmt: skip
            return
        made = self.create("events", {
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
            "regarding": {"apiVersion": regarding.get("apiVersion"), "kind": regarding.get("kind"), "name": meta["name"],
                          "namespace": meta.get("namespace", ""), "uid": meta.get("uid", "")},
            "reason": reason, "note": note, "type": kind, "reportingController": source, "reportingInstance": source,
            "action": reason, "eventTime": now(micro=True), "deprecatedCount": 1, "deprecatedFirstTimestamp": now(),
            "deprecatedLastTimestamp": now(), "deprecatedSource": {"component": source},
        })  # fmt: skip
        self._told[about] = made["metadata"]["name"]
        while len(self._told) > EVENTS:
            (where, *_), name = next(iter(self._told.items()))
            self._told.pop(next(iter(self._told)))
            if self.find("events", where, name):
                self.delete("events", where, name)

    def subscribe(self, resource: str, namespace: str | None = None, since: str | None = None) -> Subscription:
        """Changes after `since` (None: from now on), taken from this moment. Raises Expired, BadRequest."""
        subscription = Subscription(resource, namespace, self._watchers)
        if since is not None:
            if not since.isdecimal():
                raise BadRequest(f"invalid resource version: {since!r}")
            oldest = self._history[0].version if len(self._history) == HISTORY else 0
            oldest = max(oldest, self._compacted)
            if int(since) < oldest - 1 or int(since) > self._version:
                raise Expired(f"too old resource version: {since} ({max(oldest, 1)})")
            for event in self._since(int(since)):
                subscription.take(event)
        self._watchers.add(subscription)
        return subscription

    def compact(self) -> None:
        """Forget the history: a watch that resumes from before now is told 410, as after a compaction of etcd."""
        self._history.clear()
        self._compacted = self._version + 1

    async def watch(
        self, resource: str, namespace: str | None = None, since: str | None = None
    ) -> AsyncIterator[Event]:
        """Changes after `since` (None: from now on), without end. Raises Expired when the history or the reader is too slow."""
        subscription = self.subscribe(resource, namespace, since)
        try:
            while True:
                for event in subscription.drain():
                    yield event
                await subscription.woken.wait()
        finally:
            subscription.close()

    def _since(self, version: int) -> Iterator[Event]:
        newer = []
        for event in reversed(self._history):
            if event.version <= version:
                break
            newer.append(event)
        return reversed(newer)

    def _put(self, kept: dict[tuple[str, str], Object], key: tuple[str, str], resource: str, kind: str, obj: Object,
             old: Object | None) -> Object:  # fmt: skip
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        kept[key] = obj
        self._emit(Event(self._version, resource, kind, obj, old))
        return obj

    def _remove(self, resource: str, key: tuple[str, str], obj: Object) -> Object:
        old = self._objects[resource].pop(key)
        self._version += 1
        obj["metadata"] = {**obj["metadata"], "resourceVersion": str(self._version)}
        self._emit(Event(self._version, resource, "DELETED", obj, old))
        return obj

    def _emit(self, event: Event) -> None:
        self._history.append(event)
        for watcher in self._watchers:
            watcher.take(event)
        for listener in self._listeners:
            listener(event)


def _held(resource: str, obj: Object) -> bool:
    """True while someone must still act before an object without finalizers may go: a kubelet, or the namespace's controller."""
    if resource == "pods":
        return bool(obj["metadata"].get("deletionGracePeriodSeconds", 1))
    return resource == "namespaces" and bool((obj.get("spec") or {}).get("finalizers"))


class Subscription:
    """One watch's queue of changes; `woken` is set while there is something to drain."""

    def __init__(self, resource: str, namespace: str | None, among: set[Subscription]) -> None:
        self._resource = resource
        self._namespace = namespace
        self._among = among
        self._events: deque[Event] = deque()
        self.woken = asyncio.Event()

    def take(self, event: Event) -> None:
        """Called by the store on each change."""
        if event.resource != self._resource or (
            self._namespace and event.object["metadata"].get("namespace") != self._namespace
        ):
            return
        self._events.append(event)
        self.woken.set()

    def drain(self) -> Iterator[Event]:
        """What is queued, at once. Raises Expired if that is more than a history."""
        self.woken.clear()
        if len(self._events) > HISTORY:
            raise Expired("the reader of this watch is too slow")
        while self._events:
            yield self._events.popleft()

    def close(self) -> None:
        """Take no more."""
        self._among.discard(self)
