"""OpenAPI v3 of what is served, made from the table of verbs and the shapes that admission knows.

kubectl reads it to see that the server checks fields itself (`fieldValidation`), and for `kubectl explain`. Strategic
merge patch is left out of the operations on purpose: kubectl then computes it from its own types, which know merge keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pocketkube.admission.shapes import ROOT, Field, shapes
from pocketkube.api.resources import Resource, Table
from pocketkube.api.wire import Reply, encode, reply

_BASIC: dict[str, dict[str, Any]] = {
    "string": {"type": "string"}, "int": {"type": "integer", "format": "int64"}, "bool": {"type": "boolean"},
    "number": {"type": "number"}, "time": {"type": "string", "format": "date-time"}, "any": {},
    "intstr": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
    "quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
}  # fmt: skip
_TOLD = {
    "unenforced": "Accepted, not enforced by pocketkube.",
    "refused": "Not supported by pocketkube: a value is an error.",
}
_FIELD_VALIDATION = {"name": "fieldValidation", "in": "query", "schema": {"type": "string", "uniqueItems": True}}
_PATCHES = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")


def documents(table: Table) -> dict[str, Reply]:
    """/openapi/v3 and one document for each group version, by path; version 2, which kubectl asks for kinds that are not in 3, is empty."""
    found: dict[str, Reply] = {}
    index: dict[str, Any] = {}
    for group, version in table.group_versions():
        name = f"apis/{group}/{version}" if group else f"api/{version}"
        document = encode(_document(table, group, version, f"/{name}"))
        found[f"/openapi/v3/{name}"] = Reply(document)
        digest = hashlib.sha256(document).hexdigest()[:32]
        index[name] = {"serverRelativeURL": f"/openapi/v3/{name}?hash={digest}"}
    found["/openapi/v3"] = reply({"paths": index})
    found["/openapi/v2"] = Reply(
        b"", content_type="application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    )  # an empty document
    return found


def _document(table: Table, group: str, version: str, base: str) -> dict[str, Any]:
    served = [r for r in table.resources if (r.group, r.version) == (group, version)]
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for resource in served:
        schema = {
            **_schema({**ROOT, **shapes().get(resource.kind, {})}, schemas),
            "x-kubernetes-group-version-kind": [_gvk(resource)],
        }
        schemas[_ref(resource.kind)] = schema
        at = (
            f"{base}/namespaces/{{namespace}}/{resource.plural}" if resource.namespaced else f"{base}/{resource.plural}"
        )
        paths[at] = {"get": _operation(resource, "list"), "post": _operation(resource, "post")}
        paths[f"{at}/{{name}}"] = {verb: _operation(resource, verb) for verb in ("get", "put", "patch")}
    return {
        "openapi": "3.0.0",
        "info": {"title": "pocketkube", "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(resource: Resource, verb: str) -> dict[str, Any]:
    whole = {"$ref": f"#/components/schemas/{_ref(resource.kind)}"}
    made: dict[str, Any] = {
        "operationId": f"{verb}{resource.group.title().replace('.', '')}{resource.kind}",
        "x-kubernetes-action": verb, "x-kubernetes-group-version-kind": _gvk(resource),
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": whole}}}},
    }  # fmt: skip
    if verb in ("post", "put", "patch"):
        accepted = _PATCHES if verb == "patch" else ("application/json",)
        made["parameters"] = [_FIELD_VALIDATION]
        made["requestBody"] = {
            "content": {kind: {"schema": whole if verb != "patch" else {"type": "object"}} for kind in accepted}
        }
    return made


def _gvk(resource: Resource) -> dict[str, str]:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _ref(name: str) -> str:
    return f"pocketkube.{name}"


def _schema(shape: Mapping[str, Field], schemas: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: _field(known, schemas) for name, known in shape.items()}}


def _field(known: Field, schemas: dict[str, Any]) -> dict[str, Any]:
    inner = _BASIC.get(known.inner)
    if inner is None:
        name = _ref(known.inner)
        if name not in schemas:
            schemas[name] = {}  # a shape may hold itself
            schemas[name] = _schema(shapes()[known.inner], schemas)
        inner = {"allOf": [{"$ref": f"#/components/schemas/{name}"}]}
    made = dict(inner)
    if known.outer == "list":
        made = {"type": "array", "items": inner}
    elif known.outer == "map":
        made = {"type": "object", "additionalProperties": inner}
    return {**made, "description": _TOLD[known.fate]} if known.fate else made
