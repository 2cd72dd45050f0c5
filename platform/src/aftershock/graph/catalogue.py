"""The named queries: one Cypher file each, whose first line is a comment that says what it answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from aftershock.errors import GraphError

FOLDER = Path(__file__).parent / "queries"


@cache
def text(name: str) -> str:
    """Cypher of a query. Raises GraphError if there is none of that name."""
    if name not in names():
        raise GraphError(f"there is no query named {name}", hint=f"queries: {', '.join(names())}")
    return (FOLDER / f"{name}.cypher").read_text(encoding="utf-8")


@cache
def names() -> tuple[str, ...]:
    """All queries."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.cypher")))


def answers(name: str) -> str:
    """What the query answers: its first comment line."""
    return text(name).split("\n", 1)[0].removeprefix("//").strip()
