"""create, update, patch (four kinds) and delete."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pocketkube import patch
from pocketkube.admission import Admission
from pocketkube.api import apply, events, reads
from pocketkube.api.call import Call
from pocketkube.api.resources import Resource
from pocketkube.api.wire import Answer, reply
from pocketkube.errors import AlreadyExists, BadRequest, Conflict, Forbidden, Invalid, NotFound, UnsupportedMediaType
from pocketkube.storage import Object, Store, clone, now

STRATEGIC = "application/strategic-merge-patch+json"
OWNERS = frozenset(
    {"deployments", "replicasets", "statefulsets"}
)  # kinds whose dependents the garbage collector waits for
RETURNED = frozenset({"pods", "services", "serviceaccounts"})  # kinds whose delete answers with the object, as upstream
KEEP_STATUS = frozenset({"nodes"})  # a kubelet registers its node with its status
# A status is never absent in Kubernetes' own types, nor are these counts; clients rely on that.
_STATUS: dict[str, dict[str, int]] = {
    "poddisruptionbudgets": dict.fromkeys(
        ("currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"), 0
    ),
    "replicasets": {"replicas": 0},
    "horizontalpodautoscalers": {"desiredReplicas": 0},
    "statefulsets": {"replicas": 0, "availableReplicas": 0},
}
_SYSTEM = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
    "managedFields",
)


@dataclass(frozen=True)
class Writer:
    """Changes the store on behalf of clients."""

    store: Store
    admission: Admission

    def create(self, call: Call) -> Answer:
        """POST of a new object."""
        obj = self._document(call)
        meta = obj["metadata"]
        if meta.get("resourceVersion"):
            raise BadRequest("resourceVersion should not be set on objects to be created")
        made, warnings = self._create(call, obj)
        return reply(reads.present(call.resource, made), 201, warnings)

    def _create(self, call: Call, obj: Object) -> tuple[Object, list[str]]:
        resource, meta = call.resource, obj["metadata"]
        for name in _SYSTEM if not meta.get("managedFields") or call.verb == "create" else _SYSTEM[:-1]:
            meta.pop(name, None)
        if "status" in resource.subresources and resource.plural not in KEEP_STATUS:
            obj.pop("status", None)
            if not resource.custom:
                obj["status"] = dict(_STATUS.get(resource.plural, {}))
        if call.namespace:
            inside = self.admission.require_namespace(call.namespace)
            if inside["metadata"].get("deletionTimestamp"):
                raise Forbidden(f'{resource.plural} "{meta.get("name", "")}" is forbidden: unable to create new content in '
                                f"namespace {call.namespace} because it is being terminated")  # fmt: skip
        if meta.get("name") and self.store.find(resource.stored, call.namespace, meta["name"]):
            raise AlreadyExists(
                f'{resource.plural} "{meta["name"]}" already exists', {"name": meta["name"], "kind": resource.plural}
            )
        warnings = self._admit(call, obj, None)
        if call.dry_run:
            return {**obj, "metadata": {"uid": "", "creationTimestamp": now(), **meta}}, warnings
        return self.store.create(resource.stored, obj), warnings

    def update(self, call: Call) -> Answer:
        """PUT of a whole object or of its status."""
        obj = self._document(call)
        old = self._current(call)
        if not obj["metadata"].get("name"):
            raise Invalid(call.resource.kind, call.name or "", "metadata.name", "Required value: name must be provided")
        return self._replace(call, obj, old)

    def patch(self, call: Call) -> Answer:
        """PATCH in one of four ways, by the content type."""
        kind = call.content_type.split(";")[0].strip()
        body = call.document()
        if kind == "application/apply-patch+yaml":
            return self._apply(call, body)
        old = self._current(call)
        change = _PATCHES.get(kind)
        if change is None:
            raise UnsupportedMediaType(f"the body of the request was in an unknown format - accepted media types include: "
                                       f"{', '.join([*_PATCHES, 'application/apply-patch+yaml'])}")  # fmt: skip
        if kind == STRATEGIC and call.resource.custom:
            raise UnsupportedMediaType("strategic merge patch is not supported for custom resources: use merge patch")
        if not isinstance(body, list if kind == "application/json-patch+json" else dict):
            raise BadRequest("the patch has the wrong JSON type")
        if call.resource.plural == "poddisruptionbudgets" and kind == STRATEGIC and isinstance(body, dict):
            _replace_selector(body)
        shown = reads.present(call.resource, old)
        obj = change(clone(shown), body)
        if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
            raise BadRequest("the patch leaves no object")
        return self._replace(call, self._stored(call.resource, obj), old)

    def _apply(self, call: Call, wanted: Any) -> Answer:
        if not call.query.get("fieldManager"):
            raise Invalid("PatchOptions", "", "fieldManager", "Required value: is required for apply patch")
        if not isinstance(wanted, dict) or not wanted.get("apiVersion") or not wanted.get("kind"):
            raise BadRequest("an applied configuration needs apiVersion and kind")
        wanted = self._stored(call.resource, self._identified(call, wanted))
        if wanted["metadata"].get("managedFields"):
            raise BadRequest("metadata.managedFields must be nil")
        old = self.store.find(call.resource.stored, call.namespace, call.name or "")
        if call.subresource == "status":
            if old is None:
                raise NotFound(
                    f'{call.resource.plural} "{call.name}" not found', {"name": call.name, "kind": call.resource.plural}
                )
            wanted = {k: v for k, v in wanted.items() if k in ("apiVersion", "kind", "metadata", "status")}
        obj = apply.apply(old, wanted, call.query["fieldManager"], call.flag("force"))
        if old is not None:
            return self._replace(call, obj, old, force=True)
        made, warnings = self._create(call, obj)
        return reply(reads.present(call.resource, made), 201, warnings)

    def _replace(self, call: Call, obj: Object, old: Object, *, force: bool = False) -> Answer:
        meta, before = obj["metadata"], old["metadata"]
        qualified = call.resource.qualified
        for name in ("name", "namespace"):
            if meta.get(name, before.get(name)) != before.get(name):
                raise BadRequest(
                    f"the {name} of the object ({meta.get(name)}) does not match the {name} on the URL ({before.get(name)})"
                )
        if meta.get("uid") and meta["uid"] != before["uid"]:
            raise Conflict(f'Operation cannot be fulfilled on {qualified} "{before["name"]}": Precondition failed: '
                           f"UID in precondition: {meta['uid']}, UID in object meta: {before['uid']}")  # fmt: skip
        if force:
            meta.pop("resourceVersion", None)
        version = meta.get("resourceVersion")
        if version and version != before["resourceVersion"]:
            raise Conflict(f'Operation cannot be fulfilled on {qualified} "{before["name"]}": the object has been modified; '
                           "please apply your changes to the latest version and try again",
                           {"name": before["name"], "group": call.resource.group, "kind": call.resource.plural})  # fmt: skip
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "creationTimestamp", "uid", "generation"):
            meta.pop(name, None)
            if name in before:
                meta[name] = before[name]
        if not force and not meta.get("managedFields"):
            meta.pop("managedFields", None)
        if call.subresource == "status":
            meta = {**before, "managedFields": meta["managedFields"]} if force else before
            obj = {**old, "metadata": meta, **({"status": obj["status"]} if "status" in obj else {})}
            return self._store(call, obj, [])
        if "status" in call.resource.subresources:
            obj.pop("status", None)
            if "status" in old:
                obj["status"] = old["status"]
        if before.get("deletionTimestamp") and set(meta.get("finalizers") or []) - set(before.get("finalizers") or []):
            raise Invalid(call.resource.kind, before["name"], "metadata.finalizers",
                          "Forbidden: no new finalizers can be added if the object is being deleted", "FieldValueForbidden")  # fmt: skip
        return self._store(call, obj, self._admit(call, obj, old))

    def _store(self, call: Call, obj: Object, warnings: list[str]) -> Answer:
        stored = obj if call.dry_run else self.store.update(call.resource.stored, obj)
        return reply(reads.present(call.resource, stored), 200, warnings)

    def _admit(self, call: Call, obj: Object, old: Object | None) -> list[str]:
        asked = call.query.get("fieldValidation") or "Warn"
        if asked not in ("Strict", "Warn", "Ignore"):
            raise BadRequest(f"fieldValidation: unsupported value {asked!r}")
        return self.admission.admit(call.resource.kind, call.resource.group, obj, old, field_validation=asked,
                                    enforced=call.resource.enforced, dry_run=call.dry_run)  # fmt: skip

    def _current(self, call: Call) -> Object:
        return self.store.get(call.resource.stored, call.namespace, call.name or "")

    def _document(self, call: Call) -> Object:
        obj = call.document()
        if not isinstance(obj, dict):
            raise BadRequest(f"the body is not a {call.resource.kind}")
        return self._stored(call.resource, self._identified(call, obj))

    def _identified(self, call: Call, obj: Object) -> Object:
        """With the kind and place that the path says. Raises BadRequest when the body says otherwise."""
        resource = call.resource
        for name, wanted in (("apiVersion", resource.api_version), ("kind", resource.kind)):
            if obj.setdefault(name, wanted) != wanted:
                raise BadRequest(f"the {name} in the data ({obj[name]}) does not match the expected {name} ({wanted})")
        if obj.get("metadata") is None:
            obj["metadata"] = {}
        if not isinstance(obj["metadata"], dict):
            raise BadRequest(f"{resource.kind}: metadata is not an object")
        for part in (name for name in ("spec", "status") if obj.get(name) is None):
            obj.pop(part, None)
        meta = obj["metadata"]
        if meta.get("namespace") and meta["namespace"] != (call.namespace or meta["namespace"]):
            raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
        if call.name and meta.setdefault("name", call.name) != call.name:
            raise BadRequest(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({call.name})"
            )
        if call.namespace:
            meta["namespace"] = call.namespace
        else:
            meta.pop("namespace", None)
        return obj

    def _stored(self, resource: Resource, obj: Object) -> Object:
        return events.from_core(obj) if resource.stored == "events" and not resource.group else obj

    # -- delete ----------------------------------------------------------------------------------------------------

    def delete(self, call: Call) -> Answer:
        """DELETE of one object."""
        options = DeleteOptions.of(call)
        gone = self.remove(call.resource, call.namespace, call.name or "", options)
        meta = gone["metadata"]
        still = self.store.find(call.resource.stored, call.namespace, meta["name"]) is not None
        if still or call.resource.plural in RETURNED:
            return reply(reads.present(call.resource, gone))
        details = {"name": meta["name"], "kind": call.resource.plural, "uid": meta["uid"]}
        if call.resource.group:
            details["group"] = call.resource.group
        return reply({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    def remove(self, resource: Resource, namespace: str | None, name: str, options: DeleteOptions) -> Object:
        """Delete one object as its kind wants it: pods get their grace, namespaces their end, owners their finalizer."""
        stored = resource.stored
        old = self.store.get(stored, namespace, name)
        options.check(resource, old)
        if options.dry_run:
            return old
        if (
            (finalizer := options.finalizer)
            and resource.plural in OWNERS
            and not old["metadata"].get("deletionTimestamp")
        ):
            self.store.mutate(stored, namespace, name, lambda o: o["metadata"].update(
                finalizers=[*(f for f in o["metadata"].get("finalizers") or [] if f != finalizer), finalizer]))  # fmt: skip
        if resource.plural == "pods":
            return self._remove_pod(old, options.grace_s)
        if resource.plural == "namespaces" and (old.get("spec") or {}).get("finalizers"):
            return self._end_namespace(name)
        return self.store.delete(stored, namespace, name)

    def _remove_pod(self, pod: Object, asked_s: int | None) -> Object:
        meta = pod["metadata"]
        namespace, name = meta.get("namespace"), meta["name"]
        spec, phase = pod.get("spec") or {}, (pod.get("status") or {}).get("phase")
        grace_s = asked_s if asked_s is not None else int(spec.get("terminationGracePeriodSeconds") or 0)
        if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
            grace_s = 0
        if meta.get("deletionTimestamp"):
            # A second delete may hasten the end, never put it off; without a wish of its own it changes nothing.
            left_s = meta.get("deletionGracePeriodSeconds", 0)
            if grace_s > 0 and (asked_s is None or grace_s >= left_s):
                return pod
        if grace_s <= 0:
            return self.store.delete("pods", namespace, name)
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=grace_s)
        return self.store.mutate("pods", namespace, name, lambda o: o["metadata"].update(
            deletionTimestamp=ends.strftime("%Y-%m-%dT%H:%M:%SZ"), deletionGracePeriodSeconds=grace_s))  # fmt: skip

    def _end_namespace(self, name: str) -> Object:
        def change(obj: Object) -> None:
            obj["metadata"].setdefault("deletionTimestamp", now())
            obj.setdefault("status", {})["phase"] = "Terminating"

        return self.store.mutate("namespaces", None, name, change)


@dataclass(frozen=True)
class DeleteOptions:
    """How a client wants something deleted; None where it does not say."""

    grace_s: int | None = None
    policy: str | None = None
    uid: str | None = None
    version: str | None = None
    dry_run: bool = False

    @classmethod
    def of(cls, call: Call) -> DeleteOptions:
        """From the body and, where that is silent, from the query. Raises BadRequest."""
        body = call.document() if call.body else {}
        return cls.parse(body, call)

    @classmethod
    def parse(cls, body: Any, call: Call) -> DeleteOptions:
        """From a DeleteOptions document. Raises BadRequest."""
        if not isinstance(body, dict):
            raise BadRequest("the body is not DeleteOptions")
        grace_s = body.get("gracePeriodSeconds")
        if grace_s is None:
            grace_s = call.number("gracePeriodSeconds")
        if grace_s is not None and (not isinstance(grace_s, int) or grace_s < 0):
            raise BadRequest(f"gracePeriodSeconds: Invalid value: {grace_s}: must be greater than or equal to 0")
        policy = body.get("propagationPolicy") or call.query.get("propagationPolicy") or None
        orphan = body.get("orphanDependents", True if call.flag("orphanDependents") else None)
        if orphan is not None:
            policy = "Orphan" if orphan else policy
        if policy not in (None, "Foreground", "Background", "Orphan"):
            raise BadRequest(
                f'propagationPolicy: Unsupported value: "{policy}": supported values: "Foreground", "Background", "Orphan"'
            )
        wanted = body.get("preconditions") or {}
        dry = call.dry_run or body.get("dryRun") == ["All"]
        return cls(grace_s, policy, wanted.get("uid"), wanted.get("resourceVersion"), dry)

    @property
    def finalizer(self) -> str | None:
        """What upstream puts on an owner so that the garbage collector acts first."""
        return {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(self.policy or "")

    def check(self, resource: Resource, obj: Object) -> None:
        """Raises Conflict when the object is not the one that the client means."""
        meta = obj["metadata"]
        for what, wanted, has in (
            ("UID", self.uid, meta["uid"]),
            ("ResourceVersion", self.version, meta["resourceVersion"]),
        ):
            if wanted and wanted != has:
                raise Conflict(f'Operation cannot be fulfilled on {resource.qualified} "{meta["name"]}": Precondition failed: '
                               f"{what} in precondition: {wanted}, {what} in object meta: {has}")  # fmt: skip


def _replace_selector(body: Object) -> None:
    """A budget's selector is replaced whole by a strategic patch, as its Go type says (patchStrategy=replace)."""
    spec = body.get("spec")
    if isinstance(spec, dict) and isinstance(spec.get("selector"), dict):
        spec["selector"] = {"$patch": "replace", **spec["selector"]}


_PATCHES: dict[str, Callable[[Object, Any], Any]] = {
    "application/json-patch+json": patch.json_patch,
    "application/merge-patch+json": patch.merge,
    STRATEGIC: patch.strategic,
}
