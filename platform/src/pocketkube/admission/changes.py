"""What may not change in an object that exists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketkube.admission.causes import Cause, invalid
from pocketkube.storage import Object

Json = Any
IMMUTABLE = "field is immutable"
_FORBIDDEN = "FieldValueForbidden"
_STATEFUL_SET_FREE = ("replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
                      "persistentVolumeClaimRetentionPolicy", "minReadySeconds")  # fmt: skip
_STATEFUL_SET = (
    "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_POD = (
    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def check(kind: str, obj: Object, old: Object) -> list[Cause]:
    """What is wrong with replacing `old` by `obj`."""
    spec, before = obj.get("spec") or {}, old.get("spec") or {}
    if kind in ("Deployment", "ReplicaSet") and spec.get("selector") != before.get("selector"):
        return [invalid("spec.selector", str(spec.get("selector")), IMMUTABLE)]
    if kind == "StatefulSet" and _without(spec, _STATEFUL_SET_FREE) != _without(before, _STATEFUL_SET_FREE):
        return [("spec", _STATEFUL_SET, _FORBIDDEN)]
    if kind == "Service" and before.get("clusterIP") and spec.get("clusterIP") != before["clusterIP"]:
        return [invalid("spec.clusterIPs[0]", spec.get("clusterIP"), "may not change once set")]
    if kind == "Pod" and _pod_changed(spec, before):
        return [("spec", _POD, _FORBIDDEN)]
    frozen = kind in ("ConfigMap", "Secret") and old.get("immutable")
    if frozen and any(obj.get(k) != old.get(k) for k in ("data", "binaryData", "immutable")):
        return [("data", "Forbidden: field is immutable when `immutable` is set", _FORBIDDEN)]
    if kind == "Secret" and obj.get("type") != old.get("type"):
        return [invalid("type", obj.get("type"), IMMUTABLE)]
    return []


def _without(spec: Mapping[str, Json], names: tuple[str, ...]) -> dict[str, Json]:
    return {name: value for name, value in spec.items() if name not in names}


def _pod_changed(spec: Mapping[str, Json], before: Mapping[str, Json]) -> bool:
    def fixed(s: Mapping[str, Json]) -> Json:
        kept = _without(s, ("tolerations", "activeDeadlineSeconds", "nodeName"))
        return {**kept, "containers": [_without(c, ("image",)) for c in s.get("containers") or []]}

    moved = bool(before.get("nodeName")) and spec.get("nodeName") != before["nodeName"]
    return moved or bool(fixed(spec) != fixed(before))
