"""The arithmetic of a Deployment's rollout; pure.

Source: kubernetes pkg/controller/deployment/util/deployment_util.go, apimachinery pkg/util/intstr.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from pocketkube.storage import Object

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAX = "deployment.kubernetes.io/max-replicas"
NOT_COPIED = frozenset({"kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED, MAX,
                        "deprecated.deployment.rollback.to"})  # fmt: skip
_FREE = frozenset(
    {"labels", "annotations", "matchLabels", "nodeSelector"}
)  # maps whose values are a user's, "" included
_ZERO = frozenset(
    {"initialDelaySeconds", "hostNetwork", "hostPID", "hostIPC", "stdin", "stdinOnce", "tty", "readOnly", "hostPort"}
)
_SAFE = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, so that no hash spells a word


@dataclass(frozen=True)
class Member:
    """One ReplicaSet in numbers; `available` are those of its wanted pods that are available now."""

    name: str
    replicas: int
    available: int


def scaled(value: Any, total: int, *, up: bool) -> int:
    """An int-or-percent of `total`; a percent is rounded up or down. Raises ValueError."""
    if isinstance(value, str):
        if not value.endswith("%"):
            raise ValueError(f"invalid value for IntOrString: invalid type: string is not a percentage: {value!r}")
        part = int(value[:-1]) * total
        return -(-part // 100) if up else part // 100
    return int(value)


def bounds(deployment: Object) -> tuple[int, int]:
    """(max surge, max unavailable) in pods; both 0 means 1 unavailable, or nothing could ever move."""
    spec = deployment["spec"]
    if is_recreate(deployment):
        return 0, 0
    rolling = (spec.get("strategy") or {}).get("rollingUpdate") or {}
    total = replicas_of(deployment)
    surge = scaled(rolling.get("maxSurge", "25%"), total, up=True)
    unavailable = scaled(rolling.get("maxUnavailable", "25%"), total, up=False)
    return (surge, min(unavailable, total)) if surge or unavailable else (0, min(1, total))


def is_recreate(deployment: Object) -> bool:
    """True for strategy Recreate."""
    return bool((deployment["spec"].get("strategy") or {}).get("type") == "Recreate")


def replicas_of(obj: Object) -> int:
    """spec.replicas, 1 if not given."""
    wanted = obj["spec"].get("replicas")
    return 1 if wanted is None else int(wanted)


def new_size(deployment: Object, members: list[Member], new_replicas: int) -> int:
    """How large the new ReplicaSet may be now without more than replicas + surge pods in all."""
    wanted = replicas_of(deployment)
    if is_recreate(deployment):
        return wanted
    total, most = sum(m.replicas for m in members), wanted + bounds(deployment)[0]
    return new_replicas if total >= most else new_replicas + min(most - total, wanted - new_replicas)


def shrink_old(deployment: Object, old: list[Member], new: Member) -> dict[str, int]:
    """New sizes of old ReplicaSets (oldest first): unhealthy pods go first, then as many as keep the minimum available."""
    least = replicas_of(deployment) - bounds(deployment)[1]
    spare = sum(m.replicas for m in [*old, new]) - least - (new.replicas - new.available)
    sizes = {m.name: m.replicas for m in old}
    for member in old:  # not available ones cost nothing
        gone = max(0, min(spare, member.replicas - member.available))
        sizes[member.name] -= gone
        spare -= gone
    above = min(spare, sum(m.available for m in [*old, new]) - least)
    for member in old:
        gone = max(0, min(above, sizes[member.name]))
        sizes[member.name] -= gone
        above -= gone
    return {m.name: sizes[m.name] for m in old if sizes[m.name] != m.replicas}


def proportional(deployment: Object, active: list[tuple[str, int, int | None]]) -> dict[str, int]:
    """Sizes when a Deployment is scaled amid a rollout: all (name, replicas, max-replicas annotation), largest first, share in it."""
    wanted, surge = replicas_of(deployment), bounds(deployment)[0]
    most = wanted + surge if wanted > 0 else 0
    to_add = most - sum(replicas for _, replicas, _ in active)
    added, sizes = 0, {}
    for name, replicas, before in active:
        share = 0
        if to_add and replicas and to_add != added:
            grown = -replicas if wanted == 0 else _round(replicas * (wanted + surge) / (before or most)) - replicas
            share = min(grown, to_add - added) if to_add > 0 else max(grown, to_add - added)
        sizes[name] = replicas + share
        added += share
    if active and to_add:
        first = active[0][0]
        sizes[first] = max(0, sizes[first] + to_add - added)
    return sizes


def _round(value: float) -> int:
    return math.floor(value + 0.5)


def template_hash(template: Object, collisions: int) -> str:
    """A short, stable, label-safe name of a pod template; another one for each collision."""
    text = json.dumps([without_hash(template), collisions], sort_keys=True, separators=(",", ":"))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return "".join(_SAFE[ord(c) % len(_SAFE)] for c in str(number))


def without_hash(template: Object) -> Object:
    """The template without its hash label and without what Go's types leave out when it is empty, to compare two."""
    meta = template.get("metadata") or {}
    labels = {k: v for k, v in (meta.get("labels") or {}).items() if k != HASH_LABEL}
    made = _plain({**template, "metadata": {k: v for k, v in meta.items() if k not in ("creationTimestamp", "labels")}})
    return {**made, "metadata": {**made.get("metadata", {}), "labels": labels}}


def _plain(value: Any, name: str = "") -> Any:
    if isinstance(value, dict) and name not in _FREE:
        kept = {k: _plain(v, k) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v not in (None, "", {}, []) and (v or k not in _ZERO)}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def revision(obj: Object) -> int:
    """The revision annotation; 0 if there is none."""
    try:
        return int((obj["metadata"].get("annotations") or {}).get(REVISION, 0))
    except ValueError:
        return 0
