"""The shape of each kind (`fields.yaml`), and a walk that finds what is unknown, mistyped, refused or not enforced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

Json = Any


@dataclass(frozen=True)
class Field:
    """One field: `outer` is "" for a single value, "list" or "map"; `inner` is a basic type or another shape."""

    outer: str
    inner: str
    fate: str = ""  # "", "unenforced" or "refused"
    done_anyway: str = ""  # the value that has no fate, because it is what happens


ROOT = {
    "apiVersion": Field("", "string"),
    "kind": Field("", "string"),
    "metadata": Field("", "ObjectMeta"),
}  # of every kind


@dataclass
class Findings:
    """Paths of fields, as written in the object."""

    unknown: list[str] = field(default_factory=list)
    mistyped: list[tuple[str, str]] = field(default_factory=list)  # (path, what is wrong)
    refused: list[str] = field(default_factory=list)
    unenforced: list[str] = field(default_factory=list)
    _strays: list[tuple[dict[str, Json], str]] = field(default_factory=list)

    def stray(self, holder: dict[str, Json], name: str, path: str) -> None:
        """Note an unknown field."""
        self.unknown.append(path)
        self._strays.append((holder, name))

    def prune(self) -> None:
        """Take the unknown fields out of the object: what is not in the type is not stored."""
        for holder, name in self._strays:
            holder.pop(name, None)


@cache
def shapes() -> Mapping[str, Mapping[str, Field]]:
    """All shapes by name; a kind has its apiVersion, kind and metadata too."""
    text = files("pocketkube.admission").joinpath("fields.yaml").read_text(encoding="utf-8")
    raw: dict[str, dict[str, str]] = yaml.safe_load(text)
    return {name: {key: _parse(kind) for key, kind in below.items()} for name, below in raw.items()}


def _parse(text: str) -> Field:
    words = text.split()
    fate, _, done_anyway = (
        words.pop(0).partition("=") if words[0].startswith(("unenforced", "refused")) else ("", "", "")
    )
    outer = words.pop(0) if words[0] in ("list", "map") else ""
    return Field(outer, words[0], fate, done_anyway)


def examine(kind: str, obj: dict[str, Json]) -> Findings:
    """What is to be said about an object of a known kind; a field that is null is taken out, since null means absent."""
    found = Findings()
    shape = shapes().get(kind)
    if shape is not None:
        _map({**ROOT, **shape}, obj, "", found)
    return found


def _map(shape: Mapping[str, Field], value: dict[str, Json], path: str, found: Findings) -> None:
    for name in [name for name, below in value.items() if below is None and name in shape]:
        del value[name]
    for name, below in value.items():
        at = f"{path}.{name}" if path else name
        known = shape.get(name)
        if known is None:
            found.stray(value, name, at)
            continue
        if known.fate and below not in (False, 0, "", [], {}, known.done_anyway):
            (found.refused if known.fate == "refused" else found.unenforced).append(at)
        _value(known, below, at, found)


def _value(known: Field, value: Json, path: str, found: Findings) -> None:
    if known.outer == "list":
        if not isinstance(value, list):
            found.mistyped.append((path, f"cannot unmarshal {_name(value)} into a list of {known.inner}"))
            return
        for n, item in enumerate(value):
            _single(known.inner, item, f"{path}[{n}]", found)
    elif known.outer == "map":
        if not isinstance(value, dict):
            found.mistyped.append((path, f"cannot unmarshal {_name(value)} into a map of {known.inner}"))
            return
        for key, item in value.items():
            _single(known.inner, item, f"{path}.{key}", found)
    else:
        _single(known.inner, value, path, found)


_BASIC: dict[str, Callable[[Json], bool]] = {
    "any": lambda v: True,
    "string": lambda v: isinstance(v, str),
    "time": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "intstr": lambda v: isinstance(v, (int, str)) and not isinstance(v, bool),
    "quantity": lambda v: isinstance(v, (int, float, str)) and not isinstance(v, bool),
}


def _single(inner: str, value: Json, path: str, found: Findings) -> None:
    basic = _BASIC.get(inner)
    if basic is not None:
        if not basic(value):
            found.mistyped.append((path, f"cannot unmarshal {_name(value)} into a field of type {inner}"))
    elif isinstance(value, dict):
        _map(shapes()[inner], value, path, found)
    else:
        found.mistyped.append((path, f"cannot unmarshal {_name(value)} into a field of type {inner}"))


def _name(value: Json) -> str:
    names: list[tuple[type, str]] = [
        (bool, "bool"),
        (int, "number"),
        (float, "number"),
        (str, "string"),
        (list, "array"),
    ]
    return next((name for kind, name in names if isinstance(value, kind)), "null" if value is None else "object")
