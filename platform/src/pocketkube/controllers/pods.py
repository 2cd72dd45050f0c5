"""Pods as controllers see them: active, ready, available; made from templates, ended gracefully."""

from __future__ import annotations

import copy
from typing import Any

from pocketkube.controllers.conditions import find, is_true
from pocketkube.controllers.moments import seconds, stamp
from pocketkube.storage import Object, Store

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


def finish(pod: Object) -> Object:
    """Add to a new pod, in place, what admission and defaulting add upstream: tolerations, service account, phase, QoS class."""
    spec, status = pod["spec"], pod.setdefault("status", {})
    tolerations = spec.setdefault("tolerations", [])
    for key in (NOT_READY, UNREACHABLE):
        if not any(t.get("key") in (key, None, "") and t.get("effect") in ("NoExecute", None, "") for t in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", DEFAULT_GRACE_S)
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("enableServiceLinks", True)
    status.setdefault("phase", "Pending")
    status.setdefault("qosClass", qos_class(spec))
    return pod


def qos_class(spec: dict[str, Any]) -> str:
    """Guaranteed, Burstable or BestEffort. Source: kubernetes pkg/apis/core/v1/helper/qos."""
    resources = [c.get("resources") or {} for c in [*spec.get("containers", []), *(spec.get("initContainers") or [])]]
    if not any((r.get("requests") or {}) or (r.get("limits") or {}) for r in resources):
        return "BestEffort"
    for r in resources:
        limits = r.get("limits") or {}
        requests = {**limits, **(r.get("requests") or {})}
        if any(limits.get(n) is None or requests[n] != limits[n] for n in ("cpu", "memory")):
            return "Burstable"
    return "Guaranteed"


def from_template(template: Object, namespace: str, owner_reference: dict[str, Any], **names: str) -> Object:
    """A pod for a controller; `names` is name= or generateName=."""
    meta = template.get("metadata") or {}
    kept = {k: copy.deepcopy(meta[k]) for k in ("labels", "annotations", "finalizers") if meta.get(k)}
    return finish({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {**names, "namespace": namespace, **kept, "ownerReferences": [owner_reference]},
        "spec": copy.deepcopy(template["spec"]),
    })  # fmt: skip


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
