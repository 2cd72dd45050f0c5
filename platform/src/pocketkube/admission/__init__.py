"""What stands between a client's object and the store: defaults, validation, and an honest word on what is not done.

An object passes `admit` in this order: shape (unknown, mistyped, refused fields), defaults, validation, addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pocketkube.admission import defaults, shapes, validation
from pocketkube.errors import BadRequest, Invalid, NotFound
from pocketkube.storage import Object, Store, clone

POD_SECURITY, MODES = "pod-security.kubernetes.io/", frozenset({"enforce", "audit", "warn"})
UNENFORCED_MAX = 1000  # (kind, field) pairs remembered


@dataclass(frozen=True)
class Unenforced:
    """A field that was accepted though nothing acts on it."""

    kind: str
    field: str  # without list indices

    def record(self) -> dict[str, str]:
        """As GET /debug/unenforced shows it."""
        return {"kind": self.kind, "field": self.field}


class Admission:
    """Checks and completes objects before they are stored."""

    def __init__(self, store: Store, allocate_cluster_ip: Callable[[Object], str]) -> None:
        self._store = store
        self._allocate_cluster_ip = allocate_cluster_ip
        self._unenforced: dict[Unenforced, None] = {}

    @property
    def unenforced(self) -> list[dict[str, str]]:
        """All that was accepted without being enforced since the start."""
        return [u.record() for u in sorted(self._unenforced, key=lambda u: (u.kind, u.field))]

    def admit(
        self, kind: str, group: str, obj: Object, old: Object | None, *, field_validation: str = "Warn", enforced: bool = True,
        dry_run: bool = False,
    ) -> list[str]:  # fmt: skip
        """Complete `obj` in place; the warnings to send. Raises BadRequest (shape), Invalid (values)."""
        name = obj["metadata"].get("name") or obj["metadata"].get("generateName") or ""
        found = shapes.examine(kind, obj)
        warnings = _unknown(kind, found, field_validation)
        if found.mistyped:
            path, message = found.mistyped[0]
            raise BadRequest(
                f'{kind} in version "{obj.get("apiVersion")}" cannot be handled as a {kind}: json: {message} at {path}'
            )
        qualified = f"{kind}.{group}" if group else kind
        if found.refused:
            refused = [(p, "Forbidden: not supported by pocketkube", "FieldValueNotSupported") for p in found.refused]
            raise Invalid.of(qualified, name, refused)
        defaults.fill(kind, obj)
        if kind == "Service" and old is not None:
            _keep_cluster_ip(obj, old)
        if old is not None:
            old = clone(old)
            defaults.fill(kind, old)  # pods that a controller made have not passed here; their defaults are no change
        if causes := validation.check(kind, obj, old):
            raise Invalid.of(qualified, name, causes)
        if kind == "Service" and old is None:
            self._address(obj, dry_run)
        warnings += self._note(kind, name, [*found.unenforced, *_pod_security(kind, obj)], enforced, dry_run)
        return warnings

    def _note(self, kind: str, name: str, fields: list[str], enforced: bool, dry_run: bool) -> list[str]:
        paths = fields if enforced else ["spec"]
        for path in paths:
            if not dry_run and len(self._unenforced) < UNENFORCED_MAX:
                self._unenforced[Unenforced(kind, _without_indices(path))] = None
        if not enforced:
            return [f"{kind} is accepted, not enforced by pocketkube"]
        return [f'{kind} "{name}": accepted, not enforced: {", ".join(paths)}'] if paths else []

    def _address(self, obj: Object, dry_run: bool) -> None:
        spec = obj["spec"]
        if spec.get("clusterIP"):
            address = str(spec["clusterIP"])
            taken = any(s["spec"].get("clusterIP") == address for s in self._store.list("services"))
            if address != "None" and taken:
                message = (
                    f'Invalid value: "{address}": failed to allocate IP {address}: provided IP is already allocated'
                )
                raise Invalid("Service", obj["metadata"]["name"], "spec.clusterIPs", message)
        elif dry_run:
            return
        else:
            spec["clusterIP"] = self._allocate_cluster_ip(obj)
        spec["clusterIPs"] = [spec["clusterIP"]]

    def require_namespace(self, namespace: str) -> Object:
        """The namespace an object is to be created in. Raises NotFound."""
        found = self._store.find("namespaces", None, namespace)
        if found is None:
            raise NotFound(f'namespaces "{namespace}" not found', {"name": namespace, "kind": "namespaces"})
        return found


def _pod_security(kind: str, obj: Object) -> list[str]:
    """Labels of a namespace that elsewhere make an admission plugin refuse pods or warn of them."""
    if kind != "Namespace":
        return []
    found = {k: v for k, v in (obj["metadata"].get("labels") or {}).items() if k.startswith(POD_SECURITY)}
    return [
        f"metadata.labels.{key}"
        for key, value in found.items()
        if key.removeprefix(POD_SECURITY) in MODES and value != "privileged"
    ]


def _without_indices(path: str) -> str:
    return "".join("[]" if n % 2 else part for n, part in enumerate(path.replace("]", "[").split("[")))


def _unknown(kind: str, found: shapes.Findings, field_validation: str) -> list[str]:
    if not found.unknown:
        return []
    if field_validation == "Strict":
        told = ", ".join(f'unknown field "{p}"' for p in found.unknown)
        raise BadRequest(f"strict decoding error: {told}")
    found.prune()
    return [f'unknown field "{p}"' for p in found.unknown] if field_validation != "Ignore" else []


def _keep_cluster_ip(obj: Object, old: Object) -> None:
    for name in ("clusterIP", "clusterIPs"):
        if not obj["spec"].get(name) and old["spec"].get(name):
            kept: Any = old["spec"][name]
            obj["spec"][name] = kept
