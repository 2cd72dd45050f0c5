"""`aftershock undo`: what is left is taken back on its own cluster, and never on another of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aftershock import leftovers, undo
from aftershock.cluster import Cluster
from aftershock.settings import Settings
from aftershock.undo import UndoJournal
from tests.aftershock.small_api import SmallApi, serving

NODE = "/api/v1/nodes/body2"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/aftershock-run"
World = tuple[SmallApi, Cluster, Settings, UndoJournal]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(tmp_path) as (api, cluster, settings), UndoJournal.of(settings) as journal:
        yield api, cluster, settings, journal


def cordoned(world: World, fingerprint: str = "", context: str = "small") -> None:
    """A node that a run has cordoned, with the lease that says so."""
    api, cluster, _, journal = world
    live = api.put(NODE, spec={})
    inverse = undo.restoration(NODE, live, {"spec": {"unschedulable": True}}, "uncordon node body2")
    journal.record("run-1", fingerprint or cluster.identity.fingerprint, "node-drain", inverse, context)
    api.put(NODE, spec={"unschedulable": True})
    api.put(LEASE, metadata={"annotations": {"aftershock.dev/left": "uncordon node body2"}},
            spec={"holderIdentity": "run-1/elsewhere/1/1"})  # fmt: skip


def test_what_a_run_left_is_undone_once_and_its_lease_goes_with_it(world: World) -> None:
    api, _, settings, _ = world
    cordoned(world)
    (row,) = leftovers.undo("small", settings)
    assert (row["state"], row["what"], row["error"]) == ("done", "uncordon node body2", None)
    assert not api.objects[NODE]["spec"].get("unschedulable")
    assert LEASE not in api.objects
    assert leftovers.undo("small", settings) == []


def test_credentials_that_do_not_do_leave_it_in_the_journal_and_fresh_ones_do_it(world: World) -> None:
    api, _, settings, journal = world
    cordoned(world)
    api.refuse = lambda method, path: (401, "Unauthorized", "token expired") if method == "PATCH" else None
    (row,) = leftovers.undo("small", settings)
    assert row["state"] == "failed"
    assert "401 token expired" in row["error"]
    assert LEASE in api.objects, "no other machine may start over it"
    assert len(journal.pending()) == 1
    api.refuse = lambda method, path: None
    assert [r["state"] for r in leftovers.undo("small", settings)] == ["done"]
    assert not api.objects[NODE]["spec"].get("unschedulable")


def test_one_who_may_do_nothing_does_not_unsay_what_another_has_done(world: World) -> None:
    """As a watchdog whose token has ended, while somebody undoes the same with a good one."""
    api, cluster, settings, journal = world
    cordoned(world)
    seen = journal.pending()
    assert [r["state"] for r in leftovers.undo("small", settings)] == ["done"]
    api.refuse = lambda method, path: (401, "Unauthorized", "token expired")
    assert [u.state for u in journal.undo(cluster, seen)] == ["failed"]
    assert journal.undone_yet_there(cluster, "run-1") == []
    assert journal.pending() == []


def test_another_cluster_under_the_same_name_is_not_touched(world: World) -> None:
    api, _, settings, journal = world
    cordoned(world, fingerprint="of the cluster that was")
    api.seen.clear()
    (row,) = leftovers.undo("small", settings)
    assert row["state"] == "failed"
    assert "made on another cluster, which small named then" in row["error"]
    assert {method for method, _ in api.seen} == {"GET"}
    assert api.objects[NODE]["spec"]["unschedulable"]
    assert len(journal.pending()) == 1
    assert [r["state"] for r in leftovers.undo("small", settings, forget=True)] == ["done"]
    assert journal.pending() == []
    assert api.objects[NODE]["spec"]["unschedulable"], "forgotten is not undone"


def test_faults_of_other_contexts_are_not_spoken_of(world: World) -> None:
    _, _, settings, journal = world
    cordoned(world, fingerprint="another", context="production")
    assert leftovers.undo("small", settings, forget=True) == []
    assert len(journal.pending()) == 1
