"""Bodies in Kubernetes' protobuf, which kubectl's typed commands send whatever the server says (create secret, drain, auth can-i).

Source: the generated.proto files of k8s.io/api and k8s.io/apimachinery. Only the messages that kubectl sends are known;
answers are always JSON, which every client accepts.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from pocketkube.errors import BadRequest, UnsupportedMediaType

Json = Any
MAGIC = b"k8s\x00"
TYPE = "application/vnd.kubernetes.protobuf"

# message: number name type; `*` marks what is kept when it is zero (a pointer in Go), `[]` a list, `{}` a map from string.
_MESSAGES = """
ObjectMeta: 1 name string, 2 generateName string, 3 namespace string, 5 uid string, 6 resourceVersion string, 7 generation int,
  8 creationTimestamp Time, 9 deletionTimestamp Time, 10 deletionGracePeriodSeconds *int, 11 labels {}string, 12 annotations {}string,
  13 ownerReferences []OwnerReference, 14 finalizers []string
OwnerReference: 1 kind string, 3 name string, 4 uid string, 5 apiVersion string, 6 controller *bool, 7 blockOwnerDeletion *bool
LabelSelector: 1 matchLabels {}string, 2 matchExpressions []Requirement
Requirement: 1 key string, 2 operator string, 3 values []string
DeleteOptions: 1 gracePeriodSeconds *int, 2 preconditions Preconditions, 3 orphanDependents *bool, 4 propagationPolicy string,
  5 dryRun []string
Preconditions: 1 uid string, 2 resourceVersion string
Eviction: 1 metadata ObjectMeta, 2 deleteOptions DeleteOptions
SelfSubjectAccessReview: 1 metadata ObjectMeta, 2 spec ReviewSpec
ReviewSpec: 1 resourceAttributes ResourceAttributes, 2 nonResourceAttributes NonResourceAttributes
ResourceAttributes: 1 namespace string, 2 verb string, 3 group string, 4 version string, 5 resource string, 6 subresource string,
  7 name string
NonResourceAttributes: 1 path string, 2 verb string
Namespace: 1 metadata ObjectMeta, 2 spec NamespaceSpec
NamespaceSpec: 1 finalizers []string
Secret: 1 metadata ObjectMeta, 2 data {}bytes, 3 type string, 4 stringData {}string, 5 immutable *bool
ConfigMap: 1 metadata ObjectMeta, 2 data {}string, 3 binaryData {}bytes, 4 immutable *bool
ServiceAccount: 1 metadata ObjectMeta
PodDisruptionBudget: 1 metadata ObjectMeta, 2 spec DisruptionSpec
DisruptionSpec: 1 minAvailable IntOrString, 2 selector LabelSelector, 3 maxUnavailable IntOrString, 4 unhealthyPodEvictionPolicy string
Service: 1 metadata ObjectMeta, 2 spec ServiceSpec
ServiceSpec: 1 ports []ServicePort, 2 selector {}string, 3 clusterIP string, 4 type string, 5 externalIPs []string,
  7 sessionAffinity string, 10 externalName string
ServicePort: 1 name string, 2 protocol string, 3 port int, 4 targetPort IntOrString, 5 nodePort int, 6 appProtocol string
Deployment: 1 metadata ObjectMeta, 2 spec DeploymentSpec
DeploymentSpec: 1 replicas *int, 2 selector LabelSelector, 3 template PodTemplateSpec, 4 strategy DeploymentStrategy,
  5 minReadySeconds int, 6 revisionHistoryLimit *int, 7 paused bool, 9 progressDeadlineSeconds *int
DeploymentStrategy: 1 type string
PodTemplateSpec: 1 metadata ObjectMeta, 2 spec PodSpec
PodSpec: 2 containers []Container, 3 restartPolicy string, 4 terminationGracePeriodSeconds *int, 6 dnsPolicy string,
  8 serviceAccountName string, 10 nodeName string
Container: 1 name string, 2 image string, 3 command []string, 4 args []string, 5 workingDir string, 6 ports []ContainerPort,
  14 imagePullPolicy string
ContainerPort: 1 name string, 2 hostPort int, 3 containerPort int, 4 protocol string, 5 hostIP string
HorizontalPodAutoscaler: 1 metadata ObjectMeta, 2 spec AutoscalerSpec
AutoscalerSpec: 1 scaleTargetRef ScaleTarget, 2 minReplicas *int, 3 maxReplicas int, 4 metrics []Metric
ScaleTarget: 1 kind string, 2 name string, 3 apiVersion string
Metric: 1 type string, 4 resource ResourceMetric
ResourceMetric: 1 name string, 2 target MetricTarget
MetricTarget: 1 type string, 2 value Quantity, 3 averageValue Quantity, 4 averageUtilization *int
Unknown: 1 typeMeta TypeMeta, 2 raw bytes, 3 contentEncoding string, 4 contentType string
TypeMeta: 1 apiVersion string, 2 kind string
"""
# Fields that are read past whatever they hold: status is the server's to write, selfLink and managedFields are its own.
_IGNORED = {
    "ObjectMeta": (4, 17), "Namespace": (3,), "SelfSubjectAccessReview": (3,), "PodDisruptionBudget": (3,), "Service": (3,),
    "Deployment": (3,), "HorizontalPodAutoscaler": (3,),
}  # fmt: skip


@dataclass(frozen=True)
class _Field:
    name: str
    outer: str  # "", "*", "[]" or "{}"
    type: str


@cache
def _messages() -> dict[str, dict[int, _Field]]:
    found: dict[str, dict[int, _Field]] = {}
    for line in _MESSAGES.strip().replace(",\n ", ",").splitlines():
        name, _, fields = line.partition(": ")
        found[name] = {}
        for entry in fields.split(","):
            number, field, kind = entry.split()
            outer = next((o for o in ("*", "[]", "{}") if kind.startswith(o)), "")
            found[name][int(number)] = _Field(field, outer, kind.removeprefix(outer))
    return found


def decode(body: bytes) -> dict[str, Json]:
    """The object in a request's body. Raises BadRequest, UnsupportedMediaType (a kind that is not known here)."""
    try:
        if not body.startswith(MAGIC):
            raise ValueError("the prefix k8s\\0 is missing")
        envelope = _message("Unknown", body[len(MAGIC) :])
        kind = envelope.get("typeMeta", {}).get("kind", "")
        if kind not in _messages() or kind in ("Unknown", "TypeMeta", "ObjectMeta"):
            raise UnsupportedMediaType(f"pocketkube does not read {kind or 'this kind'} as protobuf: send JSON")
        raw = base64.b64decode(envelope.get("raw", ""))
        return {**envelope["typeMeta"], **_message(kind, raw)}
    except (ValueError, IndexError, KeyError) as error:
        raise BadRequest(f"the body is not {TYPE}: {error}") from None


def _message(name: str, data: bytes) -> dict[str, Json]:
    known = _messages()[name]
    made: dict[str, Json] = {}
    for number, value in _fields(data):
        field = known.get(number)
        if field is None:
            if number not in _IGNORED.get(name, ()) and _filled(
                value
            ):  # what is known in part must not lose what it says
                raise UnsupportedMediaType(f"pocketkube does not read field {number} of {name} as protobuf: send JSON")
            continue
        if field.outer == "{}":
            entry = dict(_fields(_bytes(value)))
            made.setdefault(field.name, {})[_bytes(entry.get(1, b"")).decode()] = _single(field.type, entry.get(2, b""))
        elif field.outer == "[]":
            made.setdefault(field.name, []).append(_single(field.type, value))
        elif (single := _single(field.type, value)) not in ("", 0, False, None, {}) or field.outer == "*":
            made[field.name] = single
    return made


def _filled(value: int | bytes) -> bool:
    """False for zero, "", and messages of nothing but these."""
    if isinstance(value, int):
        return value != 0
    try:
        return any(_filled(v) for _, v in _fields(value))
    except (ValueError, IndexError):
        return bool(value)


def _single(kind: str, value: int | bytes) -> Json:
    if kind == "int":
        number = _int(value)
        return number - (1 << 64) if number >= 1 << 63 else number
    if kind == "bool":
        return bool(_int(value))
    raw = _bytes(value)
    if kind == "string":
        return raw.decode()
    if kind == "bytes":
        return base64.b64encode(raw).decode()
    if kind == "IntOrString":
        parts = dict(_fields(raw))
        return _bytes(parts.get(3, b"")).decode() if parts.get(1) else _single("int", parts.get(2, 0))
    if kind == "Quantity":
        return _bytes(dict(_fields(raw)).get(1, b"")).decode()
    if kind == "Time":
        seconds = next((_int(v) for n, v in _fields(raw) if n == 1), None)
        return (
            None
            if seconds is None
            else datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        )
    return _message(kind, raw)


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("a number was expected")
    return value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("bytes were expected")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field. Raises ValueError, IndexError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("it ends within a field")
            yield number, data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {wire} is not used by Kubernetes")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
