"""The run folder: whole files or none, contracts both ways, and finding a run by what people type."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftershock.errors import FolderError
from aftershock.folder import ROW_GROUP_ROWS, RUN_ID, RunFolder, columns, new_run_id

from .golden import make

RUN_IDS = ("20260115T100000Z-aaaaaa", "20260115T100001Z-bbbbbb", "20260115T100002Z-bcbbbb")
SAMPLE = {
    "iteration": 1,
    "journey": "checkout",
    "step": "cart",
    "intended_us": 5,
    "start_us": 6,
    "end_us": 9,
    "latency_us": 3,
    "status": 200,
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "payments-pod-kill", RUN_IDS[0])


def invariants(summary: str = "") -> dict[str, Any]:
    return {"checked_at_us": 1, "settled": True, "results": [
        {"name": "no_lost_order", "outcome": "PASS", "checked": 1, "violations": [], "summary": summary}]}  # fmt: skip


def stored(reports: Path, experiment: str, run_id: str) -> RunFolder:
    made = RunFolder.create(reports, experiment, run_id)
    made.write_text("run.json", (make.GOLDEN / "run.json").read_text(encoding="utf-8"))
    return made


def test_create_makes_the_folder_and_moves_latest(tmp_path: Path) -> None:
    for run_id in RUN_IDS[:2]:
        made = RunFolder.create(tmp_path, "e", run_id)
        assert made.path.is_dir()
        assert (tmp_path / "e" / "latest").resolve() == made.path.resolve()
    assert {p.name for p in (tmp_path / "e").iterdir()} == {*RUN_IDS[:2], "latest"}


@pytest.mark.parametrize(("experiment", "run_id"), [
    ("../e", RUN_IDS[0]), ("a/b", RUN_IDS[0]), ("", RUN_IDS[0]), (".e", RUN_IDS[0]), ("e\n", RUN_IDS[0]), ("e", "yesterday"), ("e", "../x"),
])  # fmt: skip
def test_create_refuses_names_that_lead_elsewhere(tmp_path: Path, experiment: str, run_id: str) -> None:
    with pytest.raises(FolderError):
        RunFolder.create(tmp_path / "reports", experiment, run_id)
    assert list(tmp_path.iterdir()) == []


def test_create_never_reuses_a_folder(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="exists"):
        RunFolder.create(tmp_path, "payments-pod-kill", RUN_IDS[0])


def test_run_ids_are_what_the_contract_says() -> None:
    assert RUN_ID.fullmatch(new_run_id())
    assert new_run_id(1_768_471_200.9).startswith("20260115T100000Z-")
    assert new_run_id() != new_run_id()


def test_a_json_file_survives_the_round_trip(folder: RunFolder) -> None:
    folder.write("invariants.json", invariants("주문 <b> \u2028 \x00"))
    assert folder.has("invariants.json")
    assert folder.read("invariants.json") == invariants("주문 <b> \u2028 \x00")


@pytest.mark.parametrize(("change", "where"), [
    (lambda v: v.pop("settled"), "'settled' is a required property"),
    (lambda v: v.update(more=1), "'more' was unexpected"),
    (lambda v: v["results"][0].update(outcome="MAYBE"), "$.results[0].outcome"),
    (lambda v: v["results"][0].update(checked=-1), "$.results[0].checked"),
    (lambda v: v["results"][0].update(checked=float("nan")), "not JSON"),
    (lambda v: v["results"][0].update(summary={1, 2}), "not JSON"),
])  # fmt: skip
def test_write_refuses_what_breaks_the_contract_and_keeps_the_old_file(
    folder: RunFolder, change: Callable[[Any], None], where: str
) -> None:
    folder.write("invariants.json", invariants("old"))
    value = invariants("new")
    change(value)
    with pytest.raises(FolderError) as caught:
        folder.write("invariants.json", value)
    assert "invariants.json" in str(caught.value)
    assert where in str(caught.value)
    assert folder.read("invariants.json") == invariants("old")
    assert [p.name for p in folder.path.iterdir()] == ["invariants.json"]


@pytest.mark.parametrize(("text", "said"), [
    ("{", "not JSON"), ('{"checked_at_us": NaN}', "NaN"), ("[]", "is not of type 'object'"), ("[" * 100_000, "not JSON"),
])  # fmt: skip
def test_read_refuses_what_breaks_the_contract(folder: RunFolder, text: str, said: str) -> None:
    folder.write_text("invariants.json", text)
    with pytest.raises(FolderError, match=r"invariants\.json") as caught:
        folder.read("invariants.json")
    assert said in str(caught.value)


def test_what_is_absent_is_said_with_a_hint(folder: RunFolder) -> None:
    for ask in (
        lambda: folder.read("facts.json"),
        lambda: folder.read_text("postmortem.md"),
        lambda: list(folder.lines("events.jsonl")),
        lambda: folder.table("samples.parquet"),
    ):
        with pytest.raises(FolderError) as caught:
            ask()
        assert caught.value.hint


@pytest.mark.parametrize("name", ["../run.json", "/etc/passwd", ".hidden", "a/b", "", "x\x00", "run.json\n"])
def test_only_plain_names_are_files(folder: RunFolder, name: str) -> None:
    for ask in (lambda: folder.has(name), lambda: folder.read_text(name), lambda: folder.write_text(name, "x")):
        with pytest.raises(FolderError, match="plain name"):
            ask()


def test_there_is_no_file_without_a_schema(folder: RunFolder) -> None:
    with pytest.raises(FolderError, match="no such schema"):
        folder.write("columns2.json", {})
    with pytest.raises(FolderError, match="no file of records"):
        list(folder.lines("run.json"))
    with pytest.raises(FolderError, match="no table"):
        folder.writer("run.parquet")


def test_killed_between_write_and_rename_the_old_file_stays(folder: RunFolder) -> None:
    folder.write("invariants.json", invariants("old"))
    child = (
        "import json, os, signal, sys\n"
        "from pathlib import Path\n"
        "from aftershock.folder import RunFolder\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "RunFolder(Path(sys.argv[1])).write('invariants.json', json.loads(sys.argv[2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", child, str(folder.path), json.dumps(invariants("new"))], timeout=30, check=False
    )
    assert done.returncode == -9
    assert folder.read("invariants.json") == invariants("old")


def test_readers_never_see_half_a_file(folder: RunFolder) -> None:
    folder.write("invariants.json", invariants("0" * 50_000))
    done = threading.Event()

    def rewrite() -> None:
        for digit in range(30):
            folder.write("invariants.json", invariants(str(digit % 10) * 50_000))
        done.set()

    thread = threading.Thread(target=rewrite)
    thread.start()
    while not done.is_set():
        assert len(set(folder.read("invariants.json")["results"][0]["summary"])) == 1
    thread.join()


EVENT = {"id": "ev-000001", "time_us": 1, "source": "watch", "type": "ADDED", "kind": "Pod", "namespace": None, "name": None, "uid": None,
         "node": None, "service": None, "reason": None, "detail": {}}  # fmt: skip


def test_the_torn_last_line_of_a_journal_is_no_record(folder: RunFolder) -> None:
    line = json.dumps(EVENT)
    folder.write_text("events.jsonl", f"{line}\n{line}\n{line[:40]}")
    assert list(folder.lines("events.jsonl")) == [EVENT, EVENT]


@pytest.mark.parametrize(
    "line", ['{"id":', "[]", "", json.dumps({**EVENT, "type": "SEEN"}), json.dumps({**EVENT, "id": "1"})]
)
def test_a_broken_line_is_named(folder: RunFolder, line: str) -> None:
    folder.write_text("events.jsonl", f"{json.dumps(EVENT)}\n{line}\n")
    with pytest.raises(FolderError, match=r"events\.jsonl:2"):
        list(folder.lines("events.jsonl"))


def test_a_torn_ledger_is_an_error_since_it_is_written_whole(folder: RunFolder) -> None:
    folder.write_text("ledger.ndjson", '{"kind":"stock","sku":"a","init')
    with pytest.raises(FolderError, match=r"ledger\.ndjson:1"):
        list(folder.lines("ledger.ndjson"))


@settings(max_examples=40)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "note": st.text(),
                "more": st.one_of(st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
            }
        )
    )
)
def test_any_detail_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, details: list[dict[str, Any]]
) -> None:
    folder = RunFolder(tmp_path_factory.getbasetemp())
    records = [{**EVENT, "detail": detail} for detail in details]
    assert folder.write_lines("events.jsonl", records) == len(records)
    assert list(folder.lines("events.jsonl")) == records


def test_write_lines_writes_all_or_nothing(folder: RunFolder) -> None:
    folder.write_lines("events.jsonl", [EVENT])
    with pytest.raises(FolderError, match=r"events\.jsonl:2"):
        folder.write_lines("events.jsonl", [EVENT, {**EVENT, "kind": "Ship"}])
    assert list(folder.lines("events.jsonl")) == [EVENT]


def test_rows_stream_to_a_table_in_bounded_groups(folder: RunFolder) -> None:
    import pyarrow.parquet as pq

    with folder.writer("samples.parquet") as writer:
        for _ in range(11):
            writer.append([SAMPLE] * 1_000)
            assert len(writer._pending) < ROW_GROUP_ROWS
            assert not folder.has("samples.parquet")
        assert writer.rows == 2 * ROW_GROUP_ROWS
    with pq.ParquetFile(folder.path / "samples.parquet") as file:
        assert file.num_row_groups == 3
    table = folder.table("samples.parquet", ["iteration", "error"])
    assert table.num_rows == 11_000
    assert table.column_names == ["iteration", "error"]
    assert table["error"].null_count == 11_000
    assert [p.name for p in folder.path.iterdir()] == ["samples.parquet"]


def test_an_empty_table_has_its_columns(folder: RunFolder) -> None:
    with folder.writer("traces.parquet"):
        pass
    assert folder.table("traces.parquet").column_names == [name for name, _ in columns("traces")]


@pytest.mark.parametrize(("row", "said"), [
    ({**SAMPLE, "colour": "red"}, "no column colour"),
    ({**SAMPLE, "status": "ok"}, "column status"),
    ({**SAMPLE, "status": 70_000}, "column status"),
    ({**SAMPLE, "end_us": None}, "column end_us is null"),
    ({"iteration": 1}, "column journey is null"),
])  # fmt: skip
def test_a_wrong_row_is_refused_and_no_file_appears(folder: RunFolder, row: dict[str, Any], said: str) -> None:
    with pytest.raises(FolderError, match=said), folder.writer("samples.parquet") as writer:
        writer.append([row])
    assert list(folder.path.iterdir()) == []


def test_an_error_inside_the_block_leaves_the_old_table(folder: RunFolder) -> None:
    with folder.writer("samples.parquet") as writer:
        writer.append([SAMPLE])
    with pytest.raises(FolderError), folder.writer("samples.parquet") as writer:  # noqa: PT012
        writer.append([SAMPLE] * 7_000)
        raise FolderError("the generator died")
    assert folder.table("samples.parquet").num_rows == 1
    assert [p.name for p in folder.path.iterdir()] == ["samples.parquet"]


def test_closing_twice_is_closing_once(folder: RunFolder) -> None:
    writer = folder.writer("samples.parquet")
    writer.append([SAMPLE])
    writer.close()
    writer.close()
    writer.discard()
    assert folder.table("samples.parquet").num_rows == 1


def test_a_table_that_is_none_or_another_is_refused(folder: RunFolder) -> None:
    folder.write_text("samples.parquet", "PAR1 not really")
    with pytest.raises(FolderError, match="no readable Parquet"):
        folder.table("samples.parquet")
    with folder.writer("metrics.parquet") as writer:
        writer.append([{"time_us": 1, "name": "x", "value": 1.0}])
    (folder.path / "metrics.parquet").rename(folder.path / "samples.parquet")
    with pytest.raises(FolderError, match="not those of the contract"):
        folder.table("samples.parquet")
    with pytest.raises(FolderError, match="no column colour"):
        folder.table("samples.parquet", ["colour"])


def test_open_wants_a_run(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FolderError) as caught:
            RunFolder.open(path)
        assert caught.value.hint
    made = stored(tmp_path, "e", RUN_IDS[0])
    assert RunFolder.open(tmp_path / "e" / "latest").path == made.path.resolve()


def test_find_takes_a_path_an_experiment_or_a_run_id(tmp_path: Path) -> None:
    runs = [
        stored(tmp_path, "pods", RUN_IDS[0]),
        stored(tmp_path, "pods", RUN_IDS[1]),
        stored(tmp_path, "nodes", RUN_IDS[2]),
    ]
    RunFolder.create(tmp_path, "pods", "20260115T100009Z-cccccc")  # still running: no run.json yet
    wanted = {
        str(runs[0].path): runs[0], "pods": runs[1], "nodes": runs[2], RUN_IDS[0]: runs[0], "aaaaaa": runs[0],
        "20260115T100002": runs[2], f"{tmp_path}/pods/{RUN_IDS[1]}": runs[1],
    }  # fmt: skip
    for text, run in wanted.items():
        assert RunFolder.find(tmp_path, text).path == run.path.resolve(), text
    assert RunFolder.latest(tmp_path, "pods").path == runs[1].path.resolve()


@pytest.mark.parametrize(("text", "said"), [
    ("20260115T10000", "means 3 runs"), ("bbbb", "means 2 runs"), ("drains", "no run, experiment or folder"), ("aa", "no run, experiment"),
    ("./nowhere", "no such run folder"), ("..", "no run.json"), ("empty", "no run of empty"),
])  # fmt: skip
def test_find_says_what_it_cannot_find(tmp_path: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    (here / "reports" / "empty").mkdir(parents=True)
    monkeypatch.chdir(here)
    for run_id in RUN_IDS:
        stored(here / "reports", "pods", run_id)
    with pytest.raises(FolderError) as caught:
        RunFolder.find(here / "reports", text)
    assert said in str(caught.value)
    assert caught.value.hint


def test_find_without_any_reports(tmp_path: Path) -> None:
    with pytest.raises(FolderError):
        RunFolder.find(tmp_path / "none", "pods")
