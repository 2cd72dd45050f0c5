"""Statements that read whole runs back as rows; the same for every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aftershock.graph import schema
from aftershock.graph.rows import Rows

Ask = Callable[[str, Mapping[str, Any]], list[dict[str, Any]]]


def read(runs: Sequence[str], ask: Ask, *, chosen: bool = True) -> Iterator[Rows]:
    """The rows of runs, in the order given, without those that the graph does not hold. All of them are in memory at once.

    Unless `chosen`, the engine is asked for the rows of all its runs: ladybug's WHERE with a list picks wrong ones.
    """
    found = {run: Rows(run) for run in runs}
    given = {"runs": list(found)} if chosen else {}

    def asked(match: str, variable: str, returned: str) -> Iterator[tuple[Rows, dict[str, Any]]]:
        where = f" WHERE {variable}.run_id IN $runs" if chosen else ""
        for row in ask(f"MATCH {match}{where} RETURN {returned}", given):
            if row["run_id"] in found:
                yield found[row["run_id"]], row

    for label, properties in schema.NODES.items():
        for rows, row in asked(f"(n:`{label}`)", "n", f"{_returned('n', properties)} ORDER BY seq, id"):
            rows.nodes.setdefault(label, {})[row["id"]] = _stored(row, properties)
    for type_, (ends, properties) in schema.EDGES.items():
        returned = f"a.id AS start_, b.id AS end_, {_returned('e', properties)}"
        for start, end in ends:
            for rows, row in asked(f"(a:`{start}`)-[e:{type_}]->(b:`{end}`)", "a", returned):
                rows.edges.setdefault((type_, start, end), {})[row["start_"], row["end_"]] = _stored(row, properties)
    yield from (rows for rows in found.values() if rows.nodes)


def _returned(variable: str, properties: Mapping[str, type]) -> str:
    return ", ".join(f"{variable}.{name} AS {name}" for name in properties)


def _stored(row: Mapping[str, Any], properties: Mapping[str, type]) -> dict[str, Any]:
    return {name: row[name] for name in properties if row[name] is not None}
