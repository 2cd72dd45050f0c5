"""Pods as controllers see them: active, ready, available; made from templates, ended gracefully."""

from __future__ import annotations

from typing import Any

from pocketkube.admission import defaults
from pocketkube.controllers.conditions import find, is_true
from pocketkube.controllers.moments import seconds, stamp
from pocketkube.storage import Object, Store, clone

DEFAULT_GRACE_S = 30
NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
TERMINAL = frozenset({"Succeeded", "Failed"})


def phase(pod: Object) -> str:
    """status.phase; a pod without one is Pending."""
    return str((pod.get("status") or {}).get("phase") or "Pending")


def is_terminating(pod: Object) -> bool:
    """True once somebody asked for its deletion."""
    return "deletionTimestamp" in pod["metadata"]


def is_active(pod: Object) -> bool:
    """True unless it ended or is ending."""
    return phase(pod) not in TERMINAL and not is_terminating(pod)


def is_ready(pod: Object) -> bool:
    """True if its Ready condition is True."""
    return is_true(pod, "Ready")


def available_in_s(pod: Object, min_ready_s: float, now_s: float) -> float | None:
    """Seconds until a pod that stays ready counts as available; 0 if it does now, None if it is not ready."""
    ready = find(pod, "Ready")
    if ready is None or ready["status"] != "True":
        return None
    return max(0.0, seconds(ready.get("lastTransitionTime")) + min_ready_s - now_s) if min_ready_s else 0.0


def is_available(pod: Object, min_ready_s: float, now_s: float) -> bool:
    """True if ready for at least `min_ready_s`."""
    return available_in_s(pod, min_ready_s, now_s) == 0.0


def from_template(template: Object, namespace: str, owner_reference: dict[str, Any], **names: str) -> Object:
    """A pod for a controller, complete as if it came through the API; `names` is name= or generateName=."""
    meta = template.get("metadata") or {}
    kept = {k: clone(meta[k]) for k in ("labels", "annotations", "finalizers") if meta.get(k)}
    made: Object = {
        "apiVersion": "v1", "kind": "Pod", "spec": clone(template["spec"]),
        "metadata": {**names, "namespace": namespace, **kept, "ownerReferences": [owner_reference]},
    }  # fmt: skip
    defaults.fill("Pod", made)
    return made


def end(store: Store, pod: Object, now_s: float, grace_s: int | None = None) -> None:
    """Ask for a pod's end as the API does: its kubelet gets the grace period; without a kubelet it is gone at once."""
    meta, spec = pod["metadata"], pod["spec"]
    if is_terminating(pod) and grace_s is None:
        return
    if grace_s is None:
        grace_s = spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S)
    if not spec.get("nodeName") or phase(pod) in TERMINAL or grace_s <= 0:
        store.delete("pods", meta["namespace"], meta["name"], meta["uid"])
        return
    store.mutate("pods", meta["namespace"], meta["name"], lambda p: p["metadata"].update(
        deletionTimestamp=stamp(now_s + grace_s), deletionGracePeriodSeconds=grace_s))  # fmt: skip
