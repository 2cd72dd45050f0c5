"""Case folders of other people: other names and units, gaps, no start, no entity, no calls; never a crash."""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftershock.diagnose import answer
from aftershock.errors import FolderError
from aftershock.folder import validate

CALLS = (("web", "orders"), ("web", "catalog"), ("orders", "payments"), ("payments", "db"), ("catalog", "db"))
DEPTH = ("db", "payments", "catalog", "orders", "web")
ROWS, START = 60, 40
Row = tuple[float, str, str, float | str]


def rows(latency: str = "latency", errors: str = "errors", *, unit: float = 1.0, slow: float = 0.0, failing: float = 0.0,
         step: float = 60.0, ratio: float = 1.0, culprit: str = "payments", seed: int = 1) -> list[Row]:  # fmt: skip
    """Latency and errors that travel from callees to callers, in the sender's own names and units."""
    rng = random.Random(seed)
    made: list[Row] = []
    for n in range(ROWS):
        time, more, broken = 1e9 + n * step, dict.fromkeys(DEPTH, 0.0), dict.fromkeys(DEPTH, 0.0)
        for name in DEPTH:
            callees = [b for a, b in CALLS if a == name]
            own = slow if name == culprit and n >= START else 0.0
            more[name] = own + sum(more[c] for c in callees)
            broken[name] = min(
                1.0, (failing if name == culprit and n >= START else 0.0) + sum(broken[c] for c in callees)
            )
            made.append((time, name, latency, unit * (10 * rng.uniform(0.9, 1.1) + more[name])))
            made.append(
                (
                    time,
                    name,
                    errors,
                    ratio * (1 - broken[name] if errors.startswith(("avail", "success")) else broken[name]),
                )
            )
            made.append((time, name, "requests", 100 * rng.uniform(0.95, 1.05)))
    return made


def case(
    path: Path, made: list[Row], *, calls: bool = True, impact: dict[str, Any] | None = None, **files: str
) -> Path:
    """A folder."""
    lines = ["time,entity,metric,value", *(",".join(map(str, row)) for row in made)]
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    if calls:
        (path / "calls.csv").write_text("caller,callee\n" + "".join(f"{a},{b}\n" for a, b in CALLS))
    if impact is not None:
        (path / "impact.json").write_text(json.dumps(impact))
    for name, text in files.items():
        (path / f"{name}.csv").write_text(text)
    return path


def told(
    metric: str | None = "latency", *, entity: str | None = "web", start: float | None = 1e9 + START * 60
) -> dict[str, Any]:
    return {"entity": entity, "metric": metric, "start": start}


VARIANTS: dict[str, Callable[[Path], Path]] = {
    "milliseconds": lambda p: case(p, rows(slow=50), impact=told()),
    "seconds": lambda p: case(p, rows("duration_seconds", unit=0.001, slow=50), impact=told("duration_seconds")),
    "p95 only": lambda p: case(p, rows("latency_p95", slow=50), impact=told("latency_p95")),
    "a metric that nobody has": lambda p: case(p, rows("rt_p99", slow=50), impact=told("latency")),
    "no metric": lambda p: case(p, rows(slow=50), impact=told(None)),
    "no start": lambda p: case(p, rows(slow=50), impact=told(start=None)),
    "no entity": lambda p: case(p, rows(slow=50), impact=told(entity=None)),
    "an entity that nobody knows": lambda p: case(p, rows(slow=50), impact=told(entity="customers")),
    "no impact": lambda p: case(p, rows(slow=50)),
    "a start as text": lambda p: case(p, rows(slow=50), impact=told() | {"start": str(1e9 + START * 60)}),
    "a start seen late": lambda p: case(p, rows(slow=50), impact=told(start=1e9 + START * 60 + 70)),
    "half-second rows": lambda p: case(p, rows(slow=50, step=0.5), impact=told(start=1e9 + START / 2)),
    "errors as ratio": lambda p: case(p, rows(failing=0.2), impact=told("errors")),
    "errors as percent": lambda p: case(
        p, rows(errors="error_percent", failing=0.2, ratio=100), impact=told("error_percent")
    ),
    "errors as counts": lambda p: case(
        p,
        [(*r[:3], round(float(r[3]))) for r in rows(errors="5xx_sum", failing=0.2, ratio=100)],
        impact=told("5xx_sum"),
    ),
    "availability as ratio": lambda p: case(p, rows(errors="availability", failing=0.2), impact=told("availability")),
    "availability as percent": lambda p: case(
        p, rows(errors="success_rate", failing=0.2, ratio=100), impact=told("success_rate")
    ),
    "no requests": lambda p: case(p, [r for r in rows(slow=50) if r[2] != "requests"], impact=told()),
    "rows in any order": lambda p: case(p, random.Random(1).sample(rows(slow=50), len(rows())), impact=told()),
    "gaps": lambda p: case(p, [r for r in rows(slow=50) if random.Random(str(r[:3])).random() > 0.3], impact=told()),
    "values that are none": lambda p: case(
        p,
        [(*r[:3], random.Random(str(r[:3])).choice(["", "NaN", "null", r[3], r[3], r[3]])) for r in rows(slow=50)],
        impact=told(),
    ),
    "no calls": lambda p: case(
        p,
        rows(slow=50),
        calls=False,
        impact=told(),
        events=f"timestamp,service,message\n{1e9 + START * 60},payments,pod killed\n",
    ),
    "resources only": lambda p: case(
        p,
        [
            (
                n,
                e,
                m,
                random.Random(f"{n}{e}{m}").uniform(40, 60) + 400 * (e == "payments" and m == "cpu" and n >= START),
            )
            for n in range(ROWS)
            for e in DEPTH
            for m in ("cpu", "mem", "disk_io")
        ],
        calls=False,
        impact={"entity": None, "metric": None, "start": START},
    ),
    "resources without a start": lambda p: case(
        p,
        [
            (
                n,
                e,
                m,
                random.Random(f"{n}{e}{m}").uniform(40, 60) + 400 * (e == "payments" and m == "cpu" and n >= START),
            )
            for n in range(ROWS)
            for e in DEPTH
            for m in ("cpu", "mem")
        ],
        calls=False,
    ),
    "events in other words": lambda p: case(p, rows(slow=50), impact=told(), events="when,who\nnow,me\n"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_cause_is_found_whatever_the_sender_calls_it(name: str, tmp_path: Path) -> None:
    found = answer.answer(VARIANTS[name](tmp_path))
    validate("diagnosis", found, name)
    assert found["verdict"] == "root_cause"
    assert found["ranked"][0]["entity"] == "payments", found["ranked"]
    assert found["truth"] is None


def test_one_that_is_gone_is_suspected_beside_its_only_caller(tmp_path: Path) -> None:
    """An `orders` that fails before it calls would look the same."""
    made = [r for r in rows(failing=0.9, slow=1) if r[1] != "payments" or r[0] < 1e9 + START * 60]
    found = answer.answer(case(tmp_path, made, impact=told("errors")))
    assert [r["entity"] for r in found["ranked"][:2]] == ["orders", "payments"]


def test_one_of_several_that_is_gone_is_the_first_suspect(tmp_path: Path) -> None:
    made = [r for r in rows(failing=0.9, slow=1) if r[1] != "payments" or r[0] < 1e9 + START * 60]
    made += [(time, "stock", metric, value) for time, entity, metric, value in rows() if entity == "catalog"]
    path = case(tmp_path, made, impact=told("errors"))
    with (path / "calls.csv").open("a") as file:
        file.write("orders,stock\n")
    assert answer.answer(path)["ranked"][0]["entity"] == "payments"


def test_a_dependency_that_was_never_there_before_points_to_its_caller(tmp_path: Path) -> None:
    """Somebody gave payments the name of a table that does not exist."""
    made = rows(failing=0.3)
    made += [
        (1e9 + n * 60, "no_such_table", m, v)
        for n in range(START, ROWS)
        for m, v in (("errors", 1.0), ("requests", 30.0))
    ]
    path = case(tmp_path, made, impact=told("errors"))
    with (path / "calls.csv").open("a") as file:
        file.write("payments,no_such_table\n")
    assert answer.answer(path)["ranked"][0]["entity"] == "payments"


def test_routine_events_do_not_outweigh_what_was_felt(tmp_path: Path) -> None:
    events = f"time,entity,event\n{1e9 + START * 60},catalog,backup begun\n{1e9 + START * 60},db,vacuum\n"
    found = answer.answer(case(tmp_path, rows(slow=50), impact=told(), events=events))
    assert found["ranked"][0]["entity"] == "payments"


@pytest.mark.parametrize("seed", range(6))
def test_quiet_cases_have_no_root_cause(seed: int, tmp_path: Path) -> None:
    assert answer.answer(case(tmp_path, rows(seed=seed), impact=told()))["verdict"] == "no_root_cause"


@pytest.mark.parametrize(
    ("made", "impact"),
    [
        (rows(slow=50), told(start=1e9)),
        (rows(slow=50), told(start=1e9 + 3 * 60)),
        (rows(slow=50), told(start=2e9)),
        ([(1.0, "a", "latency", 1.0)], None),
        ([(float(n), "a", "latency", 7.0) for n in range(50)], None),
    ],
    ids=["no rows before", "three rows before", "no rows after", "one value", "a flat line and no start"],
)
def test_too_little_is_inconclusive(made: list[Row], impact: dict[str, Any] | None, tmp_path: Path) -> None:
    found = answer.answer(case(tmp_path, made, impact=impact))
    assert (found["verdict"], found["ranked"]) == ("inconclusive", [])


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("metrics.csv", "time,entity,metric,value\nnan,a,b,1\n", "metrics.csv:2: 'nan' is no time"),
        ("metrics.csv", "time,entity,metric,value\n1,,b,1\n", "metrics.csv:2: a value of no entity"),
        ("metrics.csv", "time,entity,metric,value\n1,a,b,often\n", "'often' is not a number"),
        ("traces.csv", "trace,span\n", "no column parent"),
        ("impact.json", "{", "is not an impact"),
        ("events.csv", "\xff\xfe", None),
    ],
)
def test_what_is_wrong_is_named(name: str, text: str, says: str | None, tmp_path: Path) -> None:
    case(tmp_path, rows(slow=50))
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(FolderError, match=says):
        answer.answer(tmp_path)


names = st.sampled_from(["a", "b", "c", "π/x", ""])
metrics = st.sampled_from(["latency", "p95", "errors", "availability", "requests", "cpu", "error_count", ""])
numbers = st.one_of(
    st.sampled_from([0.0, 1.0, 100.0, -1.0]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(0, 1),
    st.integers(0, 10**6),
)
cells = st.one_of(numbers.map(str), st.sampled_from(["", "NaN", "null", "x", "1e999"]))
times = st.one_of(st.integers(0, 60).map(float), st.floats(-1e12, 1e12, allow_nan=False))
metric_rows = st.lists(st.tuples(times, names.filter(bool), metrics.filter(bool), numbers), min_size=1, max_size=150)
impacts = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "entity": st.one_of(st.none(), names, st.integers()),
            "metric": st.one_of(st.none(), metrics),
            "start": st.one_of(st.none(), times, st.text(max_size=3)),
        },
    ),
)
spans = st.lists(st.tuples(names, names, names, names, times, numbers, cells), max_size=20)


@settings(max_examples=120, deadline=None)
@given(made=metric_rows, calls=st.lists(st.tuples(names, names), max_size=8), impact=impacts,
       events=st.lists(st.tuples(cells, names, names), max_size=5), traces=spans)  # fmt: skip
def test_no_folder_crashes_it(
    made: list[Row],
    calls: list[tuple[str, str]],
    impact: dict[str, Any] | None,
    events: list[tuple[str, str, str]],
    traces: list[tuple[Any, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch)
        more = {"events": "time,entity,node\n", "traces": "trace,span,parent,service,start,duration,error\n"}
        for key, lines in (("events", events), ("traces", traces)):
            more[key] += "".join(",".join(map(str, line)) + "\n" for line in lines)
        case(path, made, calls=False, impact=impact, calls_="", **more)
        (path / "calls.csv").write_text("caller,callee\n" + "".join(f"{a},{b}\n" for a, b in calls))
        try:
            found = answer.answer(path)
        except FolderError:
            return
        validate("diagnosis", found, "case")
        json.dumps(found, allow_nan=False)
        assert all(math.isfinite(r["score"]) and r["score"] > 0 for r in found["ranked"])
        assert [r["score"] for r in found["ranked"]] == sorted((r["score"] for r in found["ranked"]), reverse=True)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    drop=st.floats(0, 0.5),
    start=st.one_of(st.none(), st.floats(1e9, 1e9 + 4000)),
    slow=st.floats(0, 1e6),
)
def test_half_seen_incidents_never_crash_it(seed: int, drop: float, start: float | None, slow: float) -> None:
    rng = random.Random(seed)
    made = [r for r in rows(slow=slow, seed=seed) if rng.random() > drop]
    with tempfile.TemporaryDirectory() as scratch:
        found = answer.answer(case(Path(scratch), made, impact=told(start=start)))
    validate("diagnosis", found, "case")
