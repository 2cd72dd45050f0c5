"""The store: versions, conflicts, deletion in steps, and watches that lose nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkube import storage
from pocketkube.errors import AlreadyExists, BadRequest, Conflict, Expired, NotFound
from pocketkube.storage import Event, Object, Store


def thing(name: str, namespace: str = "shop", **more: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": name, "namespace": namespace}, **more}


def test_create_gives_identity_and_refuses_a_second() -> None:
    store = Store()
    made = store.create("things", thing("a", spec={"x": 1}))
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["uid"]
    with pytest.raises(AlreadyExists):
        store.create("things", thing("a"))
    named = store.create("things", {"metadata": {"generateName": "b-", "namespace": "shop"}})
    assert named["metadata"]["name"].startswith("b-")


def test_update_checks_the_version_and_counts_changes_of_spec() -> None:
    store = Store()
    made = store.create("things", thing("a", spec={"x": 1}))
    changed = store.update("things", {**made, "spec": {"x": 2}})
    assert changed["metadata"]["generation"] == 2
    with pytest.raises(Conflict):
        store.update("things", {**made, "spec": {"x": 3}})
    with_status = store.mutate("things", "shop", "a", lambda o: o.update(status={"y": 1}))
    assert with_status["metadata"]["generation"] == 2
    with pytest.raises(NotFound):
        store.update("things", thing("gone"))


def test_a_change_of_nothing_is_no_event() -> None:
    store = Store()
    store.create("things", thing("a"))
    before = store.version
    store.mutate("things", "shop", "a", lambda o: None)
    assert store.version == before


def test_finalizers_hold_an_object_until_they_are_gone() -> None:
    store = Store()
    store.create("things", {"metadata": {"name": "a", "namespace": "shop", "finalizers": ["x"]}})
    store.delete("things", "shop", "a")
    held = store.get("things", "shop", "a")
    assert held["metadata"]["deletionTimestamp"]
    assert store.delete("things", "shop", "a") is held
    store.mutate("things", "shop", "a", lambda o: o["metadata"].update(finalizers=[]))
    assert store.find("things", "shop", "a") is None


def test_a_pod_with_a_deadline_stays_for_its_kubelet_and_one_without_goes() -> None:
    store = Store()
    store.create("pods", thing("a"))
    store.mutate(
        "pods", "shop", "a", lambda o: o["metadata"].update(deletionTimestamp="t", deletionGracePeriodSeconds=30)
    )
    assert store.find("pods", "shop", "a") is not None
    store.delete("pods", "shop", "a")
    assert store.find("pods", "shop", "a") is None
    store.create("pods", {"metadata": {"name": "b", "namespace": "shop", "finalizers": ["x"]}})
    store.delete("pods", "shop", "b")
    assert store.get("pods", "shop", "b")["metadata"]["deletionGracePeriodSeconds"] == 0
    store.mutate("pods", "shop", "b", lambda o: o["metadata"].update(finalizers=[]))
    assert store.find("pods", "shop", "b") is None


def test_a_terminating_namespace_waits_for_its_own_finalizer() -> None:
    store = Store()
    store.create("namespaces", {"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}})
    store.mutate("namespaces", None, "n", lambda o: o["metadata"].update(deletionTimestamp="t"))
    assert store.find("namespaces", None, "n") is not None
    store.mutate("namespaces", None, "n", lambda o: o["spec"].update(finalizers=[]))
    assert store.find("namespaces", None, "n") is None


def test_what_the_store_hands_out_never_changes_under_its_reader() -> None:
    store = Store()
    made = store.create("things", thing("a", spec={"x": [1]}))
    store.mutate("things", "shop", "a", lambda o: o["spec"]["x"].append(2))
    assert made["spec"]["x"] == [1]


def test_events_are_counted_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "EVENTS", 3)
    store = Store()
    about = store.create("pods", thing("a"))
    for _ in range(3):
        store.record_event(about, "Killing", "Stopping container main")
    (only,) = store.list("events", "shop")
    assert only["deprecatedCount"] == 3
    for n in range(5):
        store.record_event(about, "Reason", f"note {n}")
    assert [e["note"] for e in sorted(store.list("events"), key=lambda e: e["note"])] == ["note 2", "note 3", "note 4"]


def test_a_watch_starts_where_its_reader_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "HISTORY", 4)

    async def run() -> None:
        store = Store()
        store._history = storage.deque(maxlen=4)
        first = store.create("things", thing("a"))["metadata"]["resourceVersion"]
        store.create("others", thing("x"))
        store.create("things", thing("b", "else"))
        store.create("things", thing("c"))
        seen = [e.object["metadata"]["name"] for e in store.subscribe("things", "shop", first).drain()]
        assert seen == ["c"]
        for n in range(4):
            store.create("things", thing(f"more-{n}"))
        with pytest.raises(Expired):
            store.subscribe("things", None, first)
        with pytest.raises(Expired):
            store.subscribe("things", None, "99999")
        with pytest.raises(BadRequest):
            store.subscribe("things", None, "x")
        slow = store.subscribe("things", None, store.version)
        for n in range(5):
            store.create("things", thing(f"slow-{n}"))
        with pytest.raises(Expired):
            list(slow.drain())

    asyncio.run(run())


def test_after_a_compaction_a_watch_resumes_only_what_it_has_not_missed() -> None:
    store = Store()
    first = store.create("things", thing("a"))["metadata"]["resourceVersion"]
    last = store.create("things", thing("b"))["metadata"]["resourceVersion"]
    store.compact()
    with pytest.raises(Expired, match="too old resource version"):
        store.subscribe("things", since=first)
    watching = store.subscribe("things", since=last)
    store.create("things", thing("c"))
    assert [e.object["metadata"]["name"] for e in watching.drain()] == ["c"]


def test_watch_gives_changes_as_they_come() -> None:
    async def run() -> list[tuple[str, str]]:
        store = Store()
        seen: list[tuple[str, str]] = []

        async def read() -> None:
            async for event in store.watch("things", "shop"):
                seen.append((event.type, event.object["metadata"]["name"]))

        reader = asyncio.create_task(read())
        await asyncio.sleep(0)
        store.create("things", thing("a"))
        store.mutate("things", "shop", "a", lambda o: o.update(spec={}))
        store.delete("things", "shop", "a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        assert not store._watchers
        return seen

    assert asyncio.run(run()) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


@given(
    st.lists(
        st.tuples(st.sampled_from(["create", "update", "delete"]), st.sampled_from("abc"), st.integers(0, 2)),
        max_size=30,
    )
)
def test_replaying_a_watch_gives_the_store(steps: list[tuple[str, str, int]]) -> None:
    store = Store()
    events: list[Event] = []
    store.listen(events.append)
    for verb, name, value in steps:
        try:
            if verb == "create":
                store.create("things", thing(name, spec={"v": value}))
            elif verb == "update":
                store.update("things", thing(name, spec={"v": value}))
            else:
                store.delete("things", "shop", name)
        except (AlreadyExists, NotFound):
            pass
    replayed: dict[str, Object] = {}
    for event in events:
        name = event.object["metadata"]["name"]
        assert (event.type == "ADDED") == (name not in replayed)
        if event.type == "DELETED":
            del replayed[name]
        else:
            replayed[name] = event.object
    assert [replayed[n] for n in sorted(replayed)] == store.list("things")
    assert [e.version for e in events] == sorted({e.version for e in events})
