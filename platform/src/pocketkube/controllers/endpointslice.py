"""EndpointSlices of Services with a selector: which pods answer, and in which state.

A slice without our managed-by label belongs to somebody else and is never touched; nor is any slice of a Service without a selector.
Source: kubernetes pkg/controller/endpointslice, staging/src/k8s.io/endpointslice, KEP-752, KEP-1672.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pocketkube.controllers import owners, pods
from pocketkube.controllers.moments import stamp
from pocketkube.controllers.reconciler import Context, Key, key_of, keys
from pocketkube.storage import Event, Object, Store

MANAGED_BY, MANAGER = "endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"
SERVICE_NAME = "kubernetes.io/service-name"
CHANGED = "endpoints.kubernetes.io/last-change-trigger-time"
PER_SLICE = 100


def services_of(store: Store, event: Event) -> Iterator[Key]:
    """Services that select a pod, as it is or as it was."""
    namespace = event.object["metadata"]["namespace"]
    for service in store.list("services", namespace):
        if any(pod is not None and selects(service, pod) for pod in (event.object, event.old)):
            yield namespace, service["metadata"]["name"]


def selects(service: Object, pod: Object) -> bool:
    """True if the Service has a selector and the pod has its labels."""
    selector = service["spec"].get("selector")
    return bool(selector) and selector.items() <= (pod["metadata"].get("labels") or {}).items()


def has_address(pod: Object) -> bool:
    """True for pods that have an address and did not end."""
    return bool((pod.get("status") or {}).get("podIP")) and pods.phase(pod) not in pods.TERMINAL


def ports(service: Object, pod: Object) -> list[dict[str, Any]]:
    """The Service's ports as this pod has them; a named target port that the pod lacks is left out."""
    found = []
    for port in service["spec"].get("ports") or []:
        number = _number(port, pod)
        if number is not None:
            entry = {"name": port.get("name") or "", "port": number, "protocol": port.get("protocol") or "TCP"}
            found.append({**entry, **({"appProtocol": port["appProtocol"]} if port.get("appProtocol") else {})})
    return found


def _number(port: Object, pod: Object) -> int | None:
    target, protocol = port.get("targetPort") or port["port"], port.get("protocol") or "TCP"
    if isinstance(target, int) or str(target).isdigit():
        return int(target)
    spec = pod["spec"]
    sidecars = [c for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"]
    for container in [*spec["containers"], *sidecars]:
        for declared in container.get("ports") or []:
            if declared.get("name") == target and (declared.get("protocol") or "TCP") == protocol:
                return int(declared["containerPort"])
    return None


def endpoint(service: Object, pod: Object) -> dict[str, Any]:
    """One endpoint: ready means serving and not ending."""
    meta, serving, leaving = pod["metadata"], pods.is_ready(pod), pods.is_terminating(pod)
    ready = bool(service["spec"].get("publishNotReadyAddresses")) or (serving and not leaving)
    made = {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready, "serving": serving, "terminating": leaving},
        "targetRef": target(pod),
    }  # fmt: skip
    if pod["spec"].get("nodeName"):
        made["nodeName"] = pod["spec"]["nodeName"]
    if pod["spec"].get("hostname") and pod["spec"].get("subdomain") == service["metadata"]["name"]:
        made["hostname"] = pod["spec"]["hostname"]
    assert meta["namespace"] == service["metadata"]["namespace"]
    return made


def target(pod: Object) -> dict[str, str]:
    """The reference from an endpoint to its pod."""
    meta = pod["metadata"]
    return {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}


class EndpointSliceController:
    """Keeps the slices of each Service as its pods are; an endpoint stays in its slice while it lives."""

    name = "endpoint-slice-controller"

    def __init__(self, context: Context) -> None:
        self._store, self._clock = context.store, context.clock

    def touched(self, event: Event) -> Iterable[Key]:
        """The Service itself, that of one of our slices, those that select a pod."""
        if event.resource == "services":
            yield key_of(event)
        elif event.resource == "endpointslices":
            meta = event.object["metadata"]
            labels = meta.get("labels") or {}
            if labels.get(MANAGED_BY) == MANAGER and labels.get(SERVICE_NAME):
                yield meta["namespace"], labels[SERVICE_NAME]
        elif event.resource == "pods":
            yield from services_of(self._store, event)

    def known(self) -> Iterable[Key]:
        """All Services."""
        return keys(self._store, "services")

    def reconcile(self, key: Key) -> float | None:
        """Write the slices of one Service."""
        service = self._store.find("services", *key)
        if service is None:
            for piece in self._slices(key):
                self._store.delete("endpointslices", key[0], piece["metadata"]["name"])
            return None
        if not service["spec"].get("selector") or "deletionTimestamp" in service["metadata"]:
            return None
        groups: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
        for pod in self._store.list("pods", key[0]):
            if selects(service, pod) and has_address(pod):
                mapped = ports(service, pod)
                groups.setdefault(json.dumps(mapped), (mapped, []))[1].append(endpoint(service, pod))
        if not groups:
            groups["[]"] = ([], [])
        pieces = [
            (mapped, endpoints[n : n + PER_SLICE])
            for mapped, endpoints in groups.values() for n in range(0, max(1, len(endpoints)), PER_SLICE)
        ]  # fmt: skip
        self._write(service, pieces)
        return None

    def _slices(self, key: Key) -> list[Object]:
        return [
            s for s in self._store.list("endpointslices", key[0])
            if (labels := s["metadata"].get("labels") or {}).get(SERVICE_NAME) == key[1] and labels.get(MANAGED_BY) == MANAGER
        ]  # fmt: skip

    def _write(self, service: Object, pieces: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]) -> None:
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        kept = self._slices((namespace, name))
        left = list(kept)
        todo = []
        for (
            mapped,
            endpoints,
        ) in pieces:  # a slice with the same ports stays; the placeholder becomes the first real slice
            found = next((s for s in left if s.get("ports") == mapped), None)
            if found is not None:
                left.remove(found)
            todo.append((found, mapped, endpoints))
        for found, mapped, endpoints in todo:
            if found is None and left:
                found = left.pop(0)
            self._write_one(service, found, mapped, endpoints)
        for gone in left:
            self._store.delete("endpointslices", namespace, gone["metadata"]["name"])

    def _write_one(
        self, service: Object, found: Object | None, mapped: list[dict[str, Any]], endpoints: list[dict[str, Any]]
    ) -> None:
        meta = service["metadata"]
        labels = {
            **(meta.get("labels") or {}),
            SERVICE_NAME: meta["name"],
            MANAGED_BY: MANAGER,
        }
        if service["spec"].get("clusterIP") == "None":
            labels["service.kubernetes.io/headless"] = ""
        body = {"addressType": "IPv4", "endpoints": endpoints, "ports": mapped}
        now = stamp(self._clock())
        if found is None:
            self._store.create("endpointslices", {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", **body,
                "metadata": {"generateName": meta["name"] + "-", "namespace": meta["namespace"], "labels": labels,
                             "annotations": {CHANGED: now}, "ownerReferences": [owners.reference(service, "v1", "Service")]},
            })  # fmt: skip
            return
        if {k: found.get(k) for k in body} == body and found["metadata"].get("labels") == labels:
            return

        def change(draft: Object) -> None:
            draft.update(body)
            draft["metadata"]["labels"] = labels
            draft["metadata"].setdefault("annotations", {})[CHANGED] = now

        self._store.mutate("endpointslices", meta["namespace"], found["metadata"]["name"], change)
