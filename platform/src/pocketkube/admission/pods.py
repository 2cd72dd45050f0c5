"""Rules of a pod's spec, which templates share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pocketkube.admission.causes import (
    DNS_1123,
    LABEL,
    Cause,
    invalid,
    labels,
    port,
    positive,
    quantity,
    required,
    unsupported,
)

Json = Any
_ENV = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_FIELDS = frozenset({"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
                     "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"})  # fmt: skip
_PULL = ("Always", "IfNotPresent", "Never")


def pod_spec(spec: Mapping[str, Json], path: str) -> Iterable[Cause]:
    """A pod's spec or that of a template."""
    containers = spec.get("containers") or []
    if not containers:
        yield required(f"{path}.containers")
    yield from _unique(spec.get("volumes") or [], f"{path}.volumes", "name")
    volumes = {v.get("name") for v in spec.get("volumes") or []}
    for n, container in enumerate(containers):
        yield from _container(container, f"{path}.containers[{n}]", volumes)
    for n, container in enumerate(spec.get("initContainers") or []):
        yield from _container(container, f"{path}.initContainers[{n}]", volumes)
    yield from _unique([*containers, *(spec.get("initContainers") or [])], f"{path}.containers", "name")
    for n, volume in enumerate(spec.get("volumes") or []):
        yield from _volume(volume, f"{path}.volumes[{n}]")
    if spec.get("restartPolicy") not in ("Always", "OnFailure", "Never"):
        yield unsupported(f"{path}.restartPolicy", spec.get("restartPolicy"), ("Always", "OnFailure", "Never"))
    yield from positive(spec, path, "terminationGracePeriodSeconds")
    yield from labels(spec.get("nodeSelector"), f"{path}.nodeSelector")
    for n, t in enumerate(spec.get("tolerations") or []):
        if t.get("operator", "Equal") not in ("Equal", "Exists"):
            yield unsupported(f"{path}.tolerations[{n}].operator", t["operator"], ("Equal", "Exists"))
        if t.get("effect") not in (None, "", "NoSchedule", "PreferNoSchedule", "NoExecute"):
            yield unsupported(
                f"{path}.tolerations[{n}].effect", t["effect"], ("NoSchedule", "PreferNoSchedule", "NoExecute")
            )
    for n, c in enumerate(spec.get("topologySpreadConstraints") or []):
        at = f"{path}.topologySpreadConstraints[{n}]"
        if not isinstance(c.get("maxSkew"), int) or c["maxSkew"] < 1:
            yield invalid(f"{at}.maxSkew", c.get("maxSkew"), "must be greater than zero")
        if not c.get("topologyKey"):
            yield required(f"{at}.topologyKey", "can not be empty")
        if c.get("whenUnsatisfiable") not in ("DoNotSchedule", "ScheduleAnyway"):
            yield unsupported(
                f"{at}.whenUnsatisfiable", c.get("whenUnsatisfiable"), ("DoNotSchedule", "ScheduleAnyway")
            )


def _unique(items: Iterable[Mapping[str, Json]], path: str, key: str) -> Iterable[Cause]:
    seen: set[Json] = set()
    for n, item in enumerate(items):
        value = item.get(key)
        at = f"{path}[{n}].{key}"
        if not value:
            yield required(at)
        elif value in seen:
            yield at, f'Duplicate value: "{value}"', "FieldValueDuplicate"
        elif key == "name" and not LABEL.fullmatch(str(value)):
            yield invalid(at, value, DNS_1123.replace("subdomain", "label").replace(" or '.'", ""))
        seen.add(value)


def _container(container: Mapping[str, Json], path: str, volumes: set[Json]) -> Iterable[Cause]:
    if not container.get("image"):
        yield required(f"{path}.image")
    if container.get("imagePullPolicy") not in ("Always", "IfNotPresent", "Never"):
        yield unsupported(
            f"{path}.imagePullPolicy", container.get("imagePullPolicy"), ("Always", "IfNotPresent", "Never")
        )
    names: set[str] = set()
    for n, entry in enumerate(container.get("ports") or []):
        yield from port(entry, f"{path}.ports[{n}]", "containerPort")
        if entry.get("name") in names:
            yield f"{path}.ports[{n}].name", f'Duplicate value: "{entry["name"]}"', "FieldValueDuplicate"
        if entry.get("name"):
            names.add(entry["name"])
    for n, variable in enumerate(container.get("env") or []):
        yield from _variable(variable, f"{path}.env[{n}]")
    for n, mount in enumerate(container.get("volumeMounts") or []):
        at = f"{path}.volumeMounts[{n}]"
        if mount.get("name") not in volumes:
            yield f"{at}.name", f'Not found: "{mount.get("name")}"', "FieldValueNotFound"
        if not mount.get("mountPath"):
            yield required(f"{at}.mountPath")
    resources = container.get("resources") or {}
    for which in ("limits", "requests"):
        for name, amount in (resources.get(which) or {}).items():
            yield from quantity(amount, f"{path}.resources.{which}.{name}")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name) is not None:
            yield from _probe(container[name], f"{path}.{name}", names, name != "readinessProbe")
    for name in ("postStart", "preStop"):
        hook = (container.get("lifecycle") or {}).get(name)
        if hook is not None:
            yield from _handler(hook, f"{path}.lifecycle.{name}", names, ("httpGet", "tcpSocket", "exec", "sleep"))


def _variable(variable: Mapping[str, Json], path: str) -> Iterable[Cause]:
    name = variable.get("name") or ""
    if not name:
        yield required(f"{path}.name")
    elif not _ENV.fullmatch(name):
        yield invalid(
            f"{path}.name",
            name,
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.'",
        )
    source = {k: v for k, v in (variable.get("valueFrom") or {}).items() if v is not None}
    if variable.get("valueFrom") is not None and len(source) != 1:
        yield invalid(f"{path}.valueFrom", "", "must specify exactly one source")
    if source and variable.get("value"):
        yield invalid(f"{path}.valueFrom", "", "may not be specified when `value` is not empty")
    if "fieldRef" in source:
        field = source["fieldRef"].get("fieldPath") or ""
        if field not in _FIELDS and not re.fullmatch(r"metadata\.(labels|annotations)\['[^']+'\]", field):
            yield f"{path}.valueFrom.fieldRef.fieldPath", f'Unsupported value: "{field}"', "FieldValueNotSupported"
    for kind in ("secretKeyRef", "configMapKeyRef"):
        for key in ("name", "key"):
            if kind in source and not source[kind].get(key):
                yield required(f"{path}.valueFrom.{kind}.{key}")


def _probe(probe: Mapping[str, Json], path: str, ports: set[str], once: bool) -> Iterable[Cause]:
    yield from _handler(probe, path, ports, ("httpGet", "tcpSocket", "exec"))
    yield from positive(
        probe, path, "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"
    )
    if once and probe.get("successThreshold") not in (None, 1):
        yield invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def _handler(handler: Mapping[str, Json], path: str, ports: set[str], kinds: tuple[str, ...]) -> Iterable[Cause]:
    """What a probe or a lifecycle hook does: exactly one thing."""
    chosen = [k for k in kinds if handler.get(k) is not None]
    if not chosen:
        yield required(path, "must specify a handler type")
    elif len(chosen) > 1:
        yield f"{path}.{chosen[1]}", "Forbidden: may not specify more than 1 handler type", "FieldValueForbidden"
    for kind in chosen:
        if kind == "exec" and not handler["exec"].get("command"):
            yield required(f"{path}.exec.command")
        if kind not in ("httpGet", "tcpSocket"):
            continue
        number = handler[kind].get("port")
        if isinstance(number, str) and not number.isdigit() and number not in ports:
            yield invalid(f"{path}.{kind}.port", number, "no port of this container has this name")
        elif not isinstance(number, str) and (number is None or not 1 <= number <= 65535):
            yield invalid(f"{path}.{kind}.port", number, "must be between 1 and 65535, inclusive")
        if kind == "httpGet" and handler["httpGet"].get("scheme", "HTTP") not in ("HTTP", "HTTPS"):
            yield unsupported(f"{path}.httpGet.scheme", handler["httpGet"].get("scheme"), ("HTTP", "HTTPS"))


def _volume(volume: Mapping[str, Json], path: str) -> Iterable[Cause]:
    sources = sorted(k for k, v in volume.items() if k != "name" and v is not None)
    if len(sources) > 1:
        yield f"{path}.{sources[1]}", "Forbidden: may not specify more than 1 volume type", "FieldValueForbidden"
    for source, key in (("configMap", "name"), ("secret", "secretName"), ("persistentVolumeClaim", "claimName")):
        if volume.get(source) is not None and not volume[source].get(key):
            yield required(f"{path}.{source}.{key}")
