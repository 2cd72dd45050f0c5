"""Many runs at once are full files, made whole or not at all, and answer as if they had been written one by one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock import graph
from aftershock.errors import GraphError
from aftershock.graph import catalogue
from aftershock.graph.ladybug import Ladybug
from aftershock.graph.rows import Rows
from aftershock.graph.shelf import Shelf
from tests.aftershock import runs

TEXTS = (
    "",
    " ",
    "\n\r\t",
    "\0x",
    "a\0b",
    "\ud800",
    "\u00e9 \ud55c\uad6d \U0001f98a",
    "'\"\\`$rows{}",
    "null",
    "x" * 500,
    "\u2028",
    "\x7f\x01",
)
NUMBERS = (2**62, -(2**62), 0, None, 255)
RATES = (1e308, -0.0, 5e-324, None, 40.0)


def run_id(number: int) -> str:
    return f"20260301T12{number:02d}00Z-{number:06x}"


def small(number: int, verdict: str = "PASS") -> Rows:
    """A run of two nodes and an edge with texts and numbers of every kind."""
    rows = Rows(run_id(number))
    text = TEXTS[number % len(TEXTS)]
    rows.node("Run", "run", "run.json", "run_id", experiment=text, verdict=verdict, started_us=number,
              seed=NUMBERS[number % len(NUMBERS)], load_rate_per_s=RATES[number % len(RATES)])  # fmt: skip
    rows.node("Fault", text, "evidence.json", text, name=text, targets_count=number)
    rows.edge("INJECTED", ("Run", "run"), ("Fault", text), time_us=number)
    return rows


def shelf(path: Path, runs_a_file: int = 4, rows_a_file: int = 1000, *, read_only: bool = False) -> Shelf:
    return Shelf(path, 5, read_only=read_only, runs_a_file=runs_a_file, rows_a_file=rows_a_file)


def verdicts(path: Path) -> dict[str, str]:
    with shelf(path, read_only=True) as held:
        return {row["run"]: row["verdict"] for row in held.query("history", skip=0, limit=100)}


def full(path: Path) -> list[str]:
    folder = path.with_name(f"{path.name}.full")
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def answers(held: graph.Graph, run: str, order: str) -> dict[str, list[dict[str, Any]]]:
    given = {"run": run, "order_id": order, "skip": 0, "limit": 50, "language": "en", "from_us": 0, "to_us": 2**60}
    found = {}
    for name in catalogue.names():
        text = catalogue.text(name)
        used = {key: value for key, value in given.items() if f"${key}" in text}
        for kind in ("window", "orders", "step") if "$kind" in text else (None,):
            found[f"{name} {kind or ''}"] = held.query(name, **used, **({"kind": kind} if kind else {}))
    return found


def test_a_filled_file_answers_as_one_that_was_written(tmp_path: Path) -> None:
    rows = [graph.build(runs.write(tmp_path)), *(small(number) for number in range(20))]
    with Ladybug(None, 5, read_only=False) as written, Ladybug(None, 5, read_only=False) as filled:
        written.write_runs(rows)
        filled.fill(rows)
        for run in rows:
            assert answers(filled, run.run_id, "order-0165") == answers(written, run.run_id, "order-0165")
        assert filled.query("faults", run=run_id(5))[0]["name"] == "?"
        assert filled.query("faults", run=run_id(3))[0]["name"] == "\0x"


def test_enough_runs_become_full_files_and_the_rest_goes_to_the_current_one(tmp_path: Path) -> None:
    path = tmp_path / "graph.lbug"
    with shelf(path, rows_a_file=15) as held:
        held.write_runs(small(number) for number in range(12))  # five, five and two
        assert held.query("run", run=run_id(11))[0]["verdict"] == "PASS"
    assert full(path) == ["00001.lbug", "00001.runs", "00002.lbug", "00002.runs"]
    assert list(verdicts(path)) == [run_id(number) for number in reversed(range(12))]


def test_few_runs_with_many_rows_become_a_full_file_too(tmp_path: Path) -> None:
    path = tmp_path / "graph.lbug"
    with shelf(path, rows_a_file=12) as held:
        held.write_runs([small(number) for number in range(3)])
    assert full(path) == ["00001.lbug", "00001.runs"]
    assert len(verdicts(path)) == 3


def test_a_file_whose_log_is_long_is_full_whatever_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "graph.lbug"
    for number in range(3):
        with Shelf(path, 5, read_only=False, log_bytes_a_file=1000) as held:
            held.write_run(small(number))
    assert full(path) == ["00001.lbug", "00001.runs", "00002.lbug", "00002.runs"]
    assert len(verdicts(path)) == 3


def test_an_iterator_is_read_no_further_than_one_file(tmp_path: Path) -> None:
    path = tmp_path / "graph.lbug"
    seen = []

    def made() -> Iterator[Rows]:
        for number in range(12):
            seen.append(len(full(path)))
            yield small(number)

    with shelf(path, rows_a_file=15) as held:
        held.write_runs(made())
    assert seen == [0] * 5 + [2] * 5 + [4] * 2


def test_the_newest_of_a_run_counts_wherever_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "graph.lbug"
    with shelf(path) as held:
        held.write_run(small(0))
        held.write_runs([small(number) for number in range(1, 7)])
        held.write_runs(
            [small(0, "FAIL"), small(1, "FAIL"), *(small(number) for number in range(7, 12)), small(11, "FAIL")]
        )
        assert len(held.query("faults", run=run_id(0))) == 1
    assert {run for run, verdict in verdicts(path).items() if verdict == "FAIL"} == {run_id(n) for n in (0, 1, 11)}
    assert len(verdicts(path)) == 12
    with shelf(path) as held:
        held.remove_run(run_id(1))
        assert held.query("run", run=run_id(1)) == []
    assert len(verdicts(path)) == 11


def unknown_label(rows: Rows) -> None:
    rows.nodes["Nonsense"] = {"a": {"id": "a", "run_id": rows.run_id}}


def wrong_type(rows: Rows) -> None:
    rows.nodes["Run"][rows.id("Run", "run")]["seed"] = "seven"


def loose_edge(rows: Rows) -> None:
    rows.edges["INJECTED", "Run", "Fault"][rows.id("Run", "run"), "nowhere"] = {"run_id": rows.run_id}


@pytest.mark.parametrize(("harm", "said"), [(unknown_label, "Nonsense"), (wrong_type, "seed"), (loose_edge, "nowhere")])
def test_one_bad_run_leaves_everything_as_it_was(tmp_path: Path, harm: Any, said: str) -> None:
    path = tmp_path / "graph.lbug"
    many = [small(number, "FAIL") for number in range(6)]
    harm(many[3])
    with shelf(path) as held:
        held.write_runs([small(0), small(7)])
        with pytest.raises(GraphError, match=said):
            held.write_runs(many[1:])
        assert held.query("run", run=run_id(0))[0]["verdict"] == "PASS"
    assert full(path) == []
    assert len(verdicts(path)) == 2


def test_many_runs_are_not_written_into_a_graph_that_is_open_for_reading(tmp_path: Path) -> None:
    path = tmp_path / "graph.lbug"
    shelf(path).close()
    with shelf(path, read_only=True) as held, pytest.raises(GraphError, match="open for reading"):
        held.write_runs([small(number) for number in range(6)])
    assert full(path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.aftershock.graph import test_shelf as t

class Deadly(dict):
    def get(self, label, default=None):
        if label == "Fault":  # the file is being filled: its Runs are in, its Faults are not
            os.kill(os.getpid(), signal.SIGKILL)
        return super().get(label, default)

many = [t.small(number, "FAIL") for number in range(12)]
many[9].nodes = Deadly(many[9].nodes)
t.shelf(Path(sys.argv[1]), rows_a_file=15).write_runs(many)
"""


def test_a_writer_killed_in_the_middle_leaves_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "graph.lbug"
    with shelf(path) as held:
        held.write_runs([small(0), small(20)])
    root = Path(__file__).parents[3]
    child = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=root, capture_output=True, text=True)
    assert child.returncode == -9, child.stderr
    assert any("making" in name for name in full(path))
    assert verdicts(path) == {run_id(20): "PASS"} | {run_id(n): "FAIL" for n in range(5)}
    with shelf(path) as held:
        held.write_runs([small(number, "FAIL") for number in range(12)])
    assert full(path) == ["00001.lbug", "00001.runs", "00002.lbug", "00002.runs"]
    assert sum(verdict == "FAIL" for verdict in verdicts(path).values()) == 12


def test_rebuilding_makes_full_files(tmp_path: Path) -> None:
    for number in range(24):
        runs.write(tmp_path, runs.refused, run_id=run_id(number))
    assert graph.rebuild(tmp_path) == (24, [])
    assert full(graph.default_path(tmp_path)) == ["00001.lbug", "00001.runs"]
    assert len(verdicts(graph.default_path(tmp_path))) == 24
