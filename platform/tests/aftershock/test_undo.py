"""The undo journal: real SQLite, a real API over HTTP, a real kill -9."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock import undo
from aftershock.cluster import Cluster
from aftershock.errors import Refused
from aftershock.undo import UndoJournal
from tests.aftershock.small_api import SmallApi, serving

NODE = "/api/v1/nodes/body2"
DEPLOYMENT = "/apis/apps/v1/namespaces/shop/deployments/payments"
CHAOS = "/apis/chaos-mesh.org/v1alpha1/namespaces/shop/networkchaos/aftershock-x"
World = tuple[SmallApi, Cluster, UndoJournal]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A server, a client and a journal."""
    with serving(tmp_path) as (api, cluster, settings), UndoJournal.of(settings) as journal:
        yield api, cluster, journal


def undo_all(cluster: Cluster, journal: UndoJournal, deadline_s: float = 5.0) -> list[undo.Undone]:
    """Undo what is pending."""
    return journal.undo(cluster, journal.pending(cluster.identity.fingerprint), deadline_s)


def test_last_in_first_out_and_seen_to_have_worked(world: World) -> None:
    api, cluster, journal = world
    node = api.put(NODE, spec={})
    deployment = api.put(DEPLOYMENT, spec={"replicas": 2})
    at = cluster.identity.fingerprint
    journal.record("r1", at, "node-drain", undo.restoration(NODE, node, {"spec": {"unschedulable": True}}, "uncordon"))
    journal.record(
        "r1", at, "deployment-scale", undo.restoration(DEPLOYMENT, deployment, {"spec": {"replicas": 0}}, "scale")
    )
    journal.record("r1", at, "network-delay", undo.removal(CHAOS, "remove"))
    api.put(NODE, spec={"unschedulable": True})
    api.put(DEPLOYMENT, spec={"replicas": 0})
    api.put(CHAOS, spec={})
    api.seen.clear()
    results = undo_all(cluster, journal)
    assert [r.state for r in results] == ["done", "done", "done"]
    assert [path for method, path in api.seen if method != "GET"] == [CHAOS, DEPLOYMENT, NODE]
    assert api.objects[NODE]["spec"] == {}
    assert api.objects[DEPLOYMENT]["spec"] == {"replicas": 2}
    assert CHAOS not in api.objects
    assert journal.evidence("r1")["pending"] == 0
    assert undo_all(cluster, journal) == []


def test_undoing_twice_does_no_harm(world: World) -> None:
    api, cluster, journal = world
    api.put(DEPLOYMENT, spec={"replicas": 2})
    at = cluster.identity.fingerprint
    entry = journal.record("r1", at, "network-delay", undo.removal(CHAOS, "remove"))
    assert [r.state for r in undo_all(cluster, journal)] == ["done"]
    journal.mark(entry, "pending")
    assert [r.state for r in undo_all(cluster, journal)] == ["done"]


def test_an_accepted_undo_that_changes_nothing_is_not_done(world: World) -> None:
    api, cluster, journal = world
    api.put(CHAOS, spec={})
    journal.record("r1", cluster.identity.fingerprint, "network-delay", undo.removal(CHAOS, "remove"))
    real = api.answer

    def lying(
        method: str, path: str, query: dict[str, str], body: Any, content_type: str
    ) -> tuple[int, dict[str, Any]]:
        return (200, {}) if method == "DELETE" else real(method, path, query, body, content_type)

    api.answer = lying  # type: ignore[method-assign]
    (result,) = undo_all(cluster, journal, 0.3)
    assert result.state == "failed"
    assert "still exists" in str(result.error)
    assert journal.evidence("r1")["pending"] == 1
    api.answer = real  # type: ignore[method-assign]
    assert [r.state for r in undo_all(cluster, journal)] == ["done"], "a failed entry is tried again"


def test_a_forbidden_undo_fails_at_once_and_does_not_stop_the_others(world: World) -> None:
    api, cluster, journal = world
    node = api.put(NODE, spec={})
    at = cluster.identity.fingerprint
    journal.record("r1", at, "node-drain", undo.restoration(NODE, node, {"spec": {"unschedulable": True}}, "uncordon"))
    journal.record("r1", at, "network-delay", undo.removal(CHAOS, "remove"))
    api.put(NODE, spec={"unschedulable": True})
    api.refuse = lambda method, path: (403, "Forbidden", "no") if method == "DELETE" else None
    assert [r.state for r in undo_all(cluster, journal)] == ["failed", "done"]


def test_a_deleted_service_comes_back_with_its_address(world: World) -> None:
    api, cluster, journal = world
    path = "/api/v1/namespaces/shop/services/payments"
    live = api.put(path, spec={"clusterIP": "127.1.0.9"}, status={"x": 1})
    inverse = undo.recreation("/api/v1/namespaces/shop/services", live, "create again")
    journal.record("r1", cluster.identity.fingerprint, "service-delete", inverse)
    del api.objects[path]
    assert [r.state for r in undo_all(cluster, journal)] == ["done"]
    assert api.objects[path]["spec"] == {"clusterIP": "127.1.0.9"}
    assert "status" not in api.objects[path]
    assert undo.apply(cluster, inverse, 1.0) is None, "it exists already"


def test_entries_of_other_clusters_are_left_alone(world: World) -> None:
    _, cluster, journal = world
    journal.record("r1", "another", "network-delay", undo.removal(CHAOS, "remove"))
    assert undo_all(cluster, journal) == []
    assert len(journal.pending()) == 1
    with pytest.raises(Refused, match="another cluster"):
        journal.undo(cluster, journal.pending())


def test_a_fault_that_heals_itself_is_recorded_as_done(world: World) -> None:
    _, cluster, journal = world
    journal.record("r1", cluster.identity.fingerprint, "pod-kill", undo.nothing("replaced by its controller"))
    assert journal.pending() == []
    assert [e["state"] for e in journal.evidence("r1")["entries"]] == ["done"]


def test_an_entry_survives_kill_9(tmp_path: Path) -> None:
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from aftershock import undo
        journal = undo.UndoJournal(Path(sys.argv[1]))
        journal.record("r1", "c1", "network-delay", undo.removal("/x", "remove"))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "undo.sqlite"
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -signal.SIGKILL
    with UndoJournal(path) as journal:
        assert [(e.run, e.action, e.state) for e in journal.pending("c1")] == [("r1", "network-delay", "pending")]
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()
    assert path.stat().st_mode & 0o077 == 0


def test_two_processes_share_a_journal(tmp_path: Path, world: World) -> None:
    _, _, journal = world
    first = journal.record("r1", "c", "a", undo.removal("/x", ""))
    with UndoJournal(journal.path) as other:
        assert [e.id for e in other.pending("c")] == [first]
        other.mark(first, "done")
    assert journal.pending("c") == []


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text("ab", max_size=2) | st.lists(st.integers(0, 3), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
)


def _clean(value: Any) -> Any:
    """Kubernetes drops nulls."""
    return {k: _clean(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


@given(
    live=st.dictionaries(st.sampled_from("abcd"), values, max_size=4),
    patch=st.dictionaries(st.sampled_from("abcd"), values, max_size=4),
)
def test_a_restoration_gives_back_exactly_what_a_patch_changed(live: dict[str, Any], patch: dict[str, Any]) -> None:
    from tests.aftershock.small_api import _merge

    live = _clean(live)
    changed = _merge(live, patch)
    assert _merge(changed, undo.restoration("/x", live, patch, "").body) == live
