"""The watchdog undoes what a killed run left: real processes, a real kill -9, a real API over HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aftershock import lease, processes, undo, watchdog
from aftershock import settings as environment
from aftershock.cluster import Cluster
from aftershock.errors import DeadlineExceeded, Refused
from aftershock.settings import Settings
from aftershock.undo import UndoJournal
from aftershock.watchdog import Watchdog
from tests.aftershock.small_api import SmallApi, serving

CHAOS = "/apis/chaos-mesh.org/v1alpha1/namespaces/shop/networkchaos/aftershock-x"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/aftershock-run"
World = tuple[SmallApi, Cluster, Settings]

RUN = """if True:
    import sys, time
    from aftershock import lease, processes, settings, undo
    from aftershock.cluster import Cluster
    from aftershock.undo import UndoJournal
    from aftershock.watchdog import Watchdog
    configured = settings.settings()
    processes.begin("run-1")
    cluster = Cluster.connect("small", configured)
    lease.take(cluster, "shop", "run-1", 60)
    watchdog = Watchdog.start("run-1", cluster, configured, ["shop"])
    journal = UndoJournal.of(configured)
    path = "/apis/chaos-mesh.org/v1alpha1/namespaces/shop/networkchaos"
    journal.record("run-1", cluster.identity.fingerprint, "network-delay", undo.removal(f"{path}/aftershock-x", "remove"))
    cluster.request("POST", path, body={"metadata": {"name": "aftershock-x"}})
    print(watchdog.process.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A server and a state folder of this test's own, for child processes too."""
    with serving(tmp_path) as (api, cluster, settings):
        monkeypatch.setenv("XDG_STATE_HOME", str(settings.state_home))
        monkeypatch.setenv("KUBECONFIG", str(settings.kubeconfig))
        environment.settings.cache_clear()
        yield api, cluster, settings
        processes.finish()
    environment.settings.cache_clear()


def until(condition: Callable[[], bool], what: str, deadline_s: float = 15.0) -> float:
    """Wait for a condition and return how long it took, or fail saying which."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + deadline_s, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - begun


def test_kill_9_in_mid_fault_is_undone_within_two_seconds(world: World) -> None:
    api, _, settings = world
    run = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE)
    assert run.stdout is not None
    watchdog = int(run.stdout.readline())
    run.stdout.close()
    assert CHAOS in api.objects
    folder = settings.state_folder / "watchdog/run-1"
    assert (folder / "kubeconfig").stat().st_mode & 0o077 == 0
    assert os.getsid(watchdog) == watchdog, "a session of its own"
    os.kill(watchdog, signal.SIGINT)
    run.kill()
    run.wait()
    assert until(lambda: CHAOS not in api.objects, "the fault is undone") < 2.0
    until(lambda: processes.start_time(watchdog) is None, "the watchdog ended")
    assert LEASE not in api.objects
    assert not folder.exists(), "the copy of the credentials is gone"
    with UndoJournal.of(settings) as journal:
        assert journal.evidence("run-1")["pending"] == 0
    assert processes.sweep() == []
    assert not (settings.state_folder / "processes/run-1").exists()


def test_a_clean_end_leaves_the_watchdog_nothing_to_do(world: World) -> None:
    api, cluster, settings = world
    watchdog = Watchdog.start("run-2", cluster, settings)
    api.seen.clear()
    watchdog.stop()
    assert watchdog.process.returncode == 0
    assert not watchdog.folder.exists()
    assert [seen for seen in api.seen if seen[0] != "GET"] == []
    watchdog.stop()


def test_stop_with_a_pending_entry_lets_it_undo(world: World) -> None:
    api, cluster, settings = world
    with UndoJournal.of(settings) as journal:
        watchdog = Watchdog.start("run-3", cluster, settings)
        api.put(CHAOS)
        journal.record("run-3", cluster.identity.fingerprint, "network-delay", undo.removal(CHAOS, "remove"))
        journal.record(
            "other", cluster.identity.fingerprint, "network-delay", undo.removal(CHAOS + "y", "another run's")
        )
        watchdog.stop()
        assert CHAOS not in api.objects
        assert [e.run for e in journal.pending()] == ["other"]


def test_a_watchdog_that_cannot_reach_the_cluster_is_not_ready(world: World) -> None:
    api, cluster, settings = world
    assert cluster.identity.fingerprint
    api.refuse = lambda method, path: (403, "Forbidden", "go away")
    with pytest.raises(DeadlineExceeded, match="go away"):
        Watchdog.start("run-4", cluster, settings)


def test_a_lease_of_a_dead_run_is_taken_over_and_of_a_live_one_is_not(world: World) -> None:
    api, cluster, _ = world
    lease.take(cluster, "shop", "run-a", 60)
    with pytest.raises(Refused, match="run-a"):
        lease.take(cluster, "shop", "run-b", 60)
    assert not lease.release(cluster, "shop", "run-b")
    holder = api.objects[LEASE]["spec"]["holderIdentity"]
    api.objects[LEASE]["spec"]["holderIdentity"] = holder.rsplit("/", 1)[0] + "/1"  # the number was reused
    lease.take(cluster, "shop", "run-b", 60)
    assert lease.release(cluster, "shop", "run-b")
    assert LEASE not in api.objects


def test_what_went_with_its_local_cluster_is_settled(world: World, tmp_path: Path) -> None:
    _, cluster, settings = world
    with UndoJournal.of(settings) as journal:
        journal.record("run-9", "fingerprint", "network-delay", undo.removal(CHAOS, "remove"))
        assert watchdog.is_gone("pocketkube-nowhere", "fingerprint", settings)
        assert not watchdog.is_gone(cluster.identity.context, cluster.identity.fingerprint, settings), (
            "of others nobody can know"
        )
        watchdog._forget(journal, journal.pending("fingerprint"))
        assert not journal.pending("fingerprint")
        assert journal.of_run("run-9")[0].error == "its cluster was ended"
