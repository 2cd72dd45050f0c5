"""A case from a folder of CSV files: metrics.csv, and where there are any calls.csv, events.csv, traces.csv, impact.json."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path

from aftershock.diagnose.case import Case, Disruption, Impact, Series
from aftershock.errors import FolderError

ROWS_MAX = 5_000_000


def read(folder: Path) -> Case:
    """Read a case. Raises FolderError naming file, line and what is wrong."""
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for line, row in _rows(folder / "metrics.csv", ("time", "entity", "metric", "value")):
        value = _number(folder / "metrics.csv", line, row["value"]) if row["value"].strip() else math.nan
        if math.isfinite(value):
            at = _number(folder / "metrics.csv", line, row["time"])
            points.setdefault((row["entity"], row["metric"]), []).append((at, value))
    calls: set[tuple[str, str]] = set()
    if (folder / "calls.csv").exists():
        calls = {(row["caller"], row["callee"]) for _, row in _rows(folder / "calls.csv", ("caller", "callee"))}
    if (folder / "traces.csv").exists():
        _traces(folder / "traces.csv", points, calls)
    series = {key: Series(*map(tuple, zip(*sorted(values), strict=True))) for key, values in points.items()}
    if not series:
        raise FolderError(f"{folder / 'metrics.csv'}: holds no values")
    return Case(series, frozenset(c for c in calls if c[0] != c[1]), _impact(folder), tuple(_events(folder)))


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise FolderError(f"{path}: has no column {', '.join(missing)}", hint=f"columns: {','.join(columns)}")
            for number, row in enumerate(reader, 2):
                if any(row.get(c) is None for c in columns):
                    raise FolderError(f"{path}:{number}: has too few columns")
                if number > ROWS_MAX:
                    raise FolderError(f"{path}: more than {ROWS_MAX} rows")
                yield number, row
    except FileNotFoundError:
        raise FolderError(
            f"{path}: no such file", hint="a case needs metrics.csv with time,entity,metric,value"
        ) from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise FolderError(f"{path}: cannot be read: {error}") from None


def _number(path: Path, line: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise FolderError(f"{path}:{line}: {text!r} is not a number") from None


def _impact(folder: Path) -> Impact:
    path = folder / "impact.json"
    if not path.exists():
        return Impact(None, None, None)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        start = document.get("start")
        return Impact(document.get("entity"), document.get("metric"), None if start is None else float(start))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        shape = '{"entity": "..", "metric": "..", "start": 1.0}'
        raise FolderError(f"{path}: is not an impact: {error}", hint=f"the shape is {shape}") from None


def _events(folder: Path) -> Iterator[Disruption]:
    path = folder / "events.csv"
    if not path.exists():
        return
    for line, row in _rows(path, ("time", "entity")):
        what = next((row[c] for c in ("event", "what", "reason", "type", "kind") if row.get(c)), "event")
        yield Disruption(_number(path, line, row["time"]), row["entity"], what, row.get("node") or None)


def _traces(path: Path, points: dict[tuple[str, str], list[tuple[float, float]]], calls: set[tuple[str, str]]) -> None:
    """Calls and, where metrics.csv has none, latency, errors and requests by service and second."""
    service_of: dict[str, str] = {}
    spans: list[tuple[str, str, float, float, bool]] = []
    for line, row in _rows(path, ("trace", "span", "parent", "service", "start", "duration", "error")):
        start, duration = _number(path, line, row["start"]), _number(path, line, row["duration"])
        failed = row["error"].strip().lower() in ("1", "true", "yes")
        service_of[row["span"]] = row["service"]
        spans.append((row["parent"], row["service"], start, duration, failed))
    measured = {entity for entity, _ in points}
    grouped: dict[tuple[str, int], list[tuple[float, bool]]] = {}
    for parent, service, start, duration, failed in spans:
        if parent in service_of:
            calls.add((service_of[parent], service))
        if service not in measured:
            grouped.setdefault((service, int(start)), []).append((duration, failed))
    for (service, second), group in grouped.items():
        at = float(second)
        points.setdefault((service, "latency"), []).append((at, sum(d for d, _ in group) / len(group)))
        points.setdefault((service, "errors"), []).append((at, sum(f for _, f in group) / len(group)))
        points.setdefault((service, "requests"), []).append((at, float(len(group))))
