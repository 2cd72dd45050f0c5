"""A server that is killed, or whose disk is full: the run ends and is kept, no half of one is stored, and what is missing comes later."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aftershock import cli, conclude, graph
from aftershock.errors import GraphError
from aftershock.folder import RunFolder
from aftershock.graph.digest import digest
from aftershock.graph.rows import Rows
from aftershock.progress import silent
from tests.aftershock.graph import server
from tests.aftershock.graph.own import Own, own
from tests.aftershock.graph.server import DEADLINE_S

pytestmark = pytest.mark.servers
EXPERIMENT = Path(__file__).parents[4] / "experiments" / "payments-pod-kill.yaml"
KILLED_AFTER = 5  # runs that are written by then


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Own]:
    with own(monkeypatch) as held:
        yield held


def many() -> Iterator[Rows]:
    """The golden run under one id after the other."""
    golden = graph.rows_of(RunFolder.open(server.GOLDEN))
    for number in itertools.count():
        yield server.renamed(golden, f"19700101T{number // 3600:02d}{number // 60 % 60:02d}{number % 60:02d}Z-00d1e5")


def write_until_it_fails(store: graph.Graph, written: list[Rows], enough: threading.Event) -> None:
    for rows in many():
        store.write_run(rows)
        written.append(rows)
        if len(written) == KILLED_AFTER:
            enough.set()


def test_a_server_that_is_killed_while_runs_are_written_holds_each_of_them_whole(theirs: Own) -> None:
    url = theirs.start()
    written: list[Rows] = []
    enough, killed = threading.Event(), threading.Thread(target=lambda: enough.wait(120) and theirs.kill())
    killed.start()
    with graph.open(url, 3.0) as store, pytest.raises(GraphError) as caught:
        write_until_it_fails(store, written, enough)
    killed.join()
    assert len(written) >= KILLED_AFTER
    assert caught.value.hint
    assert theirs.start() == url
    with graph.open(url, DEADLINE_S) as store:
        held = store.runs()
        # The one that was being written is there whole, if it is there: nobody heard of the end of its transaction.
        assert len(written) <= len(held) <= len(written) + 1
        wanted = {rows.run_id: digest(rows) for rows in itertools.islice(many(), len(held))}
        assert {rows.run_id: digest(rows) for rows in store.rows(held)} == wanted


def concluded_without(url: str, folder: RunFolder) -> None:
    """The run ends as it must when only the graph fails."""
    with pytest.raises(GraphError, match="is complete, but the graph was not written") as caught:
        conclude.conclude(folder, url, "none", silent)
    assert f"aftershock graph sync --from {folder.path} --graph {url}" in str(caught.value.hint)
    assert all(folder.has(name) for name in ("verdict.json", "postmortem.md", "report.html", "junit.xml"))


def synced(url: str, folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that was named brings the run, whole."""
    assert cli.main(["graph", "sync", "--from", str(folder.path), "--graph", url]) == 0, capsys.readouterr().err
    with graph.open(url, DEADLINE_S, read_only=True) as store:
        (rows,) = store.rows([folder.path.name])
        assert digest(rows) == digest(graph.rows_of(folder)) == store.digests()[folder.path.name]


def test_a_server_that_is_killed_during_a_run(theirs: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = theirs.start()
    graph.open(url, DEADLINE_S).close()  # as before the experiment
    theirs.kill()
    folder = server.golden_copy(tmp_path)
    concluded_without(url, folder)
    theirs.start()
    synced(url, folder, capsys)


def test_a_disk_that_is_full(theirs: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = theirs.start()
    graph.open(url, DEADLINE_S).close()
    theirs.fill()
    folder = server.golden_copy(tmp_path)
    concluded_without(url, folder)
    # And the next experiment does not begin.
    reports = tmp_path / "reports"
    assert cli.main(["run", str(EXPERIMENT), "--graph", url, "--reports", str(reports)]) == 2
    said = capsys.readouterr().err
    assert "disk" in said, said
    assert not reports.exists()
    theirs.free()
    theirs.kill()
    theirs.start()
    synced(url, folder, capsys)
