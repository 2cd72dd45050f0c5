"""Language models that word a postmortem. They see phrasings with placeholders, never decide anything, and are trusted in nothing.

A model picks the index of a phrasing, or rewrites a sentence around its placeholders; whatever it answers is checked by the caller. Data
never leaves the machine. `load` gives one by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from aftershock.errors import BadInput


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


def load(name: str) -> Model | None:
    """The model of that name; None for `none`, where the templates serve. Raises BadInput, or ModelError if it cannot be started."""
    if name not in MODELS:
        raise BadInput(f"there is no model named {name}", hint=f"models: {', '.join(MODELS)}")
    make = MODELS[name]
    return None if make is None else make()
