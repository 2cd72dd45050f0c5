"""Weak twins: the named weaknesses of `gitops/apps/weak/`, switched on in a running cluster and off again through the undo journal.

A weakness is a kustomization whose patches name live objects; each is applied as a strategic merge patch, its exact inverse first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from aftershock import targets, undo
from aftershock.errors import BadInput, ClusterError, DeadlineExceeded, NotFound, Refused
from aftershock.experiment import Experiment
from aftershock.undo import UndoJournal

if TYPE_CHECKING:
    from aftershock.cluster import Cluster

FOLDER = Path("gitops/apps/weak")
ACTION = "weakness"  # what the journal calls it
ROLLOUT_S = 60.0
STEADY_S = 4.0
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
_WORKLOADS = ("Deployment", "StatefulSet")
_POLL_S = 0.1
Object = dict[str, Any]


def folder_of(near: Path) -> Path:
    """The project's folder of weaknesses, looked for upwards from a file of it. Raises BadInput."""
    for parent in near.resolve().parents:
        if (parent / FOLDER).is_dir():
            return parent / FOLDER
    raise BadInput(f"there is no {FOLDER} in any folder above {near}", hint="weak twins are patches in that folder")


def known(folder: Path) -> list[str]:
    """Names of the weaknesses there are."""
    return sorted(p.parent.name for p in folder.glob("*/kustomization.yaml"))


def patches(folder: Path, name: str) -> list[Object]:
    """The patches of one weakness. Raises BadInput naming those there are, or what is wrong with the file."""
    if name not in known(folder):
        raise BadInput(f"there is no weakness {name!r}", hint=f"there are: {', '.join(known(folder)) or 'none'}")
    file = folder / name / "kustomization.yaml"
    found: list[Object] = []
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8")).get("patches") or []
        for entry in entries:
            if set(entry) != {"path"}:
                raise BadInput(f"{file}: a patch here has a path and nothing else")
            found += [o for o in yaml.safe_load_all((file.parent / entry["path"]).read_text(encoding="utf-8")) if o]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise BadInput(f"{file}: cannot be read: {error}") from None
    for obj in found:
        if not (
            isinstance(obj, dict)
            and obj.get("apiVersion")
            and obj.get("kind")
            and (obj.get("metadata") or {}).get("name")
        ):
            raise BadInput(f"{file}: a patch names apiVersion, kind and metadata.name")
    if not found:
        raise BadInput(f"{file}: has no patches")
    return found


def apply(
    cluster: Cluster, journal: UndoJournal, run_id: str, experiment: Experiment, name: str,
    progress: Callable[[str], object] = lambda text: None, deadline_s: float = ROLLOUT_S,
) -> None:  # fmt: skip
    """Switch a weakness on and wait until the shop runs with it; every inverse is in the journal before its patch is sent.

    Raises BadInput, Refused (an object outside the blast radius), ClusterError, DeadlineExceeded.
    """
    changed: list[tuple[str, Object]] = []
    for patch in patches(folder_of(experiment.path), name):
        meta = patch["metadata"]
        what = f"{patch['kind']} {meta['name']}"
        if meta.get("namespace") not in experiment.blast_radius.namespaces:
            raise Refused(f"weakness {name} changes {what} outside of the blast radius")
        path = cluster.object_path(patch)
        try:
            live = cluster.request("GET", path)
        except NotFound:
            raise ClusterError(f"weakness {name}: there is no {what} to weaken", hint="deploy the shop first") from None
        body = _change(patch)
        inverse = undo.restoration(
            path, live, body, f"{name} off: {what} as before", rolled_out=patch["kind"] in _WORKLOADS
        )
        journal.record(run_id, cluster.identity.fingerprint, ACTION, inverse, cluster.identity.context)
        cluster.request("PATCH", path, body=body, content_type=STRATEGIC_PATCH)
        changed.append((path, patch))
    ends = time.monotonic() + deadline_s
    for path, patch in changed:
        what = f"{name}: {patch['metadata']['name']}"
        if patch["kind"] in _WORKLOADS:
            _follow(cluster, path, ends, what, progress)
        elif patch["kind"] == "HorizontalPodAutoscaler":
            _shrink(cluster, path, ends, what, progress)
    for namespace in sorted({p["metadata"]["namespace"] for _, p in changed if p["kind"] == "StatefulSet"}):
        _all_ready(cluster, namespace, ends, name, progress)


def lift(
    cluster: Cluster, journal: UndoJournal, run_id: str, progress: Callable[[str], object] = lambda text: None
) -> list[undo.Undone]:
    """Switch the weakness of a run off and wait until the shop runs without it; each result says whether that was seen."""
    entries = [e for e in journal.pending(cluster.identity.fingerprint, run_id) if e.action == ACTION]
    return journal.undo(cluster, entries, ROLLOUT_S, progress=progress)


def _change(patch: Object) -> Object:
    """A patch without what only names its object."""
    body = {key: value for key, value in patch.items() if key not in ("apiVersion", "kind", "metadata")}
    meta = {key: value for key, value in patch["metadata"].items() if key in ("labels", "annotations")}
    return {**body, "metadata": meta} if meta else body


def _follow(cluster: Cluster, path: str, ends: float, what: str, progress: Callable[[str], object]) -> None:
    """Wait until all pods of a workload are of its newest version, ready, and the old ones gone."""
    while True:
        live = cluster.request("GET", path)
        missing = undo.behind(live) or _leaving(cluster, live)
        if missing is None:
            return
        progress(f"{what} {missing}")
        if time.monotonic() > ends:
            raise DeadlineExceeded(f"{path} did not follow the weakness in time: {missing}",
                                   hint="kubectl describe pods; the weakness is switched off again")  # fmt: skip
        time.sleep(_POLL_S)


def _shrink(cluster: Cluster, path: str, ends: float, what: str, progress: Callable[[str], object]) -> None:
    """Wait until an autoscaler's Deployment has no more pods than the autoscaler may give it."""
    scaler = cluster.request("GET", path)
    most, of = scaler["spec"].get("maxReplicas"), scaler["spec"].get("scaleTargetRef") or {}
    if most is None or of.get("kind") != "Deployment":
        return
    target = targets.path_of(scaler["metadata"]["namespace"], "deployments") + f"/{of['name']}"
    while (wanted := int(cluster.request("GET", target)["spec"].get("replicas", 1))) > most:
        progress(f"{what} {wanted} pods, at most {most} allowed")
        if time.monotonic() > ends:
            raise DeadlineExceeded(f"the autoscaler of {of['name']} did not take pods back in time: {wanted} of at most {most}",
                                   hint="kubectl describe hpa; the weakness is switched off again")  # fmt: skip
        time.sleep(_POLL_S)
    _follow(cluster, target, ends, what, progress)


def _all_ready(cluster: Cluster, namespace: str, ends: float, what: str, progress: Callable[[str], object]) -> None:
    """Wait until every Deployment is ready and stays so: who needs what was replaced notices only by its next readiness probe."""
    since: float | None = None
    while True:
        lives = cluster.list(f"/apis/apps/v1/namespaces/{namespace}/deployments")
        missing = next((f"{d['metadata']['name']} {why}" for d in lives if (why := undo.behind(d))), None)
        now = time.monotonic()
        since = (now if since is None else since) if missing is None else None
        if since is not None and now - since >= STEADY_S:
            return
        progress(f"{what}: {missing or 'steady?'}")
        if now > ends:
            raise DeadlineExceeded(f"the shop did not become steady with {what} in time: {missing}",
                                   hint="kubectl describe pods; the weakness is switched off again")  # fmt: skip
        time.sleep(_POLL_S)


def _leaving(cluster: Cluster, live: Mapping[str, Any]) -> str | None:
    pods = targets.of_workload(cluster, live)
    wanted = int(live["spec"].get("replicas", 1))
    return f"{len(pods)} pods, {wanted} wanted" if len(pods) != wanted else None
