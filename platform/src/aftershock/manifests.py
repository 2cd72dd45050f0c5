"""Manifests from a folder with a kustomization.yaml: `resources` only, sorted as kustomize does, what others need first.

A Service must exist before the pods that are told its address. Any other kustomization key is refused by name, since a manifest
that is applied half is worse than none; `kubectl kustomize` renders those.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from aftershock.errors import BadInput

Object = dict[str, Any]
_KNOWN = frozenset({"apiVersion", "kind", "resources"})
_FILES_MAX = 500
_FIRST = (
    "Namespace",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Secret",
    "Service",
    "PersistentVolumeClaim",
)


def render(folder: Path) -> list[Object]:
    """All objects of a kustomization, each once. Raises BadInput naming the file and what is wrong with it."""
    objects: list[Object] = []
    for path in _files(folder, ()):
        try:
            documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadInput(f"{path}: cannot be read: {error}") from None
        for document in documents:
            if document is None:
                continue
            if not (isinstance(document, dict) and document.get("apiVersion") and document.get("kind")):
                raise BadInput(f"{path}: holds a document that is no Kubernetes object")
            objects.append(document)
    seen: set[tuple[str, str, str]] = set()
    for obj in objects:
        meta = obj.get("metadata") or {}
        key = (str(obj["kind"]), str(meta.get("namespace", "")), str(meta.get("name", "")))
        if key in seen:
            raise BadInput(f"{folder}: {'/'.join(key)} is given twice")
        seen.add(key)
    return sorted(objects, key=lambda o: _FIRST.index(o["kind"]) if o["kind"] in _FIRST else len(_FIRST))


def _files(folder: Path, above: tuple[Path, ...]) -> list[Path]:
    folder = folder.resolve()
    file = folder / "kustomization.yaml"
    if folder in above:
        raise BadInput(f"{file}: includes itself")
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{file}: cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise BadInput(f"{file}: is no mapping")
    unknown = sorted(set(document) - _KNOWN)
    if unknown:
        raise BadInput(f"{file}: {', '.join(unknown)} is not understood here", hint=f"kubectl apply -k {folder}")
    files: list[Path] = []
    for entry in document.get("resources") or []:
        path = folder / str(entry)
        if path.is_dir():
            files += _files(path, (*above, folder))
        elif path.is_file():
            files.append(path)
        else:
            raise BadInput(f"{file}: {entry}: no such file")
        if len(files) > _FILES_MAX:
            raise BadInput(f"{file}: more than {_FILES_MAX} files")
    return files
