"""Language models that word a postmortem. They see phrasings with placeholders, never decide anything, and are trusted in nothing.

A model picks the index of a phrasing, or rewrites a sentence around its placeholders; whatever it answers is checked by the caller. `open`
gives one by name: `none`, `embedded` (in a process of ours), or `ollama:NAME` (a server that the user names by OLLAMA_HOST).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aftershock.errors import BadInput, ModelError

if TYPE_CHECKING:
    from aftershock.progress import Teller

OLLAMA = "ollama:"
FORMS = "none, embedded or ollama:NAME"


@dataclass(frozen=True)
class Limits:
    """How much a model is asked, and how long it is waited for."""

    budget_s: float  # for everything
    call_s: float  # for one answer, but for the first, which waits until the model has loaded
    choices: int
    rewrites: int
    offered: int = 2  # phrasings a choice: reading them is what a small model takes its time for
    context: bool = False  # whether it is told the sentence before


class Model(Protocol):
    """What a model can be asked; both calls may raise ModelError, and both take at most `deadline_s`."""

    @property
    def name(self) -> str:
        """What the header calls it."""

    @property
    def digest(self) -> str | None:
        """Digest of its weights, once it has been loaded."""

    @property
    def limits(self) -> Limits:
        """How much it can be asked."""

    @property
    def tokens(self) -> int:
        """How much it has written so far, for those who watch; 0 if it does not say."""

    def choose(self, prompt: str, options: Sequence[str], deadline_s: float) -> int:
        """Index of the option that reads best."""

    def rewrite(self, text: str, pattern: str, deadline_s: float) -> str:
        """The same sentence in other words, with its placeholders `<a>`, `<b>` ... kept; `pattern` has what will be accepted."""

    def close(self) -> None:
        """Free what it holds; may be called twice."""


def _embedded() -> Model:
    from aftershock.models.embedded import Embedded

    return Embedded()


def _ollama(name: str) -> Model:
    from aftershock.models import address
    from aftershock.models.ollama import Ollama
    from aftershock.settings import settings

    return Ollama(name, address.parse(settings().ollama_host))


MODELS: dict[str, Callable[[], Model] | None] = {"none": None, "embedded": _embedded}


class Absent:
    """A model that was asked for and could not be started: the templates serve, and the header says why."""

    digest: str | None = None
    limits = Limits(0.0, 0.0, 0, 0)
    tokens = 0

    def __init__(self, name: str, why: str, hint: str | None = None) -> None:
        self.name, self.why, self.hint = name, why, hint

    def choose(self, prompt: str, options: Sequence[str], deadline_s: float) -> int:
        """Always raises ModelError."""
        raise ModelError(self.why)

    def rewrite(self, text: str, pattern: str, deadline_s: float) -> str:
        """Always raises ModelError."""
        raise ModelError(self.why)

    def close(self) -> None:
        """Nothing is held."""


def named(text: str) -> str:
    """The name of a model as it was given, if there can be such a one; nothing is loaded or asked. Raises BadInput."""
    if text in MODELS or re.fullmatch(OLLAMA + r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}", text):
        return text
    raise BadInput(f"there is no model named {text[:80]!r}", hint=f"models: {FORMS}")


def open(name: str) -> Model | None:
    """The model of that name, loading while its caller does other things; None for `none`, where the templates serve.

    Raises BadInput for an unknown name or an OLLAMA_HOST that is none. A model that cannot be started is an `Absent` one: the verdict
    does not hang on it.
    """
    named(name)
    try:
        if name.startswith(OLLAMA):
            return _ollama(name.removeprefix(OLLAMA))
        make = MODELS[name]
        return None if make is None else make()
    except ModelError as error:
        return Absent(name, str(error), error.hint)


def look(name: str, tell: Teller) -> None:
    """Say what keeps a server's model from serving, before something long begins; nothing is loaded. Raises BadInput as `open` does."""
    if named(name).startswith(OLLAMA):
        model = open(name)
        warn(model, tell)
        if model is not None:
            model.close()


def warn(model: Model | None, tell: Teller) -> None:
    """Say that a model is absent, and what to do about it."""
    if isinstance(model, Absent):
        hint = f"\nhint: {model.hint}" if model.hint else ""
        tell.say(f"warning: {model.name} cannot word the postmortem, so templates do: {model.why}{hint}")
