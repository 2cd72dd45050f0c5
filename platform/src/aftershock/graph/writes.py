"""Statements that put the rows of one run in place of whatever the graph held of it; the same for every engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from aftershock.graph import schema
from aftershock.graph.rows import Rows, Value

BATCH = 1000


def statements(rows: Rows) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cypher with parameters, in order; to be run in one transaction. Labels are quoted: `Order` is a keyword."""
    yield from deletions(rows.run_id)
    for label, table in rows.nodes.items():
        for names, batch in _alike(list(table.values())):
            given = ", ".join(f"{name}: r.{name}" for name in names)
            yield f"UNWIND $rows AS r CREATE (n:`{label}` {{{given}}})", {"rows": batch}
    for (type_, start, end), edges in rows.edges.items():
        joined: list[dict[str, Value]] = [{"start_": a, "end_": b, **row} for (a, b), row in edges.items()]
        for names, batch in _alike(joined):
            given = ", ".join(f"{name}: r.{name}" for name in names if name not in ("start_", "end_"))
            # Two MATCH clauses: one with a comma is a product, 700 times slower.
            yield (
                f"UNWIND $rows AS r MATCH (a:`{start}` {{id: r.start_}}) MATCH (b:`{end}` {{id: r.end_}}) "
                f"CREATE (a)-[:{type_} {{{given}}}]->(b)",
                {"rows": batch},
            )


def deletions(run_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cypher that takes a run away."""
    for label in schema.NODES:
        yield f"MATCH (n:`{label}` {{run_id: $run}}) DETACH DELETE n", {"run": run_id}


def _alike(rows: Sequence[dict[str, Value]]) -> Iterator[tuple[tuple[str, ...], list[dict[str, Value]]]]:
    """Batches of rows with the same keys: engines take homogeneous maps only, and no value is stored as no property."""
    groups: dict[tuple[str, ...], list[dict[str, Value]]] = {}
    for row in rows:
        names = tuple(sorted(row))
        groups.setdefault(names, []).append({name: row[name] for name in names})  # ladybug's maps have an order
    for names, group in groups.items():
        for start in range(0, len(group), BATCH):
            yield names, group[start : start + BATCH]
