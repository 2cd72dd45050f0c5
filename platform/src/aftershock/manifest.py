"""`run.json`: what was tested, where, with which versions."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from aftershock import __version__
from aftershock.cluster import Cluster
from aftershock.experiment import Experiment

PACKAGES = (
    "chaostoolkit",
    "chaostoolkit-lib",
    "chaostoolkit-kubernetes",
    "kubernetes",
    "k6",
    "locust",
    "ladybug",
    "xllamacpp",
    "fastapi",
)
GIT_S = 5.0


def versions() -> dict[str, str | None]:
    """Versions of aftershock and of what the run's outcome may depend on."""
    found: dict[str, str | None] = {"aftershock": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout around a file, with `-dirty` where files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=GIT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit:
        return None
    return commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")


def images(cluster: Cluster, namespaces: Sequence[str]) -> dict[str, str | None]:
    """Each image that runs in the namespaces, with the digest that the cluster names (None if it names none)."""
    found: dict[str, str | None] = {}
    for namespace in namespaces:
        for pod in cluster.list(f"/api/v1/namespaces/{namespace}/pods"):
            for status in (pod.get("status") or {}).get("containerStatuses") or []:
                found[str(status.get("image"))] = status.get("imageID") or None
    return dict(sorted(found.items()))


def of(
    experiment: Experiment, run_id: str, started_us: int, *, ended_us: int | None = None, weakness: str | None = None,
    cluster: Cluster | None = None, target_url: str | None = None,
    load: Mapping[str, Any] | None = None, windows: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The document, as far as it is known; `more` replaces keys that only a running cluster can tell."""
    identity = cluster.identity if cluster else None
    return {
        "run_id": run_id, "experiment": experiment.name, "title": experiment.title, "started_us": started_us, "ended_us": ended_us,
        "seed": experiment.seed, "expect": experiment.expect, "weakness": weakness,
        "cluster": None if identity is None else {
            "kind": identity.kind, "context": identity.context, "server_version": identity.server_version,
            "fingerprint": identity.fingerprint, "nodes": list(identity.nodes), "own": identity.own,
        },
        "git_commit": git_commit(experiment.path.resolve().parent), "versions": versions(), "images": {},
        "clock": {"offset_us": None, "source": "not measured"},
        "load": {"tool": experiment.load.tool, "scenario": experiment.load.scenario.name,
                 "rate_per_s": experiment.load.rate_per_s, "target_url": target_url, **(load or {})},
        "windows": dict(windows or {}), "topology": {"calls": [], "pods": []}, "unenforced": [], **(more or {}),
    }  # fmt: skip
