"""What a person sees while something takes long: one line with a bar on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Teller(Protocol):
    """Whoever works tells what is under way; `done` is the part that is done (0 to 1), None where nobody can know."""

    def __call__(self, text: str, done: float | None = None) -> None: ...

    def say(self, text: str) -> None:
        """Something that must not be missed."""


class Silent:
    """A `Teller` that tells nobody."""

    def __call__(self, text: str, done: float | None = None) -> None:
        """Tell nobody what is under way."""

    def say(self, text: str) -> None:
        """Tell nobody."""


silent = Silent()


class Terminal:
    """A `Teller` for people; a context manager, since a bar must be taken away again."""

    def __init__(self, *, no_color: bool = False) -> None:
        self._console = Console(file=sys.stderr, no_color=no_color, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._headline = ""
        self._last = ""
        self._begun = time.monotonic()

    def __enter__(self) -> Terminal:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def headline(self, text: str) -> None:
        """What all that follows belongs to, such as the experiment's name."""
        self._headline = text
        self(text, 0.0)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, soft_wrap=True)

    def __call__(self, text: str, done: float | None = None) -> None:
        """Show what is under way; off a terminal a new text is a new line, and a moving figure in it is not."""
        shown = f"{self._headline}: {text}" if self._headline and text != self._headline else text
        if self._console.is_terminal:
            if self._task is None:
                self._task = self._bar.add_task(shown, total=1.0)
            self._bar.update(
                self._task, description=shown[:70], completed=done or 0.0, total=None if done is None else 1.0
            )
            return
        stem = shown.rstrip("0123456789./ of")
        if stem != self._last:
            self._last = stem
            self._console.print(f"{time.monotonic() - self._begun:6.1f} s  {shown}", markup=False, soft_wrap=True)
