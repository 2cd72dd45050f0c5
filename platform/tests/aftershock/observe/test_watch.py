"""Watches: what they record, how they go on after failures, and that they say when they were blind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aftershock.errors import ObserverError
from aftershock.events import EventLog
from aftershock.folder import validate
from aftershock.observe import watch
from aftershock.observe.watch import Watcher

from .api import PODS, Api, connected, pod, running


@pytest.fixture
def api() -> Iterator[Api]:
    with running() as server:
        yield server


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    made = EventLog(tmp_path / "events.jsonl")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes no gaps here; tests of gaps choose their own limits."""
    monkeypatch.setattr(watch, "GAP_S", 60.0)
    monkeypatch.setattr(watch, "SILENT_S", 60.0)


@pytest.fixture
def watcher(api: Api, log: EventLog, tmp_path: Path) -> Iterator[Watcher]:
    with connected(api, tmp_path) as cluster:
        made = Watcher(cluster, log, ["shop"])
        yield made
        made.stop()


def until(what: Callable[[], bool], deadline_s: float = 5.0) -> None:
    ends = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < ends, "not seen in time"
        time.sleep(0.01)


def begin(watcher: Watcher, api: Api) -> None:
    watcher.start()
    until(lambda: api.watches == 8)


def test_initial_state_and_changes_are_recorded(api: Api, log: EventLog, watcher: Watcher, tmp_path: Path) -> None:
    api.put(PODS, pod("payments-a"))
    begin(watcher, api)
    api.put(PODS, pod("payments-a", ready=False))
    api.put(PODS, pod("payments-a", ready=False), "DELETED")
    event = {"metadata": {"name": "e.1", "namespace": "shop", "uid": "u1"}, "type": "Warning", "reason": "Killing",
             "note": "Stopping container", "regarding": {"kind": "Pod", "namespace": "shop", "name": "payments-a",
                                                         "uid": "uid-payments-a"}}  # fmt: skip
    api.put("/apis/events.k8s.io/v1/namespaces/shop/events", event)
    assert log.wait_for(lambda e: e.type == "DELETED", 5.0)
    told = log.wait_for(lambda e: e.kind == "Event", 5.0)
    report = watcher.stop()
    pods = [e for e in log.all() if e.kind == "Pod"]
    assert [e.type for e in pods] == ["ADDED", "MODIFIED", "DELETED"]
    assert pods[0].detail["initial"] is True
    assert "initial" not in pods[1].detail
    assert (pods[1].detail["ready"], pods[1].service, pods[1].node) == (False, "payments", "body")
    assert told is not None
    assert (told.type, told.reason, told.service, told.node) == ("WARNING", "Killing", "payments", "body")
    assert (report.records, report.gaps) == (4, ())
    for line in (tmp_path / "events.jsonl").read_text().splitlines():
        validate("event", json.loads(line), "events.jsonl")


def test_heartbeats_are_not_recorded(api: Api, log: EventLog, watcher: Watcher) -> None:
    api.put(PODS, pod("payments-a"))
    begin(watcher, api)
    api.put(PODS, {**pod("payments-a"), "extra": 1})
    api.put(PODS, pod("payments-b"))
    assert log.wait_for(lambda e: e.name == "payments-b", 5.0)
    assert [e.name for e in log.all()] == ["payments-a", "payments-b"]


def test_a_dropped_watch_goes_on_without_loss_or_gap(api: Api, log: EventLog, watcher: Watcher) -> None:
    begin(watcher, api)
    api.drop_watches()
    api.put(PODS, pod("payments-a"))
    assert log.wait_for(lambda e: e.name == "payments-a", 5.0)
    assert watcher.stop().gaps == ()


def test_an_expired_version_is_answered_by_a_list(api: Api, log: EventLog, watcher: Watcher) -> None:
    api.put(PODS, pod("payments-a"))
    api.put(PODS, pod("payments-b"))
    begin(watcher, api)
    with api.changed:  # while nobody watches: one goes, one changes, one comes, and the history is lost
        api.dropped += 1
        api.put(PODS, pod("payments-a"), "DELETED")
        api.put(PODS, pod("payments-b", ready=False))
        api.put(PODS, pod("payments-c"))
        api.oldest = len(api.history)
        api.history.append(("", "", {}))
        api.history = [("", "", {})] * len(api.history)
    assert log.wait_for(lambda e: e.name == "payments-c", 5.0)
    synthetic = {(e.type, e.name) for e in log.all() if e.detail.get("synthetic")}
    assert synthetic == {("DELETED", "payments-a"), ("MODIFIED", "payments-b"), ("ADDED", "payments-c")}
    assert log.wait_for(lambda e: e.type == "GAP" and "Pod in shop" in e.detail["why"], 5.0)
    assert "what came and went is not known" in watcher.stop().gaps[0].reason


def test_an_api_server_that_is_away_is_a_gap(
    api: Api, log: EventLog, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "GAP_S", 0.2)
    begin(watcher, api)
    api.down()
    until(lambda: all(stream.blind_since_us is not None for stream in watcher._streams))
    time.sleep(0.3)  # longer than GAP_S
    api.up()
    api.put(PODS, pod("payments-a"))
    assert log.wait_for(lambda e: e.name == "payments-a", 5.0), "what happened meanwhile is still seen"
    until(lambda: all(stream.blind_since_us is None for stream in watcher._streams))
    report = watcher.stop()
    assert len(report.gaps) == 1
    assert report.gaps[0].to_us - report.gaps[0].from_us > 250_000
    assert any(e.type == "GAP" for e in log.all())


def test_an_api_server_that_hangs_is_a_gap(
    api: Api, log: EventLog, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SILENT_S", 0.3)
    monkeypatch.setattr(watch, "PULSE_S", 0.05)
    begin(watcher, api)
    api.stopped.set()
    time.sleep(0.5)  # longer than SILENT_S
    api.stopped.clear()
    assert log.wait_for(lambda e: e.type == "GAP", 5.0)
    assert "did not answer" in watcher.stop().gaps[0].reason


def test_blindness_at_the_end_is_a_gap(api: Api, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(watcher, api)
    api.down()
    until(lambda: all(stream.blind_since_us is not None for stream in watcher._streams))
    monkeypatch.setattr(watch, "GAP_S", 0.0)
    assert "not seen again" in watcher.stop().gaps[0].reason
    api.up()


def test_a_server_that_hangs_to_the_end_is_a_gap(api: Api, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SILENT_S", 0.3)
    monkeypatch.setattr(watch, "PULSE_S", 0.05)
    monkeypatch.setattr(watch, "STOP_S", 0.3)  # the pulse is still waiting for its answer then
    begin(watcher, api)
    api.stopped.set()
    until(lambda: watcher._silent_since_us is not None)
    assert "when the run ended" in watcher.stop().gaps[0].reason
    api.stopped.clear()


def test_permission_that_is_lost_is_a_gap_that_says_so(
    api: Api, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(watcher, api)
    api.routes["GET", PODS] = lambda _: (403, {"code": 403, "message": "pods is forbidden"})
    api.drop_watches()
    until(lambda: any("pods is forbidden" in stream.why for stream in watcher._streams))
    monkeypatch.setattr(watch, "GAP_S", 0.0)
    assert "pods is forbidden" in watcher.stop().gaps[0].reason


def test_a_version_that_the_server_never_knew_is_answered_by_a_list(api: Api, log: EventLog, watcher: Watcher) -> None:
    """As after a crash of its store that lost the last writes."""
    begin(watcher, api)
    refused = {"code": 504, "reason": "Timeout", "message": "Too large resource version: 9, current: 3"}
    api.routes["GET", PODS] = lambda seen: (
        (504, refused)
        if seen["query"].get("watch") and PODS not in listed
        else (
            200,
            {"metadata": {"resourceVersion": str(len(api.history))}, "items": listed.setdefault(PODS, [pod("a")])},
        )
    )
    listed: dict[str, list[dict[str, object]]] = {}
    api.drop_watches()
    assert log.wait_for(lambda e: e.name == "a" and bool(e.detail.get("synthetic")), 5.0)


def test_an_expired_event_of_the_cluster_is_no_news(api: Api, log: EventLog, watcher: Watcher) -> None:
    events = "/apis/events.k8s.io/v1/namespaces/shop/events"
    begin(watcher, api)
    api.put(
        events, {"metadata": {"name": "e.1", "namespace": "shop", "uid": "u1"}, "type": "Normal", "reason": "Pulled"}
    )
    assert log.wait_for(lambda e: e.reason == "Pulled", 5.0)
    with api.changed:
        api.dropped += 1
        api.put(events, {"metadata": {"name": "e.1", "namespace": "shop", "uid": "u1"}}, "DELETED")
        api.put(PODS, pod("payments-c"))
        api.oldest = len(api.history)
        api.history = [("", "", {})] * len(api.history)
    assert log.wait_for(lambda e: e.type == "GAP" and "Event in shop" in e.detail["why"], 5.0)
    assert [e.reason for e in log.all() if e.kind == "Event"] == ["Pulled"]


def test_what_may_not_be_watched_is_named(api: Api, watcher: Watcher) -> None:
    api.routes["GET", "/api/v1/nodes"] = lambda _: (403, {"code": 403, "message": "nodes is forbidden"})
    with pytest.raises(ObserverError, match="nodes is forbidden"):
        watcher.start()


def test_a_flood_is_cut_off_and_told(
    api: Api, log: EventLog, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LINES_MAX", 3)
    begin(watcher, api)
    for n in range(6):
        api.put(PODS, pod("payments-a", ready=n % 2 == 0))
    assert log.wait_for(lambda e: e.type == "GAP", 5.0)
    report = watcher.stop()
    assert report.records == 3
    assert "more than 3 changes" in report.gaps[0].reason
