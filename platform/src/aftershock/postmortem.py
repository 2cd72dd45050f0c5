"""The postmortem: facts to a plan, the plan to sentences, sentences to Markdown and JSON in each language.

Every sentence comes from `phrases.kinds.plan` and carries the ids of its facts. A model may choose among phrasings and rewrite around
placeholders; what cannot be parsed back to the facts is dropped for the template. The verdict is made elsewhere and only cited here.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from aftershock import facts as ledgers
from aftershock.facts import Fact
from aftershock.folder import RunFolder
from aftershock.models import Limits, Model
from aftershock.models.caged import Caged
from aftershock.phrases import values
from aftershock.phrases.catalogue import LANGUAGES, Language, Phrases, phrases
from aftershock.phrases.kinds import Bound, plan

# Where wording matters most to a reader: these are put to the model first.
MODEL_ORDER = ("summary", "cause", "broken", "impact", "recovery", "held", "unknown", "actions")
QUESTION, QUESTION_AFTER = "Which is clearer?", "Before: {before}"
LISTED = ("timeline", "held", "broken", "unknown", "actions")
FILES: dict[Language, str] = {"en": "postmortem.md", "ko": "postmortem.ko.md"}
_MARK = re.compile("<[a-z]>")
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&])")


_Key = tuple[str, tuple[str, ...]]
Progress = Callable[[str, float], None]  # what is under way, and how much of it is done


def _nobody(text: str, done: float) -> None:
    pass


@dataclass(frozen=True)
class Sentence:
    """A claim with the facts that it rests on; `origin` is `template` or `model`."""

    text: str
    facts: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class Header:
    """Who worded this, and how much of it; `model` is None for templates only, `trouble` says why it was not asked (any more)."""

    model: str | None
    digest: str | None
    by_model: int
    rejected: int
    total: int
    trouble: str | None = None


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
    limits: Limits | None = None,
    progress: Progress = _nobody,
) -> list[Text]:
    """Compose the postmortem of a run and store it with its ledger: facts.json, postmortem.json, postmortem.md, postmortem.ko.md.

    The ledger is computed from the folder unless it is given; the model is closed, whatever happens.
    """
    try:
        known = ledgers.of(folder) if ledger is None else ledger  # a model loads meanwhile
        texts = compose(known, model, limits, progress)
    finally:
        if model is not None:
            model.close()
    ledgers.write(folder, known)
    folder.write("postmortem.json", as_json(texts))
    for text in texts:
        folder.write_text(FILES[text.language], markdown(text, known))
    return texts


def compose(
    ledger: Sequence[Fact], model: Model | None = None, limits: Limits | None = None, progress: Progress = _nobody
) -> list[Text]:
    """The postmortem in every language; without a model the phrasings are picked by the facts themselves.

    `limits` are the model's own unless they are given.
    """
    planned = plan(ledger)
    caged = _Watched(model, limits, progress)
    choices = _choices(planned, caged)
    texts = []
    for language in LANGUAGES:
        catalogue = phrases(language)
        worded = [(bound, _word(catalogue, bound, choices[bound.key])) for bound in planned]
        by_model = sum(sentence.origin == "model" for _, sentence in worded)
        header = (Header(None, None, 0, 0, len(worded)) if model is None else
                  Header(values.quote(model.name), _digest(model), by_model, caged.rejected, len(worded),
                         values.quote(caged.trouble) if caged.trouble else None))  # fmt: skip
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


class _Watched(Caged):
    """A caged model of which somebody is told how far it is."""

    def __init__(self, model: Model | None, limits: Limits | None, progress: Progress) -> None:
        super().__init__(model, limits, self._told)
        self._name, self._progress, self._at, self._of = "" if model is None else model.name, progress, 0, 1

    def at(self, sentence: int, of: int) -> None:
        """It is asked about that sentence now."""
        self._at, self._of = sentence, of
        self._told(None)

    def _told(self, tokens: int | None) -> None:
        written = f" / {tokens}" if tokens else ""
        self._progress(
            f"{self._name} words it, sentence / token {self._at} of {self._of}{written}", self._at / self._of
        )


def _choices(planned: Sequence[Bound], caged: _Watched) -> dict[_Key, _Choice]:
    rank = {section: number for number, section in enumerate(MODEL_ORDER)}
    asked = sorted((b for b in planned if b.kind.section in rank), key=lambda b: rank[b.kind.section])
    asked = asked[: caged.limits.choices]
    choices = {bound.key: _Choice(_usual(bound), False, None) for bound in planned}
    english, before = phrases("en"), {b.key: a for a, b in pairwise(planned) if a.kind.section == b.kind.section}
    for number, bound in enumerate(asked):
        if not caged.can_choose():
            break
        caged.at(number + 1, len(asked))
        last = before.get(bound.key) if caged.limits.context else None
        said = None if last is None else english.outlined(last, choices[last.key].index)
        turned = _offered(english, bound, caged.limits.offered, last, choices)
        question = QUESTION if said is None else QUESTION_AFTER.format(before=said)
        shown = english.outlined if caged.limits.context else _blank
        picked = caged.choose(question, [shown(bound, index) for index in turned])
        if picked is None:
            continue
        index = turned[picked]
        choices[bound.key] = _Choice(index, True, _rewritten(english, bound, index, said, caged))
    return choices


def _offered(
    english: Phrases, bound: Bound, count: int, last: Bound | None, choices: Mapping[_Key, _Choice]
) -> Sequence[int]:
    """Phrasings to choose from; not the one of the sentence before, if that says the same of something else."""
    number = len(english.options(bound.kind.name))
    first = _usual(bound) % number  # small models like the first option: it must not always be the same one
    turned = [(first + place) % number for place in range(number)]
    if last is not None and last.kind is bound.kind:
        turned.remove(choices[last.key].index % number)
    return turned[:count]


def _blank(bound: Bound, index: int) -> str:
    """A phrasing as the smallest models read it best."""
    return _MARK.sub("…", phrases("en").masked(bound, index)[0])


def _usual(bound: Bound) -> int:
    """A phrasing that differs between neighbours and never between two looks at the same run."""
    return zlib.crc32(repr(bound.key).encode())


def _rewritten(english: Phrases, bound: Bound, index: int, before: str | None, caged: Caged) -> str | None:
    """A model's own wording, if the facts can be read back from it."""
    if not bound.kind.rewritable or len(bound.values) < 2 or not caged.can_rewrite():
        return None
    masked, stands = english.masked(bound, index)
    pattern = english.freedom(masked, joined=before is not None)
    if pattern is None:
        return None
    question = masked if before is None else f"{QUESTION_AFTER.format(before=before)}\nSentence: {masked}"
    answer = caged.rewrite(question, pattern)
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
                   "sentences_rejected": header.rejected, "sentences_total": header.total, "model_trouble": header.trouble},
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
            head.get("model_trouble"),
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
    said = {"model": header.model, "why": header.trouble or ""}
    if header.digest is None and not header.by_model and not header.rejected and header.trouble:
        return catalogue.fill(catalogue.document["written_without"], **said)
    line = catalogue.fill(
        catalogue.document["written_with"], digest=header.digest or "?", by_model=str(header.by_model), total=str(header.total),
        rejected=str(header.rejected), **said,
    )  # fmt: skip
    return f"{line} {catalogue.fill(catalogue.document['written_until'], **said)}" if header.trouble else line


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
