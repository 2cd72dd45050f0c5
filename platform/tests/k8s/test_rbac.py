"""The two roles of `gitops/rbac`: enough for what they are for, and not one right too many."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock import permissions, preflight, settings
from aftershock.cluster import Cluster
from aftershock.errors import Forbidden
from aftershock.experiment import load
from aftershock.undo import UndoJournal

from .conftest import PROJECT, Bed, until
from .kubectl import kubectl

Rules = tuple[dict[str, Any], ...]
SHOP = "/api/v1/namespaces/shop"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@dataclass(frozen=True)
class Right:
    """The smallest thing that can be granted."""

    everywhere: bool
    group: str
    resource: str
    verb: str
    name: str = ""

    def __str__(self) -> str:  # as a refusal says it
        group = f".{self.group}" if self.group else ""
        where = "" if self.everywhere else " in shop"
        return f"{self.verb} {self.resource}{group}{f' {self.name}' if self.name else ''}{where}"

    def meant_by(self, told: str) -> bool:
        """True if a refusal speaks of this right."""
        return told == str(self) or f'cannot {self.verb} resource "{self.resource.partition("/")[0]}' in told

    def allowed(self, cluster: Cluster) -> bool:
        resource, _, sub = self.resource.partition("/")
        return cluster.allowed(self.verb, self.group, resource, None if self.everywhere else "shop", sub, self.name)

    @property
    def rule(self) -> dict[str, Any]:
        names = {"resourceNames": [self.name]} if self.name else {}
        return {"apiGroups": [self.group], "resources": [self.resource], "verbs": [self.verb], **names}


def rights(role: str) -> list[Right]:
    """All that a file of `gitops/rbac` grants."""
    found = []
    for obj in yaml.safe_load_all((PROJECT / f"gitops/rbac/{role}.yaml").read_text()):
        if obj["kind"] in ("Role", "ClusterRole"):
            found += [
                Right(obj["kind"] == "ClusterRole", group, resource, verb, name)
                for rule in obj["rules"] for group in rule["apiGroups"] for resource in rule["resources"]
                for verb in rule["verbs"] for name in rule.get("resourceNames") or [""]
            ]  # fmt: skip
    return found


def kubeconfig(cluster: Cluster, context: str, account: str, folder: Path) -> tuple[Path, str]:
    """A kubeconfig that holds an account's token, as docs/security.md makes one, and its context."""
    admin = yaml.safe_load(kubectl(context, "config", "view", "--raw", "--minify", "--flatten"))
    token = kubectl(context, "-n", "shop", "create", "token", account, "--duration=1h").strip()
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": account, "clusters": admin["clusters"],
        "users": [{"name": account, "user": {"token": token}}],
        "contexts": [{"name": account, "context": {"cluster": admin["clusters"][0]["name"], "user": account, "namespace": "shop"}}],
    }  # fmt: skip
    path = folder / f"{account}.yaml"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))
    return path, account


class Trial:
    """An account of the test's own whose rights can be changed at will."""

    def __init__(self, admin: Cluster) -> None:
        self.admin = admin
        self.name = "test-trial"
        about = {"metadata": {"name": self.name}}
        subject = {"kind": "ServiceAccount", "name": self.name, "namespace": "shop"}
        self.made = [f"{SHOP}/serviceaccounts", *(f"{base}/{kind}" for base, kind in (
            (f"{RBAC}/namespaces/shop", "roles"), (RBAC, "clusterroles"),
            (f"{RBAC}/namespaces/shop", "rolebindings"), (RBAC, "clusterrolebindings")))]  # fmt: skip
        self.remove()
        admin.request("POST", self.made[0], body=about)
        for path, kind in ((self.made[1], "Role"), (self.made[2], "ClusterRole")):
            admin.request("POST", path, body={**about, "rules": []})
            binding = {**about, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": self.name},
                       "subjects": [subject]}  # fmt: skip
            admin.request("POST", path.replace("roles", "rolebindings"), body=binding)

    def grant(self, granted: list[Right]) -> None:
        for path, everywhere in ((self.made[1], False), (self.made[2], True)):
            rules = [r.rule for r in granted if r.everywhere is everywhere]
            self.admin.request(
                "PATCH", f"{path}/{self.name}", body={"rules": rules}, content_type="application/merge-patch+json"
            )

    def remove(self) -> None:
        for path in self.made:
            if any(o["metadata"]["name"] == self.name for o in self.admin.list(path)):
                self.admin.request("DELETE", f"{path}/{self.name}")


@pytest.fixture
def trial(cluster: Cluster) -> Iterator[Trial]:
    made = Trial(cluster)
    try:
        yield made
    finally:
        made.remove()


# Between them they ask for all that preflight can ask for.
EXPERIMENTS = ("payments-pod-kill", "body2-drain", "shipping-delete", "node-loss")
TWINS = ("payments-single-replica", "no-pdb", "database-without-volume")
# Not asked for in preflight, since a run goes on without: a gap in the traces, another way to the shop.
ONLY_BETTER = {"create pods/portforward in shop", "get pods/portforward in shop"}
# Chaos Mesh is not on every cluster; where it is, the faults of its own are asked for like the others.
CHAOS_MESH = "chaos-mesh.org"


def missing(cluster: Cluster, folder: Path, name: str) -> set[str]:
    """What preflight of one experiment says that an account may not do."""
    found: set[str] = set()
    experiment = load(PROJECT / f"experiments/{name}.yaml")
    also = [
        *(need for twin in TWINS for need in permissions.of_weakness(cluster, experiment, twin)),
        *permissions.of_load(cluster, ["shop"]),
    ]
    with UndoJournal.of(settings.read({"XDG_STATE_HOME": str(folder)})) as journal:
        checked = preflight.check(experiment, cluster, journal, unleash=True, also=also)
    for finding in checked.refusals:
        said = finding.summary.removeprefix("these credentials may not ")
        if said != finding.summary:
            found |= set(said.split("; "))
        elif "is forbidden" in said:
            found.add(said)
    return found


@pytest.mark.parametrize("role", ["look", "break"])
def test_each_right_is_needed(trial: Trial, cluster_context: str, cluster: Cluster, tmp_path: Path, role: str) -> None:
    """Without any one of them preflight says which one, and nothing else."""
    base = rights("look") if role == "look" else [*rights("look"), *rights("break")]
    assert len(base) == len(set(base)), "a right is granted twice"
    path, context = kubeconfig(cluster, cluster_context, trial.name, tmp_path)
    env = {**os.environ, "KUBECONFIG": str(path), "XDG_STATE_HOME": str(tmp_path), "AFTERSHOCK_NODE_POWER": "true"}
    mine = Cluster.connect(context, settings.read(env))  # nothing is fired here, so any program does for a node's power
    mesh = cluster.served("chaos-mesh.org/v1alpha1", "NetworkChaos") is not None
    try:
        trial.grant(base)
        until(lambda: all(r.allowed(mine) for r in base), 20)
        known = {name: missing(mine, tmp_path, name) for name in EXPERIMENTS}
        assert role == "look" or not any(known.values())
        wrong = {}
        for right in rights(role):
            if str(right) in ONLY_BETTER or (right.group == CHAOS_MESH and not mesh):
                continue
            trial.grant([r for r in base if r != right])
            until(lambda right=right: not right.allowed(mine), 20, lambda right=right: f"{right}: granted twice")  # type: ignore[misc]
            more = (missing(mine, tmp_path, name) - known[name] for name in EXPERIMENTS)
            told = next((found for found in more if found), set())
            if not told or not all(right.meant_by(one) for one in told):
                wrong[str(right)] = told
        assert wrong == {}
    finally:
        mine.close()


def test_who_may_look_may_check_and_nothing_else(cluster_context: str, cluster: Cluster, bed: Bed) -> None:
    path, context = kubeconfig(cluster, cluster_context, "aftershock-look", bed.folder)
    experiment = str(PROJECT / "experiments/body2-drain.yaml")
    said = bed.call("check", experiment, "--on", context, code=2, KUBECONFIG=str(path))
    assert "Node body2" in said
    assert "patch nodes" in said
    assert "create pods/eviction in shop" in said
    look = Cluster.connect(
        context, settings.read({**os.environ, "KUBECONFIG": str(path), "XDG_STATE_HOME": str(bed.state)})
    )
    try:
        pod = look.list(f"{SHOP}/pods")[0]["metadata"]["name"]
        for method, what in (
            ("DELETE", f"pods/{pod}"),
            ("GET", "secrets/operator"),
            ("GET", "secrets"),
            ("GET", "configmaps"),
        ):
            with pytest.raises(Forbidden):
                look.request(method, f"{SHOP}/{what}")
    finally:
        look.close()


def test_who_may_break_runs_a_whole_experiment(cluster_context: str, cluster: Cluster, bed: Bed) -> None:
    path, context = kubeconfig(cluster, cluster_context, "aftershock-break", bed.folder)
    name = "payments-pod-kill"
    run = bed.run(PROJECT / f"experiments/{name}.yaml", on=context, KUBECONFIG=str(path))
    run.wait(120)
    verdict, evidence = bed.verdict(name), bed.document(name, "evidence.json")
    assert run.returncode == 0, [f["summary"] for f in verdict["findings"] if f["outcome"] != "PASS"]
    (fault,) = evidence["faults"]
    assert None not in (fault["steps"]["observed"], fault["steps"]["recovered"])
    assert {r["outcome"] for r in bed.document(name, "invariants.json")["results"]} == {"PASS"}
    assert "forbidden" not in str(verdict) + str(evidence)
    assert "may not" not in str(verdict)
    breaker = Cluster.connect(
        context, settings.read({**os.environ, "KUBECONFIG": str(path), "XDG_STATE_HOME": str(bed.state)})
    )
    try:
        token = breaker.request("GET", f"{SHOP}/secrets/operator")["data"]["token"]
        assert base64.b64decode(token)
        for method, what in (
            ("GET", f"{SHOP}/secrets/postgres"), ("GET", f"{SHOP}/secrets"), ("GET", "/api/v1/namespaces/kube-system/secrets"),
            ("DELETE", "/api/v1/nodes/none"), ("DELETE", SHOP), ("DELETE", f"{SHOP}/services/payments"),
            ("DELETE", "/api/v1/namespaces/kube-system/pods/none"), ("GET", f"{RBAC}/clusterroles"),
        ):  # fmt: skip
            with pytest.raises(Forbidden):
                breaker.request(method, what)
    finally:
        breaker.close()
