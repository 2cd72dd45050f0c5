"""Server-side apply: a manager states what it wants, owns what it stated, and loses what it no longer states.

Ownership is kept in managedFields (FieldsV1: `f:` for map keys, `k:` for keyed list items), for managers that apply only: a plain
update or patch owns nothing here, so it cannot be in conflict, and objects stay small. Source: KEP-555.
"""

from __future__ import annotations

import json
from typing import Any

from pocketkube.errors import Conflict
from pocketkube.patch import key_of, strategic
from pocketkube.storage import Object, clone, now

Fields = dict[str, Any]
Path = tuple[str, ...]
ITEM = "."  # in FieldsV1: the list item itself
_UNOWNED = frozenset({"apiVersion", "kind"})
_UNOWNED_META = frozenset(
    {"name", "namespace", "managedFields", "uid", "resourceVersion", "creationTimestamp", "generation"}
)


def apply(live: Object | None, wanted: Object, manager: str, force: bool) -> Object:
    """The object after `manager` applied `wanted`. Raises Conflict when another manager owns a field with another value."""
    owned = fields_of(wanted)
    entries = clone(((live or {}).get("metadata") or {}).get("managedFields") or [])
    mine = next((e for e in entries if e["manager"] == manager and e["operation"] == "Apply"), None)
    clashes = _clashes(live, wanted, owned, [e for e in entries if e is not mine and e["operation"] == "Apply"])
    if clashes and not force:
        raise _conflict(clashes)
    for other, paths in clashes:
        _disown(other["fieldsV1"], paths)
    merged: Object = strategic(clone(live or {}), wanted, ordered=True)
    if mine is not None:
        _let_go(merged, _leaves(mine["fieldsV1"]) - _leaves(owned), [e for e in entries if e is not mine])
    unchanged = mine is not None and mine["fieldsV1"] == owned
    entry = {"manager": manager, "operation": "Apply", "apiVersion": wanted["apiVersion"],
             "time": mine["time"] if mine is not None and unchanged else now(), "fieldsType": "FieldsV1", "fieldsV1": owned}  # fmt: skip
    kept = [entry if e is mine else e for e in entries]
    merged["metadata"]["managedFields"] = kept if mine is not None else [*kept, entry]
    return merged


Clash = tuple[Object, list[Path]]  # another manager's entry, and the fields that it holds with other values


def _clashes(live: Object | None, wanted: Object, owned: Fields, others: list[Object]) -> list[Clash]:
    found: list[Clash] = []
    for other in others if live is not None else ():
        both = _leaves(owned) & _leaves(other["fieldsV1"])
        if paths := sorted(p for p in both if p[-1] != ITEM and _differs(_value(live, p), _value(wanted, p))):
            found.append((other, paths))
    return found


def _differs(has: Any, wants: Any) -> bool:
    """Maps are merged, so an empty one that both state is nothing to quarrel about."""
    return not (isinstance(has, dict) and isinstance(wants, dict)) and bool(has != wants)


def _conflict(clashes: list[Clash]) -> Conflict:
    causes = [{"reason": "FieldManagerConflict", "message": f'conflict with "{other["manager"]}"', "field": _text(path)}
              for other, paths in clashes for path in paths]  # fmt: skip
    parts = [f'conflict with "{other["manager"]}": {_text(paths[0])}' if len(paths) == 1 else
             "\n- ".join([f'conflicts with "{other["manager"]}":', *map(_text, paths)]) for other, paths in clashes]  # fmt: skip
    count = f"{len(causes)} conflict{'s' if len(causes) > 1 else ''}"
    return Conflict(f"Apply failed with {count}: {chr(10).join(parts)}", {"causes": causes})


def _let_go(merged: Object, gone: set[Path], others: list[Object]) -> None:
    """Take out what the manager no longer states and nobody else owns; list items as a whole."""
    kept = {leaf for entry in others for leaf in _leaves(entry["fieldsV1"])}
    for path in sorted(gone - kept, key=lambda p: p[-1] != ITEM):
        _remove(merged, list(path[:-1] if path[-1] == ITEM else path))


def fields_of(value: Object) -> Fields:
    """FieldsV1 of what an applied configuration states."""
    body = {k: v for k, v in value.items() if k not in _UNOWNED}
    body["metadata"] = {k: v for k, v in value.get("metadata", {}).items() if k not in _UNOWNED_META}
    return _fields(body, "")


def _fields(value: Any, field: str) -> Fields:
    if isinstance(value, dict):
        return {f"f:{k}": _fields(v, k) for k, v in value.items()}
    if isinstance(value, list) and value and (key := key_of(value, field)):
        return {
            "k:" + json.dumps({key: item[key]}, separators=(",", ":")): {ITEM: {}, **_fields(item, "")}
            for item in value
        }
    return {}


def _leaves(fields: Fields, path: Path = ()) -> set[Path]:
    if not fields:
        return {path}
    return {leaf for name, below in fields.items() for leaf in _leaves(below, (*path, name))}


def _item(node: Any, step: str) -> Any:
    if step.startswith("f:"):
        return node.get(step[2:]) if isinstance(node, dict) else None
    wanted = json.loads(step[2:])
    return next((i for i in node if wanted.items() <= i.items()), None) if isinstance(node, list) else None


def _value(obj: Any, path: Path) -> Any:
    for step in path:
        obj = _item(obj, step)
        if obj is None:
            return None
    return obj


def _disown(fields: Fields, clash: list[Path]) -> None:
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
        below = obj.get(last[2:])
        if not (isinstance(below, dict) and below):  # it was stated empty; what is in it now is others'
            obj.pop(last[2:], None)
    elif isinstance(obj, list) and (gone := _item(obj, last)) is not None:
        obj.remove(gone)


def _text(path: Path) -> str:
    """`.spec.template.spec.containers[name="a"].image`."""
    made = ""
    for step in path:
        if step.startswith("k:"):
            made += "[" + ",".join(f"{k}={json.dumps(v)}" for k, v in json.loads(step[2:]).items()) + "]"
        else:
            made += f".{step[2:]}"
    return made
