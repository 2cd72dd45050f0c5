"""status.conditions: a list keyed by type."""

from __future__ import annotations

from typing import Any

from pocketkube.storage import Object

Condition = dict[str, Any]


def find(obj: Object, kind: str) -> Condition | None:
    """The condition of this type, if the object has it."""
    for condition in (obj.get("status") or {}).get("conditions") or []:
        if condition["type"] == kind:
            return condition  # type: ignore[no-any-return]
    return None


def is_true(obj: Object, kind: str) -> bool:
    """True if the condition is there and True."""
    condition = find(obj, kind)
    return condition is not None and condition["status"] == "True"


def put(conditions: list[Condition], wanted: Condition, now: str, *, updated: bool = False) -> list[Condition]:
    """The list with `wanted` in it; lastTransitionTime moves only when the status does, `updated` adds lastUpdateTime."""
    known = next((c for c in conditions if c["type"] == wanted["type"]), None)
    if known is not None and all(known.get(k) == v for k, v in wanted.items()):
        return conditions
    moved = known is None or known["status"] != wanted["status"]
    made = {**wanted, "lastTransitionTime": now if known is None or moved else known.get("lastTransitionTime", now)}
    if updated:
        made["lastUpdateTime"] = now
    if known is None:
        return [*conditions, made]
    return [made if c is known else c for c in conditions]
