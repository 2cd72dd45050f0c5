"""A model behind bars: each answer is awaited in a thread of its own until a common deadline, and checked for its type and size.

Whatever a model does (raises, hangs, answers nonsense) becomes None; one that hangs is never asked again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from aftershock.models import Model

ANSWER_MAX = 1000
CALL_S = 3.0  # the longest that one answer may take, but for the first, which waits until the model has loaded
_NOTHING = object()  # it was not asked, or did not answer


class Caged:
    """Asks a model within `budget_s` for everything, at most so many choices and rewrites."""

    def __init__(self, model: Model | None, budget_s: float, choices_max: int, rewrites_max: int) -> None:
        self._model = model
        self._until = time.monotonic() + budget_s
        self._left = {"choose": choices_max, "rewrite": rewrites_max}
        self._warm = False
        self.rejected = 0  # answers that were no answers, and rewrites that the caller refused

    def choose(self, prompt: str, options: Sequence[str]) -> int | None:
        """A valid index, or None."""
        answer = self._ask("choose", lambda model, deadline_s: model.choose(prompt, options, deadline_s))
        if answer is _NOTHING:
            return None
        if type(answer) is int and 0 <= answer < len(options):
            return answer
        self.rejected += 1
        return None

    def rewrite(self, text: str) -> str | None:
        """A text of a sane size, or None."""
        answer = self._ask("rewrite", lambda model, deadline_s: model.rewrite(text, deadline_s))
        if answer is _NOTHING:
            return None
        if isinstance(answer, str) and 0 < len(answer) <= ANSWER_MAX:
            return answer
        self.rejected += 1
        return None

    def can_rewrite(self) -> bool:
        """True while a rewrite may still be asked for."""
        return self._model is not None and self._left["rewrite"] > 0

    def _ask(self, what: str, call: Callable[[Model, float], Any]) -> Any:
        model, remaining = self._model, self._until - time.monotonic()
        if self._warm:
            remaining = min(CALL_S, remaining)
        self._warm = True
        if model is None or self._left[what] <= 0 or remaining <= 0:
            return _NOTHING
        self._left[what] -= 1
        answers: queue.Queue[tuple[bool, Any]] = queue.Queue()

        def work() -> None:
            try:
                answers.put((True, call(model, remaining)))
            except (
                BaseException
            ):  # a model is a stranger's code: it may raise anything, even SystemExit, and must not end a run
                answers.put((False, None))

        threading.Thread(target=work, name="model", daemon=True).start()
        try:
            answered, answer = answers.get(timeout=remaining)
        except queue.Empty:
            self._model = None  # it hangs
            self.rejected += 1
            return _NOTHING
        if not answered:
            self.rejected += 1
            return _NOTHING
        return answer
