"""ControllerRevisions: the pod templates that a StatefulSet had, by name. Source: kubernetes pkg/controller/history."""

from __future__ import annotations

from typing import Any

from pocketkube.controllers import owners
from pocketkube.controllers.rollout import template_hash, without_hash
from pocketkube.storage import Object, Store, clone

RESOURCE = "controllerrevisions"
LABEL = "controller-revision-hash"


def of(store: Store, owner: Object) -> list[Object]:
    """Revisions of an owner, the oldest first."""
    found = [r for r in store.list(RESOURCE, owner["metadata"]["namespace"]) if owners.controls(owner, r)]
    return sorted(found, key=lambda r: (r["revision"], r["metadata"]["name"]))


def current(store: Store, owner: Object, api_version: str, kind: str) -> Object:
    """The revision of the owner's present template, made if there is none; an old one that is used again becomes the newest."""
    template, known = owner["spec"]["template"], of(store, owner)
    newest = known[-1]["revision"] if known else 0
    namespace = owner["metadata"]["namespace"]
    for revision in known:
        if without_hash(template_of(revision)) == without_hash(template):
            if revision["revision"] == newest:
                return revision
            name = revision["metadata"]["name"]
            return store.mutate(RESOURCE, namespace, name, lambda r: r.update(revision=newest + 1))
    digest = template_hash(template, (owner.get("status") or {}).get("collisionCount") or 0)
    made: dict[str, Any] = {
        "apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": newest + 1,
        "metadata": {"name": f"{owner['metadata']['name']}-{digest}", "namespace": namespace,
                     "labels": {**(template.get("metadata") or {}).get("labels", {}), "controller.kubernetes.io/hash": digest},
                     "ownerReferences": [owners.reference(owner, api_version, kind)]},
        "data": {"spec": {"template": {**clone(template), "$patch": "replace"}}},
    }  # fmt: skip
    return store.create(RESOURCE, made)


def template_of(revision: Object) -> Object:
    """The pod template that a revision keeps."""
    return {k: v for k, v in revision["data"]["spec"]["template"].items() if k != "$patch"}


def trim(store: Store, owner: Object, used: set[str]) -> None:
    """Delete the oldest revisions above revisionHistoryLimit that no pod has."""
    limit = owner["spec"].get("revisionHistoryLimit", 10)
    spare = [r for r in of(store, owner) if r["metadata"]["name"] not in used]
    for revision in spare[: max(0, len(spare) - (10 if limit is None else limit))]:
        store.delete(RESOURCE, revision["metadata"]["namespace"], revision["metadata"]["name"])
