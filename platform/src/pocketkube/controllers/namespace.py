"""Namespaces: the four that are always there, and the end of one, which is that of all in it.

Source: kubernetes pkg/controller/namespace/deletion, pkg/controlplane/controller/systemnamespaces.
"""

from __future__ import annotations

from collections.abc import Iterable

from pocketkube.controllers import pods
from pocketkube.controllers.reconciler import Context, Key, keys
from pocketkube.storage import Event, Object

SYSTEM = ("default", "kube-node-lease", "kube-public", "kube-system")


class NamespaceController:
    """Empties a namespace that has a deletionTimestamp, then lets it go."""

    name = "namespace-controller"

    def __init__(self, context: Context) -> None:
        self._store, self._clock = context.store, context.clock

    def touched(self, event: Event) -> Iterable[Key]:
        """The namespace itself; that of an object which went away, if it waits for that."""
        if event.resource == "namespaces":
            yield "", event.object["metadata"]["name"]
        elif event.type == "DELETED" and (name := event.object["metadata"].get("namespace")):
            namespace = self._store.find("namespaces", None, name)
            if namespace is not None and "deletionTimestamp" in namespace["metadata"]:
                yield "", name

    def known(self) -> Iterable[Key]:
        """All namespaces, and those that must be."""
        return [*(("", name) for name in SYSTEM), *keys(self._store, "namespaces")]

    def reconcile(self, key: Key) -> float | None:
        """Make a system namespace, or take one step in the end of one."""
        name = key[1]
        namespace = self._store.find("namespaces", None, name)
        if namespace is None:
            if name in SYSTEM:
                self._store.create("namespaces", {
                    "apiVersion": "v1", "kind": "Namespace", "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
                    "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                })  # fmt: skip
            else:
                self._sweep_events(name)
            return None
        if "deletionTimestamp" not in namespace["metadata"]:
            return None
        if (namespace.get("status") or {}).get("phase") != "Terminating":
            self._store.mutate(
                "namespaces", None, name, lambda n: n.setdefault("status", {}).update(phase="Terminating")
            )
        self._empty(name)
        if not any(self._store.list(resource, name) for resource in self._store.resources()):
            self._release(name)
        return None

    def _empty(self, name: str) -> None:
        """Owners before pods, so that nothing is made anew; Events last, since ends are told too."""
        others = [r for r in self._store.resources() if r not in ("pods", "events", "namespaces")]
        for resource in others:
            for obj in self._store.list(resource, name):
                if self._store.find(resource, name, obj["metadata"]["name"]) is not None:
                    self._store.delete(resource, name, obj["metadata"]["name"])
        for pod in self._store.list("pods", name):
            pods.end(self._store, pod, self._clock())
        if not any(self._store.list(resource, name) for resource in [*others, "pods"]):
            self._sweep_events(name)

    def _sweep_events(self, name: str) -> None:
        for event in self._store.list("events", name):
            self._store.delete("events", name, event["metadata"]["name"])

    def _release(self, name: str) -> None:
        def change(draft: Object) -> None:
            draft.setdefault("spec", {})["finalizers"] = []

        if self._store.find("namespaces", None, name) is not None:
            self._store.mutate("namespaces", None, name, change)
