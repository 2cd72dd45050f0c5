"""`events.jsonl` while it grows: what was seen and done, in the order in which this process learned of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aftershock.errors import FolderError

EVENTS_MAX = 500_000


@dataclass(frozen=True)
class Event:
    """One line; `time_us` is when it was seen here."""

    id: str
    time_us: int
    source: str
    type: str  # ADDED MODIFIED DELETED NORMAL WARNING INJECTED UNDONE GAP
    kind: str  # Pod Node EndpointSlice Event Deployment StatefulSet ..., Runner for what aftershock did
    namespace: str | None = None
    name: str | None = None
    uid: str | None = None
    node: str | None = None
    service: str | None = None
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


def now_us() -> int:
    """Wall clock, microseconds since the epoch."""
    return time.time_ns() // 1000


class EventLog:
    """Appends events to a file, each line written through at once; safe for several threads."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise FolderError(f"{path}: cannot be written: {error.strerror}") from None
        self._events: list[Event] = []
        self._changed = threading.Condition()

    def add(self, *, source: str, type: str, kind: str, time_us: int | None = None, **fields: Any) -> Event:
        """Record an event, now unless `time_us` says when. Raises FolderError when the log is full or closed."""
        with self._changed:
            if len(self._events) >= EVENTS_MAX or self._file.closed:
                raise FolderError("events.jsonl is closed" if self._file.closed else "events.jsonl is full")
            at = now_us() if time_us is None else time_us
            event = Event(f"ev-{len(self._events) + 1:06d}", at, source, type, kind, **fields)
            self._file.write(json.dumps(asdict(event), ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            self._events.append(event)
            self._changed.notify_all()
        return event

    def all(self) -> tuple[Event, ...]:
        """Everything so far."""
        with self._changed:
            return tuple(self._events)

    def wait_for(self, predicate: Callable[[Event], bool], deadline_s: float) -> Event | None:
        """The first event, past or to come, that satisfies `predicate`; None if none did within the deadline."""
        ends, seen = time.monotonic() + deadline_s, 0
        while True:
            with self._changed:
                while len(self._events) == seen:
                    left = ends - time.monotonic()
                    if left <= 0 or not self._changed.wait(left):
                        return None
                fresh = self._events[seen:]
            found = next((event for event in fresh if predicate(event)), None)
            if found is not None:
                return found
            seen += len(fresh)

    def close(self) -> None:
        """No more events; a second call does nothing."""
        with self._changed:
            self._file.close()
