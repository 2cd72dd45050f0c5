"""Language models that word a postmortem. They see phrasings with placeholders, never decide anything, and are trusted in nothing.

A model picks the index of a phrasing, or rewrites a sentence around its placeholders; whatever it answers is checked by the caller. Data
never leaves the machine. `open` gives one by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from aftershock.errors import BadInput, ModelError


class Model(Protocol):
    """What a model can be asked; both calls may raise ModelError, and both take at most `deadline_s`."""

    @property
    def name(self) -> str:
        """What the header calls it."""

    @property
    def digest(self) -> str | None:
        """Digest of its weights, once it has been loaded."""

    def choose(self, prompt: str, options: Sequence[str], deadline_s: float) -> int:
        """Index of the option that reads best."""

    def rewrite(self, text: str, deadline_s: float) -> str:
        """The same sentence in other words, with its placeholders `<a>`, `<b>` ... kept."""

    def close(self) -> None:
        """Free what it holds; may be called twice."""


def _embedded() -> Model:
    from aftershock.models.embedded import Embedded

    return Embedded()


MODELS: dict[str, Callable[[], Model] | None] = {"none": None, "embedded": _embedded}


class Absent:
    """A model that was asked for and could not be started: the templates serve, and the header says why."""

    digest: str | None = None

    def __init__(self, name: str, why: str) -> None:
        self.name = f"{name}, which could not be started: {why}"
        self._why = why

    def choose(self, prompt: str, options: Sequence[str], deadline_s: float) -> int:
        """Always raises ModelError."""
        raise ModelError(self._why)

    def rewrite(self, text: str, deadline_s: float) -> str:
        """Always raises ModelError."""
        raise ModelError(self._why)

    def close(self) -> None:
        """Nothing is held."""


def open(name: str) -> Model | None:
    """The model of that name, loading while its caller does other things; None for `none`, where the templates serve.

    Raises BadInput for an unknown name. A model that cannot be started is an `Absent` one: the verdict does not hang on it.
    """
    if name not in MODELS:
        raise BadInput(f"there is no model named {name}", hint=f"models: {', '.join(MODELS)}")
    make = MODELS[name]
    try:
        return None if make is None else make()
    except ModelError as error:
        return Absent(name, str(error))
