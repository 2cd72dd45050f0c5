"""Statements that put the rows of runs in place of whatever the graph held of them; the same for every engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aftershock.graph import schema
from aftershock.graph.rows import Rows, Value

BATCH = 10_000  # planning a statement is what costs: twice as fast as a thousand
Row = dict[str, Value | None]


def batches(runs: Iterable[Rows], rows_a_batch: int) -> Iterator[dict[str, Rows]]:
    """Runs by id, the later one where an id comes twice, with about `rows_a_batch` rows; reads no further than one batch."""
    batch: dict[str, Rows] = {}
    size = 0
    for rows in runs:
        batch[rows.run_id] = rows
        size += sum(rows.counts())
        if size >= rows_a_batch:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


def statements(runs: Sequence[Rows], known: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cypher with parameters, in order; to be run in one transaction. Labels are quoted: `Order` is a keyword.

    `known` are the runs of which the graph may hold something. Rows of all runs share their statements: planning one costs an
    engine more than a hundred rows.
    """
    for run_id in known:
        yield from deletions(run_id)
    for label in dict.fromkeys(label for rows in runs for label in rows.nodes):
        nodes: list[Row] = [dict(row) for rows in runs for row in rows.nodes.get(label, {}).values()]
        for names, batch in _alike(nodes):
            given = ", ".join(f"{name}: r.{name}" for name in names)
            yield f"UNWIND $rows AS r CREATE (n:`{label}` {{{given}}})", {"rows": batch}
    for type_, start, end in dict.fromkeys(kind for rows in runs for kind in rows.edges):
        joined: list[Row] = [{"start_": a, "end_": b, **row}
                             for rows in runs for (a, b), row in rows.edges.get((type_, start, end), {}).items()]  # fmt: skip
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


def _alike(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, ...], list[Row]]]:
    """Batches of rows with the same keys in the same order: engines take homogeneous maps only. A null is stored as no property."""
    names = tuple(sorted({name for row in rows for name in row}))
    for start in range(0, len(rows), BATCH):
        yield names, [{name: row.get(name) for name in names} for row in rows[start : start + BATCH]]
