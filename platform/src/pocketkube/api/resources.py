"""The table of what is served (`verbs.yaml`), from which routing and discovery are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

# Kind (with the group and version, where they are not the parent's) that a subresource answers with; others answer with the parent.
_SUBKINDS = {
    "eviction": ("policy", "v1", "Eviction"), "scale": ("autoscaling", "v1", "Scale"), "exec": ("", "v1", "PodExecOptions"),
}  # fmt: skip


@dataclass(frozen=True)
class Resource:
    """One kind of object; `subresources` maps a name to its verbs."""

    group: str
    version: str
    kind: str
    plural: str
    short: tuple[str, ...]
    namespaced: bool
    enforced: bool
    verbs: tuple[str, ...]
    subresources: Mapping[str, tuple[str, ...]]

    @property
    def api_version(self) -> str:
        """`v1` or `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """`pods` or `deployments.apps`, as messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def custom(self) -> bool:
        """True for what is a custom resource elsewhere."""
        return "." in self.group and not self.group.endswith(".k8s.io")

    @property
    def stored(self) -> str:
        """Name in the store; both event APIs show the same events."""
        return self.plural


def load() -> tuple[Resource, ...]:
    """The table, as the file has it."""
    text = files("pocketkube.api").joinpath("verbs.yaml").read_text(encoding="utf-8")
    return tuple(
        Resource(r["group"], r["version"], r["kind"], r["plural"], tuple(r["short"]), r["namespaced"], r["enforced"],
                 tuple(r["verbs"]), {name: tuple(verbs) for name, verbs in r.get("subresources", {}).items()})
        for r in yaml.safe_load(text)["resources"]
    )  # fmt: skip


class Table:
    """Lookup by (group, version, plural), and the discovery documents."""

    def __init__(self, resources: tuple[Resource, ...]) -> None:
        self.resources = resources
        self._by_path = {(r.group, r.version, r.plural): r for r in resources}
        self.by_kind = {(r.api_version, r.kind): r for r in resources}

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """The resource at this path, if it is served."""
        return self._by_path.get((group, version, plural))

    def group_versions(self) -> list[tuple[str, str]]:
        """Each (group, version) once, in the order of the table."""
        return list(dict.fromkeys((r.group, r.version) for r in self.resources))

    def resource_list(self, group: str, version: str) -> dict[str, Any]:
        """APIResourceList of one group version."""
        entries: list[dict[str, Any]] = []
        for r in self.resources:
            if (r.group, r.version) != (group, version):
                continue
            entries.append({"name": r.plural, "singularName": r.kind.lower(), "namespaced": r.namespaced,
                            "kind": r.kind, "verbs": list(r.verbs), "shortNames": list(r.short),
                            "categories": ["all"] if (r.group, r.plural) in _ALL else []})  # fmt: skip
            for name, verbs in r.subresources.items():
                of_group, of_version, kind = _SUBKINDS.get(name, (r.group, r.version, r.kind))
                entries.append({"name": f"{r.plural}/{name}", "singularName": "", "namespaced": r.namespaced,
                                "group": of_group, "version": of_version, "kind": kind, "verbs": list(verbs)})  # fmt: skip
        return {"kind": "APIResourceList", "apiVersion": "v1", "resources": entries,
                "groupVersion": f"{group}/{version}" if group else version}  # fmt: skip

    def groups(self) -> dict[str, Any]:
        """APIGroupList."""
        entries = []
        for group, version in self.group_versions():
            if group:
                at = {"groupVersion": f"{group}/{version}", "version": version}
                entries.append({"name": group, "versions": [at], "preferredVersion": at})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": entries}

    def aggregated(self, core: bool) -> dict[str, Any]:
        """APIGroupDiscoveryList (v2) of /api (core) or /apis."""
        items = []
        for group, version in self.group_versions():
            if bool(group) == core:
                continue
            served = [r for r in self.resources if (r.group, r.version) == (group, version)]
            items.append({"metadata": {"name": group, "creationTimestamp": None}, "versions": [
                {"version": version, "freshness": "Current", "resources": [_discovered(r) for r in served]}]})  # fmt: skip
        return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


_ALL = frozenset({("", "pods"), ("", "services"), ("apps", "deployments"), ("apps", "replicasets"), ("apps", "statefulsets"),
                  ("autoscaling", "horizontalpodautoscalers")})  # fmt: skip


def _discovered(r: Resource) -> dict[str, Any]:
    def kind(group: str, version: str, name: str) -> dict[str, str]:
        return {"group": group, "version": version, "kind": name}

    own = (r.group, r.version, r.kind)
    return {
        "resource": r.plural, "responseKind": kind(*own), "scope": "Namespaced" if r.namespaced else "Cluster",
        "singularResource": r.kind.lower(), "verbs": list(r.verbs), "shortNames": list(r.short),
        "categories": ["all"] if (r.group, r.plural) in _ALL else [],
        "subresources": [{"subresource": name, "responseKind": kind(*_SUBKINDS.get(name, own)), "verbs": list(verbs)}
                         for name, verbs in r.subresources.items()],
    }  # fmt: skip
