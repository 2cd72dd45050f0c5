"""Endpoints, the older form of EndpointSlices, which some clients still read. Source: kubernetes pkg/controller/endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pocketkube.controllers import endpointslice, pods
from pocketkube.controllers.moments import stamp
from pocketkube.controllers.reconciler import Context, Key, key_of, keys
from pocketkube.storage import Event, Object

MANAGED_BY, MANAGER = "endpoints.kubernetes.io/managed-by", "endpoint-controller"


class EndpointsController:
    """Keeps one Endpoints object for each Service with a selector; pods that end are in it no more."""

    name = "endpoint-controller"

    def __init__(self, context: Context) -> None:
        self._store, self._clock = context.store, context.clock

    def touched(self, event: Event) -> Iterable[Key]:
        """The Service of the same name, and those that select a pod."""
        if event.resource in ("services", "endpoints"):
            yield key_of(event)
        elif event.resource == "pods":
            yield from endpointslice.services_of(self._store, event)

    def known(self) -> Iterable[Key]:
        """All Services."""
        return keys(self._store, "services")

    def reconcile(self, key: Key) -> float | None:
        """Write the Endpoints of one Service."""
        service, known = self._store.find("services", *key), self._store.find("endpoints", *key)
        if service is None:
            if known is not None and (known["metadata"].get("labels") or {}).get(MANAGED_BY) == MANAGER:
                self._store.delete("endpoints", *key)
            return None
        if not service["spec"].get("selector") or "deletionTimestamp" in service["metadata"]:
            return None
        subsets = self._subsets(service)
        labels = {**(service["metadata"].get("labels") or {}), MANAGED_BY: MANAGER}
        if service["spec"].get("clusterIP") == "None":
            labels["service.kubernetes.io/headless"] = ""
        if known is None:
            self._store.create("endpoints", {
                "apiVersion": "v1", "kind": "Endpoints", "subsets": subsets,
                "metadata": {"name": key[1], "namespace": key[0], "labels": labels, "annotations": self._now()},
            })  # fmt: skip
        elif known.get("subsets") != subsets or known["metadata"].get("labels") != labels:

            def change(draft: Object) -> None:
                draft["subsets"] = subsets
                draft["metadata"]["labels"] = labels
                draft["metadata"].setdefault("annotations", {}).update(self._now())

            self._store.mutate("endpoints", *key, change)
        return None

    def _now(self) -> dict[str, str]:
        return {endpointslice.CHANGED: stamp(self._clock())}

    def _subsets(self, service: Object) -> list[dict[str, Any]]:
        subsets: dict[str, dict[str, Any]] = {}
        publish = bool(service["spec"].get("publishNotReadyAddresses"))
        for pod in self._store.list("pods", service["metadata"]["namespace"]):
            if not (endpointslice.selects(service, pod) and endpointslice.has_address(pod)):
                continue
            if pods.is_terminating(pod) and not publish:
                continue
            ports = endpointslice.ports(service, pod)
            if not ports and service["spec"].get("ports"):
                continue
            subset = subsets.setdefault(json.dumps(ports), {"ports": ports})
            place = "addresses" if pods.is_ready(pod) or publish else "notReadyAddresses"
            address = {"ip": pod["status"]["podIP"], "targetRef": endpointslice.target(pod)}
            if pod["spec"].get("nodeName"):
                address["nodeName"] = pod["spec"]["nodeName"]
            subset.setdefault(place, []).append(address)
        return list(subsets.values())
