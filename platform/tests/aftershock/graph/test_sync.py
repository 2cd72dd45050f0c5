"""Runs reach a server whole and once, whatever was there before and whatever cannot be read or written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from aftershock import cli, graph
from aftershock.errors import BadInput, GraphError, GraphUnreachable
from aftershock.graph import sync
from aftershock.graph.digest import digest
from aftershock.graph.rows import Rows
from aftershock.progress import silent
from tests.aftershock import runs

IDS = [f"20260301T1{n}0000Z-00000{n}" for n in range(4)]


class Held:
    """A target in memory that can refuse a run or go away after some."""

    def __init__(self, refused: str | None = None, gone_after: int | None = None) -> None:
        self.runs: dict[str, Rows] = {}
        self.writes = 0
        self._refused, self._gone_after = refused, gone_after

    def digests(self) -> dict[str, str]:
        return {run: digest(rows) for run, rows in self.runs.items()}

    def write_run(self, rows: Rows) -> None:
        if self._gone_after is not None and self.writes >= self._gone_after:
            raise GraphUnreachable("gone", hint="look")
        if rows.run_id == self._refused:
            raise GraphError("too large", hint="smaller")
        self.writes += 1
        self.runs[rows.run_id] = rows

    def write_runs(self, runs: Iterable[Rows]) -> None:
        waiting = list(runs)
        if any(rows.run_id == self._refused for rows in waiting):
            raise GraphError("too large", hint="smaller")
        for rows in waiting:
            self.write_run(rows)


def states(done: list[sync.Synced]) -> list[str]:
    return [one.state for one in done]


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    for run in IDS:
        runs.write(tmp_path, runs.refused, run_id=run)
    return tmp_path


def test_new_then_unchanged_then_replaced(reports: Path) -> None:
    target = Held()
    assert states(sync.sync(sync.source(reports), target, silent)) == ["new"] * 4
    assert states(sync.sync(sync.source(reports), target, silent)) == ["unchanged"] * 4
    assert target.writes == 4
    changed = reports / "payments-pod-kill" / IDS[2] / "verdict.json"
    changed.write_text(changed.read_text().replace("not labelled", "still not labelled"))
    done = sync.sync(sync.source(reports), target, silent)
    assert {one.run: one.state for one in done} == {run: "replaced" if run == IDS[2] else "unchanged" for run in IDS}
    assert states(sync.sync(sync.source(reports), target, silent, again=True)) == ["replaced"] * 4


def test_an_embedded_graph_brings_the_same_as_its_folders(reports: Path) -> None:
    whole = runs.write(reports, run_id="20260301T180000Z-00000f")
    for held in (False, True):
        target = Held()
        path = graph.default_path(reports) if held else reports
        if held:
            assert graph.rebuild(reports) == (5, [])
        source = sync.source(path)
        assert states(sync.sync(source, target, silent)) == ["new"] * 5
        source.close()
        assert digest(target.runs[whole.path.name]) == digest(graph.rows_of(whole))


def test_what_can_be_named(reports: Path) -> None:
    assert len(sync.source(reports / "payments-pod-kill").names) == 4
    assert len(sync.source(reports / "payments-pod-kill" / "latest").names) == 1
    for path in (reports / "payments-pod-kill" / IDS[0] / "verdict.json", reports / "none"):
        with pytest.raises((BadInput, GraphError)):
            sync.source(path)


def test_a_run_that_cannot_be_read_or_written_keeps_no_other_back(reports: Path) -> None:
    broken = reports / "payments-pod-kill" / IDS[0]
    (broken / "verdict.json").unlink()
    target = Held(refused=IDS[1])
    done = sync.sync(sync.source(reports), target, silent)
    assert {one.run: one.state for one in done} == {
        str(broken): "failed",
        IDS[1]: "failed",
        IDS[2]: "new",
        IDS[3]: "new",
    }
    assert sync.counted(done) == {"new": 2, "unchanged": 0, "replaced": 0, "failed": 2}
    assert {error["error"] for error in sync.document(done)["errors"]} >= {"too large"}


def test_a_target_that_goes_away_leaves_every_other_run_failed(reports: Path) -> None:
    done = sync.sync(sync.source(reports), Held(gone_after=0), silent)
    assert states(done) == ["failed"] * 4
    assert all(isinstance(one.error, GraphUnreachable) for one in done)


def test_the_command_says_what_it_lacks(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["graph", "sync", "--reports", str(reports)]) == cli.BAD_INPUT
    assert "neo4j://HOST" in capsys.readouterr().err
    assert cli.main(["graph", "sync", "--reports", str(reports), "--graph", "bolt://127.0.0.1:1"]) == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_history_compare_and_verify_read_a_graph(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed, passed = "20260301T180000Z-00000e", "20260301T190000Z-00000f"
    runs.write(reports, run_id=failed)
    runs.write(reports, runs.passed, run_id=passed)
    graph.rebuild(reports)
    more = ["--reports", str(reports), "--json"]
    known = ["--graph", str(graph.default_path(reports))]

    def said(*arguments: str) -> object:
        assert cli.main([*arguments, *more]) == 0
        return json.loads(capsys.readouterr().out)

    def told(document: object) -> list[dict[str, object]]:
        assert isinstance(document, list)
        return [{key: value for key, value in row.items() if key != "report"} for row in document]

    assert told(said("history", *known)) == told(said("history"))
    assert len(told(said("history"))) == 6
    assert said("compare", failed, passed, *known) == said("compare", failed, passed)
    assert cli.main(["compare", "2026", passed, *more, *known]) == cli.BAD_INPUT
    assert "means 6 runs" in capsys.readouterr().err
    assert cli.main(["compare", "nothing", passed, *more, *known]) == cli.BAD_INPUT
