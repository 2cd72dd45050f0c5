"""Events have two shapes, core/v1 and events.k8s.io/v1; the store keeps the second."""

from __future__ import annotations

from pocketkube.storage import Object

_NAMES = (("involvedObject", "regarding"), ("message", "note"), ("reportingComponent", "reportingController"),
          ("count", "deprecatedCount"), ("firstTimestamp", "deprecatedFirstTimestamp"),
          ("lastTimestamp", "deprecatedLastTimestamp"), ("source", "deprecatedSource"))  # fmt: skip
_TO_CORE = {new: old for old, new in _NAMES}
_FROM_CORE = dict(_NAMES)


def to_core(event: Object) -> Object:
    """core/v1, as kubectl describe reads it."""
    shown = {_TO_CORE.get(name, name): value for name, value in event.items()}
    return {**shown, "apiVersion": "v1", "kind": "Event"}


def from_core(event: Object) -> Object:
    """events.k8s.io/v1, as it is stored."""
    kept = {_FROM_CORE.get(name, name): value for name, value in event.items()}
    return {**kept, "apiVersion": "events.k8s.io/v1", "kind": "Event"}
