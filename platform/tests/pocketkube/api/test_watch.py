"""Watches: what a selector sees come and go, resuming, bookmarks, and the end of history."""

from __future__ import annotations

import time
from typing import Any

from pocketkube import storage
from pocketkube.api import reads
from tests.pocketkube.api.cluster import Cluster, pod, until

PODS = "/api/v1/namespaces/default/pods"


def seen(event: dict[str, Any]) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"]["name"]


def test_a_selector_sees_objects_come_into_it_and_leave_it(api: Cluster) -> None:
    api.put("pods", pod("other", app="x"))
    with api.watch(f"{PODS}?watch=true&labelSelector=app%3Dcart&resourceVersion={api.store.version}") as events:
        api.put("pods", pod("a", app="x"))
        api.put("pods", pod("a", app="cart"))
        api.put("pods", pod("a", app="cart", more="yes"))
        api.put("pods", pod("a", app="x"))
        api.put("pods", pod("b", app="cart"))
        api.call(lambda: api.store.delete("pods", "default", "b"))
        assert [seen(next(events)) for _ in range(5)] == [
            ("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "b"), ("DELETED", "b")]  # fmt: skip


def test_without_a_version_a_watch_begins_with_what_is_there(api: Cluster) -> None:
    api.put("pods", pod("first"))
    with api.watch(f"{PODS}?watch=true&fieldSelector=metadata.name=first&timeoutSeconds=1") as events:
        assert seen(next(events)) == ("ADDED", "first")
        assert list(events) == []


def test_initial_events_end_with_a_marked_bookmark(api: Cluster) -> None:
    api.put("pods", pod("first"))
    query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    with api.watch(f"{PODS}?{query}&fieldSelector=metadata.name=first") as events:
        assert seen(next(events)) == ("ADDED", "first")
        bookmark = next(events)
        assert bookmark["type"] == "BOOKMARK"
        assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert bookmark["object"]["metadata"]["resourceVersion"] == api.store.version


def test_bookmarks_come_while_nothing_else_does(api: Cluster, monkeypatch: Any) -> None:
    monkeypatch.setattr(reads, "BOOKMARK_S", 0.05)
    with api.watch(f"{PODS}?watch=true&allowWatchBookmarks=true&resourceVersion={api.store.version}") as events:
        assert next(events)["type"] == "BOOKMARK"


def test_a_version_that_is_no_longer_kept_is_gone(api: Cluster, monkeypatch: Any) -> None:
    monkeypatch.setattr(storage, "HISTORY", 3)
    monkeypatch.setattr(api.store, "_history", storage.deque(maxlen=3))
    for n in range(5):
        api.put("pods", pod("a", n=str(n)))
    answer = api.request("GET", f"{PODS}?watch=true&resourceVersion=1")
    assert (answer.status_code, answer.json()["reason"]) == (410, "Expired")
    assert api.request("GET", f"{PODS}?watch=true&resourceVersion=x").status_code == 400


def test_a_reader_that_is_too_slow_is_told_in_the_stream(api: Cluster, monkeypatch: Any) -> None:
    with api.watch(f"{PODS}?watch=true&resourceVersion={api.store.version}") as events:
        api.put("pods", pod("slow", n="0"))
        assert seen(next(events)) == ("ADDED", "slow")
        monkeypatch.setattr(storage, "HISTORY", 2)

        def burst() -> None:
            for n in range(1, 5):
                api.store.update("pods", pod("slow", n=str(n)))

        api.call(burst)
        told = next(e for e in events if e["type"] != "MODIFIED")
        assert (told["type"], told["object"]["code"]) == ("ERROR", 410)
        assert list(events) == []


def test_a_client_that_leaves_is_forgotten(api: Cluster) -> None:
    before = len(api.store._watchers)
    with api.watch(f"{PODS}?watch=true&resourceVersion={api.store.version}"):
        assert len(api.store._watchers) == before + 1
    until(lambda: len(api.store._watchers) == before, "the watch to end")


def test_table_rows_define_their_columns_once(api: Cluster) -> None:
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    with api.watch(f"{PODS}?watch=true&resourceVersion={api.store.version}", accept=accept) as events:
        api.put("pods", pod("row"))
        api.put("pods", pod("row", phase="Failed"))
        first, second = next(events)["object"], next(events)["object"]
    assert [c["name"] for c in first["columnDefinitions"]][:3] == ["Name", "Ready", "Status"]
    assert first["rows"][0]["cells"][:4] == ["row", "1/1", "Running", "0"]
    assert second["columnDefinitions"] == []
    assert second["rows"][0]["cells"][2] == "Failed"


def test_lists_select_by_labels_and_fields(api: Cluster) -> None:
    api.put("pods", pod("on-body", node="body", app="sel"))
    api.put("pods", pod("on-memory", node="memory", app="sel"))
    listed = api.request(
        "GET", "/api/v1/pods?labelSelector=app%20in%20(sel)&fieldSelector=spec.nodeName%3Dmemory&limit=1"
    ).json()
    assert [p["metadata"]["name"] for p in listed["items"]] == ["on-memory"]
    assert "continue" not in listed["metadata"]
    refused = api.request("GET", f"{PODS}?fieldSelector=spec.color%3Dred")
    assert (refused.status_code, refused.json()["message"]) == (400, "field label not supported: spec.color")
    assert api.request("GET", f"{PODS}?labelSelector=a%20b").status_code == 400


def test_one_change_reaches_many_watchers_cheaply(api: Cluster) -> None:
    def fan_out() -> float:
        readers = [api.store.subscribe("pods", None, api.store.version) for _ in range(200)]
        begun = time.perf_counter()
        for n in range(100):
            api.store.update("pods", pod("on-body", n=str(n)))
        spent = time.perf_counter() - begun
        assert all(len(list(r.drain())) == 100 for r in readers)
        for reader in readers:
            reader.close()
        return spent

    assert api.call(fan_out) < 1.0
