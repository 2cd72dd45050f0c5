"""What every controller is: a mapping from changes to keys, and a function that puts one key right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from pocketkube.storage import Event, Store
from pocketkube.usage import Usage

Key = tuple[str, str]  # namespace ("" for cluster-wide kinds) and name
Clock = Callable[[], float]  # Unix seconds
UsageOf = Callable[[str], Usage | None]  # by uid of the pod


@dataclass(frozen=True)
class Context:
    """What controllers are given: the store, the time, and the settings that they share."""

    store: Store
    clock: Clock = time.time
    node_grace_s: float = 4.0
    autoscaler_sync_s: float = 15.0
    usage: UsageOf = lambda uid: None


class Reconciler(Protocol):
    """One control loop. `reconcile` is synchronous, quick and level-triggered: it looks only at the store, never at the event."""

    @property
    def name(self) -> str:
        """Its name in logs, and the source of its events."""

    def touched(self, event: Event) -> Iterable[Key]:
        """Keys that a change makes worth looking at."""

    def known(self) -> Iterable[Key]:
        """All keys, for the start and for resyncs."""

    def reconcile(self, key: Key) -> float | None:
        """Put one key right; the answer is in how many seconds time alone would change it again, None for never."""


def key_of(event: Event) -> Key:
    """The key of the object that changed."""
    meta = event.object["metadata"]
    return meta.get("namespace") or "", meta["name"]


def keys(store: Store, resource: str, namespace: str | None = None) -> list[Key]:
    """Keys of all objects of a resource."""
    return [(o["metadata"].get("namespace") or "", o["metadata"]["name"]) for o in store.list(resource, namespace)]
