"""The event log: lines, waiting, and the end of it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from aftershock import events
from aftershock.errors import FolderError
from aftershock.events import EventLog
from aftershock.folder import validate


def test_lines_keep_the_contract_and_are_there_at_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    first = log.add(source="watch", type="ADDED", kind="Pod", name="a", detail={"phase": "Running"})
    log.add(source="runner", type="INJECTED", kind="Runner", time_us=5)
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    for line in lines:
        validate("event", line, "events.jsonl")
    assert [line["id"] for line in lines] == ["ev-000001", "ev-000002"]
    assert lines[0]["detail"] == {"phase": "Running"}
    assert lines[1]["time_us"] == 5
    assert log.all()[0] == first
    log.close()


def test_many_threads_give_distinct_ids_in_file_order(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")

    def work() -> None:
        for _ in range(50):
            log.add(source="watch", type="ADDED", kind="Pod")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [json.loads(line)["id"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert ids == [f"ev-{n:06d}" for n in range(1, 201)]
    log.close()


def test_wait_sees_the_past_and_the_future_and_gives_up(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.add(source="watch", type="ADDED", kind="Pod", name="past")
    found = log.wait_for(lambda e: e.name == "past", 0.0)
    assert found is not None
    thread = threading.Timer(0.05, lambda: log.add(source="watch", type="DELETED", kind="Pod", name="future"))
    thread.start()
    late = log.wait_for(lambda e: e.name == "future", 5.0)
    thread.join()
    assert late is not None
    assert late.id == "ev-000002"
    assert log.wait_for(lambda e: e.name == "never", 0.02) is None
    log.close()


def test_a_closed_or_full_log_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    monkeypatch.setattr(events, "EVENTS_MAX", 1)
    log.add(source="watch", type="ADDED", kind="Pod")
    with pytest.raises(FolderError, match="full"):
        log.add(source="watch", type="ADDED", kind="Pod")
    log.close()
    log.close()
    with pytest.raises(FolderError, match="closed"):
        log.add(source="watch", type="ADDED", kind="Pod")
    with pytest.raises(FolderError, match="cannot be written"):
        EventLog(tmp_path / "nowhere" / "events.jsonl")
