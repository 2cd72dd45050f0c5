"""The postmortem: facts to a plan, the plan to sentences, sentences to Markdown and JSON in each language.

Every sentence comes from `phrases.kinds.plan` and carries the ids of its facts. A model may choose among phrasings and rewrite around
placeholders; what cannot be parsed back to the facts is dropped for the template. The verdict is made elsewhere and only cited here.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from aftershock import facts as ledgers
from aftershock.facts import Fact
from aftershock.folder import RunFolder
from aftershock.models import Model
from aftershock.models.caged import Caged
from aftershock.phrases import values
from aftershock.phrases.catalogue import LANGUAGES, Language, Phrases, phrases
from aftershock.phrases.kinds import Bound, plan

MODEL_BUDGET_S = 6.0
CHOICES_MAX = 10
REWRITES_MAX = 1  # one costs as much as four choices
OFFERED = 2  # phrasings a choice: reading them is what a small model takes its time for
# Where wording matters most to a reader: these are put to the model first.
MODEL_ORDER = ("summary", "cause", "broken", "impact", "recovery", "held", "unknown", "actions")
QUESTION = "Which is clearer?"
LISTED = ("timeline", "held", "broken", "unknown", "actions")
FILES: dict[Language, str] = {"en": "postmortem.md", "ko": "postmortem.ko.md"}
_MARK = re.compile("<[a-z]>")
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&])")


@dataclass(frozen=True)
class Sentence:
    """A claim with the facts that it rests on; `origin` is `template` or `model`."""

    text: str
    facts: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class Header:
    """Who worded this, and how much of it; `model` is None for templates only."""

    model: str | None
    digest: str | None
    by_model: int
    rejected: int
    total: int


@dataclass(frozen=True)
class Section:
    """Sentences under a heading."""

    id: str
    heading: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True)
class Text:
    """The postmortem in one language."""

    language: Language
    title: str
    header: Header
    sections: tuple[Section, ...]

    @property
    def sentences(self) -> tuple[Sentence, ...]:
        """All claims, in order."""
        return tuple(sentence for section in self.sections for sentence in section.sentences)


@dataclass(frozen=True)
class _Choice:
    """How a planned sentence is to be worded: a phrasing for every language, and an English text if a model rewrote it."""

    index: int
    by_model: bool
    rewritten: str | None


def write(
    folder: RunFolder,
    model: Model | None = None,
    ledger: Sequence[Fact] | None = None,
    budget_s: float = MODEL_BUDGET_S,
) -> list[Text]:
    """Compose the postmortem of a run and store it with its ledger: facts.json, postmortem.json, postmortem.md, postmortem.ko.md.

    The ledger is computed from the folder unless it is given; the model is closed, whatever happens.
    """
    try:
        known = ledgers.of(folder) if ledger is None else ledger  # a model loads meanwhile
        texts = compose(known, model, budget_s)
    finally:
        if model is not None:
            model.close()
    ledgers.write(folder, known)
    folder.write("postmortem.json", as_json(texts))
    for text in texts:
        folder.write_text(FILES[text.language], markdown(text, known))
    return texts


def compose(ledger: Sequence[Fact], model: Model | None = None, budget_s: float = MODEL_BUDGET_S) -> list[Text]:
    """The postmortem in every language; without a model the phrasings are picked by the facts themselves."""
    planned = plan(ledger)
    caged = Caged(model, budget_s, CHOICES_MAX, REWRITES_MAX)
    choices = _choices(planned, caged)
    texts = []
    for language in LANGUAGES:
        catalogue = phrases(language)
        worded = [(bound, _word(catalogue, bound, choices[bound.key])) for bound in planned]
        by_model = sum(sentence.origin == "model" for _, sentence in worded)
        header = (Header(None, None, 0, 0, len(worded)) if model is None else
                  Header(values.quote(model.name), _digest(model), by_model, caged.rejected, len(worded)))  # fmt: skip
        sections = tuple(
            Section(section, catalogue.heading(section), tuple(sentence for _, sentence in group))
            for section, group in groupby(worded, key=lambda pair: pair[0].kind.section)
        )
        texts.append(Text(language, title(catalogue, ledger), header, sections))
    return texts


def title(catalogue: Phrases, ledger: Sequence[Fact]) -> str:
    """Title of the page."""
    named = next((fact.object for fact in ledger if (fact.subject, fact.predicate) == ("run", "title")), None)
    return catalogue.fill(catalogue.document["title"], title=values.quote(named or "?"))


def _digest(model: Model) -> str | None:
    digest = model.digest
    return values.quote(digest) if isinstance(digest, str) and digest else None


def _choices(planned: Sequence[Bound], caged: Caged) -> dict[tuple[str, tuple[str, ...]], _Choice]:
    english = phrases("en")
    rank = {section: number for number, section in enumerate(MODEL_ORDER)}
    asked = sorted((b for b in planned if b.kind.section in rank), key=lambda b: rank[b.kind.section])
    choices = {bound.key: _Choice(_usual(bound), False, None) for bound in planned}
    for bound in asked:
        count = len(english.options(bound.kind.name))
        first = _usual(bound) % count  # small models like the first option: it must not always be the same one
        turned = [(first + place) % count for place in range(min(count, OFFERED))]
        picked = caged.choose(QUESTION, [_MARK.sub("…", english.masked(bound, index)[0]) for index in turned])
        if picked is None:
            continue
        index = turned[picked]
        rewritten = _rewritten(english, bound, index, caged)
        choices[bound.key] = _Choice(index, True, rewritten)
    return choices


def _usual(bound: Bound) -> int:
    """A phrasing that differs between neighbours and never between two looks at the same run."""
    return zlib.crc32(repr(bound.key).encode())


def _rewritten(english: Phrases, bound: Bound, index: int, caged: Caged) -> str | None:
    """A model's own wording, if the facts can be read back from it."""
    if not bound.kind.rewritable or len(bound.values) < 2 or not caged.can_rewrite():
        return None
    masked, stands = english.masked(bound, index)
    answer = caged.rewrite(masked)
    if answer is None or answer.strip() == masked:
        return None
    text = answer.strip()
    if any(text.count(mark) != 1 for mark in stands):
        caged.rejected += 1
        return None
    for mark, value in stands.items():
        text = text.replace(mark, value, 1)
    if not english.supports(bound, text, rewritten=True):
        caged.rejected += 1
        return None
    return text


def _word(catalogue: Phrases, bound: Bound, choice: _Choice) -> Sentence:
    ids = tuple(fact.id for fact in bound.facts)
    origin = "model" if choice.by_model else "template"
    if choice.rewritten is not None and catalogue.language == "en":
        return Sentence(choice.rewritten, ids, origin)
    return Sentence(catalogue.render(bound, choice.index), ids, origin)


def as_json(texts: Sequence[Text]) -> dict[str, Any]:
    """postmortem.json."""
    total = sum(len(text.sentences) for text in texts)
    return {
        "language": {text.language: _text_json(text) for text in texts},
        # Composed sentences are supported by construction; `verify` checks that from the stored files alone.
        "claims": {"total": total, "supported": total},
    }


def _text_json(text: Text) -> dict[str, Any]:
    header = text.header
    return {
        "title": text.title,
        "header": {"model": header.model, "model_digest": header.digest, "sentences_by_model": header.by_model,
                   "sentences_rejected": header.rejected, "sentences_total": header.total},
        "sections": [
            {"id": section.id, "heading": section.heading,
             "sentences": [{"text": s.text, "facts": list(s.facts), "origin": s.origin} for s in section.sentences]}
            for section in text.sections
        ],
    }  # fmt: skip


def from_json(document: Any) -> list[Text]:
    """What `as_json` stored (its schema is checked by the folder)."""
    texts = []
    for language in LANGUAGES:
        stored = document["language"][language]
        head = stored["header"]
        header = Header(
            head["model"],
            head["model_digest"],
            head["sentences_by_model"],
            head["sentences_rejected"],
            head["sentences_total"],
        )
        sections = tuple(
            Section(
                s["id"],
                s["heading"],
                tuple(Sentence(c["text"], tuple(c["facts"]), c["origin"]) for c in s["sentences"]),
            )
            for s in stored["sections"]
        )
        texts.append(Text(language, stored["title"], header, sections))
    return texts


def written_by(catalogue: Phrases, header: Header) -> str:
    """The line under the title that says who chose the words."""
    if header.model is None:
        return catalogue.fill(catalogue.document["written_by"])
    return catalogue.fill(
        catalogue.document["written_with"], model=header.model, digest=header.digest or "?", by_model=str(header.by_model),
        total=str(header.total), rejected=str(header.rejected),
    )  # fmt: skip


def markdown(text: Text, ledger: Sequence[Fact]) -> str:
    """The page: sentences with their citations, then the facts that were cited."""
    catalogue = phrases(text.language)
    lines = [f"# {escape(text.title)}", "", f"*{escape(written_by(catalogue, text.header))}*"]
    for section in text.sections:
        bullet = "- " if section.id in LISTED else ""
        lines += ["", f"## {escape(section.heading)}", ""]
        lines += [f"{bullet}{escape(s.text)} [{', '.join(s.facts)}]" for s in section.sentences]
    cited = {fact for sentence in text.sentences for fact in sentence.facts}
    columns = catalogue.document["columns"]
    lines += ["", f"## {catalogue.document['facts']}", "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [_row(fact) for fact in ledger if fact.id in cited]
    return "\n".join(lines) + "\n"


def _row(fact: Fact) -> str:
    shown = [] if fact.object is None else [values.quote(fact.object)]
    if fact.value is not None:
        shown.append(f"{fact.value!r} {fact.unit or ''}".strip())
    time = "" if fact.time_us is None else f"{values.day(fact.time_us)[:10]} {values.clock(fact.time_us)}"
    cells = (fact.id, fact.subject, fact.predicate, "; ".join(shown), time, f"{fact.file}: {fact.ref}")
    return f"| {' | '.join(escape(values.quote(cell)) for cell in cells)} |"


def escape(text: str) -> str:
    """Text as text in Markdown: nothing in it can become a link, a heading, a tag or a table."""
    return _SPECIAL.sub(r"\\\1", text)
