"""The scale subresource: how many replicas, the same for all workloads (autoscaling/v1 Scale)."""

from __future__ import annotations

from pocketkube import patch
from pocketkube.admission import causes
from pocketkube.api.call import Call
from pocketkube.api.tables import selector_text
from pocketkube.api.wire import Answer, reply
from pocketkube.errors import BadRequest, Conflict, Invalid, UnsupportedMediaType
from pocketkube.storage import Object, Store

_PATCHES = {
    "application/json-patch+json": patch.json_patch, "application/merge-patch+json": patch.merge,
    "application/strategic-merge-patch+json": patch.strategic,
}  # fmt: skip


def shown(obj: Object) -> Object:
    """The Scale of a workload."""
    meta = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {k: meta[k] for k in kept if k in meta},
        "spec": {"replicas": obj["spec"].get("replicas", 0)},
        "status": {"replicas": (obj.get("status") or {}).get("replicas", 0), "selector": selector_text(obj)},
    }  # fmt: skip


def scale(store: Store, call: Call) -> Answer:
    """GET, PUT or PATCH of .../scale. Raises Conflict, Invalid, BadRequest."""
    obj = store.get(call.resource.stored, call.namespace, call.name or "")
    if call.verb == "get":
        return reply(shown(obj))
    wanted = call.document()
    if call.verb == "patch":
        change = _PATCHES.get(call.content_type.split(";")[0].strip())
        if change is None:
            raise UnsupportedMediaType(f"a Scale cannot be patched with {call.content_type}")
        wanted = change(shown(obj), wanted)
    if not isinstance(wanted, dict) or wanted.get("kind", "Scale") != "Scale":
        raise BadRequest("the body is not a Scale")
    version = (wanted.get("metadata") or {}).get("resourceVersion")
    if version and version != obj["metadata"]["resourceVersion"]:
        raise Conflict(f'Operation cannot be fulfilled on {call.resource.qualified} "{call.name}": the object has been modified; '
                       "please apply your changes to the latest version and try again")  # fmt: skip
    replicas = (wanted.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise BadRequest("spec.replicas is not a whole number")
    if replicas < 0:
        cause = causes.invalid("spec.replicas", replicas, "must be greater than or equal to 0")
        raise Invalid.of("Scale.autoscaling", call.name or "", [cause])
    if call.dry_run:
        return reply(shown({**obj, "spec": {**obj["spec"], "replicas": replicas}}))
    return reply(
        shown(
            store.mutate(
                call.resource.stored, call.namespace, call.name or "", lambda o: o["spec"].update(replicas=replicas)
            )
        )
    )
