"""The embedded engine: one file, many readers, one writer. The only module that imports ladybug, and only when a graph is opened."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from aftershock.errors import GraphError
from aftershock.graph import bulk, catalogue, reads, schema, writes
from aftershock.graph.lock import POLL_S
from aftershock.graph.rows import Rows

MEMORY = ":memory:"
BUFFER_BYTES = (
    512 << 20
)  # at most; packing 200 000 rows of the longest texts needs it, and the default is 80 % of the machine
THREADS = 1  # with two, handing a small query over takes as long as answering it, and filling a file is no faster
_TYPES = {str: "STRING", int: "INT64", float: "DOUBLE", bool: "BOOLEAN"}
_REBUILD = "`aftershock graph rebuild` makes it anew from the run folders"


def tables() -> list[str]:
    """The DDL of the schema."""
    ddl = ["CREATE NODE TABLE IF NOT EXISTS Meta(id STRING, schema STRING, PRIMARY KEY(id))"]
    for label, properties in schema.NODES.items():
        columns = ", ".join(f"{name} {_TYPES[kind]}" for name, kind in properties.items())
        ddl.append(f"CREATE NODE TABLE IF NOT EXISTS `{label}`({columns}, PRIMARY KEY(id))")
    for name, (ends, properties) in schema.EDGES.items():
        pairs = ", ".join(f"FROM `{start}` TO `{end}`" for start, end in ends)
        columns = ", ".join(f"{prop} {_TYPES[kind]}" for prop, kind in properties.items())
        ddl.append(f"CREATE REL TABLE IF NOT EXISTS {name}({pairs}, {columns})")
    return ddl


def schema_digest() -> str:
    """Changes when the tables do."""
    return hashlib.sha256("\n".join(tables()).encode()).hexdigest()[:16]


class Ladybug:
    """A graph in one file, or in memory; see `graph.Graph`."""

    def __init__(self, path: Path | None, deadline_s: float, *, read_only: bool) -> None:
        self._name = MEMORY if path is None else str(path)
        if read_only and (path is None or not path.exists()):
            raise GraphError(f"{self._name}: there is no graph yet", hint=f"run an experiment first, or {_REBUILD}")
        self._read_only = read_only
        self._database, self._connection = self._connect(deadline_s)
        try:
            if not read_only:
                self._prepare()
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The file's path, or `:memory:`."""
        return self._name

    def _connect(self, deadline_s: float) -> tuple[Any, Any]:
        import ladybug

        until = time.monotonic() + deadline_s
        while True:
            try:
                database = ladybug.Database(self._name, buffer_pool_size=BUFFER_BYTES, max_num_threads=THREADS,
                                            read_only=self._read_only, auto_checkpoint=False)  # fmt: skip
                break
            except RuntimeError as error:  # ladybug's only error type
                if "lock" not in str(error).lower():
                    raise GraphError(f"{self._name}: {_first_line(error)}", hint=_REBUILD) from None
                if time.monotonic() >= until:
                    raise GraphError(f"{self._name}: not free within {deadline_s:g} s: {_first_line(error)}",
                                     hint="another program has it open for writing") from None  # fmt: skip
                time.sleep(POLL_S)
        # No timeout of the engine's: it starts a thread for each query, and costs more than most of the answers.
        return database, ladybug.Connection(database, num_threads=THREADS)

    def _prepare(self) -> None:
        if self._name != MEMORY:
            self._run("CALL force_checkpoint_on_close=false", {})
        known = self._run("CALL show_tables() RETURN name", {})
        if not known:
            for statement in ["BEGIN TRANSACTION", *tables()]:
                self._run(statement, {})
            self._run("CREATE (m:Meta {id: 'schema', schema: $digest})", {"digest": schema_digest()})
            self._run("COMMIT", {})
            return
        stored = self._run("MATCH (m:Meta {id: 'schema'}) RETURN m.schema AS digest", {}) if any(
            row["name"] == "Meta" for row in known) else []  # fmt: skip
        if not stored or stored[0]["digest"] != schema_digest():
            raise GraphError(f"{self._name} was written by another version of aftershock", hint=_REBUILD)

    def write_run(self, rows: Rows) -> None:
        """Put a run in place of what the graph held of it, in one transaction."""
        self.write_runs([rows])

    def write_runs(self, runs: Sequence[Rows]) -> None:
        """Put runs in place of what the graph held of them, in one transaction."""
        held = set(self.runs())
        self._transaction(writes.statements(runs, [rows.run_id for rows in runs if rows.run_id in held]))

    def fill(self, runs: Sequence[Rows]) -> None:
        """Put runs of different ids into a file that holds none: ten times as fast as `write_runs`, and no transaction, since one
        takes twice the memory. A file in which it failed is of no use."""  # fmt: skip
        for cypher, parameters in bulk.statements(runs):
            self._run(cypher, parameters)

    def runs(self) -> list[str]:
        """Ids of the runs in the file."""
        return [row["run"] for row in self._run("MATCH (r:Run) RETURN r.run_id AS run", {})]

    def rows(self, runs: Sequence[str]) -> Iterator[Rows]:
        """The rows of runs."""
        return reads.read(runs, self._run, chosen=False)

    def remove_run(self, run_id: str) -> None:
        """Take a run away, in one transaction."""
        self._transaction(writes.deletions(run_id))

    def _transaction(self, statements: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        if self._read_only:
            raise GraphError(f"{self._name} is open for reading", hint="open it with read_only=False")
        self._run("BEGIN TRANSACTION", {})
        try:
            for cypher, parameters in statements:
                self._run(cypher, parameters)
        except BaseException:
            try:
                self._run("ROLLBACK", {})
            except GraphError:
                pass  # a failed statement has rolled back already
            raise
        self._run("COMMIT", {})

    def query(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of a named query."""
        return self._run(catalogue.text(name), parameters)

    def _run(self, cypher: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            result = self._connection.execute(cypher, dict(parameters))
            rows = [_plain(row) for row in result.rows_as_dict().get_all()]
            result.close()
        except RuntimeError as error:
            raise GraphError(f"{self._name}: {_first_line(error)} in: {cypher[:120]}", hint=_REBUILD) from None
        return rows

    def close(self, *, pack: bool = False) -> None:
        """Close the file, packed by a checkpoint if wished; a second call does nothing."""
        if self._connection is not None:
            if pack:
                # On disk an index takes 2 to 3 MB however few nodes it has; a file of some runs is scanned in a millisecond.
                for label in schema.NODES:
                    self._run(f"DROP INDEX IF EXISTS `{label}`._PK", {})
                self._run("CHECKPOINT", {})
            self._connection.close()
            self._database.close()
            self._connection = self._database = None

    def __enter__(self) -> Ladybug:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: (int(v) if v == v.to_integral_value() else float(v)) if isinstance(v, Decimal) else v for k, v in row.items()
    }


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
