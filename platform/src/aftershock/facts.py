"""The fact ledger: fixed, read-only queries over the graph of one run, as numbered facts that say where they come from.

The same run folder always gives the same facts with the same ids, so that a ledger can be recomputed and compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aftershock import graph as graphs
from aftershock.folder import RunFolder
from aftershock.graph import Graph

Row = Mapping[str, Any]
COUNTED = (
    "arrivals",
    "entries",
    "fields",
    "journeys",
    "nodes",
    "orders",
    "rank",
    "records",
    "requests",
    "samples",
    "settings",
    "targets",
)


@dataclass(frozen=True)
class Fact:
    """One thing that is known: `predicate` of `subject` is `object`, `value` in `unit`, or happened at `time_us`."""

    id: str
    subject: str
    predicate: str
    object: str | None
    value: float | int | None
    unit: str | None
    time_us: int | None
    file: str | None
    ref: str | None
    query: str

    def as_row(self) -> dict[str, Any]:
        """The fact as facts.json has it."""
        row = asdict(self)
        row["provenance"] = {name: row.pop(name) for name in ("file", "ref", "query")}
        return row


@dataclass(frozen=True)
class _Part:
    """One predicate made from the columns of a row; `unit` is a literal, or the name of a column with a leading @."""

    predicate: str
    object: str | None = None
    value: str | None = None
    unit: str | None = None
    time: str | None = None
    subject: str | None = None  # overrides the query's subject
    ref: str | None = None


def _texts(*names: str) -> tuple[_Part, ...]:
    return tuple(_Part(name, object=name) for name in names)


_OBSERVATION = (_Part("@metric", object="text", value="value", unit="@unit", time="time_us"),)
_KINDS = ("requests", "window", "load", "steady", "activity", "step", "recovery", "missed", "undo", "observer", "orders", "diagnosis",
          "unchecked", "unenforced")  # fmt: skip

# Query, its parameters besides the run, the subject as a format of the row (with {n} for its number), and the facts of each row.
LEDGER: Sequence[tuple[str, Mapping[str, str], str, tuple[_Part, ...]]] = (
    ("run", {}, "run", (
        _Part("verdict", object="verdict", time="judged_us", ref="verdict"),
        *_texts("experiment", "title", "expect", "weakness"),
        _Part("seed", value="seed"),
        _Part("started", time="started_us", ref="started_us"),
        _Part("duration", value="duration_s", unit="s", ref="ended_us"),
        _Part("commit", object="git_commit"),
        _Part("kind", object="cluster_kind", subject="cluster"),
        _Part("version", object="server_version", subject="cluster"),
        _Part("nodes", object="nodes", value="nodes_count", unit="nodes", subject="cluster"),
        _Part("tool", object="load_tool", subject="load"),
        _Part("rate", value="load_rate_per_s", unit="1/s", subject="load"),
    )),
    ("windows", {}, "window.{name}", (_Part("begins", time="from_us"), _Part("length", value="length_s", unit="s"))),
    ("faults", {}, "{name}", (
        *_texts("action", "activity"), _Part("targets_count", value="targets_count", unit="targets"), *_texts("refused"),
    )),
    ("targets", {}, "{ref}", _texts("kind", "namespace", "name", "node", "service")),
    *(("observations", {"kind": kind}, "{subject}", _OBSERVATION) for kind in _KINDS),
    ("slos", {}, "{name}", (
        *_texts("journey", "indicator", "window"),
        _Part("bound", value="bound", unit="@unit"), _Part("measured", value="measured", unit="@unit"),
        _Part("samples", value="samples", unit="journeys"), *_texts("held"),
    )),
    ("invariants", {}, "invariant.{name}", (
        *_texts("name", "outcome"),
        _Part("checked", value="checked", unit="checks"), _Part("violations", value="violations", unit="violations"),
    )),
    ("findings", {}, "{name}", _texts("rule", "outcome", "summary", "advice")),
    ("affected", {}, "affected.{n}", (_Part("failed_orders", object="service", value="orders", unit="orders"),)),
    ("hypotheses", {}, "hypothesis.{n}", (*_texts("entity", "indicator"), _Part("score", value="score"), *_texts("path"))),
    ("causes", {}, "caused.{n}", _texts("cause", "effect", "why")),
    ("rejected", {}, "rejected.{n}", _texts("cause", "effect", "why")),
)  # fmt: skip


def facts(graph: Graph, run_id: str) -> list[Fact]:
    """The ledger of a run that is in the graph."""
    ledger: list[Fact] = []
    for query, parameters, subject, parts in LEDGER:
        for number, row in enumerate(graph.query(query, run=run_id, **parameters), 1):
            ledger += _of_row(query, subject.format(n=number, **row), row, parts, len(ledger))
    return ledger


def of(folder: RunFolder) -> list[Fact]:
    """The ledger of a run folder, through a graph in memory: what a stranger gets who has nothing but the folder."""
    return of_rows(graphs.build(folder))


def of_rows(rows: graphs.Rows) -> list[Fact]:
    """The ledger of the rows of a run folder."""
    with graphs.in_memory(rows) as graph:
        return facts(graph, rows.run_id)


def write(folder: RunFolder, ledger: Sequence[Fact]) -> None:
    """Store a ledger as facts.json."""
    folder.write("facts.json", [fact.as_row() for fact in ledger])


def _of_row(query: str, subject: str, row: Row, parts: Sequence[_Part], known: int) -> Iterator[Fact]:
    for part in parts:
        text = row[part.object] if part.object else None
        value = row[part.value] if part.value else None
        time_us = row[part.time] if part.time else None
        if text is None and value is None and time_us is None:
            continue
        known += 1
        predicate = str(row[part.predicate[1:]]) if part.predicate.startswith("@") else part.predicate
        unit = (
            (row[part.unit[1:]] if part.unit.startswith("@") else part.unit)
            if part.unit and value is not None
            else None
        )
        if isinstance(value, float) and value.is_integer() and unit in COUNTED:
            value = int(value)
        file = "verdict.json" if predicate == "verdict" and query == "run" else row.get("file") or "diagnosis.json"
        ref = (
            part.ref
            or (f"edges {row['cause']} > {row['effect']}" if "cause" in row else None)
            or row.get("ref")
            or predicate
        )
        if query == "affected":
            file, ref = "traces.parquet", f"service {row['service']}"
        yield Fact(f"F{known:03d}", part.subject or subject, predicate, text, value, unit, time_us, file, ref, query)
