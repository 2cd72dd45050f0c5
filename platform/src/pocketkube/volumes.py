"""Volumes without mounts: a directory each, and the process is told where it is.

A process without a mount namespace cannot see a volume at its mountPath. So every value of its environment and every argument that is
the mountPath, or begins with it and a slash, is rewritten to the directory. A path that a program has built in is not; that is the limit.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketkube.environment import Missing, field_of
from pocketkube.storage import Object, Store


@dataclass(frozen=True)
class Mount:
    """Where a container believes a volume is, and where it is."""

    path: str
    directory: Path


def prepare(store: Store, pod: Object, folder: Path, claims: Path) -> dict[str, Path]:
    """Make a pod's volumes; directory by volume name. Raises Missing for what does not exist (yet)."""
    made: dict[str, Path] = {}
    for volume in pod["spec"].get("volumes") or []:
        name = volume["name"]
        directory = folder / name
        if (claim := volume.get("persistentVolumeClaim")) is not None:
            namespace = pod["metadata"]["namespace"]
            found = store.find("persistentvolumeclaims", namespace, claim["claimName"])
            if found is None:
                raise Missing(f'persistentvolumeclaim "{claim["claimName"]}" not found')
            directory = claims / f"{namespace}-{claim['claimName']}-{found['metadata']['uid']}"  # a new claim is empty
        directory.mkdir(parents=True, exist_ok=True)
        for path, (content, mode) in _files(store, pod, volume).items():
            target = (directory / path).resolve()
            if directory.resolve() not in target.parents:
                raise Missing(f"path {path!r} of volume {name!r} leaves the volume")
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.partial")
            partial.write_bytes(content)
            partial.chmod(mode & 0o777)
            partial.replace(target)
        made[name] = directory
    return made


def mounts(container: Object, volumes: dict[str, Path], expand: Callable[[str], str]) -> list[Mount]:
    """A container's mounts, the longest path first."""
    found = []
    for mount in container.get("volumeMounts") or []:
        directory = volumes[mount["name"]]
        sub = mount.get("subPath") or expand(mount.get("subPathExpr") or "")
        if sub:
            directory = directory / os.path.normpath("/" + sub).lstrip("/")
            if not directory.exists():
                directory.mkdir(parents=True)
        found.append(Mount(mount["mountPath"].rstrip("/"), directory))
    return sorted(found, key=lambda m: -len(m.path))


def rewrite(value: str, found: list[Mount]) -> str:
    """A value with its leading mountPath replaced by the directory."""
    for mount in found:
        if value == mount.path or value.startswith(mount.path + "/"):
            return str(mount.directory) + value[len(mount.path) :]
    return value


Files = dict[str, tuple[bytes, int]]  # relative path to content and mode


def _files(store: Store, pod: Object, volume: Object) -> Files:
    """What is in a configMap, secret, downwardAPI or projected volume."""
    if (source := volume.get("configMap")) is not None:
        return _keys(store, pod, "configmaps", source["name"], source)
    if (source := volume.get("secret")) is not None:
        return _keys(store, pod, "secrets", source["secretName"], source)
    if (source := volume.get("downwardAPI")) is not None:
        return {item["path"]: (field_of(pod, item["fieldRef"]["fieldPath"]).encode(), _mode(source, item))
                for item in source.get("items") or [] if "fieldRef" in item}  # fmt: skip
    files: Files = {}
    for source in (volume.get("projected") or {}).get("sources") or []:
        if "secret" in source:
            source = {"secret": {**source["secret"], "secretName": source["secret"]["name"]}}
        files |= _files(store, pod, source)
    return files


def _keys(store: Store, pod: Object, resource: str, name: str, source: dict[str, Any]) -> Files:
    found = store.find(resource, pod["metadata"]["namespace"], name)
    if found is None:
        if source.get("optional"):
            return {}
        raise Missing(f'{resource[:-1]} "{name}" not found')
    content = {key: value.encode() for key, value in (found.get("data") or {}).items()}
    if resource == "secrets":
        content = {key: base64.b64decode(value) for key, value in content.items()}
    content |= {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
    if source.get("items") is None:
        return {key: (value, _mode(source, {})) for key, value in content.items()}
    lacking = [item["key"] for item in source["items"] if item["key"] not in content and not source.get("optional")]
    if lacking:
        raise Missing(f"{resource[:-1]} {name!r} has no key {lacking[0]!r}")
    return {
        item["path"]: (content[item["key"]], _mode(source, item)) for item in source["items"] if item["key"] in content
    }


def _mode(source: Object, item: Object) -> int:
    return int(item.get("mode") or source.get("defaultMode") or 0o644)
