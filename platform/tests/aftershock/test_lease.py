"""One run at a time: who holds the lease is told, clocks of other machines do not matter, and nothing is started over leftovers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock import lease
from aftershock.cluster import Cluster
from aftershock.errors import Refused
from tests.aftershock.small_api import SmallApi, serving

LEASE = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/aftershock-run"
ELSEWHERE = "run-far/buildbox.1a2b3c4d.4026531836/7/9"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[SmallApi, Cluster]]:
    with serving(tmp_path) as (api, cluster, _):
        yield api, cluster


def far(api: SmallApi, renewed: str, duration_s: int = 1) -> dict[str, Any]:
    """A lease of another machine, with its clock's times."""
    spec = {"holderIdentity": ELSEWHERE, "leaseDurationSeconds": duration_s, "acquireTime": "2026-01-15T10:00:00.123456Z",
            "renewTime": renewed}  # fmt: skip
    return api.put(LEASE, spec=spec)


def until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    ends = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends, "not in time"
        time.sleep(0.01)


@pytest.mark.parametrize("renewed", ["2020-01-01T00:00:00.000000Z", "2099-01-01T00:00:00.000000Z", "no time at all"])
def test_a_lease_that_nobody_renews_is_taken_over_whatever_its_clock_says(
    world: tuple[SmallApi, Cluster], renewed: str
) -> None:
    api, cluster = world
    far(api, renewed)
    begun = time.monotonic()
    lease.take(cluster, "shop", "run-b")
    assert time.monotonic() - begun >= 1.0, "its whole duration, by our own clock"
    assert api.objects[LEASE]["spec"]["holderIdentity"].startswith("run-b/")


@pytest.mark.parametrize("minutes", [-30, 30])
def test_a_lease_that_is_renewed_by_a_clock_that_is_off_by_minutes_is_respected(
    world: tuple[SmallApi, Cluster], minutes: int
) -> None:
    api, cluster = world
    far(api, f"2026-01-15T{10 + minutes / 60:02.0f}:00:00.000000Z", duration_s=30)
    renewal = threading.Timer(0.2, lambda: far(api, "2026-01-15T10:00:05.000000Z", duration_s=30))
    renewal.start()
    begun = time.monotonic()
    with pytest.raises(Refused, match="run-far on buildbox, since 2026-01-15T10:00:00Z"):
        lease.take(cluster, "shop", "run-b")
    renewal.join()
    assert time.monotonic() - begun < 10, "one renewal is enough"


def test_a_run_renews_its_lease_and_a_removed_one_is_made_again(world: tuple[SmallApi, Cluster]) -> None:
    api, cluster = world
    lease.take(cluster, "shop", "run-a")
    first = api.objects[LEASE]["spec"]["renewTime"]
    renewal = lease.Renewal(cluster, ["shop"], "run-a", 0.02)
    until(lambda: api.objects[LEASE]["spec"]["renewTime"] != first)
    with api.lock:
        del api.objects[LEASE]
    until(lambda: LEASE in api.objects)
    assert renewal.lost is None
    renewal.stop()
    with pytest.raises(Refused, match="run-a"):
        lease.take(cluster, "shop", "run-b")


def test_who_took_a_lease_is_told_to_the_run_that_lost_it(world: tuple[SmallApi, Cluster]) -> None:
    api, cluster = world
    lease.take(cluster, "shop", "run-a")
    renewal = lease.Renewal(cluster, ["shop"], "run-a", 0.02)
    far(api, "2026-01-15T10:00:05.000000Z")
    until(lambda: renewal.lost is not None)
    renewal.stop()
    assert "run-far on buildbox" in str(renewal.lost)
    assert api.objects[LEASE]["spec"]["holderIdentity"] == ELSEWHERE, "it is not taken back"


def test_a_server_that_is_away_is_asked_again_soon(world: tuple[SmallApi, Cluster]) -> None:
    api, cluster = world
    lease.take(cluster, "shop", "run-a")
    api.refuse = lambda method, path: (500, "InternalError", "etcd is away")
    renewal = lease.Renewal(cluster, ["shop"], "run-a", 0.02)
    until(lambda: any(path == LEASE for _, path in api.seen))
    first = api.objects[LEASE]["spec"]["renewTime"]
    api.refuse = lambda method, path: None
    until(lambda: api.objects[LEASE]["spec"]["renewTime"] != first)
    renewal.stop()
    assert renewal.lost is None


def test_what_a_run_left_keeps_other_machines_away_and_its_own_free_to_say_more(
    world: tuple[SmallApi, Cluster],
) -> None:
    api, cluster = world
    lease.take(cluster, "shop", "run-a")
    assert lease.release(cluster, "shop", "run-a", "uncordon node body2")
    spec = api.objects[LEASE]["spec"]
    own = spec["holderIdentity"]
    spec["holderIdentity"] = ELSEWHERE
    with pytest.raises(Refused, match=r"run-far on buildbox.* left uncordon node body2") as refused:
        lease.take(cluster, "shop", "run-b")
    assert "aftershock undo" in str(refused.value.hint)
    assert "it left uncordon node body2" in str(lease.holder(cluster, "shop"))
    spec["holderIdentity"] = own.rsplit("/", 1)[0] + "/1"  # this machine's, and dead: here the journal speaks
    lease.forget(cluster, {"another-run"})
    assert LEASE in api.objects
    lease.forget(cluster, {"run-a"})
    assert LEASE not in api.objects


def test_a_lease_of_a_living_run_is_not_forgotten(world: tuple[SmallApi, Cluster]) -> None:
    api, cluster = world
    lease.take(cluster, "shop", "run-a")
    lease.forget(cluster, {"run-a"})
    assert LEASE in api.objects
    assert not lease.release(cluster, "shop", "run-b")
    assert "run-a" in str(lease.holder(cluster, "shop"))
