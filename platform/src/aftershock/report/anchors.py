"""Anchors of the page: evidence ids become element ids that exist once, and links only where the element exists."""

from __future__ import annotations

import re


class Anchors:
    """Element ids by evidence id; ids come from files, so they are cleaned and kept unique."""

    def __init__(self) -> None:
        self._by_reference: dict[str, str] = {}
        self._taken: set[str] = set()

    def add(self, reference: str) -> str | None:
        """The element id for what `reference` names, or None if an element has it already."""
        if reference in self._by_reference:
            return None
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", reference)[:80].strip("-") or "x"
        if not base[0].isalpha():
            base = f"x-{base}"
        element, count = base, 1
        while element in self._taken:
            count += 1
            element = f"{base}-{count}"
        self._taken.add(element)
        self._by_reference[reference] = element
        return element

    def find(self, reference: str) -> str | None:
        """The element id for a reference, also by its part before the first dot; None if nothing on the page has it."""
        return self._by_reference.get(reference) or self._by_reference.get(reference.split(".", 1)[0])
