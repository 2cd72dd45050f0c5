"""What goes wrong around a run, on a real cluster: each ends with the truth in the verdict, and the cluster as it was."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock import manifests
from aftershock.cluster import Cluster
from aftershock.errors import NotFound

from .conftest import OURS, PROJECT, SHOP, Bed, until

SHORT = {"rate_per_s": 20, "warm_up_s": 1, "baseline_s": 2, "fault_s": 6, "recovery_s": 3}
PROBES = ["every service has all its replicas"]
NODE = "/api/v1/nodes/body2"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ACCOUNT = "aftershock-break"
BOUND_S = 30.0  # after its schedule a run has ended, whatever does not answer
UNDO_S = 2.0  # after the death of a run its fault is undone


def cordoned(bed: Bed) -> bool:
    return bool(bed.cluster.request("GET", NODE)["spec"].get("unschedulable"))


def cordon(bed: Bed, name: str, **load: float) -> Path:
    """An experiment that takes no pod along, so that what it leaves is the one thing to be seen; how fast the shop is, is not asked."""
    provider = {"module": "chaosk8s.node.actions", "func": "cordon_node", "arguments": {"name": "body2"}}
    slo = [{"journey": "checkout", "indicator": "success_ratio", "min": 0.5, "window": "fault"}]
    return bed.variant("body2-drain", name, provider=provider, slo=slo, probes=PROBES, load={**SHORT, **load})


def reasons(verdict: dict[str, Any], outcome: str = "INCONCLUSIVE") -> str:
    return "\n".join(f"{f['rule']}: {f['summary']}" for f in verdict["findings"] if f["outcome"] == outcome)


def passed(verdict: dict[str, Any], *rules: str) -> bool:
    return all(f["outcome"] == "PASS" for f in verdict["findings"] if f["rule"] in rules)


def late_s(bed: Bed, name: str) -> float:
    """How long after the end of its schedule a run had ended."""
    run = bed.document(name, "run.json")
    return float(run["ended_us"] - run["windows"]["recovery"]["to_us"]) / 1e6


@contextmanager
def frozen(bed: Bed) -> Iterator[None]:
    """An API server that answers nothing and takes connections all the same, the worst of all."""
    if "AFTERSHOCK_TEST_API" not in bed.programs:
        pytest.skip("AFTERSHOCK_TEST_API names no program that freezes the API server")
    program = [bed.programs["AFTERSHOCK_TEST_API"]]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "frozen\n"
        try:
            yield
        finally:
            process.stdin.close()
            assert process.wait(30) == 0


def test_killed_in_mid_drain(bed: Bed) -> None:
    run = bed.run(bed.variant("body2-drain", "killed", probes=PROBES, load=SHORT))
    bed.during(run, lambda: cordoned(bed))
    run.kill()
    run.wait()
    killed = time.monotonic()
    until(lambda: not cordoned(bed), 10)
    assert time.monotonic() - killed < UNDO_S
    bed.clean()
    assert bed.call("undo", "--on", bed.context).strip() == "nothing to undo"
    following = bed.variant("payments-pod-kill", "next")
    assert "may fire" in bed.call("check", str(following), "--on", bed.context, "--unleash")


def test_the_api_server_is_away_for_twenty_seconds_of_a_fault(bed: Bed) -> None:
    run = bed.run(cordon(bed, "away", fault_s=8, recovery_s=15))
    bed.during(run, lambda: cordoned(bed))
    with frozen(bed):
        time.sleep(20)
    assert run.wait(120) == 2, bed.said(run)
    verdict = bed.verdict("away")
    assert verdict["verdict"] == "INCONCLUSIVE", reasons(verdict, "FAIL")
    assert "the API server did not answer" in reasons(verdict)
    assert not reasons(verdict, "FAIL"), "what a cluster without its API server does is not the shop's fault"
    evidence = bed.document("away", "evidence.json")
    (watch,) = [o for o in evidence["observers"] if o["name"] == "watch"]
    assert sum(g["to_us"] - g["from_us"] for g in watch["gaps"]) > 17e6
    assert [f["steps"]["observed"]["source"] for f in evidence["faults"]] == ["watch"], (
        "what was seen before stays seen"
    )
    assert evidence["undo"]["pending"] == 0
    assert late_s(bed, "away") < BOUND_S
    bed.clean()


def test_the_api_server_does_not_come_back_while_the_run_lasts(bed: Bed) -> None:
    run = bed.run(cordon(bed, "gone", fault_s=4, recovery_s=2))
    bed.during(run, lambda: cordoned(bed))
    with frozen(bed):
        assert run.wait(100) == 2, bed.said(run)
    thawed = time.monotonic()
    until(lambda: not cordoned(bed), 20)
    assert time.monotonic() - thawed < 5.0, "the watchdog has waited for it"
    verdict = bed.verdict("gone")
    assert verdict["verdict"] == "INCONCLUSIVE", reasons(verdict, "FAIL")
    assert "uncordon node body2: the API server does not answer" in reasons(verdict)
    assert "the API server did not answer when the run ended" in reasons(verdict)
    (undo,) = [f for f in verdict["findings"] if f["rule"] == "undo"]
    assert "aftershock undo" in undo["hint"]
    assert late_s(bed, "gone") < BOUND_S, bed.said(run)[1]
    bed.clean()
    assert bed.call("undo", "--on", bed.context).strip() == "nothing to undo"
    bed.calm()


# Credentials of an account that has no more rights than a run needs


@dataclass
class Account:
    """The account `aftershock-break` of `gitops/rbac`; each of its tokens ends with the Secret that it is bound to."""

    cluster: Cluster
    folder: Path

    def token(self, secret: str) -> str:
        """A token that `revoke` ends."""
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret, "namespace": "shop"}}
        made = self.cluster.request("POST", f"{SHOP}/secrets", body=body)
        bound = {"kind": "Secret", "apiVersion": "v1", "name": secret, "uid": made["metadata"]["uid"]}
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                 "spec": {"expirationSeconds": 600, "boundObjectRef": bound}}  # fmt: skip
        told = self.cluster.request("POST", f"{SHOP}/serviceaccounts/{ACCOUNT}/token", body=asked)
        return str(told["status"]["token"])

    def revoke(self, secret: str) -> None:
        """End the token that is bound to this Secret."""
        self.cluster.request("DELETE", f"{SHOP}/secrets/{secret}")

    def kubeconfig(self, user: dict[str, Any], context: str) -> str:
        """The same cluster for another user, under another name."""
        own = self.folder / "own"
        own.mkdir(exist_ok=True)
        document = yaml.safe_load(self.cluster.kubeconfig_for_child(own).read_text())
        document["users"][0]["user"] = user
        for section in ("clusters", "users", "contexts"):
            document[section][0]["name"] = context
        document["contexts"][0]["context"] = {"cluster": context, "user": context, "namespace": "shop"}
        path = self.folder / f"{context}.kubeconfig"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            yaml.safe_dump(document | {"current-context": context}, file)
        return str(path)

    def grant(self) -> None:
        """Give it its rights (again)."""
        self.cluster.apply(manifests.render(PROJECT / "gitops/rbac"), "aftershock-tests")

    def deny(self) -> None:
        """Take its right to break away, not that to look."""
        for path in (f"{RBAC}/namespaces/shop/rolebindings", f"{RBAC}/clusterrolebindings"):
            self.cluster.request("DELETE", f"{path}/{ACCOUNT}")


@pytest.fixture
def account(bed: Bed) -> Iterator[Account]:
    """The account with its rights; what was not there before goes again."""
    objects = manifests.render(PROJECT / "gitops/rbac")
    new = [obj for obj in objects if not _exists(bed.cluster, obj)]
    made = Account(bed.cluster, bed.folder)
    made.grant()
    yield made
    made.grant()
    for obj in reversed(new):
        bed.cluster.delete(obj)
    for secret in bed.cluster.list(f"{SHOP}/secrets"):
        if secret["metadata"]["name"].startswith("aftershock-test-"):
            made.revoke(secret["metadata"]["name"])


def _exists(cluster: Cluster, obj: dict[str, Any]) -> bool:
    try:
        cluster.request("GET", cluster.object_path(obj))
    except NotFound:
        return False
    return True


def a_secret() -> str:
    return f"aftershock-test-{secrets.token_hex(4)}"


def test_a_token_that_ends_in_mid_run(bed: Bed, account: Account) -> None:
    secret = a_secret()
    config = account.kubeconfig({"token": account.token(secret)}, "ends")
    path = cordon(bed, "revoked", fault_s=8, recovery_s=2)
    run = bed.run(path, on="ends", KUBECONFIG=config)
    bed.during(run, lambda: cordoned(bed))
    account.revoke(secret)
    assert run.wait(120) == 2, bed.said(run)
    verdict = bed.verdict("revoked")
    assert verdict["verdict"] == "INCONCLUSIVE", reasons(verdict, "FAIL")
    (undo,) = [f for f in verdict["findings"] if f["rule"] == "undo"]
    assert "uncordon node body2" in undo["summary"]
    assert "401" in undo["summary"]
    assert "fresh credentials" in undo["hint"]
    assert late_s(bed, "revoked") < BOUND_S
    refused = bed.call("check", str(path), "--on", bed.context, "--unleash", code=2)
    assert "not undone" in refused, "the same cluster by another name"
    assert cordoned(bed)
    assert "uncordon node body2" in bed.call("undo", "--on", bed.context), "with credentials that are good"
    bed.clean()
    assert not cordoned(bed)


def test_a_token_file_that_is_rewritten_and_a_second_run(bed: Bed, account: Account) -> None:
    first, second, file = a_secret(), a_secret(), bed.folder / "token"
    file.write_text(account.token(first))
    config = account.kubeconfig({"tokenFile": str(file)}, "renewed")
    run = bed.run(cordon(bed, "renewed", fault_s=12), on="renewed", KUBECONFIG=config)
    bed.during(run, lambda: cordoned(bed))
    file.write_text(account.token(second))
    account.revoke(first)
    other = {"XDG_STATE_HOME": str(bed.folder / "another")}  # as on another machine, and by another name of the cluster
    bed.call("run", str(bed.variant("payments-pod-kill", "second", load=SHORT)), "--on", bed.context, "--unleash",
             "--model", "none", code=2, **other)  # fmt: skip
    told = reasons(bed.verdict("second"))
    assert f"another run works in namespace shop: {bed.document('renewed', 'run.json')['run_id']} on " in told
    assert ", since 20" in told
    assert not (bed.reports / "second" / "latest" / "samples.parquet").exists(), "no customer came"
    run.wait(120)
    verdict = bed.verdict("renewed")
    assert passed(verdict, "observers", "undo", "activities", "observed", "invariants"), bed.said(run)
    bed.clean()


def test_permission_that_is_lost_in_mid_run(bed: Bed, account: Account) -> None:
    config = account.kubeconfig({"token": account.token(a_secret())}, "denied")
    run = bed.run(cordon(bed, "denied", recovery_s=2), on="denied", KUBECONFIG=config)
    bed.during(run, lambda: cordoned(bed))
    account.deny()
    assert run.wait(120) == 2, bed.said(run)
    verdict = bed.verdict("denied")
    assert verdict["verdict"] == "INCONCLUSIVE", reasons(verdict, "FAIL")
    (undo,) = [f for f in verdict["findings"] if f["rule"] == "undo"]
    assert "403" in undo["summary"]
    assert "nodes" in undo["summary"]
    assert "invariants" in reasons(verdict), "the ledger may not be read any more"
    assert late_s(bed, "denied") < BOUND_S
    account.grant()
    until(lambda: not cordoned(bed), 20)  # by the watchdog, which has tried ever since
    bed.clean()


def test_a_node_that_never_comes_back(bed: Bed) -> None:
    if "AFTERSHOCK_NODE_POWER" not in bed.programs:
        pytest.skip("AFTERSHOCK_NODE_POWER names no program that cuts a node's power")
    broken = bed.folder / "switch"
    broken.write_text(f'#!/bin/sh\n[ "$1" = on ] || exec {bed.programs["AFTERSHOCK_NODE_POWER"]} "$@"\n')
    broken.chmod(0o700)
    load = {**SHORT, "fault_s": 6, "recovery_s": 2}
    slo = [{"journey": "checkout", "indicator": "success_ratio", "min": 0.01, "window": "fault"}]
    path = bed.variant("node-loss", "lost", probes=PROBES, slo=slo, load=load, recovery_deadline_s=5)
    try:
        run = bed.run(path, AFTERSHOCK_NODE_POWER=str(broken))
        assert run.wait(180) == 2, bed.said(run)
        verdict = bed.verdict("lost")
        assert verdict["verdict"] == "INCONCLUSIVE", reasons(verdict, "FAIL")
        (undo,) = [f for f in verdict["findings"] if f["rule"] == "undo"]
        assert "power on node body2: not seen to have worked" in undo["summary"]
        assert "a node that is back" in undo["hint"]
        assert late_s(bed, "lost") < BOUND_S + 30, (
            "an undo is waited for as long as the recovery may take, 30 s at least"
        )
        refused = bed.call("check", str(path), "--on", bed.context, "--unleash", code=2)
        assert "not undone" in refused
        told = bed.call("undo", "--on", bed.context, "--wait", "3", code=2)
        assert "failed   node-power-off" in told
        assert "power on node body2: not seen to have worked within 3 s" in told
    finally:
        bed.program("AFTERSHOCK_NODE_POWER", "on", "body2")
    assert "done" in bed.call("undo", "--on", bed.context)
    bed.clean()


def test_nothing_of_ours_is_counted_as_left_when_nothing_is(bed: Bed) -> None:
    """And what is left is counted: the check after every test says no."""
    assert bed.left() == []
    label = dict([OURS.split("=")])
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "aftershock-test", "labels": label}}
    bed.cluster.request("POST", f"{SHOP}/configmaps", body=body)
    try:
        assert bed.left() == ["configmaps aftershock-test"]
    finally:
        bed.cluster.request("DELETE", f"{SHOP}/configmaps/aftershock-test")
