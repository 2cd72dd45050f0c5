"""The graph against its raw engine: benchmarks/graph.py [--runs 1,100,1000] [--neo4j] [--json] [--from RUN_FOLDER] [--seed 7].

For each engine and size: rows (nodes and edges) a second from rows in memory to a file or server that has them for good, how long one
more run takes, and the latency of every named query (median of 31; `times` compares the least of each); each beside the bare driver,
in turns, in the same process. The runs are made by
a seed from one run, of 2 to 60 orders each. Raw ladybug is one file that is filled column by column (COPY), the fastest way that the
engine has, and, for no more than 100 runs, with UNWIND; raw Neo4j is the same statements, in the same graph, run by run in turns.

Neo4j is $NEO4J_URI with $NEO4J_USER and $NEO4J_PASSWORD. Its graph must be empty and is empty again afterwards; sizes are reached by
adding to it, so rows a second there are of what was added.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from synthetic import Synthetic

from aftershock import graph
from aftershock.folder import RunFolder
from aftershock.graph import bulk, catalogue, ladybug, schema, writes
from aftershock.graph.rows import Rows

GOLDEN = Path(__file__).parents[1] / "platform" / "tests" / "aftershock" / "golden" / "payments-pod-kill"
TIMES = 31
SINGLES = 3  # runs that are written one by one onto a graph of each size
UNWOUND_MAX = 100
REPEATS = 3  # of graphs up to that size, for their rows a second; the best counts
CHUNK_RUNS = 100
TURN_RUNS = 25
GOAL_ROWS_PER_S, GOAL_TIMES_RAW, GOAL_MS = 50_000, 2.0, 100.0
Json = dict[str, Any]


class Clock:
    """Seconds of some work, without those in which runs were made."""

    def __init__(self) -> None:
        self.seconds = self.cpu_s = 0.0
        self.rows = 0

    def __enter__(self) -> Clock:
        self._count(-1)
        return self

    def __exit__(self, *_: object) -> None:
        self._count(1)

    def _count(self, sign: int) -> None:
        self.seconds += sign * time.perf_counter()
        self.cpu_s += sign * time.process_time()

    def untimed(self, runs: Iterator[Rows]) -> Iterator[Rows]:
        """The same runs; counts their rows, and leaves out the time they take to make."""
        while True:
            self._count(1)
            rows = next(runs, None)
            self._count(-1)
            if rows is None:
                return
            self.rows += sum(rows.counts())
            yield rows

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds

    @property
    def rows_per_cpu_s(self) -> float:
        return self.rows / self.cpu_s


def whole(runs: Iterator[Rows]) -> Iterator[tuple[str, Json]]:
    """COPY statements for all runs at once: a second COPY into the same tables takes more memory than there is."""
    tables: dict[str, list[Any]] = {}
    while chunk := list(islice(runs, CHUNK_RUNS)):
        for cypher, given in bulk.statements(chunk):
            tables.setdefault(cypher, []).append(given["rows"])
    nodes_first = sorted(tables, key=lambda cypher: cypher.split()[1].strip("`") not in schema.NODES)
    return ((cypher, {"rows": pa.concat_tables(tables.pop(cypher))}) for cypher in nodes_first)


class Raw(Protocol):
    """An engine without the product around it."""

    def run(self, cypher: str, parameters: Json) -> list[Json]:
        """Run a statement."""

    def close(self) -> None:
        """Close it."""


class RawLadybug:
    """One file, the engine's own settings but for threads and the bound on memory, which are ours."""

    def __init__(self, path: Path) -> None:
        import ladybug as engine

        fresh = not path.exists()
        self._database = engine.Database(
            str(path), buffer_pool_size=ladybug.BUFFER_BYTES, max_num_threads=ladybug.THREADS
        )
        self._connection = engine.Connection(self._database, num_threads=ladybug.THREADS)
        for statement in ladybug.tables() if fresh else ():
            self.run(statement, {})

    def run(self, cypher: str, parameters: Json) -> list[Json]:
        result = self._connection.execute(cypher, parameters)
        rows: list[Json] = result.rows_as_dict().get_all()
        result.close()
        return rows

    def close(self) -> None:
        self._connection.close()
        self._database.close()


class RawNeo4j:
    """A session of the official driver; each statement is a transaction unless one was begun."""

    def __init__(self) -> None:
        import neo4j

        self._driver = neo4j.GraphDatabase.driver(
            os.environ["NEO4J_URI"], auth=neo4j_auth(), notifications_min_severity="OFF"
        )
        self._session = self._driver.session()

    def run(self, cypher: str, parameters: Json) -> list[Json]:
        return self._session.run(cypher, parameters).data()

    def write(self, statements: Iterable[tuple[str, Json]]) -> None:
        with self._session.begin_transaction() as transaction:
            for cypher, parameters in statements:
                transaction.run(cypher, parameters).consume()
            transaction.commit()

    def close(self) -> None:
        self._session.close()
        self._driver.close()


def neo4j_auth() -> tuple[str, str]:
    """User and password from the environment."""
    return os.environ.get("NEO4J_USER", "neo4j"), os.environ["NEO4J_PASSWORD"]


def transaction(raw: Raw, statements: Iterable[tuple[str, Json]]) -> None:
    raw.run("BEGIN TRANSACTION", {})
    for cypher, parameters in statements:
        raw.run(cypher, parameters)
    raw.run("COMMIT", {})


def parameters(rows: Rows) -> Json:
    """Values for every parameter that a named query has."""
    orders = list(rows.nodes.get("Order", {}).values())
    run = next(iter(rows.nodes["Run"].values()))
    started = int(run.get("started_us") or 0)
    return {"run": rows.run_id, "kind": "window", "order_id": str(orders[0]["name"]) if orders else "none", "language": "en",
            "from_us": started, "to_us": started + 60_000_000, "skip": 0, "limit": 20, "experiment": run["experiment"]}  # fmt: skip


def queries(ours: graph.Graph, raw: Raw, asked: Rows) -> Json:
    """Milliseconds of each named query, ours and raw in turns; the first answer of each is not counted."""
    values, found = parameters(asked), {}
    for name in catalogue.names():
        text = catalogue.text(name)
        given = {key: value for key, value in values.items() if f"${key}" in text}

        def ask(text: str = text, given: Json = given) -> list[Json]:
            return raw.run(text, given)

        def answer(name: str = name, given: Json = given) -> list[Json]:
            return ours.query(name, **given)

        rows, bare = len(answer()), len(ask())
        took: tuple[list[float], list[float]] = ([], [])
        for _ in range(TIMES):
            for held, work in zip(took, (answer, ask), strict=True):
                begun = time.perf_counter()
                work()
                held.append((time.perf_counter() - begun) * 1000)
        ms, raw_ms = map(statistics.median, took)
        # The least of each: what else runs on the machine only ever adds.
        found[name] = {"rows": rows, "ms": ms, "raw_ms": raw_ms, "times_raw": min(took[0]) / min(took[1])}
        if rows != bare:
            raise SystemExit(f"{name}: {rows} rows, and {bare} from the raw engine")
    return found


def made_from(pattern: Path, seed: int, size: int) -> Synthetic:
    """The runs; everything is imported by then, since that is nobody's time."""
    runs = Synthetic(graph.rows_of(RunFolder.open(pattern)), seed, size + 2 * SINGLES)
    with graph.in_memory(runs.run(0)) as warm:
        warm.query("history", skip=0, limit=1)
    return runs


def seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def kilobytes(*paths: Path) -> float:
    files = (file for path in paths for file in ([path] if path.is_file() else path.glob("*")))
    return sum(file.stat().st_size for file in files) / 1000


def of_ladybug(pattern: Path, seed: int, sizes: list[int]) -> Iterator[Json]:
    """One result for each size, each in a graph and a process of its own, so that what is counted of memory is its own too."""
    for size in sizes:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            yield process.submit(_of_ladybug, pattern, seed, size).result()


def _of_ladybug(pattern: Path, seed: int, size: int) -> Json:
    runs = made_from(pattern, seed, size)
    with tempfile.TemporaryDirectory(prefix="aftershock-graph-") as scratch:
        times = REPEATS if size <= UNWOUND_MAX else 1
        written = [_written(runs, size, Path(scratch) / str(n)) for n in range(times)]
        best = {name: max(result[name] or 0 for result in written) for name in written[0] if name.endswith("_s")}
        path, raw_path = Path(scratch) / str(times - 1) / "graph.lbug", Path(scratch) / str(times - 1) / "raw.lbug"
        return {"engine": "ladybug", "runs": size, **written[0], **best, **_used(runs, size, path, raw_path)}


def _written(runs: Synthetic, size: int, folder: Path) -> Json:
    """Rows a second of all ways to write the runs, each into a file of its own."""
    folder.mkdir()
    ours, raw, unwound = Clock(), Clock(), Clock()
    with ours, graph.open(folder / "graph.lbug", 60.0) as store:
        store.write_runs(ours.untimed(runs.some(0, size)))
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    with raw:
        engine = RawLadybug(folder / "raw.lbug")
        for cypher, given in whole(raw.untimed(runs.some(0, size))):
            engine.run(cypher, given)
        engine.close()
    if size <= UNWOUND_MAX:
        with unwound:
            engine = RawLadybug(folder / "unwound.lbug")
            transaction(engine, writes.statements(list(unwound.untimed(runs.some(0, size))), []))
            engine.close()
    return {
        "rows": ours.rows, "rows_per_s": ours.rows_per_s, "raw_rows_per_s": raw.rows_per_s,
        "rows_per_cpu_s": ours.rows_per_cpu_s, "raw_rows_per_cpu_s": raw.rows_per_cpu_s,
        "raw_unwind_rows_per_s": unwound.rows_per_s if unwound.rows else None, "memory_mb": memory_mb,
        "kb_a_run": kilobytes(*folder.glob("graph.lbug*")) / size, "raw_kb_a_run": kilobytes(*folder.glob("raw.lbug*")) / size,
    }  # fmt: skip


def _used(runs: Synthetic, size: int, path: Path, raw_path: Path) -> Json:
    """Milliseconds of all that is done with a graph: opened, asked, one more run written."""

    def open_and_ask() -> None:
        with graph.open(path, read_only=True) as held:
            held.query("run", run=runs.ids[size // 2])

    first_ms = statistics.median(seconds(open_and_ask) * 1000 for _ in range(SINGLES))
    raw = RawLadybug(raw_path)
    with graph.open(path, read_only=True) as store:
        asked = queries(store, raw, runs.run(size // 2))
    raw.close()
    one_ms, raw_one_ms = [], []
    for number in range(size, size + SINGLES):
        rows = runs.run(number)

        def add(rows: Rows = rows) -> None:
            with graph.open(path) as held:
                held.write_run(rows)

        def add_raw(rows: Rows = rows) -> None:
            bare = RawLadybug(raw_path)
            transaction(bare, writes.statements([rows], []))
            bare.close()

        one_ms.append(seconds(add) * 1000)
        raw_one_ms.append(seconds(add_raw) * 1000)
    return {"one_more_run_ms": statistics.median(one_ms), "raw_one_more_run_ms": statistics.median(raw_one_ms),
            "open_and_first_answer_ms": first_ms, "queries": asked}  # fmt: skip


def of_neo4j(pattern: Path, seed: int, sizes: list[int]) -> Iterator[Json]:
    """One result for each size, in one graph that grows and is emptied at the end."""
    runs = made_from(pattern, seed, max(sizes))
    uri, raw = os.environ["NEO4J_URI"], RawNeo4j()
    if raw.run("MATCH (n) WHERE NOT n:Meta RETURN n LIMIT 1", {}):
        raise SystemExit(f"{uri} holds something: give a server whose graph is empty, since this fills and empties it")
    try:
        held = 0
        for size in sorted(sizes):
            yield _of_neo4j(runs, held, size, uri, raw)
            held = size
    finally:
        say("emptying the server")
        for label in schema.NODES:
            raw.run(f"MATCH (n:`{label}`) CALL (n) {{ DETACH DELETE n }} IN TRANSACTIONS OF 500 ROWS", {})
        raw.close()


def _of_neo4j(runs: Synthetic, held: int, size: int, uri: str, raw: RawNeo4j) -> Json:
    ours, bare = Clock(), Clock()
    one_ms, raw_one_ms = [], []
    with graph.open(uri, 60.0) as store:
        for turn, start in enumerate(range(held, size, TURN_RUNS)):
            made = runs.some(start, min(start + TURN_RUNS, size))
            if turn % 2 == 0:
                with ours:
                    store.write_runs(list(ours.untimed(made)))
            else:
                with bare:
                    raw.write(writes.statements(list(bare.untimed(made)), []))
        for number in range(size, size + SINGLES):
            rows, other = runs.run(number), runs.run(number + SINGLES)
            one_ms.append(seconds(lambda rows=rows: store.write_run(rows)) * 1000)  # type: ignore[misc]
            raw_one_ms.append(seconds(lambda rows=other: raw.write(writes.statements([rows], []))) * 1000)  # type: ignore[misc]
            for run in (rows, other):
                store.remove_run(run.run_id)
        asked = queries(store, raw, runs.run(size // 2))
    return {
        "engine": "neo4j", "runs": size, "rows": ours.rows + bare.rows,
        "rows_per_s": ours.rows_per_s, "raw_rows_per_s": bare.rows_per_s if bare.rows else None,
        "one_more_run_ms": statistics.median(one_ms), "raw_one_more_run_ms": statistics.median(raw_one_ms),
        "queries": asked,
    }  # fmt: skip


def misses(result: Json) -> list[str]:
    """What is not as it should be; queries on the largest graph, ingest on the embedded engine from 100 runs on."""
    found = []
    if result["engine"] == "ladybug" and result["runs"] >= 100 and result["rows_per_s"] < GOAL_ROWS_PER_S:
        found.append(f"ingest {result['rows_per_s']:,.0f} rows/s")
    for name, query in result["queries"].items():
        if query["ms"] > GOAL_MS or query["times_raw"] > GOAL_TIMES_RAW:
            found.append(f"{name} {query['ms']:.1f} ms, {query['times_raw']:.1f} times raw")
    return found


def show(result: Json) -> None:
    """A result as text."""
    print(f"\n{result['engine']}, {result['runs']} runs, {result['rows']:,} rows")
    raw = f"{result['raw_rows_per_s']:,.0f}" if result["raw_rows_per_s"] else "-"
    unwound = result.get("raw_unwind_rows_per_s")
    print(
        f"ingest: {result['rows_per_s']:,.0f} rows/s, raw {raw}"
        + (f", raw with UNWIND {unwound:,.0f}" if unwound else "")
    )
    if "rows_per_cpu_s" in result:
        print(f"a second of one core: {result['rows_per_cpu_s']:,.0f} rows, raw {result['raw_rows_per_cpu_s']:,.0f}")
        print(f"most memory while it was written the first time: {result['memory_mb']:.0f} MB")
    print(f"one more run: {result['one_more_run_ms']:.0f} ms, raw {result['raw_one_more_run_ms']:.0f} ms")
    if "kb_a_run" in result:
        print(f"on disk: {result['kb_a_run']:,.0f} kB a run, raw {result['raw_kb_a_run']:,.0f}")
        print(f"open and first answer: {result['open_and_first_answer_ms']:.0f} ms")
    print(f"{'query':<16}{'rows':>6}{'ms':>8}{'raw ms':>9}{'times':>7}")
    for name, query in result["queries"].items():
        print(f"{name:<16}{query['rows']:>6}{query['ms']:>8.2f}{query['raw_ms']:>9.2f}{query['times_raw']:>7.2f}")
    print(f"goals missed: {'; '.join(misses(result)) or 'none'}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=lambda text: sorted(map(int, text.split(","))), default=[1, 100, 1000])
    parser.add_argument("--neo4j", action="store_true", help="also the server at $NEO4J_URI")
    parser.add_argument("--only-neo4j", action="store_true")
    parser.add_argument("--json", action="store_true", help="one result a line")
    parser.add_argument("--from", dest="pattern", type=Path, default=GOLDEN, metavar="RUN_FOLDER")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    engines = [] if arguments.only_neo4j else [of_ladybug]
    if arguments.neo4j or arguments.only_neo4j:
        engines.append(of_neo4j)
    begun = time.perf_counter()
    for engine in engines:
        for result in engine(arguments.pattern, arguments.seed, arguments.runs):
            if arguments.json:
                print(json.dumps(result), flush=True)
            else:
                show(result)
            say(f"{result['engine']}, {result['runs']} runs: {time.perf_counter() - begun:.0f} s since the start")


if __name__ == "__main__":
    main()
