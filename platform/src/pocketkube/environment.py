"""A container's environment, as the kubelet makes it: Service variables, envFrom, env with references, and $(NAME) expansion."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from pocketkube.controllers.quantity import milli
from pocketkube.errors import PocketError
from pocketkube.storage import Object, Store

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class Missing(PocketError):
    """Something that the pod refers to does not exist (yet)."""


def service_variables(service: Object, address: str) -> dict[str, str]:
    """The standard and the docker-link variables of one Service at this address."""
    ports = service["spec"].get("ports") or []
    if not ports:
        return {}
    name = service["metadata"]["name"].upper().replace("-", "_")
    made = {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(ports[0]["port"])}
    for port in ports:
        if port.get("name"):
            made[f"{name}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
    for position, port in enumerate(ports):
        protocol = port.get("protocol") or "TCP"
        url = f"{protocol.lower()}://{address}:{port['port']}"
        prefix = f"{name}_PORT_{port['port']}_{protocol}"
        if position == 0:
            made[f"{name}_PORT"] = url
        made |= {
            prefix: url,
            f"{prefix}_PROTO": protocol.lower(),
            f"{prefix}_PORT": str(port["port"]),
            f"{prefix}_ADDR": address,
        }
    return made


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replace $(NAME) of known names; unknown ones stay as they are, $$ is one $."""

    def replace(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return known.get(found[1], found[0])

    return _REFERENCE.sub(replace, text)


def field_of(pod: Object, path: str) -> str:
    """The value of a fieldRef. Raises Missing for a path that the downward API does not have."""
    meta, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    simple = {
        "metadata.name": meta["name"], "metadata.namespace": meta.get("namespace", ""), "metadata.uid": meta.get("uid", ""),
        "spec.nodeName": spec.get("nodeName", ""), "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": status.get("podIP", ""), "status.podIPs": status.get("podIP", ""),
        "status.hostIP": status.get("hostIP", ""), "status.hostIPs": status.get("hostIP", ""),
    }  # fmt: skip
    if path in simple:
        return str(simple[path])
    if found := _SUBSCRIPT.fullmatch(path):
        return str((meta.get(found[1]) or {}).get(found[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries = meta.get(path.split(".")[1]) or {}
        return "\n".join(f'{key}="{value}"' for key, value in sorted(entries.items()))
    raise Missing(f"fieldPath {path!r} is not supported")


def of(store: Store, pod: Object, container: Object, links: Mapping[str, str]) -> dict[str, str]:
    """All variables that the pod's spec gives a container, after `links`. Raises Missing."""
    namespace = pod["metadata"]["namespace"]
    made = dict(links)
    for source in container.get("envFrom") or []:
        prefix = source.get("prefix") or ""
        for kind, resource in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            if (reference := source.get(kind)) is not None:
                data = _data(store, resource, namespace, reference)
                made |= {prefix + key: value for key, value in data.items()}
    for entry in container.get("env") or []:
        value = entry.get("value", "")
        if source := entry.get("valueFrom"):
            found = _value_from(store, pod, container, source)
            if found is None:
                continue
            made[entry["name"]] = found
        else:
            made[entry["name"]] = expand(value, made)
    return made


def _value_from(store: Store, pod: Object, container: Object, source: Object) -> str | None:
    if (reference := source.get("fieldRef")) is not None:
        return field_of(pod, reference["fieldPath"])
    if (reference := source.get("resourceFieldRef")) is not None:
        return _amount(store, pod, container, reference)
    for kind, resource in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
        if (reference := source.get(kind)) is not None:
            data = _data(store, resource, pod["metadata"]["namespace"], reference)
            if reference["key"] not in data:
                if reference.get("optional"):
                    return None
                raise Missing(f"couldn't find key {reference['key']} in {resource[:-1]} {reference['name']}")
            return data[reference["key"]]
    raise Missing(f"valueFrom {sorted(source)} is not supported")


def _amount(store: Store, pod: Object, container: Object, reference: Object) -> str:
    """A request or limit in units of the divisor, rounded up; without a limit it is what the node has."""
    kind, _, name = str(reference["resource"]).partition(".")
    amount = ((container.get("resources") or {}).get(kind) or {}).get(name)
    if amount is None and kind == "limits":
        node = store.find("nodes", None, pod["spec"].get("nodeName") or "") or {}
        amount = ((node.get("status") or {}).get("allocatable") or {}).get(name)
    divisor = milli(reference.get("divisor") or "1") or 1000
    return str(-(-milli(amount or "0") // divisor))


def _data(store: Store, resource: str, namespace: str, reference: Object) -> dict[str, str]:
    found = store.find(resource, namespace, reference["name"])
    if found is None:
        if reference.get("optional"):
            return {}
        raise Missing(f'{resource[:-1]} "{reference["name"]}" not found')
    data: dict[str, str] = found.get("data") or {}
    if resource == "secrets":
        return {key: base64.b64decode(value).decode("utf-8", "replace") for key, value in data.items()}
    return data
