"""Work that may hang is done in a thread of its own, so that whoever waits for it can stop waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Silence(Exception):
    """Whoever was asked has shown no sign of life within the deadline; the work goes on in its thread, and nobody waits for it."""


class Patience:
    """Does one thing at a time; `pulse` is a sign of life. After a silence `gone` is set, and `afterwards` follows the end of the work."""

    def __init__(self, afterwards: Callable[[], None]) -> None:
        self._afterwards = afterwards
        self._last = 0.0
        # The end of the work and the end of the wait: whichever comes second sees to what is to be done afterwards.
        self._lock = threading.Lock()
        self.gone = threading.Event()

    def pulse(self) -> None:
        """Begin the deadline anew."""
        self._last = time.monotonic()

    def do(self, work: Callable[[], T], silent_s: float) -> T:
        """What the work returns or raises. Raises Silence."""
        answer: SimpleQueue[tuple[bool, T | BaseException]] = SimpleQueue()

        def body() -> None:
            try:
                answer.put((True, work()))
            except BaseException as error:  # raised again in the thread that waits
                answer.put((False, error))
            with self._lock:
                ended.set()
                left = self.gone.is_set()
            if left:
                self._afterwards()

        ended = threading.Event()
        self.pulse()
        threading.Thread(target=body, name="graph server", daemon=True).start()
        try:
            while True:
                try:
                    good, value = answer.get(timeout=max(0.001, self._last + silent_s - time.monotonic()))
                    break
                except Empty:
                    if time.monotonic() - self._last >= silent_s:
                        raise Silence(f"no sign of life for {silent_s:g} s") from None
        except BaseException:  # also Ctrl-C: a connection in the middle of an answer serves nobody
            with self._lock:
                self.gone.set()
                late = ended.is_set()
            if late:  # it ended after the last look, and nobody had left then
                self._afterwards()
            raise
        if isinstance(value, BaseException) and not good:
            raise value
        return value  # type: ignore[return-value]
