"""The graph against its raw engine: benchmarks/graph.py RUN_FOLDER [--engine ladybug] [--runs 1 100 1000].

Prints rows (nodes and edges) a second, through the product and through the engine alone (the same statements, one file, the
engine's own settings), and the latency of every named query (median of 7, the run in the middle) beside the same Cypher on the raw
file. The runs are copies of one run under other ids. Both are closed and opened again before they are asked.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from conclude import renamed, run_ids

from aftershock import graph
from aftershock.folder import RunFolder
from aftershock.graph import catalogue, ladybug, writes
from aftershock.graph.rows import Rows

TIMES = 7
BATCH_RUNS = 24


class Raw(Protocol):
    """An engine without the product around it."""

    def run(self, cypher: str, parameters: dict[str, Any]) -> int:
        """Run a statement; how many rows it gave."""

    def close(self) -> None:
        """Close it."""


class RawLadybug:
    """One file, default settings, no transaction of more than some runs."""

    def __init__(self, folder: Path) -> None:
        import ladybug as engine

        fresh = not (folder / "raw.lbug").exists()
        self._database = engine.Database(
            str(folder / "raw.lbug"), buffer_pool_size=4 << 30, max_num_threads=ladybug.THREADS
        )
        self._connection = engine.Connection(self._database, num_threads=ladybug.THREADS)
        for statement in ladybug.tables() if fresh else ():
            self.run(statement, {})

    def run(self, cypher: str, parameters: dict[str, Any]) -> int:
        result = self._connection.execute(cypher, parameters)
        count = len(result.rows_as_dict().get_all())
        result.close()
        return count

    def close(self) -> None:
        self._connection.close()
        self._database.close()


# An engine: the address of the product's graph in a folder, and the raw engine there. The next one goes here.
ENGINES: dict[str, tuple[Callable[[Path], str], Callable[[Path], Raw]]] = {
    "ladybug": (lambda folder: str(folder / "graph.lbug"), RawLadybug),
}


def parameters(rows: Rows) -> dict[str, Any]:
    """Values for every parameter that a named query has."""
    orders = list(rows.nodes.get("Order", {}).values())
    started = int(next(iter(rows.nodes["Run"].values())).get("started_us") or 0)
    return {"run": rows.run_id, "kind": "window", "order_id": str(orders[0]["name"]) if orders else "none", "language": "en",
            "from_us": started, "to_us": started + 60_000_000, "skip": 0, "limit": 20}  # fmt: skip


def median_ms(work: Callable[[], Any]) -> float:
    """Median of some times, the first left out."""
    work()
    took = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        work()
        took.append((time.perf_counter() - begun) * 1000)
    return statistics.median(took)


def batches(runs: Sequence[Rows]) -> list[list[Rows]]:
    """As many runs as go into one transaction."""
    return [list(runs[at : at + BATCH_RUNS]) for at in range(0, len(runs), BATCH_RUNS)]


def measure(rows: Rows, count: int, engine: str) -> None:
    """One size of the graph: ingest and every query."""
    address, raw_engine = ENGINES[engine]
    ids = run_ids(count)
    with tempfile.TemporaryDirectory(prefix="aftershock-graph-") as scratch:
        ours_s = raw_s = 0.0
        made = 0
        for start in range(0, count, BATCH_RUNS):
            runs = [renamed(rows, run_id) for run_id in ids[start : start + BATCH_RUNS]]
            made += sum(sum(run.counts()) for run in runs)
            begun = time.perf_counter()
            with graph.open(address(Path(scratch)), 60.0) as store:
                for batch in batches(runs):
                    store.write_runs(batch)
            ours_s += time.perf_counter() - begun
            begun = time.perf_counter()
            raw = raw_engine(Path(scratch))
            raw.run("BEGIN TRANSACTION", {})
            for cypher, given in writes.statements(runs, []):
                raw.run(cypher, given)
            raw.run("COMMIT", {})
            raw.close()
            raw_s += time.perf_counter() - begun
        print(f"\n{count} runs, {made} rows, opening, closing and packing included:")
        print(f"{made / ours_s:,.0f} rows/s, raw {made / raw_s:,.0f} rows/s")
        sizes = {
            name: sum(f.stat().st_size for f in Path(scratch).rglob(f"{name}*") if f.is_file())
            for name in ("graph", "raw")
        }
        sizes["graph"] += sum(f.stat().st_size for f in Path(scratch).glob("graph*/*"))
        print(
            f"on disk: {sizes['graph'] / count / 1000:,.0f} kB a run, raw {sizes['raw'] / count / 1000:,.0f} kB a run"
        )
        asked = renamed(rows, ids[count // 2])
        raw = raw_engine(Path(scratch))
        print(f"{'query':<16}{'ms':>8}{'raw ms':>9}{'times':>7}")
        with graph.open(address(Path(scratch)), read_only=True) as store:
            for name in catalogue.names():
                text = catalogue.text(name)
                given = {key: value for key, value in parameters(asked).items() if f"${key}" in text}
                ours, bare = median_ms(lambda: store.query(name, **given)), median_ms(lambda: raw.run(text, given))  # noqa: B023  called at once
                print(f"{name:<16}{ours:>8.2f}{bare:>9.2f}{ours / bare:>7.2f}")
        raw.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", choices=tuple(ENGINES), default="ladybug")
    parser.add_argument("--runs", type=int, nargs="*", default=[1, 100, 1000])
    arguments = parser.parse_args()
    rows = graph.rows_of(RunFolder.open(arguments.folder))
    for count in arguments.runs:
        measure(rows, count, arguments.engine)


if __name__ == "__main__":
    main()
