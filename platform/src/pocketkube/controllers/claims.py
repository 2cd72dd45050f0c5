"""The PersistentVolumeClaims of a StatefulSet's pods: made once for each ordinal, kept or deleted as the retention policy says.

Source: kubernetes pkg/controller/statefulset/stateful_set_utils.go (updateClaimOwnerRefForSetAndPod), KEP-1847.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from pocketkube.admission import defaults
from pocketkube.storage import Object, Store, clone

RESOURCE = "persistentvolumeclaims"


def name_of(template: Object, pod: str) -> str:
    """A claim is called after its template and its pod."""
    return f"{template['metadata']['name']}-{pod}"


def templates(owner: Object) -> list[Object]:
    """spec.volumeClaimTemplates."""
    return owner["spec"].get("volumeClaimTemplates") or []


def volumes(owner: Object, pod: str, given: list[Object]) -> list[Object]:
    """The pod's volumes: those of the template, with the claims in place of any of the same name."""
    taken = {t["metadata"]["name"] for t in templates(owner)}
    return [v for v in given if v["name"] not in taken] + [
        {"name": t["metadata"]["name"], "persistentVolumeClaim": {"claimName": name_of(t, pod)}} for t in templates(owner)
    ]  # fmt: skip


def create(store: Store, owner: Object, pod: str) -> Iterator[str]:
    """Make the claims that a pod lacks; yields their names."""
    namespace = owner["metadata"]["namespace"]
    for template in templates(owner):
        name, meta = name_of(template, pod), template["metadata"]
        if store.find(RESOURCE, namespace, name) is not None:
            continue
        labels = {**(meta.get("labels") or {}), **(owner["spec"]["selector"].get("matchLabels") or {})}
        kept = {"annotations": clone(meta["annotations"])} if meta.get("annotations") else {}
        made: Object = {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": clone(template["spec"]),
            "metadata": {"name": name, "namespace": namespace, "labels": labels, **kept},
        }  # fmt: skip
        defaults.fill("PersistentVolumeClaim", made)
        store.create(RESOURCE, made)
        yield name


def retain(store: Store, owner: Object, have: Mapping[int, Object], wanted: Container[int]) -> None:
    """Give each claim the owner with which it is to go: none, its StatefulSet, or, scaled away, its pod."""
    policy = owner["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    for n, pod in have.items():
        references = []
        if n not in wanted and policy.get("whenScaled") == "Delete":
            references = [_reference(pod, "v1", "Pod")]
        elif policy.get("whenDeleted") == "Delete":
            references = [_reference(owner, "apps/v1", "StatefulSet")]
        for template in templates(owner):
            _own(store, owner["metadata"]["namespace"], name_of(template, pod["metadata"]["name"]), references)


def _reference(owner: Object, api_version: str, kind: str) -> dict[str, Any]:
    meta = owner["metadata"]
    return {"apiVersion": api_version, "kind": kind, "name": meta["name"], "uid": meta["uid"], "controller": True}


def _own(store: Store, namespace: str, name: str, references: list[dict[str, Any]]) -> None:
    claim = store.find(RESOURCE, namespace, name)
    if claim is None:
        return
    has = claim["metadata"].get("ownerReferences") or []
    kept = [r for r in has if r["kind"] not in ("StatefulSet", "Pod")]
    if has != kept + references:
        store.mutate(RESOURCE, namespace, name, lambda c: c["metadata"].update(ownerReferences=kept + references))
