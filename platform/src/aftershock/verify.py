"""Checks a stored postmortem as a stranger would: facts are computed anew from the run folder, every sentence is parsed back to them.

Nothing that the writer stored is believed: not facts.json, not the counts, not what the Markdown repeats. A claim is supported if it is a
sentence of the plan for exactly the facts that it cites, in words that say exactly their values. Besides, every figure in a sentence must
be the value of a cited fact, by arithmetic of this module's own, so that a fault in the phrasings is seen too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from aftershock import facts as ledgers
from aftershock import postmortem
from aftershock.facts import Fact
from aftershock.folder import RunFolder
from aftershock.phrases.catalogue import LANGUAGES, phrases
from aftershock.phrases.kinds import SECTIONS, Bound, plan
from aftershock.postmortem import Sentence, Text

FAILURES_MAX = 200
Key = tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """Something stored that the run does not support."""

    where: str  # facts.json F012 | en summary 3 | postmortem.md line 12
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass(frozen=True)
class VerifyResult:
    """How many claims there are, how many the run supports, and all that is wrong."""

    claims: int
    supported: int
    failures: tuple[Failure, ...]

    @property
    def ok(self) -> bool:
        """True if every claim is supported and nothing else is wrong."""
        return self.claims > 0 and self.supported == self.claims and not self.failures


def verify(folder: RunFolder, ledger: Sequence[Fact] | None = None) -> VerifyResult:
    """Verify the postmortem of a run folder. Raises FolderError if a file is missing or breaks its schema.

    The facts are computed from the run folder, unless a caller that has just done so gives them.
    """
    ledger = ledgers.of(folder) if ledger is None else ledger
    document = folder.read("postmortem.json")
    texts = postmortem.from_json(document)
    failures = _ledger(folder, ledger)
    planned = plan(ledger)
    claims = supported = 0
    for text in texts:
        good, wrong = _text(text, planned, ledger)
        claims += len(text.sentences)
        supported += good
        failures += wrong
        name = postmortem.FILES[text.language]
        failures += _markdown(name, folder.read_text(name), postmortem.markdown(text, ledger))
    if document["claims"] != {"total": claims, "supported": supported}:
        failures.append(
            Failure("postmortem.json claims", f"says {document['claims']}, counted {claims} with {supported} supported")
        )
    return VerifyResult(claims, supported, tuple(failures[:FAILURES_MAX]))


def _ledger(folder: RunFolder, ledger: Sequence[Fact]) -> list[Failure]:
    """facts.json against the facts as the run gives them."""
    failures = []
    for stored, true in zip_longest(folder.read("facts.json"), (fact.as_row() for fact in ledger)):
        if stored != true:
            where = f"facts.json {(stored or true)['id']}"
            if stored is None or true is None:
                failures.append(Failure(where, "is not stored" if stored is None else "is not known to the run"))
            else:
                changed = ", ".join(
                    f"{k} is {stored.get(k)!r}, the run says {true[k]!r}" for k in true if stored.get(k) != true[k]
                )
                failures.append(Failure(where, changed))
    return failures


def _text(text: Text, planned: Sequence[Bound], ledger: Sequence[Fact]) -> tuple[int, list[Failure]]:
    catalogue = phrases(text.language)
    known = {fact.id: fact for fact in ledger}
    by_facts: dict[Key, list[Bound]] = {}
    for bound in planned:
        by_facts.setdefault(tuple(fact.id for fact in bound.facts), []).append(bound)
    failures: list[Failure] = []
    supported = 0
    said: list[tuple[str, Key]] = []
    for section in text.sections:
        if section.id not in SECTIONS or section.heading != catalogue.heading(section.id):
            failures.append(Failure(f"{text.language} {section.id}", "has a heading that is not its own"))
        for number, sentence in enumerate(section.sentences, 1):
            why, found = _sentence(text, section.id, sentence, by_facts, known)
            if found is None:
                failures.append(Failure(f"{text.language} {section.id} {number}", why))
            else:
                supported += 1
                said.append(found.key)
    failures += _completeness(text, said, planned)
    if text.title != postmortem.title(catalogue, ledger):
        failures.append(Failure(f"{text.language} title", "is not that of the run"))
    header, by_model = text.header, sum(sentence.origin == "model" for sentence in text.sentences)
    if (header.total, header.by_model) != (len(text.sentences), by_model) or (header.model is None and by_model):
        failures.append(Failure(f"{text.language} header", "miscounts the sentences"))
    return supported, failures


def _sentence(
    text: Text, section: str, sentence: Sentence, by_facts: dict[Key, list[Bound]], known: dict[str, Fact]
) -> tuple[str, Bound | None]:
    """Why a sentence is not supported, or what it says."""
    if not sentence.facts:
        return "cites nothing", None
    unknown = [fact for fact in sentence.facts if fact not in known]
    if unknown:
        return f"cites {unknown[0]}, which is no fact of this run", None
    bounds = [b for b in by_facts.get(sentence.facts, []) if b.kind.section == section]
    if not bounds:
        return "cites facts that together support no sentence of this section", None
    catalogue = phrases(text.language)
    rewritten = sentence.origin == "model" and text.language == "en"
    for bound in bounds:
        if catalogue.supports(bound, sentence.text, rewritten=rewritten):
            strays = stray_figures(sentence.text, bound.facts)
            return (f"the figure {strays[0]} is of no cited fact", None) if strays else ("", bound)
    return f"its words do not say what its facts say: {sentence.text[:120]!r}", None


def _completeness(text: Text, said: Sequence[tuple[str, Key]], planned: Sequence[Bound]) -> list[Failure]:
    """Leaving out what failed would be a lie too, and so would be saying something twice."""
    wanted = [bound.key for bound in planned]
    have, want = Counter(said), Counter(wanted)
    missing = [
        Failure(f"{text.language} {kind}", f"is left out: {', '.join(facts)}")
        for (kind, facts) in want
        if not have[kind, facts]
    ]
    doubled = [Failure(f"{text.language} {kind}", f"is said {n} times") for (kind, facts), n in have.items() if n > 1]
    if not missing and not doubled and list(said) != wanted:
        return [Failure(text.language, "the sentences are not in the order of the plan")]
    return missing + doubled


def _markdown(name: str, stored: str, true: str) -> list[Failure]:
    """The page must be what its claims give, line by line; its sentences were checked above."""
    lines = zip_longest(stored.split("\n"), true.split("\n"))
    wrong = [(number, line) for number, (line, meant) in enumerate(lines, 1) if line != meant]
    return [
        Failure(f"{name} line {number}", f"is not in postmortem.json: {str(line)[:120]!r}")
        for number, line in wrong[:5]
    ]


# ---- figures, read by this module's own arithmetic

_FIGURE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC|\d\d:\d\d:\d\d\.\d{3} UTC|\d[\d,]*(?:\.\d+)?(?:%| ?ms(?![A-Za-z])| ?s(?![A-Za-z])|초(?!당))?"
)
_SCALE = {"%": ("ratio", 100.0), "ms": ("s", 1000.0), "s": ("s", 1.0), "초": ("s", 1.0)}


def stray_figures(text: str, cited: Sequence[Fact]) -> list[str]:
    """Figures of a text that are neither the value, the time nor part of a name of any cited fact."""
    names = [part for fact in cited for part in (fact.object, fact.subject) if part]
    spoken = re.sub(r"“[^”]*”", "", text)  # quotations were compared whole
    for part in sorted({part for name in names for part in (name, *name.split(" > "))}, key=len, reverse=True):
        spoken = spoken.replace(part, "")
    spoken = re.sub(r"\bp(50|95|99)\b", "", spoken)
    return [figure for figure in _FIGURE.findall(spoken) if not any(_means(figure.strip(), fact) for fact in cited)]


def _means(figure: str, fact: Fact) -> bool:
    if figure.endswith("UTC"):
        return fact.time_us is not None and _clock_means(figure, fact.time_us)
    match = re.fullmatch(r"([\d,]+(?:\.\d+)?) ?(.*)", figure)
    if match is None or fact.value is None:
        return False
    digits, unit = match.groups()
    shown = float(digits.replace(",", ""))
    decimals = len(digits.partition(".")[2])
    value = float(fact.value)
    if unit:
        dimension, scale = _SCALE[unit]
        if fact.unit == "ms" and dimension == "s":
            value /= 1000
        elif fact.unit != dimension:
            return False
        value *= scale
    elif fact.unit in ("ratio", "ms", "s"):
        return False
    if not decimals:  # a figure without decimals is exact: nothing is ever rounded to a whole
        return abs(shown - abs(value)) <= 1e-9 * max(1.0, abs(value))
    return bool(abs(shown - abs(value)) <= 0.5 * 10**-decimals + 1e-9 * max(1.0, abs(value)))


def _clock_means(figure: str, time_us: int) -> bool:
    seconds = time_us // 1_000_000 % 86_400
    hours, minutes, rest = (int(part) for part in re.findall(r"(\d\d):(\d\d):(\d\d)", figure)[0])
    if hours * 3600 + minutes * 60 + rest != seconds:
        return False
    fraction = re.search(r"\.(\d{3}) UTC$", figure)
    return fraction is None or int(fraction.group(1)) == time_us % 1_000_000 // 1000


__all__ = ["LANGUAGES", "Failure", "VerifyResult", "stray_figures", "verify"]
