"""Tests on the Kubernetes of $KUBECONFIG, where the shop of `gitops/apps` runs; what a test leaves there fails it.

Two programs do what no API can: $AFTERSHOCK_NODE_POWER (called as `PROGRAM off NODE` and `PROGRAM on NODE`), and $AFTERSHOCK_TEST_API,
which freezes the API server (it takes connections and answers nothing), says `frozen`, and lets it go on once its own standard input
ends, at most 90 s later, so that no test that dies leaves it frozen. A test that needs one that is not there is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock import between, settings, testbed
from aftershock.actions import current_context
from aftershock.cluster import Cluster
from aftershock.errors import ClusterError
from aftershock.undo import AWAY, UndoJournal

PROJECT = Path(__file__).parents[3]
SHOP = "/api/v1/namespaces/shop"
OURS = "app.kubernetes.io/part-of=aftershock"
RUN_S = 200
CLEAN_S = 30
HEALTHY_S = 90
CALM_S = 12  # longer than the shop's pods stay on a node that was given up


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever is in this folder runs on a real cluster."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.k8s)


@pytest.fixture(scope="session")
def programs() -> dict[str, str]:
    """The environment variables that name what can be done to this cluster from below."""
    return {name: os.environ[name] for name in ("AFTERSHOCK_NODE_POWER", "AFTERSHOCK_TEST_API") if name in os.environ}


@pytest.fixture(scope="session")
def cluster_context() -> str:
    """The context to run on: $AFTERSHOCK_TEST_CONTEXT, or the current one of $KUBECONFIG."""
    listed = os.environ.get("KUBECONFIG")
    if not listed:
        pytest.fail("KUBECONFIG names no cluster: make test-k8s KUBECONFIG=...", pytrace=False)
    return os.environ.get("AFTERSHOCK_TEST_CONTEXT") or current_context(listed)


@pytest.fixture(scope="session")
def cluster(cluster_context: str) -> Iterator[Cluster]:
    """The tests' own way to the cluster, with all of its user's rights."""
    connected = Cluster.connect(cluster_context, settings.read(os.environ))
    yield connected
    connected.close()


class Bed:
    """The command line in a folder and with a state of its own, pointed at the cluster."""

    def __init__(self, folder: Path, context: str, cluster: Cluster, programs: dict[str, str]) -> None:
        self.folder, self.context, self.cluster, self.programs = folder, context, cluster, programs
        self.reports, self.state = folder / "reports", folder / "state"
        self.env = {**os.environ, "XDG_STATE_HOME": str(self.state), "NO_COLOR": "1", **programs}
        self.started: list[subprocess.Popen[str]] = []
        for name in ("scenarios", "gitops"):
            (folder / name).symlink_to(PROJECT / name)

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Begin a command; `out` and `err` of it are files beside the reports."""
        number = len(self.started)
        with (self.folder / f"{number}.out").open("w") as out, (self.folder / f"{number}.err").open("w") as err:
            process = subprocess.Popen([sys.executable, "-m", "aftershock.cli", *arguments], env={**self.env, **env},
                                       cwd=self.folder, text=True, stdout=out, stderr=err)  # fmt: skip
        self.started.append(process)
        return process

    def said(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """What a command has written so far."""
        number = self.started.index(process)
        return (self.folder / f"{number}.out").read_text(), (self.folder / f"{number}.err").read_text()

    def during(self, process: subprocess.Popen[str], condition: Callable[[], object], deadline_s: float = 60) -> float:
        """Wait until a condition holds while a command works; its end, or the deadline, fails with its last words."""

        def told() -> str:
            return self.said(process)[1][-2000:]

        def now() -> object:
            return condition() or (process.poll() is not None and pytest.fail(f"it ended too early\n{told()}"))

        return until(now, deadline_s, told)

    def call(self, *arguments: str, code: int | None = 0, **env: str) -> str:
        """Run a command to its end; returns what it printed."""
        process = self.start(*arguments, **env)
        process.wait(RUN_S)
        out, err = self.said(process)
        assert code is None or process.returncode == code, f"{process.returncode}\n{out}\n{err[-3000:]}"
        return out

    def run(self, path: Path, *more: str, on: str | None = None, **env: str) -> subprocess.Popen[str]:
        """Begin a run of an experiment, off the leash."""
        return self.start("run", str(path), "--on", on or self.context, "--unleash", "--model", "none", *more, **env)

    def verdict(self, name: str) -> dict[str, Any]:
        """What the newest run of an experiment came to."""
        return self.document(name, "verdict.json")

    def document(self, name: str, file: str) -> dict[str, Any]:
        """A JSON file of the newest run of an experiment."""
        found: dict[str, Any] = json.loads((self.reports / name / "latest" / file).read_text())
        return found

    def variant(self, base: str, name: str, **changes: Any) -> Path:
        """An experiment of the project with other windows, another provider or arguments of its action, or keys of the extension."""
        document = yaml.safe_load((PROJECT / "experiments" / f"{base}.yaml").read_text())
        extension = document["extensions"][0]
        for key, value in changes.items():
            if key == "arguments":
                document["method"][0]["provider"]["arguments"].update(value)
            elif key == "probes":
                document["steady-state-hypothesis"]["probes"] = [
                    p for p in document["steady-state-hypothesis"]["probes"] if p["name"] in value
                ]
            elif key == "provider":
                document["method"][0]["provider"] = {"type": "python", **value}
            elif key == "load":
                extension["load"].update(value)
            else:
                extension[key] = value
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    def program(self, variable: str, *words: str) -> None:
        """Do something to the cluster that no API can."""
        subprocess.run([self.programs[variable], *words], check=True, timeout=150, stdout=subprocess.DEVNULL)

    def left(self) -> list[str]:
        """What aftershock made or changed and has not taken back."""
        ask = self.cluster.list
        nodes = [n["metadata"]["name"] for n in ask("/api/v1/nodes") if n["spec"].get("unschedulable")]
        leases = [x["metadata"]["name"] for x in ask("/apis/coordination.k8s.io/v1/namespaces/shop/leases")]
        slices = ask("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices",
                     label_selector="endpointslice.kubernetes.io/managed-by=aftershock")  # fmt: skip
        found = [*(f"cordon of {n}" for n in nodes), *(f"lease {n}" for n in leases),
                 *(f"endpoints {s['metadata']['name']}" for s in slices)]  # fmt: skip
        for path in (f"{SHOP}/pods", f"{SHOP}/configmaps", "/apis/batch/v1/namespaces/shop/jobs", "/api/v1/namespaces"):
            found += [f"{path.rpartition('/')[2]} {o['metadata']['name']}" for o in ask(path, label_selector=OURS)]
        if self.cluster.served("chaos-mesh.org/v1alpha1", "NetworkChaos"):
            found += [c["metadata"]["name"] for c in ask("/apis/chaos-mesh.org/v1alpha1/networkchaos")]
        with UndoJournal.of(settings.read(self.env)) as journal:
            found += [f"journal: {e.inverse.what or e.action}" for e in journal.pending()]
        return found

    def clean(self) -> None:
        """Wait until nothing is left in the cluster, or fail saying what is."""
        until(lambda: not self.left(), CLEAN_S, lambda: f"left behind: {self.left()}")

    def nodes_trouble(self) -> str:
        """What is wrong with a node: not Ready, or about to lose its pods."""
        for node in self.cluster.list("/api/v1/nodes"):
            name = node["metadata"]["name"]
            ready = {c["type"]: c["status"] for c in node["status"].get("conditions") or []}.get("Ready")
            if ready != "True":
                return f"node {name} is {ready}"
            if leaving := [t["key"] for t in node["spec"].get("taints") or [] if t["key"] in AWAY]:
                return f"node {name} has taints {leaving}"
        return ""

    def calm(self) -> None:
        """Wait until the nodes have been well for a while: whom the API server has not heard for long it gives up, and takes back later."""
        since = time.monotonic()

        def long_enough() -> bool:
            nonlocal since
            if self.nodes_trouble():
                since = time.monotonic()
            return time.monotonic() - since > CALM_S

        until(long_enough, HEALTHY_S, self.nodes_trouble)

    def healthy(self) -> None:
        """Wait until every node and pod of the shop is well, with the pods of each service on more than one node."""

        until(lambda: not self.nodes_trouble(), HEALTHY_S, self.nodes_trouble)
        kinds = (("Deployment", "deployments"), ("StatefulSet", "statefulsets"))
        workloads = [{"apiVersion": "apps/v1", "kind": kind, **w} for kind, plural in kinds
                     for w in self.cluster.list(f"/apis/apps/v1/namespaces/shop/{plural}")]  # fmt: skip
        if not workloads:
            pytest.fail("there is no shop in namespace shop: kubectl apply -k gitops/apps/k3s", pytrace=False)
        testbed.wait_ready(self.cluster, workloads, HEALTHY_S, lambda text, done: None)
        between.spread(self.cluster, "shop", lambda text, done: None)


def until(condition: Callable[[], object], deadline_s: float, told: Callable[[], str] = lambda: "") -> float:
    """Wait until a condition holds and return how long it took, or fail; an API server that is away does not end the wait."""
    begun = time.monotonic()
    while True:
        try:
            if condition():
                return time.monotonic() - begun
        except ClusterError as error:
            if time.monotonic() > begun + deadline_s:
                pytest.fail(f"not within {deadline_s:g} s: {error}")
        if time.monotonic() > begun + deadline_s:
            pytest.fail(f"not within {deadline_s:g} s: {told()}")
        time.sleep(0.1)


@pytest.fixture
def healthy(
    tmp_path_factory: pytest.TempPathFactory, cluster_context: str, cluster: Cluster, programs: dict[str, str]
) -> Bed:
    """A healthy shop before."""
    made = Bed(tmp_path_factory.mktemp("k8s"), cluster_context, cluster, programs)
    made.healthy()
    return made


@pytest.fixture
def bed(healthy: Bed) -> Iterator[Bed]:
    """A healthy shop before, and nothing left after: no fault, cordon, Job, load pod, lease, endpoints or namespace of ours."""
    try:
        yield healthy
    finally:
        for process in healthy.started:  # what a test that failed left running
            if process.poll() is None:
                process.kill()
                process.wait()
    try:
        healthy.clean()
    finally:
        if healthy.left():  # one test fails for it, not all that follow
            healthy.call("undo", "--on", healthy.context, code=None)
