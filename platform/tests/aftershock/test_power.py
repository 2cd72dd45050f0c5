"""Cutting a node's power through a program of the user's: real programs, a real API over HTTP, the journal in between."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock import faults, power, processes, targets, undo
from aftershock.cluster import Cluster
from aftershock.errors import AftershockError, BadInput, DeadlineExceeded
from aftershock.experiment import Activity
from aftershock.undo import UndoJournal
from tests.aftershock.small_api import SmallApi, serving

NODE = "/api/v1/nodes/body2"
READY = {"conditions": [{"type": "Ready", "status": "True"}]}
SILENT = {"conditions": [{"type": "Ready", "status": "Unknown"}]}
World = tuple[SmallApi, Cluster, UndoJournal]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A node with two pods of the shop and one of the cluster's own."""
    with serving(tmp_path) as (api, cluster, settings), UndoJournal.of(settings) as journal:
        api.put(NODE, spec={}, status=READY)
        api.put("/api/v1/nodes/brain", metadata={"labels": {"node-role.kubernetes.io/control-plane": ""}}, status=READY)
        for namespace, name in (("shop", "orders-b"), ("shop", "payments-b"), ("kube-system", "coredns-x")):
            api.put(f"/api/v1/namespaces/{namespace}/pods/{name}", spec={"nodeName": "body2"})
        yield api, cluster, journal


def script(folder: Path, text: str) -> Path:
    """A program."""
    path = folder / "power.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


def named(cluster: Cluster, given: str | None) -> Cluster:
    """The cluster as a user sees it who named this program."""
    cluster.settings = dataclasses.replace(cluster.settings, node_power=given)
    return cluster


def test_a_program_is_found_once_and_called_with_verb_and_node(world: World, tmp_path: Path) -> None:
    path = script(tmp_path, 'echo "$@" > "$1.said"; pwd')
    cluster = named(world[1], f"{path} --zone 'north 1'")
    assert power.command(cluster, "off", "body2") == [str(path), "--zone", "north 1", "off", "body2"]
    shell = named(cluster, "sh -c true")
    assert Path(power.command(shell, "on", "body2")[0]).is_absolute()


@pytest.mark.parametrize(
    ("given", "said"), [(None, "nobody knows"), ("", "nobody knows"), ("/no/such/program", "which is no program")]
)
def test_without_a_program_there_is_no_power(world: World, given: str | None, said: str) -> None:
    cluster = named(world[1], given)
    with pytest.raises(BadInput, match=said) as raised:
        power.command(cluster, "off", "body2")
    assert raised.value.hint
    lacking = faults.KNOWN["aftershock.actions.power_off_node"].lacks(cluster, {"name": "body2", "ns": "shop"})
    assert lacking is not None
    assert said in lacking


def test_a_local_cluster_brings_its_own(world: World) -> None:
    cluster = named(world[1], None)
    cluster._identity = dataclasses.replace(cluster.identity, kind="pocket", context="pocketkube-mine")
    words = ["node", "stop", "body2", "--name", "mine"]
    assert power.command(cluster, "off", "body2") == [sys.executable, "-m", "pocketkube.cli", *words]
    assert power.command(cluster, "on", "body2")[-4:] == ["start", "body2", "--name", "mine"]


def test_a_program_that_fails_or_hangs_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    failing = script(tmp_path, "echo no such host >&2; exit 3")
    with pytest.raises(AftershockError, match=r"`off body2`.*ended with 3: no such host"):
        power.run([str(failing), "off", "body2"])
    hanging = script(tmp_path, f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    with pytest.raises(DeadlineExceeded, match=r"did not end within 0\.3 s"):
        power.run([str(hanging), "off", "body2"], 0.3)
    ends = time.monotonic() + 5
    while processes.start_time(int((tmp_path / "pid").read_text())) is not None:
        assert time.monotonic() < ends, "its children are ended, too"
        time.sleep(0.02)
    with pytest.raises(AftershockError, match="cannot be started"):
        power.run([str(tmp_path / "gone"), "off", "body2"])


def test_the_aim_is_the_node_and_all_that_runs_there(world: World) -> None:
    cluster = world[1]
    strict = targets.of_power(cluster, {"name": "body2", "ns": "shop"})
    assert (strict.nodes, strict.pods, len(strict.targets)) == (1, 2, 3)
    assert strict.namespaces == {"shop", "kube-system"}, (
        "outside of the blast radius unless the file says that it may be"
    )
    told = targets.of_power(cluster, {"name": "body2", "ns": "shop", "also": ["kube-system"]})
    assert told.namespaces == {"shop"}
    assert targets.of_power(cluster, {"name": "nowhere", "ns": "shop"}).targets == ()
    assert targets.of_power(cluster, {"name": "body2", "ns": "empty"}).targets == ()
    with pytest.raises(BadInput, match="control plane"):
        targets.of_power(cluster, {"name": "brain", "ns": "shop"})


def planned(cluster: Cluster) -> list[undo.Inverse]:
    """What would take a power cut back."""
    arguments = {"name": "body2", "ns": "shop"}
    activity = Activity("cut", "action", "python", "aftershock.actions", "power_off_node", arguments, {})
    return faults.inverse_of(activity, cluster, "run-1")


def test_power_comes_back_by_the_journal_and_is_seen_by_the_node(world: World, tmp_path: Path) -> None:
    api, cluster, journal = world
    path = script(tmp_path, f'echo "$@" >> {tmp_path}/said')
    (inverse,) = planned(named(cluster, str(path)))
    assert [str(need) for need in faults.need_of(inverse)] == ["get nodes"]
    journal.record("run-1", cluster.identity.fingerprint, "node-power-off", inverse)
    assert json.loads(journal._db.execute("SELECT inverse FROM entries").fetchone()[0])["body"] == [
        str(path),
        "on",
        "body2",
    ]
    api.put(NODE, spec={"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}, status=SILENT)
    (failed,) = journal.undo(cluster, journal.pending(), 0.3)
    assert failed.state == "failed"
    assert failed.error is not None
    assert "Ready is Unknown" in failed.error
    api.put(NODE, spec={"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}, status=READY)
    assert "taint node.kubernetes.io/unreachable" in str(undo.unmet(cluster, inverse))
    api.put(NODE, spec={}, status=READY)
    (done,) = journal.undo(cluster, journal.pending(), 5)
    assert done.state == "done"
    assert (tmp_path / "said").read_text().splitlines() == ["on body2", "on body2"]


def test_a_program_that_fails_to_give_power_back_is_asked_again_and_told(world: World, tmp_path: Path) -> None:
    _, cluster, journal = world
    path = script(tmp_path, f"test -e {tmp_path}/up || {{ echo breaker open >&2; touch {tmp_path}/up; exit 1; }}")
    (inverse,) = planned(named(cluster, str(path)))
    journal.record("run-1", cluster.identity.fingerprint, "node-power-off", inverse)
    assert [u.state for u in journal.undo(cluster, journal.pending(), 5)] == ["done"]
    path.write_text("#!/bin/sh\necho breaker open >&2; exit 1\n")
    error = undo.apply(cluster, inverse, 0.3)
    assert error is not None
    assert "breaker open" in error
    os.unlink(path)
    assert "cannot be started" in str(undo.apply(cluster, inverse, 0.3))


def test_a_node_that_only_says_that_it_is_ready_is_not_back(world: World, tmp_path: Path) -> None:
    """For 40 s a node without power is Ready in the API; the power is given back before."""
    api, cluster, _ = world
    lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/body2"
    api.put(lease, spec={"renewTime": "10:00:00"})
    (inverse,) = planned(named(cluster, str(script(tmp_path, "true"))))
    assert "nothing was heard of it since" in str(undo.apply(cluster, inverse, 0.3))
    real = api.answer

    def renewed(
        method: str, path: str, query: dict[str, str], body: Any, content_type: str
    ) -> tuple[int, dict[str, Any]]:
        if api.seen.count(("GET", NODE)) > asked + 3:
            api.objects[lease]["spec"] = {"renewTime": "10:00:07"}
        return real(method, path, query, body, content_type)

    asked = api.seen.count(("GET", NODE))
    api.answer = renewed  # type: ignore[method-assign]
    assert undo.apply(cluster, inverse, 5) is None
    api.answer = real  # type: ignore[method-assign]
    api.refuse = lambda method, path: (403, "Forbidden", "no") if path == lease else None
    assert undo.apply(cluster, inverse, 0.3) is None, (
        "who may not read leases has the node's own word, where it gives no time"
    )
