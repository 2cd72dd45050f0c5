"""Observers end together."""

from __future__ import annotations

import threading

import pytest

from aftershock.errors import ObserverError
from aftershock.observe import observer
from aftershock.observe.observer import ObserverReport


class Slow:
    """Ends only while all the others do."""

    def __init__(self, name: str, all_of_them: threading.Barrier) -> None:
        self.name, self._all = name, all_of_them

    def start(self) -> None:
        raise AssertionError("not asked to")

    def stop(self) -> ObserverReport:
        self._all.wait(10)
        return ObserverReport(self.name, 1, 2, 0)


class Broken(Slow):
    """Does not end well."""

    def stop(self) -> ObserverReport:
        super().stop()
        raise ObserverError(f"{self.name} is gone")


def test_no_observer_waits_for_another_and_reports_keep_their_order() -> None:
    together = threading.Barrier(3)
    names = ["watch", "collector", "metrics"]
    assert [r.name for r in observer.stop([Slow(name, together) for name in names])] == names
    assert observer.stop([]) == []


def test_what_goes_wrong_at_the_end_is_told_once_all_have_ended() -> None:
    together = threading.Barrier(2)
    with pytest.raises(ObserverError, match="watch is gone"):
        observer.stop([Broken("watch", together), Slow("metrics", together)])
