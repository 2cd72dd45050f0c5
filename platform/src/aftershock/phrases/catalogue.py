"""The phrasings of a language, and the two directions of using them: facts to text, and text back to facts.

`render` words a sentence. `supports` says whether a text is one of the phrasings with exactly the values of its facts, or (for what a model
rewrote) differs from one of them by neutral words and listed synonyms only, with every value where it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from aftershock.facts import Fact
from aftershock.phrases import korean, values
from aftershock.phrases.kinds import Bound, Slot

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = ("en", "ko")
SENTENCE_MAX = 900
_PLACE = re.compile(r"\{(\w+)(?:\|([^}]+)|:([^}/]+)/([^}]+))?\}")
_TOKEN = re.compile(r"[A-Za-z0-9']+|\S")


@dataclass(frozen=True)
class Phrases:
    """The catalogue of one language."""

    language: Language
    document: Mapping[str, Any]

    def heading(self, section: str) -> str:
        """Heading of a section."""
        return str(self.document["headings"][section])

    def options(self, kind: str) -> Sequence[str]:
        """The phrasings of a kind."""
        options: Sequence[str] = self.document["kinds"][kind]
        return options

    def term(self, text: str, group: str = "") -> str:
        """A word of the field in this language; a word that is not in the catalogue stays as it is."""
        found = self.document["terms"].get(f"{group}.{text}" if group else text)
        return str(found) if found is not None else values.quote(text)

    def fill(self, text: str, **given: str) -> str:
        """A line that is no claim (title, header) with its values."""
        return "".join(literal + value for literal, value in self._parts(text, given))

    def show(self, fact: Fact, slot: Slot) -> str:
        """A fact's value as this language writes it."""
        if slot.field == "time":
            assert fact.time_us is not None
            return values.day(fact.time_us) if slot.format == "day" else values.clock(fact.time_us)
        if slot.field == "value":
            assert fact.value is not None
            if slot.format == "plain":
                return f"{fact.value:.0f}"
            return values.measured(fact.value, fact.unit if slot.format == "measure" else None, self.language)
        text = str(fact.object) if slot.field == "object" else fact.subject.split(".", 1)[-1]
        if slot.format in ("window", "action", "rule", "source", "step"):
            return self.term(text, slot.format)
        if slot.format == "path":
            return " → ".join(values.quote(text).split(" > "))
        return self.term(text) if slot.format == "term" else values.quote(text)

    def render(self, bound: Bound, index: int) -> str:
        """The sentence in phrasing `index`, counted round."""
        options = self.options(bound.kind.name)
        text = options[index % len(options)]
        said = "".join(literal + value for literal, value in self._parts(text, self._shown(bound), bound))
        first = _PLACE.match(text)
        named = first is not None and bound.values[first.group(1)][1].format == "quote"
        return said if named else _capital(said)

    def masked(self, bound: Bound, index: int) -> tuple[str, dict[str, str]]:
        """The phrasing with `<a>`, `<b>` ... in place of its values, and what these stand for."""
        options = self.options(bound.kind.name)
        stands: dict[str, str] = {}
        text = ""
        for literal, value in self._parts(options[index % len(options)], self._shown(bound), bound):
            text += literal
            if value:
                mark = f"<{chr(ord('a') + len(stands))}>"
                stands[mark] = value
                text += mark
        return text, stands

    def outlined(self, bound: Bound, index: int) -> str:
        """The phrasing with the names of its values in place of them: `the [verdict] of [title]`."""
        options = self.options(bound.kind.name)
        names = {name: f"[{name}]" for name in bound.values}
        return "".join(literal + name for literal, name in self._parts(options[index % len(options)], names, bound))

    def supports(self, bound: Bound, text: str, *, rewritten: bool) -> bool:
        """True if the text says what the facts of `bound` say, and nothing else."""
        if len(text) > SENTENCE_MAX:
            return False
        options = range(len(self.options(bound.kind.name)))
        if any(text == self.render(bound, index) for index in options):
            return True
        if not rewritten or not bound.kind.rewritable or "  " in text or text != text.strip():
            return False
        return any(self._same(bound, index, text) for index in options)

    def freedom(self, masked: str, *, joined: bool) -> str | None:
        """A regular expression of the wordings that a model may give a masked sentence; `supports` accepts them all. None without a choice.

        `joined` says that a sentence of the same section comes before it, so that a word in front may tie them together.
        """
        groups: Sequence[Mapping[str, Any]] = self.document.get("swaps", ())
        if not groups:
            return None
        swaps = {phrase: group["phrases"] for group in groups for phrase in group["phrases"]}
        places = "|".join(
            rf"(?:{'|'.join(group['phrases'])})(?![A-Za-z])(?={group.get('before', '')})" for group in groups
        )
        found = re.split(rf"\b({places})", masked)
        parts = [swaps[part] if number % 2 else [part] for number, part in enumerate(found) if part]
        plain = "".join(map(_literal, parts))
        if not joined or not re.match("<|[A-Z][a-z]* ", masked):
            return plain if len(parts) > 1 or len(parts[0]) > 1 else None
        small = [[option[:1].lower() + option[1:] for option in parts[0]], *parts[1:]]
        return f"({plain}|{_literal(self.document['openers'])} {''.join(map(_literal, small))})"

    def _same(self, bound: Bound, index: int, text: str) -> bool:
        """Walk the phrasing: each value must stand in the text in its order, and between them the same words but for neutral ones."""
        parts = self._parts(self.options(bound.kind.name)[index], self._shown(bound), bound)

        # A value may occur in the text by chance (`16` in `160`), so the split is by the whole remaining walk, not by the first find.
        def walk(at: int, rest: Sequence[tuple[str, str]]) -> bool:
            literal, value = rest[0]
            if not value:
                return self._alike(text[at:], literal)
            found = text.find(value, at)
            if at == 0 and not literal and text.startswith(_capital(value)):
                found = 0
            while found >= 0:
                if self._alike(text[at:found], literal) and walk(found + len(value), rest[1:]):
                    return True
                found = text.find(value, found + 1)
            return False

        closed = [*parts, ("", "")] if parts and parts[-1][1] else parts
        return walk(0, closed)

    def _alike(self, gap: str, literal: str) -> bool:
        """True if two texts between values say the same; a comma may come in, but none may go."""
        return self._words(gap) == self._words(literal) and gap.count(",") >= literal.count(",")

    def _words(self, gap: str) -> list[str]:
        """Words and marks of a text between values, without neutral words, synonyms made one; only plain spaces may part them."""
        if re.search(r"[^\S ]", gap):
            return ["\n"]
        words = [self._synonyms().get(w.lower(), w.lower()) for w in _TOKEN.findall(gap)]
        neutral = self._neutral()
        return [word for word in words if word not in neutral]

    def _neutral(self) -> frozenset[str]:
        return frozenset(self.document["neutral"]) | {","}  # commas are counted apart

    def _synonyms(self) -> Mapping[str, str]:
        return {word: group[0] for group in self.document["synonyms"] for word in group}

    def _shown(self, bound: Bound) -> dict[str, str]:
        return {name: self.show(fact, slot) for name, (fact, slot) in bound.values.items()}

    def _parts(self, text: str, given: Mapping[str, str], bound: Bound | None = None) -> list[tuple[str, str]]:
        """Literals, each with the value that follows it; the last may have none."""
        parts: list[tuple[str, str]] = []
        at, carried = 0, ""
        for place in _PLACE.finditer(text):
            name, particle, one, many = place.groups()
            value = given[name]
            if one is not None:
                assert bound is not None
                value = f"{value} {one if bound.values[name][0].value == 1 else many}"
            parts.append((carried + text[at : place.start()], value))
            carried = korean.particle(value, particle) if particle else ""
            at = place.end()
        parts.append((carried + text[at:], ""))
        return parts


def _literal(options: Sequence[str]) -> str:
    """A pattern of one of these texts; no more is escaped than every reader of patterns knows."""
    texts = [re.sub(r"([\\.()\[\]{}?*+|^$])", r"\\\1", option) for option in options]
    return texts[0] if len(texts) == 1 else f"({'|'.join(texts)})"


def _capital(text: str) -> str:
    """A sentence begins with a capital; one that begins with a name (`payments`) is left alone by its caller."""
    return text[:1].upper() + text[1:]


@cache
def phrases(language: Language) -> Phrases:
    """The catalogue of a language."""
    path = Path(__file__).parent / f"{language}.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return Phrases(language, yaml.load(path.read_text(encoding="utf-8"), Loader=loader))  # both are safe loaders
