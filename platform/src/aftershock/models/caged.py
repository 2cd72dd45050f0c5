"""A model behind bars: each answer is awaited in a thread of its own until a common deadline, and checked for its type and size.

Whatever a model does (raises, hangs, answers nonsense) becomes None; one that hangs, or fails again and again, is asked no more.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from aftershock.errors import DeadlineExceeded, ModelError
from aftershock.models import Absent, Limits, Model

ANSWER_MAX = 1000
FAILURES_MAX = 3  # in a row: a server that is gone does not come back for this postmortem
TICK_S = 0.2
_T = TypeVar("_T")
_NOTHING = object()  # it was not asked, or did not answer


def within(seconds: float, call: Callable[[], _T], tick: Callable[[], None] = lambda: None) -> _T:
    """What a stranger's code answers in a thread of its own; `tick` is called while it is awaited.

    Raises DeadlineExceeded, and ModelError for whatever the code raised.
    """
    answers: queue.Queue[tuple[list[_T], BaseException | None]] = queue.Queue()
    until = time.monotonic() + seconds

    def work() -> None:
        try:
            answers.put(([call()], None))
        except BaseException as error:  # a stranger may raise anything, even SystemExit, and must not end a run
            answers.put(([], error))

    threading.Thread(target=work, name="model", daemon=True).start()
    while True:
        remaining = until - time.monotonic()
        try:
            answer, error = answers.get(timeout=max(0.0, min(remaining, TICK_S)))
        except queue.Empty:
            if remaining <= TICK_S:
                raise DeadlineExceeded(f"it did not answer within {seconds:.1f} s") from None
            tick()
            continue
        if error is None:
            return answer[0]
        raise error if isinstance(error, ModelError) else ModelError(f"it failed with {type(error).__name__}")


class Caged:
    """Asks a model within its limits; `tick` is called with the tokens it has written while an answer is awaited."""

    def __init__(
        self, model: Model | None, limits: Limits | None = None, tick: Callable[[int], None] = lambda _: None
    ) -> None:
        self._model = None if isinstance(model, Absent) else model
        self.limits = limits or (Limits(0.0, 0.0, 0, 0) if model is None else model.limits)
        self._until = time.monotonic() + self.limits.budget_s
        self._left = {"choose": self.limits.choices, "rewrite": self.limits.rewrites}
        self._tick = tick
        self._warm = False
        self._failures = 0
        self.rejected = 0  # answers that were no answers, and rewrites that the caller refused
        self.trouble = model.why if isinstance(model, Absent) else None  # why it is asked no more

    def choose(self, prompt: str, options: Sequence[str]) -> int | None:
        """A valid index, or None."""
        answer = self._ask("choose", lambda model, deadline_s: model.choose(prompt, options, deadline_s))
        if answer is _NOTHING:
            return None
        if type(answer) is int and 0 <= answer < len(options):
            return answer
        self.rejected += 1
        return None

    def rewrite(self, text: str, pattern: str) -> str | None:
        """A text of a sane size, or None."""
        answer = self._ask("rewrite", lambda model, deadline_s: model.rewrite(text, pattern, deadline_s))
        if answer is _NOTHING:
            return None
        if isinstance(answer, str) and 0 < len(answer) <= ANSWER_MAX:
            return answer
        self.rejected += 1
        return None

    def can_choose(self) -> bool:
        """True while a choice may still be asked for."""
        return self._model is not None and self._left["choose"] > 0

    def can_rewrite(self) -> bool:
        """True while a rewrite may still be asked for."""
        return self._model is not None and self._left["rewrite"] > 0

    def _ask(self, what: str, call: Callable[[Model, float], Any]) -> Any:
        model, remaining = self._model, self._until - time.monotonic()
        if model is None or self._left[what] <= 0:
            return _NOTHING
        if remaining <= 0:
            return self._no_more(self._over)
        if self._warm:
            remaining = min(self.limits.call_s, remaining)
        self._left[what] -= 1
        try:
            answer = within(remaining, lambda: call(model, remaining), lambda: self._tick(model.tokens))
        except DeadlineExceeded as error:
            self.rejected += 1
            return self._no_more(str(error) if time.monotonic() < self._until else self._over)
        except ModelError as error:
            self.rejected += 1
            self._failures += 1
            return _NOTHING if self._failures < FAILURES_MAX else self._no_more(str(error))
        self._warm, self._failures = True, 0
        return answer

    @property
    def _over(self) -> str:
        return f"its {self.limits.budget_s:g} s were over"

    def _no_more(self, why: str) -> object:
        self._model, self.trouble = None, why
        return _NOTHING
