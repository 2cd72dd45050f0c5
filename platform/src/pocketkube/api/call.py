"""One request to the API, understood: which resource, which verb, which object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

import yaml

from pocketkube.api import protobuf
from pocketkube.api.resources import Resource, Table
from pocketkube.errors import BadRequest, NotFound, Unsupported, UnsupportedMediaType

SUBVERB = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class Call:
    """A request on a resource; `tail` is what follows .../proxy, as it came; `arguments` is the query with repeated names."""

    resource: Resource
    verb: str
    namespace: str | None
    name: str | None
    subresource: str | None
    tail: str
    query: Mapping[str, str]
    arguments: tuple[tuple[str, str], ...]
    content_type: str
    accept: str
    body: bytes

    @property
    def dry_run(self) -> bool:
        """True if nothing may be stored."""
        return self.query.get("dryRun") == "All"

    @property
    def wants_table(self) -> bool:
        """True if the client's first choice is a Table."""
        return "as=Table" in self.accept.split(",")[0]

    def flag(self, name: str) -> bool:
        """A boolean of the query."""
        return _true(self.query.get(name))

    def number(self, name: str) -> int | None:
        """A whole number of the query. Raises BadRequest."""
        text = self.query.get(name)
        if not text:
            return None
        if not text.isdecimal():
            raise BadRequest(f"{name}: invalid value {text!r}: must be a whole number")
        return int(text)

    def document(self) -> Any:
        """The body as JSON (or YAML for apply). Raises BadRequest."""
        if self.content_type.startswith(protobuf.TYPE):
            return protobuf.decode(self.body)
        if "cbor" in self.content_type:
            raise UnsupportedMediaType(f"the body of the request was in an unknown format: {self.content_type}")
        try:
            if "yaml" in self.content_type:
                return yaml.safe_load(self.body)
            return json.loads(self.body) if self.body else {}
        except (ValueError, yaml.YAMLError) as error:
            raise BadRequest(f"the body is not {self.content_type or 'JSON'}: {error}") from None


def _true(text: str | None) -> bool:
    """As Go's strconv.ParseBool; the Python client writes True."""
    return text in ("1", "t", "T", "true", "TRUE", "True")


def parse(table: Table, method: str, path: str, query: bytes, headers: Mapping[str, str], body: bytes) -> Call:
    """Understand a request under /api/v1 or /apis/G/V; `path` is still percent-encoded.

    Raises NotFound for unknown paths, Unsupported for unserved verbs.
    """
    arguments = tuple(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    asked = dict(arguments)
    parts = [unquote(p) for p in path.split("/") if p]
    if parts[:2] == ["api", "v1"]:
        group, version, rest = "", "v1", parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise NotFound(f"the server could not find the requested resource: {path}")
    namespace = None
    if rest[:1] == ["namespaces"] and len(rest) > 2 and table.find(group, version, rest[2]):
        namespace, rest = rest[1], rest[2:]
    elif rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        raise Unsupported(f"pocketkube does not serve {rest[2]} of {group or 'core'}/{version}")
    resource = table.find(group, version, rest[0]) if rest else None
    if resource is None:
        raise Unsupported(f"pocketkube does not serve {rest[0] if rest else path} of {group or 'core'}/{version}")
    name = rest[1] if len(rest) > 1 else None
    sub = rest[2] if len(rest) > 2 else None
    verb = _verb(method, name, sub, asked)
    served = resource.subresources.get(sub, ()) if sub else resource.verbs
    if verb not in served:
        raise Unsupported(f"pocketkube does not {verb} {resource.qualified}{'/' + sub if sub else ''}")
    if resource.namespaced and not namespace and verb not in ("list", "watch"):
        raise BadRequest(f"{resource.plural} are namespaced: a namespace is needed to {verb}")
    tail = path.partition("/proxy/")[2] if sub == "proxy" else "/".join(rest[3:])
    return Call(resource, verb, namespace, name, sub, tail, asked, arguments, headers.get("content-type", ""),
                headers.get("accept", ""), body)  # fmt: skip


def _verb(method: str, name: str | None, sub: str | None, query: Mapping[str, str]) -> str:
    if sub:
        return SUBVERB.get(method, method.lower())
    if method == "GET" and _true(query.get("watch")):
        return "watch"
    if method == "GET":
        return "get" if name else "list"
    if method == "DELETE":
        return "delete" if name else "deletecollection"
    return SUBVERB.get(method, method.lower())
