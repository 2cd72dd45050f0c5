"""get, list and watch."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

from pocketkube import selectors
from pocketkube.api import events, tables
from pocketkube.api.call import Call
from pocketkube.api.resources import Resource
from pocketkube.api.wire import Answer, Stream, encode, reply
from pocketkube.errors import ApiError, BadRequest, Expired
from pocketkube.selectors import Matches
from pocketkube.storage import Event, Object, Store, Subscription

BOOKMARK_S = 50.0  # a watch that asked for bookmarks hears something this often
WATCH_S_MIN, WATCH_S_MAX = 1800, 3600  # how long a watch without timeoutSeconds lasts, as upstream
ENCODED_MAX = 256  # events kept encoded, for many watchers of one kind
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"

# Fields that can be selected on, beyond metadata.name and metadata.namespace.
_SELECTABLE = {
    "pods": {"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
             "status.phase", "status.podIP", "status.nominatedNodeName"},
    "nodes": {"spec.unschedulable"}, "namespaces": {"status.phase"}, "secrets": {"type"}, "replicasets": {"status.replicas"},
    "services": {"spec.clusterIP", "spec.type"},
    "events": {"reason", "type", "action", "reportingComponent", "reportingController", "source"}
              | {f"{o}.{f}" for o in ("involvedObject", "regarding")
                 for f in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")},
}  # fmt: skip


def present(resource: Resource, obj: Object) -> Object:
    """An object as clients of this resource see it."""
    if resource.stored == "events":
        return events.to_core(obj) if not resource.group else obj
    if "kind" in obj and "apiVersion" in obj:
        return obj
    return {"kind": resource.kind, "apiVersion": resource.api_version, **obj}


def selection(call: Call) -> Matches:
    """The test that the call's selectors and name make, on presented objects. Raises BadRequest."""
    tests: list[Matches] = []
    if text := call.query.get("labelSelector"):
        tests.append(selectors.labels(text))
    if text := call.query.get("fieldSelector"):
        known = _SELECTABLE.get(call.resource.plural, set()) | {"metadata.name", "metadata.namespace"}
        if unknown := sorted(set(selectors.field_names(text)) - known):
            raise BadRequest(f"field label not supported: {unknown[0]}")
        tests.append(selectors.fields(text))
    if call.name:
        name = call.name
        tests.append(lambda obj: obj["metadata"]["name"] == name)
    if len(tests) == 1:
        return tests[0]
    return lambda obj: all(test(obj) for test in tests)


def get(store: Store, call: Call) -> Answer:
    """One object."""
    obj = present(call.resource, store.get(call.resource.stored, call.namespace, call.name or ""))
    if call.wants_table:
        version = obj["metadata"]["resourceVersion"]
        return reply(tables.table(call.resource, [obj], version, call.query.get("includeObject")), content_type=TABLE)
    return reply(obj)


def items(store: Store, call: Call) -> list[Object]:
    """The objects that the call selects, as presented."""
    chosen = selection(call)
    presented = (present(call.resource, obj) for obj in store.list(call.resource.stored, call.namespace))
    return [obj for obj in presented if chosen(obj)]


def collection(store: Store, call: Call) -> Answer:
    """All selected objects. `limit` is allowed to be exceeded, so there is never a `continue`."""
    if call.query.get("continue"):
        raise Expired("the provided continue parameter is too old: this server gives all items at once")
    asked = call.query.get("resourceVersion")
    if call.query.get("resourceVersionMatch") == "Exact" and asked != store.version:
        raise Expired(f"the resource version {asked} is not the current one, and no other is kept")
    found = items(store, call)
    if call.wants_table:
        return reply(
            tables.table(call.resource, found, store.version, call.query.get("includeObject")), content_type=TABLE
        )
    return reply({"kind": f"{call.resource.kind}List", "apiVersion": call.resource.api_version,
                  "metadata": {"resourceVersion": store.version}, "items": found})  # fmt: skip


Encode = Callable[[str, Object], bytes]


def watch(store: Store, call: Call) -> Answer:
    """A stream of changes, one JSON object a line. Raises Expired, BadRequest."""
    chosen = selection(call)
    since = call.query.get("resourceVersion") or "0"
    initial = call.flag("sendInitialEvents")
    first: list[Object] = []
    if since == "0" or initial:
        first, since = items(store, call), store.version
    subscription = store.subscribe(call.resource.stored, call.namespace, since)
    lasts = call.number("timeoutSeconds") or WATCH_S_MIN + secrets.randbelow(WATCH_S_MAX - WATCH_S_MIN)
    shown: Encode = _TableEvents(call) if call.wants_table else _plain(call.resource)
    bookmarks = call.flag("allowWatchBookmarks")
    chunks = _watch(store, call.resource, subscription, chosen, first, shown, lasts, bookmarks, initial)
    return Stream(chunks, content_type=TABLE + ";stream=watch" if call.wants_table else "application/json;stream=watch")


async def _watch(store: Store, resource: Resource, subscription: Subscription, chosen: Matches, first: list[Object],
                 shown: Encode, lasts_s: float, bookmarks: bool, initial: bool) -> AsyncIterator[bytes]:  # fmt: skip
    loop = asyncio.get_running_loop()
    ends = loop.time() + lasts_s
    try:
        if first or initial:
            lines = [shown("ADDED", obj) for obj in first]
            if initial:
                lines.append(_bookmark(resource, store.version, initial=True))
            yield b"".join(lines)
        while loop.time() < ends:
            try:
                if lines := [line for event in subscription.drain() if (line := _line(resource, event, chosen, shown))]:
                    yield b"".join(lines)
                async with asyncio.timeout_at(min(ends, loop.time() + BOOKMARK_S)):
                    await subscription.woken.wait()
            except TimeoutError:
                if bookmarks:
                    yield _bookmark(resource, store.version)
            except ApiError as error:
                yield encode({"type": "ERROR", "object": error.status()}) + b"\n"
                return
    finally:
        subscription.close()


def _line(resource: Resource, event: Event, chosen: Matches, shown: Encode) -> bytes | None:
    obj = present(resource, event.object)
    is_in = event.type != "DELETED" and chosen(obj)
    was_in = event.old is not None and chosen(present(resource, event.old))
    if is_in:
        return shown("MODIFIED" if was_in else "ADDED", obj)
    if not was_in:
        return None
    return shown("DELETED", obj)


def _bookmark(resource: Resource, version: str, *, initial: bool = False) -> bytes:
    meta: dict[str, Any] = {"resourceVersion": version}
    if initial:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    return encode({"type": "BOOKMARK", "object": {
        "kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}}) + b"\n"  # fmt: skip


_encoded: dict[tuple[str, str, str, str], bytes] = {}


def _plain(resource: Resource) -> Encode:
    def line(kind: str, obj: Object) -> bytes:
        meta = obj["metadata"]
        key = (kind, resource.api_version, meta.get("uid", ""), meta["resourceVersion"])
        known = _encoded.get(key)
        if known is None:
            known = encode({"type": kind, "object": obj}) + b"\n"
            _encoded[key] = known
            if len(_encoded) > ENCODED_MAX:
                del _encoded[next(iter(_encoded))]
        return known

    return line


class _TableEvents:
    """Rows of one watch; the column definitions come once."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._begun = False

    def __call__(self, kind: str, obj: Object) -> bytes:
        version = obj["metadata"]["resourceVersion"]
        shown = tables.table(self._call.resource, [obj], version, self._call.query.get("includeObject"))
        if self._begun:
            shown["columnDefinitions"] = []
        self._begun = True
        return encode({"type": kind, "object": shown}) + b"\n"
