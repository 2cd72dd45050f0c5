"""How a wrong field is told, and the rules that fields of many kinds share (apimachinery's validation)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Json = Any
Cause = tuple[str, str, str]  # field path, message, reason

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"(?!\d+$)(?!.*--)[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?")
DNS_1123 = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character"
)


def invalid(path: str, value: Json, message: str) -> Cause:
    """A cause as upstream words it."""
    shown = f'"{value}"' if isinstance(value, str) else "null" if value is None else value
    return path, f"Invalid value: {shown}: {message}", "FieldValueInvalid"


def required(path: str, message: str = "") -> Cause:
    """A field is missing."""
    return path, f"Required value{': ' + message if message else ''}", "FieldValueRequired"


def unsupported(path: str, value: Json, allowed: Iterable[str]) -> Cause:
    """A value is none of the few that there are."""
    known = ", ".join(f'"{a}"' for a in sorted(allowed))
    return path, f'Unsupported value: "{value}": supported values: {known}', "FieldValueNotSupported"


def labels(has: Mapping[str, str] | None, path: str) -> Iterable[Cause]:
    """Keys and values of labels."""
    for key, value in (has or {}).items():
        if not QUALIFIED.fullmatch(key) or len(key.rsplit("/", 1)[-1]) > 63:
            yield invalid(path, key, "name part must consist of alphanumeric characters, '-', '_' or '.'")
        if value and (len(value) > 63 or not _LABEL_VALUE.fullmatch(value)):
            yield invalid(path, value, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
                          "and must start and end with an alphanumeric character")  # fmt: skip


def selector(wanted: Mapping[str, Json] | None, path: str, *, empty: bool = False) -> Iterable[Cause]:
    """A LabelSelector; `empty` if it may select everything."""
    if wanted is None:
        yield required(path)
        return
    if not empty and not wanted.get("matchLabels") and not wanted.get("matchExpressions"):
        yield invalid(path, "{}", "empty selector is invalid for this kind")
    yield from labels(wanted.get("matchLabels"), f"{path}.matchLabels")
    for n, e in enumerate(wanted.get("matchExpressions") or []):
        yield from requirement(e, f"{path}.matchExpressions[{n}]", ("In", "NotIn", "Exists", "DoesNotExist"))


def requirement(e: Mapping[str, Json], path: str, operators: tuple[str, ...]) -> Iterable[Cause]:
    """One of matchExpressions."""
    operator = e.get("operator")
    if operator not in operators:
        yield invalid(f"{path}.operator", operator, "not a valid selector operator")
    elif operator in ("In", "NotIn") and not e.get("values"):
        yield required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")
    elif operator in ("Exists", "DoesNotExist") and e.get("values"):
        yield (
            f"{path}.values",
            "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            "FieldValueForbidden",
        )
    if not e.get("key"):
        yield required(f"{path}.key")


def amount(value: Json, path: str) -> Iterable[Cause]:
    """A number or a percentage."""
    if isinstance(value, str) and not re.fullmatch(r"\d{1,3}%", value):
        yield invalid(path, value, "a valid percent string must be a numeric string followed by an ending '%'")
    elif isinstance(value, int) and value < 0:
        yield invalid(path, value, "must be greater than or equal to 0")


def quantity(value: Json, path: str) -> Iterable[Cause]:
    """An amount of a resource."""
    if not _QUANTITY.fullmatch(str(value)) or str(value).startswith("-"):
        yield invalid(path, value, "must be a quantity greater than or equal to 0")


def positive(spec: Mapping[str, Json], path: str, *names: str) -> Iterable[Cause]:
    """Numbers that must not be negative."""
    for name in names:
        if isinstance(spec.get(name), int) and spec[name] < 0:
            yield invalid(f"{path}.{name}", spec[name], "must be greater than or equal to 0")


def port(entry: Mapping[str, Json], path: str, key: str) -> Iterable[Cause]:
    """A port of a container or a Service, its number under `key`."""
    number = entry.get(key)
    if number is None:
        yield required(f"{path}.{key}")
    elif not isinstance(number, int) or not 1 <= number <= 65535:
        yield invalid(f"{path}.{key}", number, "must be between 1 and 65535, inclusive")
    if entry.get("protocol", "TCP") != "TCP":
        yield (
            f"{path}.protocol",
            f'Unsupported value: "{entry["protocol"]}": pocketkube serves TCP',
            "FieldValueNotSupported",
        )
    name = entry.get("name")
    if name and key == "containerPort" and (len(name) > 15 or not _PORT_NAME.fullmatch(name) or name.isdigit()):
        yield invalid(
            f"{path}.name", name, "must be at most 15 characters of a-z, 0-9 and '-' with at least one letter"
        )
