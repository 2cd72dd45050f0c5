"""ownerReferences: who controls an object, and how controllers adopt and release by selector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pocketkube import selectors
from pocketkube.selectors import Matches
from pocketkube.storage import Event, Object, Store


def controller_of(obj: Object) -> dict[str, Any] | None:
    """The ownerReference of the controller, if there is one."""
    for reference in obj["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return reference  # type: ignore[no-any-return]
    return None


def reference(owner: Object, api_version: str, kind: str) -> dict[str, Any]:
    """A controlling ownerReference to `owner`."""
    return {"apiVersion": api_version, "kind": kind, "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
            "controller": True, "blockOwnerDeletion": True}  # fmt: skip


def controls(owner: Object, obj: Object) -> bool:
    """True if `owner` is the controller of `obj`."""
    by = controller_of(obj)
    return by is not None and by["uid"] == owner["metadata"]["uid"]


def of_pod(store: Store, event: Event, resource: str, kind: str) -> Iterator[tuple[str, str]]:
    """Keys of the owners of `kind` that a change of a pod concerns: its controller before and after, or those that could adopt it."""
    namespace = event.object["metadata"]["namespace"]
    for pod in (event.object, event.old):
        by = controller_of(pod) if pod else None
        if by is not None and by["kind"] == kind:
            yield namespace, by["name"]
    if controller_of(event.object) is None and event.type != "DELETED":
        for owner in store.list(resource, namespace):
            if selectors.of(owner["spec"].get("selector"))(event.object):
                yield namespace, owner["metadata"]["name"]


def claim(store: Store, owner: Object, api_version: str, kind: str, resource: str, matches: Matches) -> list[Object]:
    """Objects that `owner` controls, after adopting matching orphans and releasing those that match no more.

    Source: kubernetes pkg/controller/controller_ref_manager.go.
    """
    namespace, uid = owner["metadata"].get("namespace"), owner["metadata"]["uid"]
    leaving = "deletionTimestamp" in owner["metadata"]
    claimed: list[Object] = []
    for obj in store.list(resource, namespace):
        meta, by = obj["metadata"], controller_of(obj)
        if by is not None:
            if by["uid"] != uid:
                continue
            if matches(obj):
                claimed.append(obj)
            elif not leaving:
                store.mutate(resource, namespace, meta["name"], lambda o: _release(o, uid))
        elif matches(obj) and not leaving and "deletionTimestamp" not in meta:
            adopted = reference(owner, api_version, kind)
            claimed.append(store.mutate(resource, namespace, meta["name"], lambda o, ref=adopted: _adopt(o, ref)))  # type: ignore[misc]
    return claimed


def _adopt(obj: Object, by: dict[str, Any]) -> None:
    obj["metadata"].setdefault("ownerReferences", []).append(by)


def _release(obj: Object, uid: str) -> None:
    kept = [r for r in obj["metadata"]["ownerReferences"] if r["uid"] != uid]
    obj["metadata"]["ownerReferences"] = kept
    if not kept:
        del obj["metadata"]["ownerReferences"]
