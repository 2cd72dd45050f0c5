"""The four kinds of patches: JSON patch (RFC 6902), merge patch (RFC 7396), strategic merge patch, and apply.

Strategic merge keys are those of the Kubernetes API types that this server serves. Pure: takes documents, gives new ones.
"""

from __future__ import annotations

from typing import Any

from pocketkube.errors import BadRequest
from pocketkube.storage import clone

Json = Any

# The list below a field of this name is merged by this key; a list not named here is replaced whole.
MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",), "initContainers": ("name",), "ephemeralContainers": ("name",), "env": ("name",),
    "volumes": ("name",), "volumeMounts": ("mountPath",), "imagePullSecrets": ("name",), "conditions": ("type",),
    "ownerReferences": ("uid",), "tolerations": ("key",), "hostAliases": ("ip",), "topologySpreadConstraints": ("topologyKey",),
    "addresses": ("type",), "secrets": ("name",),
}  # fmt: skip
PORTS = ("containerPort", "port")


def merge(target: Json, patch: Json) -> Json:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return clone(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def strategic(target: Json, patch: Json, field: str = "", *, ordered: bool = False) -> Json:
    """Strategic merge, with `$patch: delete|replace`, `$deleteFromPrimitiveList/f`, `$setElementOrder/f` and `$retainKeys`.

    `ordered` puts the items of merged lists in the order of the patch, as server-side apply does.
    """
    if isinstance(patch, dict):
        if patch.get("$patch") == "replace":
            return {k: clone(v) for k, v in patch.items() if k != "$patch"}
        return _strategic_map(dict(target) if isinstance(target, dict) else {}, patch, ordered)
    if isinstance(patch, list):
        return _strategic_list(target if isinstance(target, list) else [], patch, field, ordered)
    return patch


def _strategic_map(result: dict[str, Json], patch: dict[str, Json], ordered: bool) -> dict[str, Json]:
    retain = patch.get("$retainKeys")
    if isinstance(retain, list):
        result = {k: v for k, v in result.items() if k in retain}
    orders: dict[str, list[Json]] = {}
    for key, value in patch.items():
        directive, _, name = key.partition("/")
        if directive == "$deleteFromPrimitiveList":
            result[name] = [v for v in result.get(name) or [] if v not in value]
        elif directive == "$setElementOrder":
            orders[name] = value
        elif key.startswith("$"):
            continue
        elif value is None or (isinstance(value, dict) and value.get("$patch") == "delete"):
            result.pop(key, None)
        else:
            result[key] = strategic(result.get(key), value, key, ordered=ordered)
    for name, order in orders.items():
        key_name = key_of(order, name)
        if key_name is not None and isinstance(result.get(name), list):
            result[name] = _in_order(result[name], key_name, order)
    return result


def key_of(items: list[Json], field: str) -> str | None:
    """The key by which the items of this field's list are merged; None if the list is one value."""
    if field == "ports":
        return next((k for k in PORTS if items and all(isinstance(i, dict) and k in i for i in items)), None)
    for key in MERGE_KEYS.get(field, ()):
        if all(isinstance(i, dict) and (key in i or "$patch" in i) for i in items):
            return key
    return None


def _strategic_list(target: list[Json], patch: list[Json], field: str, ordered: bool) -> list[Json]:
    if any(isinstance(i, dict) and i.get("$patch") == "replace" for i in patch):
        return [clone(i) for i in patch if i.get("$patch") != "replace"]
    if field == "finalizers":
        return [*target, *(v for v in patch if v not in target)]
    key = key_of(patch, field)
    if key is None or not patch:
        return list(clone(patch))
    result = list(target)
    for item in patch:
        at = next((n for n, known in enumerate(result) if known.get(key) == item.get(key)), None)
        if item.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(strategic({}, item, field, ordered=ordered))
        else:
            result[at] = strategic(result[at], item, field, ordered=ordered)
    return _in_order(result, key, patch) if ordered else result


def _in_order(items: list[Json], key: str, order: list[Json]) -> list[Json]:
    """Items that `order` names take its order among themselves; the others keep their places."""
    rank = {entry.get(key): n for n, entry in enumerate(order)}
    named = iter(sorted((i for i in items if i.get(key) in rank), key=lambda i: rank[i.get(key)]))
    return [next(named) if i.get(key) in rank else i for i in items]


def json_patch(target: Json, operations: Json) -> Json:
    """RFC 6902. Raises BadRequest when an operation cannot be done."""
    if not isinstance(operations, list):
        raise BadRequest("a JSON patch is a list of operations")
    document = clone(target)
    for operation in operations:
        try:
            document = _operate(document, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise BadRequest(
                f"the server rejected our request due to an error in our request: {operation}: {error}"
            ) from None
    return document


def _operate(document: Json, operation: dict[str, Json]) -> Json:
    kind, path = operation["op"], operation["path"]
    if kind in ("move", "copy"):
        value = clone(_walk(document, _split(operation["from"])))
        if kind == "move":
            document = _operate(document, {"op": "remove", "path": operation["from"]})
        return _operate(document, {"op": "add", "path": path, "value": value})
    tokens = _split(path)
    if kind == "test":
        if _walk(document, tokens) != operation["value"]:
            raise ValueError("testing value failed")
        return document
    if not tokens:
        return None if kind == "remove" else clone(operation["value"])
    parent, last = _walk(document, tokens[:-1]), tokens[-1]
    if isinstance(parent, list):
        at = len(parent) if last == "-" else int(last)
        if kind == "add":
            if at > len(parent):
                raise IndexError(last)
            parent.insert(at, clone(operation["value"]))
        elif kind == "replace":
            parent[at] = clone(operation["value"])
        elif kind == "remove":
            del parent[at]
        else:
            raise ValueError(f"unknown operation {kind}")
    elif kind == "remove":
        del parent[last]
    elif kind in ("add", "replace"):
        if kind == "replace" and last not in parent:
            raise KeyError(last)
        parent[last] = clone(operation["value"])
    else:
        raise ValueError(f"unknown operation {kind}")
    return document


def _split(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise ValueError(f"path {path!r} does not start with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _walk(document: Json, tokens: list[str]) -> Json:
    for token in tokens:
        document = document[int(token)] if isinstance(document, list) else document[token]
    return document
