"""A local cluster with the shop on it, for `demo` and for experiments as tests: `up`, deploy, `down`.

`run` never does this: it tests what is there.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftershock import manifests
from aftershock.cluster import Cluster
from aftershock.errors import AftershockError, ClusterError, DeadlineExceeded, Refused
from aftershock.settings import Settings

Progress = Callable[[str, float], None]  # what is under way, and how much of it is done (0 to 1)
UP_S, READY_S, DOWN_S = 60.0, 90.0, 30.0
MANAGER = "aftershock-testbed"
NAMESPACE = "shop"


@dataclass(frozen=True)
class Testbed:
    """A project folder's own local cluster; its name follows from the folder, so two checkouts never share one."""

    __test__ = False  # pytest: this is no test class

    project: Path
    name: str

    @classmethod
    def of(cls, project: Path, purpose: str) -> Testbed:
        """The testbed of a project folder (the one that holds gitops/) for one purpose: `testbed`, `demo`, `pytest`."""
        resolved = project.resolve()
        return cls(resolved, f"{purpose}-{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}")

    def up(self, *, owned: bool) -> None:
        """Start the cluster, or end a broken one and start anew; returns when its nodes are Ready.

        An owned one ends by itself when this process does, however that happens.
        """
        images = self.project / "gitops/apps/pocket/images.yaml"
        owner = ("--owner", str(os.getpid())) if owned else ()
        self.pocketkube("up", "--images", str(images), *owner, deadline_s=UP_S)

    def down(self) -> None:
        """End the cluster and everything in it."""
        self.pocketkube("down", deadline_s=DOWN_S)

    def pocketkube(self, verb: str, *arguments: str, deadline_s: float) -> str:
        """Run one pocketkube command on this cluster. Raises AftershockError with its own words."""
        command = [sys.executable, "-m", "pocketkube.cli", verb, "--name", self.name, *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=deadline_s, check=False, env=os.environ
            )
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(f"pocketkube {verb} did not end within {deadline_s:g} s") from None
        if done.returncode:
            said = done.stderr.strip().splitlines()[-6:]
            raise AftershockError(f"pocketkube {verb} ended with {done.returncode}: {' / '.join(said)}")
        return done.stdout


def deploy(cluster: Cluster, folder: Path, progress: Progress) -> None:
    """Apply the manifests below `folder` with fresh secrets, and wait until every Deployment and StatefulSet is ready."""
    objects = manifests.render(folder)
    namespaces = [o for o in objects if o["kind"] == "Namespace"]
    cluster.apply(namespaces, MANAGER)
    for namespace in namespaces:
        ensure_secrets(cluster, namespace["metadata"]["name"])
    cluster.apply([o for o in objects if o["kind"] != "Namespace"], MANAGER)
    wait_ready(cluster, [o for o in objects if o["kind"] in ("Deployment", "StatefulSet")], READY_S, progress)


def ensure_secrets(cluster: Cluster, namespace: str) -> None:
    """Make the shop's two Secrets unless they exist; their values are random and never shown."""
    for name, key in (("postgres", "password"), ("operator", "token")):
        body = {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
            "data": {key: base64.b64encode(secrets.token_urlsafe(24).encode()).decode()},
        }  # fmt: skip
        try:
            cluster.request("POST", f"/api/v1/namespaces/{namespace}/secrets", body=body)
        except ClusterError as error:
            if getattr(error, "status", None) != 409:
                raise


def wait_ready(cluster: Cluster, workloads: list[dict[str, Any]], deadline_s: float, progress: Progress) -> None:
    """Wait until each workload has all its replicas ready, in their newest version. Raises DeadlineExceeded naming the rest."""
    ends = time.monotonic() + deadline_s
    while True:
        behind = []
        ready = wanted = 0
        for workload in workloads:
            live = cluster.request("GET", cluster.object_path(workload))
            want, have = int(live["spec"].get("replicas", 1)), _ready(live)
            ready, wanted = ready + min(want, have), wanted + want
            if have < want:
                behind.append(f"{live['kind']}/{live['metadata']['name']} {have}/{want}")
        progress(f"pods ready: {ready} of {wanted}", ready / max(1, wanted))
        if not behind:
            return
        if time.monotonic() > ends:
            raise DeadlineExceeded(f"not ready within {deadline_s:g} s: {', '.join(behind)}",
                                   hint="pocketkube kubeconfig, then kubectl describe pods -n shop")  # fmt: skip
        time.sleep(0.1)


def _ready(live: dict[str, Any]) -> int:
    status = live.get("status") or {}
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return 0
    return min(int(status.get("readyReplicas", 0)), int(status.get("updatedReplicas", 0)))


def start(bed: Testbed, settings: Settings, progress: Progress, *, owned: bool) -> Cluster:
    """Start the cluster of a testbed and deploy the shop on it."""
    bed.up(owned=owned)
    cluster = Cluster.connect(f"pocket:{bed.name}", settings)
    deploy(cluster, bed.project / "gitops/apps/pocket", progress)
    return cluster


@contextmanager
def running(bed: Testbed, settings: Settings, progress: Progress) -> Iterator[Cluster]:
    """A cluster with the shop on it for the length of a `with`; it is ended whatever happens inside.

    Raises Refused if this testbed is in use: whoever is done first would end it under the other.
    """
    with _sole_user(bed, settings):
        progress("starting four nodes", 0.0)
        try:
            yield start(bed, settings, progress, owned=True)
        finally:
            bed.down()


@contextmanager
def _sole_user(bed: Testbed, settings: Settings) -> Iterator[None]:
    settings.state_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (settings.state_folder / f"{bed.name}.lock").open("w") as file:  # the kernel lets it go when its process ends
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"the local cluster {bed.name} of {bed.project} is in use",
                          hint="wait for the other one to end, or use another checkout") from None  # fmt: skip
        yield


def on(cluster: Cluster) -> str:
    """What `--on` calls a pocketkube cluster."""
    return cluster.identity.context.replace("pocketkube-", "pocket:", 1)
