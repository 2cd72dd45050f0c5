"""Server-side apply: a manager states what it wants, owns what it stated, and loses what it no longer states.

Ownership is kept in managedFields (FieldsV1: `f:` for map keys, `k:` for keyed list items). Source: KEP-555.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from pocketkube.errors import Conflict
from pocketkube.patch import _key_of, strategic
from pocketkube.storage import Object, now

Fields = dict[str, Any]
_UNOWNED = frozenset({"apiVersion", "kind"})
_UNOWNED_META = frozenset(
    {"name", "namespace", "managedFields", "uid", "resourceVersion", "creationTimestamp", "generation"}
)


def apply(live: Object | None, wanted: Object, manager: str, force: bool) -> Object:
    """The object after `manager` applied `wanted`. Raises Conflict when another manager owns a field with another value."""
    owned = fields_of(wanted)
    entries = copy.deepcopy(((live or {}).get("metadata") or {}).get("managedFields") or [])
    mine = next((e for e in entries if e["manager"] == manager and e["operation"] == "Apply"), None)
    if live is not None:
        for other in entries:
            if other is mine or other["operation"] != "Apply":
                continue
            clash = sorted(
                p for p in _leaves(owned) & _leaves(other["fieldsV1"]) if _value(live, p) != _value(wanted, p)
            )
            if clash and not force:
                raise Conflict(f'Apply failed with {len(clash)} conflict(s) with "{other["manager"]}": {clash[0]}')
            _disown(other["fieldsV1"], clash)
    merged: Object = strategic(live or {}, wanted)
    if mine is not None:
        for gone in sorted(_leaves(mine["fieldsV1"]) - _leaves(owned), reverse=True):
            if not any(gone in _leaves(e["fieldsV1"]) for e in entries if e is not mine):
                _remove(merged, list(gone))
    unchanged = mine is not None and mine["fieldsV1"] == owned
    entry = {"manager": manager, "operation": "Apply", "apiVersion": wanted["apiVersion"],
             "time": mine["time"] if mine is not None and unchanged else now(), "fieldsType": "FieldsV1", "fieldsV1": owned}  # fmt: skip
    merged["metadata"]["managedFields"] = [e for e in entries if e is not mine] + [entry]
    return merged


def fields_of(value: Object) -> Fields:
    """FieldsV1 of what an applied configuration states."""
    body = {k: v for k, v in value.items() if k not in _UNOWNED}
    body["metadata"] = {k: v for k, v in value.get("metadata", {}).items() if k not in _UNOWNED_META}
    return _fields(body, "")


def _fields(value: Any, field: str) -> Fields:
    if isinstance(value, dict):
        return {f"f:{k}": _fields(v, k) for k, v in value.items()}
    if isinstance(value, list) and value and (key := _key_of(value, field)):
        return {"k:" + json.dumps({key: item[key]}, separators=(",", ":")): _fields(item, "") for item in value}
    return {}


def _leaves(fields: Fields, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if not fields:
        return {path}
    return {leaf for name, below in fields.items() for leaf in _leaves(below, (*path, name))}


def _item(node: Any, step: str) -> Any:
    if step.startswith("f:"):
        return node.get(step[2:]) if isinstance(node, dict) else None
    wanted = json.loads(step[2:])
    return next((i for i in node if wanted.items() <= i.items()), None) if isinstance(node, list) else None


def _value(obj: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        obj = _item(obj, step)
        if obj is None:
            return None
    return obj


def _disown(fields: Fields, clash: list[tuple[str, ...]]) -> None:
    for path in clash:
        node = fields
        for step in path[:-1]:
            node = node[step]
        node.pop(path[-1], None)


def _remove(obj: Any, path: list[str]) -> None:
    for step in path[:-1]:
        obj = _item(obj, step)
        if obj is None:
            return
    last = path[-1]
    if last.startswith("f:") and isinstance(obj, dict):
        obj.pop(last[2:], None)
    elif isinstance(obj, list) and (gone := _item(obj, last)) is not None:
        obj.remove(gone)
