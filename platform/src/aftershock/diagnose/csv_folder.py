"""A case from a folder of CSV files: metrics.csv, and where there are any calls.csv, events.csv, traces.csv, impact.json.

Names and units of metrics are the sender's own. A value that is empty, no number or infinite is no value. `events.csv` has no fixed
columns: the time and what it is about are looked for under their usual names, and rows that tell neither point to nobody.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from aftershock.diagnose.case import Case, Disruption, Impact, Series
from aftershock.diagnose.csv_traces import SPAN_COLUMNS, Span, calls_of, series_of
from aftershock.errors import FolderError

ROWS_MAX = 5_000_000
SIZE_MAX = 1e60  # beyond this a number is no measurement, and arithmetic overflows
NO_VALUE = frozenset(("", "nan", "null", "none", "na", "n/a", "-", "inf", "-inf", "+inf"))
TRUE = frozenset(("1", "true", "yes", "error", "1.0"))
EVENT_TIME = ("time", "timestamp", "ts", "start")
EVENT_ENTITY = ("entity", "service", "component", "pod", "node", "host", "name", "object", "target")
EVENT_WHAT = ("event", "what", "reason", "type", "kind", "message", "description")
# What breaks service by itself; whatever else somebody wrote down may as well be routine.
BREAKING = re.compile(r"kill|crash|oom|evict|restart|delet|terminat|fail|down|unhealthy|not.?ready|cordon|unschedul|drain|scale|deploy|"
                      r"rollout|version|config|partition|expire|panic|refus|outage|full|lost", re.IGNORECASE)  # fmt: skip
ROUTINE = 0.25

Points = dict[tuple[str, str], list[tuple[float, float]]]


def read(folder: Path) -> Case:
    """Read a case. Raises FolderError naming file, line and what is wrong."""
    points = _metrics(folder / "metrics.csv")
    calls = {}
    if (folder / "calls.csv").exists():
        for _, (caller, callee) in _rows(folder / "calls.csv", ("caller", "callee")):
            calls[caller, callee] = 0.0
    volumes: dict[tuple[str, str], float] = {}
    if (folder / "traces.csv").exists():
        spans = list(_spans(folder / "traces.csv"))
        volumes = calls_of(spans)
        calls.update(volumes)
        for key, more in series_of(spans, frozenset(points)).items():
            points.setdefault(key, more)
    series = {key: _series(values) for key, values in points.items()}
    if not series:
        raise FolderError(f"{folder / 'metrics.csv'}: holds no values")
    named = frozenset(c for c in calls if c[0] and c[1] and c[0] != c[1])
    return Case(series, named, _impact(folder / "impact.json"), tuple(_events(folder / "events.csv")), volumes=volumes)


def _metrics(path: Path) -> Points:
    points: Points = {}
    for line, (time, entity, metric, text) in _rows(path, ("time", "entity", "metric", "value")):
        value = _value(path, line, text)
        if value is None:
            continue
        if not entity or not metric:
            raise FolderError(f"{path}:{line}: a value of no {'metric' if entity else 'entity'}")
        points.setdefault((entity, metric), []).append((_time(path, line, time), value))
    return points


def _series(values: list[tuple[float, float]]) -> Series:
    values.sort()
    return Series(tuple(t for t, _ in values), tuple(v for _, v in values))


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line, values of the wanted columns) of every row that is not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            names = [name.strip().lower() for name in next(reader, [])]
            if missing := [c for c in columns if c not in names]:
                raise FolderError(f"{path}: has no column {', '.join(missing)}", hint=f"columns: {','.join(columns)}")
            at = [names.index(c) for c in columns]
            last = max(at)
            for row in reader:
                if len(row) <= last:
                    if not any(row):
                        continue
                    raise FolderError(f"{path}:{reader.line_num}: has too few columns")
                if reader.line_num > ROWS_MAX:
                    raise FolderError(f"{path}: more than {ROWS_MAX} rows")
                yield reader.line_num, tuple([row[n].strip() for n in at])
    except FileNotFoundError:
        hint = "a case needs metrics.csv with time,entity,metric,value"
        raise FolderError(f"{path}: no such file", hint=hint) from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise FolderError(f"{path}: cannot be read: {error}") from None


def _value(path: Path, line: int, text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        if text.lower() in NO_VALUE:
            return None
        raise FolderError(f"{path}:{line}: {text!r} is not a number") from None
    return value if abs(value) < SIZE_MAX else None


def _time(path: Path, line: int, text: str) -> float:
    value = _value(path, line, text)
    if value is None:
        raise FolderError(f"{path}:{line}: {text!r} is no time", hint="times are Unix seconds")
    return value


def _impact(path: Path) -> Impact:
    if not path.exists():
        return Impact(None, None, None)
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        entity, metric, start = (document.get(key) for key in ("entity", "metric", "start"))
        begin = None if start is None or start == "" else float(start)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        shape = '{"entity": "..", "metric": "..", "start": 1.0}'
        raise FolderError(f"{path}: is not an impact: {error}", hint=f"the shape is {shape}") from None
    known = begin if begin is not None and math.isfinite(begin) and abs(begin) < SIZE_MAX else None
    return Impact(str(entity) if entity else None, str(metric) if metric else None, known)


def _events(path: Path) -> Iterator[Disruption]:
    if not path.exists():
        return
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file, restkey="", restval=""):
                cells = {
                    k.strip().lower(): v.strip() for k, v in row.items() if isinstance(k, str) and isinstance(v, str)
                }
                entity, what = (
                    next((cells[c] for c in names if cells.get(c)), "") for names in (EVENT_ENTITY, EVENT_WHAT)
                )
                time = next((cells[c] for c in EVENT_TIME if cells.get(c)), "")
                try:
                    at = float(time)
                except ValueError:
                    continue
                if entity and math.isfinite(at):
                    weight = 1.0 if BREAKING.search(what) else ROUTINE
                    yield Disruption(at, entity, what or "event", cells.get("node") or None, weight)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise FolderError(f"{path}: cannot be read: {error}") from None


def _spans(path: Path) -> Iterator[Span]:
    for line, (trace, span, parent, service, start, duration, error) in _rows(path, SPAN_COLUMNS):
        took = _value(path, line, duration)
        if service and took is not None:
            yield Span((trace, span), (trace, parent), service, _time(path, line, start), took, error.lower() in TRUE)
