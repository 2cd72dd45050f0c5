"""Each namespace has a ServiceAccount `default`. Source: kubernetes pkg/controller/serviceaccount."""

from __future__ import annotations

from collections.abc import Iterable

from pocketkube.controllers.reconciler import Context, Key, keys
from pocketkube.storage import Event


class ServiceAccountController:
    """Makes it, and makes it anew."""

    name = "service-account-controller"

    def __init__(self, context: Context) -> None:
        self._store = context.store

    def touched(self, event: Event) -> Iterable[Key]:
        """A new namespace, or that of an account which went away."""
        if event.resource == "namespaces" and event.type == "ADDED":
            yield "", event.object["metadata"]["name"]
        elif event.resource == "serviceaccounts" and event.type == "DELETED":
            yield "", event.object["metadata"]["namespace"]

    def known(self) -> Iterable[Key]:
        """All namespaces."""
        return keys(self._store, "namespaces")

    def reconcile(self, key: Key) -> float | None:
        """Make the account of one namespace."""
        namespace = self._store.find("namespaces", None, key[1])
        leaving = namespace is None or "deletionTimestamp" in namespace["metadata"]
        if not leaving and self._store.find("serviceaccounts", key[1], "default") is None:
            meta = {"name": "default", "namespace": key[1]}
            self._store.create("serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
        return None
