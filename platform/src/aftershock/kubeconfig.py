"""Kubeconfig documents: one context, self-contained, so that it can be copied; and who its cluster belongs to.

Merging follows kubectl: $KUBECONFIG may name several files, the first one that names a thing wins, relative paths are relative to
their file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aftershock.errors import BadInput, ClusterUnreachable
from aftershock.settings import Settings

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FILES = {
    "cluster": (("certificate-authority", "certificate-authority-data"),),
    "user": (("client-certificate", "client-certificate-data"), ("client-key", "client-key-data")),
}


@dataclass(frozen=True)
class Access:
    """One context: a kubeconfig document that needs no other file, and what it says about its server."""

    document: Mapping[str, Any]
    context: str
    server: str
    namespace: str
    authorities: tuple[bytes, ...]  # CA certificates, DER
    verified: bool  # TLS, and the server must prove who it is

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the CA certificate, or of the server's URL where there is none; hex."""
        return hashlib.sha256(self.authorities[0] if self.authorities else self.server.encode()).hexdigest()

    def own(self, settings: Settings) -> bool:
        """True only if the server proves by its certificate that it is a pocketkube cluster of this user."""
        if not self.verified or len(self.authorities) != 1:
            return False
        return self.fingerprint in _own_fingerprints(settings.pocketkube_folder)

    def copy_to(self, folder: Path) -> Path:
        """Write the document for a child process, readable by its owner only."""
        path = folder / "kubeconfig"
        partial = folder / f".kubeconfig.{secrets.token_hex(4)}"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yaml.safe_dump(dict(self.document), file, sort_keys=False)
        partial.replace(path)
        return path


def of_pocket(name: str, settings: Settings) -> Access:
    """Access to the pocketkube cluster `name` of this user. Raises BadInput, ClusterUnreachable."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no name of a pocketkube cluster")
    path = settings.pocketkube_folder / name / "kubeconfig"
    if not path.is_file():
        known = ", ".join(pockets(settings)) or "none"
        raise ClusterUnreachable(f"there is no pocketkube cluster {name} (there are: {known})",
                                 hint=f"pocketkube up --name {name}")  # fmt: skip
    document = _load(path)
    return _access(_anchored(document, path.parent), str(document.get("current-context") or ""), str(path))


def pockets(settings: Settings) -> list[str]:
    """Names of this user's pocketkube clusters that have a kubeconfig, running or not."""
    folder = settings.pocketkube_folder
    if not folder.is_dir():
        return []
    return sorted(p.parent.name for p in folder.glob("*/kubeconfig") if _NAME.fullmatch(p.parent.name))


def of_context(context: str, settings: Settings) -> Access:
    """Access by a context of $KUBECONFIG (or ~/.kube/config). Raises BadInput naming the contexts there are."""
    listed = settings.kubeconfig or str(Path("~/.kube/config").expanduser())
    merged: dict[str, Any] = {"clusters": [], "users": [], "contexts": []}
    for path in (Path(part).expanduser() for part in listed.split(os.pathsep) if part):
        if not path.is_file():
            continue
        document = _anchored(_load(path), path.resolve().parent)
        for section in ("clusters", "users", "contexts"):
            known = {entry["name"] for entry in merged[section]}
            merged[section] += [entry for entry in document[section] if entry["name"] not in known]
    return _access(merged, context, listed)


def _own_fingerprints(folder: Path) -> set[str]:
    found: set[str] = set()
    for path in folder.glob("*/ca.pem") if folder.is_dir() else ():
        try:
            if path.stat().st_uid == os.getuid():
                found |= {hashlib.sha256(der).hexdigest() for der in _certificates(path.read_text("ascii"))}
        except (OSError, ValueError):
            continue  # a cluster that we cannot tell to be ours is not ours
    return found


def _certificates(pem: str) -> tuple[bytes, ...]:
    blocks = re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", pem, re.DOTALL)
    return tuple(ssl.PEM_cert_to_DER_cert(block) for block in blocks)


def _load(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise BadInput(f"{path}: is no kubeconfig")
    return document


def _anchored(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The document's named entries with relative paths made absolute."""
    anchored: dict[str, Any] = {}
    for section, key in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
        anchored[section] = []
        for entry in document.get(section) or []:
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                raise BadInput(f"{folder}: kubeconfig: {section} holds an entry without a name")
            body = dict(entry.get(key) or {})
            for name in ("certificate-authority", "client-certificate", "client-key", "tokenFile"):
                if body.get(name):
                    body[name] = str(folder / str(body[name]))
            plugin = body.get("exec")
            if isinstance(plugin, dict) and "/" in str(plugin.get("command", "")):
                body["exec"] = {**plugin, "command": str(folder / str(plugin["command"]))}
            anchored[section].append({"name": entry["name"], key: body})
    return anchored


def _access(merged: Mapping[str, Any], context: str, where: str) -> Access:
    contexts = {entry["name"]: entry["context"] for entry in merged["contexts"]}
    if context not in contexts:
        raise BadInput(f"there is no context {context!r} in {where}",
                       hint=f"contexts: {', '.join(sorted(contexts)) or 'none'}; or pocket after `pocketkube up`")  # fmt: skip
    chosen = contexts[context]
    cluster = _entry(merged["clusters"], chosen.get("cluster"), "cluster", where)
    user = _entry(merged["users"], chosen.get("user"), "user", where) if chosen.get("user") else {}
    server = str(cluster.get("server") or "").rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise BadInput(f"{where}: context {context} names no server")
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": context,
        "contexts": [{"name": context, "context": {**chosen, "cluster": context, "user": context}}],
        "clusters": [{"name": context, "cluster": cluster}],
        "users": [{"name": context, "user": user}],
    }  # fmt: skip
    verified = server.startswith("https://") and not cluster.get("insecure-skip-tls-verify")
    authorities: tuple[bytes, ...] = ()
    if data := cluster.get("certificate-authority-data"):
        try:
            authorities = _certificates(base64.b64decode(data).decode("ascii"))
        except (binascii.Error, ValueError):
            raise BadInput(f"{where}: context {context} has a certificate authority that cannot be read") from None
    return Access(document, context, server, str(chosen.get("namespace") or "default"), authorities, verified)


def _entry(entries: list[dict[str, Any]], name: Any, kind: str, where: str) -> dict[str, Any]:
    """The named cluster or user, with the files that it names taken in."""
    found = next((entry[kind] for entry in entries if entry["name"] == name), None)
    if found is None:
        raise BadInput(f"{where}: there is no {kind} {name!r}")
    body = dict(found)
    for file_key, data_key in _FILES[kind]:
        path = body.pop(file_key, None)
        if path and not body.get(data_key):
            try:
                body[data_key] = base64.b64encode(Path(path).read_bytes()).decode()
            except OSError as error:
                raise BadInput(f"{where}: {file_key} of {kind} {name}: {error}") from None
    return body
