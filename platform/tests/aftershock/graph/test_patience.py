"""Whoever waits for a server can stop waiting; a sign of life begins the deadline anew."""

from __future__ import annotations

import threading
import time

import pytest

from aftershock.graph import patience as module
from aftershock.graph.patience import Patience, Silence


def test_answers_and_errors_pass_through() -> None:
    patience = Patience(lambda: None)
    assert patience.do(lambda: 7, 5) == 7
    assert patience.do(lambda: ValueError("returned"), 5).args == ("returned",)
    with pytest.raises(ZeroDivisionError):
        patience.do(lambda: 1 // 0, 5)
    assert not patience.gone.is_set()


def test_a_silence_ends_the_wait_and_the_thread_cleans_up_later() -> None:
    cleaned, hang = threading.Event(), threading.Event()
    patience = Patience(cleaned.set)
    begun = time.monotonic()
    with pytest.raises(Silence, match=r"0\.1 s"):
        patience.do(hang.wait, 0.1)
    assert time.monotonic() - begun < 5
    assert patience.gone.is_set()
    assert not cleaned.is_set()
    hang.set()
    assert cleaned.wait(10)


def test_work_that_ends_in_the_moment_in_which_the_wait_does_is_cleaned_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned, hang = threading.Event(), threading.Event()
    patience = Patience(cleaned.set)

    class Clock:
        """When it is read after the deadline, the work ends before the reader learns what time it is."""

        @staticmethod
        def monotonic() -> float:
            if (now := time.monotonic()) > begun + 0.1:
                hang.set()
                for thread in [t for t in threading.enumerate() if t.name == "graph server"]:
                    thread.join(10)
            return now

    monkeypatch.setattr(module, "time", Clock)
    begun = time.monotonic()
    with pytest.raises(Silence):
        patience.do(hang.wait, 0.1)
    assert cleaned.is_set()


def test_signs_of_life_keep_it_waiting() -> None:
    patience = Patience(lambda: None)
    hang = threading.Event()

    def work() -> str:
        for _ in range(40):
            hang.wait(0.02)
            patience.pulse()
        return "done"

    begun = time.monotonic()
    assert patience.do(work, 0.5) == "done"
    assert time.monotonic() - begun > 0.5


def test_an_interrupt_leaves_nothing_that_could_be_used() -> None:
    patience = Patience(lambda: None)

    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        patience.do(work, 5)
