"""Label and field selectors, as Kubernetes writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pocketkube.errors import BadRequest

Matches = Callable[[Mapping[str, Any]], bool]

_PART = re.compile(r"""\s*(?:(?P<set>[\w./-]+)\s+(?P<op>in|notin)\s*\((?P<values>[^)]*)\)|(?P<not>!)\s*(?P<absent>[\w./-]+)
    |(?P<key>[\w./-]+)\s*(?P<eq>==|=|!=)\s*(?P<value>[\w.-]*)|(?P<present>[\w./-]+))\s*(?:,|$)""", re.X)  # fmt: skip


def labels(text: str | None) -> Matches:
    """A test on an object's labels from `a=b,c!=d,e in (f,g),!h`. Raises BadRequest."""
    tests: list[Callable[[Mapping[str, str]], bool]] = []
    position = 0
    text = text or ""
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            raise BadRequest(f"unable to parse label selector {text!r} at {position}")
        tests.append(_requirement(part))
        position = part.end()
    return lambda obj: all(test(obj["metadata"].get("labels") or {}) for test in tests)


def _requirement(part: re.Match[str]) -> Callable[[Mapping[str, str]], bool]:
    if key := part["set"]:
        values = {v.strip() for v in part["values"].split(",")}
        return (lambda has: has.get(key) in values) if part["op"] == "in" else (lambda has: has.get(key) not in values)
    if absent := part["absent"]:
        return lambda has: absent not in has
    if present := part["present"]:
        return lambda has: present in has
    key, value = part["key"], part["value"] or ""
    return (lambda has: has.get(key) != value) if part["eq"] == "!=" else (lambda has: has.get(key) == value)


def of(selector: Mapping[str, Any] | None) -> Matches:
    """A test from a LabelSelector object; an empty one matches all, None matches nothing."""
    if selector is None:
        return lambda obj: False
    wanted = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or []

    def matches(obj: Mapping[str, Any]) -> bool:
        has = obj["metadata"].get("labels") or {}
        return all(has.get(k) == v for k, v in wanted.items()) and all(expression(e, has) for e in expressions)

    return matches


def expression(wanted: Mapping[str, Any], has: Mapping[str, str]) -> bool:
    """One matchExpressions entry against labels."""
    key, operator, values = wanted["key"], wanted["operator"], wanted.get("values") or []
    if operator == "In":
        return has.get(key) in values
    if operator == "NotIn":
        return has.get(key) not in values
    return (key in has) if operator == "Exists" else key not in has


_FIELD = re.compile(r"\s*([\w.]+)\s*(==|=|!=)\s*(.*?)\s*")
_FALSE = frozenset({"spec.unschedulable", "spec.hostNetwork"})  # missing means false


def _field_tests(text: str | None) -> list[tuple[str, bool, str]]:
    tests: list[tuple[str, bool, str]] = []
    for part in filter(None, (text or "").split(",")):
        found = _FIELD.fullmatch(part)
        if found is None:
            raise BadRequest(f"invalid field selector {text!r}")
        tests.append((found[1], found[2] != "!=", found[3]))
    return tests


def field_names(text: str | None) -> list[str]:
    """The fields that a field selector names. Raises BadRequest."""
    return [name for name, _, _ in _field_tests(text)]


def fields(text: str | None) -> Matches:
    """A test on an object's fields from `spec.nodeName=body,status.phase!=Running`. Raises BadRequest."""
    tests = [(name.split("."), name in _FALSE, same, wanted) for name, same, wanted in _field_tests(text)]

    def value(obj: Mapping[str, Any], path: list[str], boolean: bool) -> str:
        node: Any = obj
        for name in path:
            node = node.get(name) if isinstance(node, Mapping) else None
        if node is None:
            return "false" if boolean else ""
        return str(node).lower() if isinstance(node, bool) else str(node)

    return lambda obj: all((value(obj, path, boolean) == wanted) is same for path, boolean, same, wanted in tests)
