"""What comes after the raw data: benchmarks/conclude.py RUN_FOLDER [--model embedded] [--runs 1 10 100].

Prints the seconds of each step over a copy of a run folder (median of 5), and what the graph takes on disk after some runs (copies of
the run under other ids), opened and closed for each. Nothing is written into the folder that is given.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aftershock import facts, graph, judge, junit, models, postmortem, report, verify
from aftershock.diagnose import answer
from aftershock.folder import RunFolder
from aftershock.graph.rows import Rows

TIMES = 5


def renamed(rows: Rows, run_id: str) -> Rows:
    """The same run under another id."""
    old = len(rows.run_id)

    def row(values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "run_id": run_id, **({"id": run_id + values["id"][old:]} if "id" in values else {})}

    return Rows(
        run_id,
        {label: {run_id + key[old:]: row(values) for key, values in table.items()} for label, table in rows.nodes.items()},
        {kind: {(run_id + a[old:], run_id + b[old:]): row(values) for (a, b), values in edges.items()}
         for kind, edges in rows.edges.items()},
    )  # fmt: skip


def run_ids(count: int) -> list[str]:
    """Ids of runs, one a minute."""
    return [
        f"2030{1 + n // 40_320:02d}{1 + n // 1440 % 28:02d}T{n // 60 % 24:02d}{n % 60:02d}00Z-{n:06x}"
        for n in range(count)
    ]


def size(path: Path) -> int:
    """Bytes of a graph, its log and its full files included."""
    return sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())


def steps(folder: RunFolder, graph_path: Path, model: str) -> dict[str, float]:
    """Seconds of each step, as `conclude` takes them."""
    took: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        try:
            return work()
        finally:
            took[name] = time.perf_counter() - begun

    if folder.has("evidence.json"):
        timed("judge", lambda: judge.judge_folder(folder))
    wording = models.open(model)
    if folder.has("evidence.json"):
        timed("diagnose", lambda: answer.write(folder))
    rows = timed("read into rows", lambda: graph.build(folder))
    ledger = timed("facts", lambda: facts.of_rows(rows))
    timed("postmortem", lambda: postmortem.write(folder, wording, ledger))
    timed("verify", lambda: verify.verify(folder, ledger))
    timed("report", lambda: report.write(folder))
    timed("junit", lambda: junit.write(folder))
    store = timed("graph: open", lambda: graph.open(graph_path))
    timed("graph: write", lambda: graph.ingest(store, folder, rows))
    timed("graph: close", store.close)
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=models.named, default="embedded")
    parser.add_argument("--runs", type=int, nargs="*", default=[1, 10, 100])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aftershock-conclude-") as scratch:
        copy = Path(scratch) / "run"
        shutil.copytree(arguments.folder.resolve(), copy)
        folder = RunFolder.open(copy)
        found = [steps(folder, Path(scratch) / f"graph-{n}" / "graph.lbug", arguments.model) for n in range(TIMES)]
        print(f"{'step':<16}{'median s':>9}{'least':>8}{'most':>8}")
        for name in found[0]:
            values = [took[name] for took in found]
            print(f"{name:<16}{statistics.median(values):>9.3f}{min(values):>8.3f}{max(values):>8.3f}")
        print(f"{'all':<16}{statistics.median(sum(took.values()) for took in found):>9.3f}")
        total, by_model = words(folder)
        print(f"sentences worded by the model: {by_model} of {total}\n")
        rows = graph.rows_of(folder)
        path = Path(scratch) / "many" / "graph.lbug"
        print(f"{'runs':<8}{'kB':>10}{'kB a run':>10}{'seconds for the last':>22}")
        for number, run_id in enumerate(run_ids(max(arguments.runs, default=0)), 1):
            run = renamed(rows, run_id)
            begun = time.perf_counter()
            with graph.open(path) as store:
                store.write_run(run)
            if number in arguments.runs:
                kilobytes = size(path) / 1000
                print(f"{number:<8}{kilobytes:>10.0f}{kilobytes / number:>10.0f}{time.perf_counter() - begun:>22.3f}")


def words(folder: RunFolder) -> tuple[int, int]:
    """Sentences of the English postmortem, and how many of them a model worded."""
    header = folder.read("postmortem.json")["language"]["en"]["header"]
    return header["sentences_total"], header["sentences_by_model"]


if __name__ == "__main__":
    main()
