"""What the page shows: the run folder's files, joined, in the order of the reader's questions.

A file that is absent is a section that says so; one that breaks its contract is named at the top of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup

from aftershock import experiment as experiments
from aftershock import judge
from aftershock.errors import BadExperiment, FolderError
from aftershock.experiment import Experiment
from aftershock.folder import RunFolder
from aftershock.report.anchors import Anchors
from aftershock.report.chart import Band, Moment, draw
from aftershock.report.series import Series, Stretch, series, stretches
from aftershock.slo import Interval, Iteration

Json = Any
_T = TypeVar("_T")
OTHER_EVENTS_MAX = 40
MOMENTS_MAX = 8
STEPS = ("requested", "accepted", "observed", "undone", "recovered")
_MARKED = ("requested", "observed", "undone", "recovered")
WIDE, NARROW = 1000.0, 348.0
_ORDER = {"FAIL": 0, "INCONCLUSIVE": 1, "PASS": 2}
_RESERVED = (
    "why",
    "tested",
    "chart",
    "slos",
    "evidence",
    "checks",
    "invariants",
    "diagnosis",
    "postmortem",
    "facts",
    "events",
    "main",
)


@dataclass(frozen=True)
class Page:
    """All that the template may use."""

    run: Json
    verdict: Json
    findings: list[Json]
    tested: Experiment | None
    problems: list[str]
    zero: str  # what 0 s means
    zero_us: int
    evidence: Json | None
    invariants: Json | None
    diagnosis: Json | None
    facts: list[Json] | None
    postmortem: Json | None
    series: Series
    stretches: list[Stretch]
    wide: Markup
    narrow: Markup
    events: list[Json]
    events_left_out: int
    anchors: Anchors
    ids: dict[str, str | None] = field(default_factory=dict)

    def since(self, time_us: int | None) -> str:
        """`+0.014 s`, seen from zero."""
        return "not known" if time_us is None else offset((time_us - self.zero_us) / 1e6, 3)


class _Files:
    """Reads what is there and remembers what could not be read."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def json(self, name: str) -> Json | None:
        return self._read(lambda: self.folder.read(name)) if self.folder.has(name) else None

    def events(self) -> list[Json]:
        found: list[Json] = []
        if self.folder.has("events.jsonl"):
            self._read(lambda: found.extend(self.folder.lines("events.jsonl")))
        return found

    def journeys(self) -> list[Iteration]:
        return self._read(lambda: judge.journeys_of(self.folder)) or []

    def experiment(self) -> Experiment | None:
        if not self.folder.has("experiment.yaml"):
            return None
        return self._read(
            lambda: experiments.parse(Path("experiment.yaml"), self.folder.read_text("experiment.yaml"), stored=True)
        )

    def _read(self, what: Callable[[], _T]) -> _T | None:
        try:
            return what()
        except (FolderError, BadExperiment) as error:
            self.problems.append(str(error))
            return None


def build(folder: RunFolder) -> Page:
    """Read a run folder. Raises FolderError without a readable run.json and verdict.json; everything else may be missing."""
    files, run, verdict = _Files(folder), folder.read("run.json"), folder.read("verdict.json")
    evidence, journeys, events = files.json("evidence.json"), files.journeys(), files.events()
    invariants, diagnosis, facts, postmortem = (
        files.json(f"{name}.json") for name in ("invariants", "diagnosis", "facts", "postmortem")
    )
    windows = {name: Interval(w["from_us"], w["to_us"]) for name, w in run["windows"].items() if w}
    zero_us, zero = _zero(run, evidence, windows)
    span = _span(windows, journeys)
    binned = series(journeys, span, zero_us)
    rows = stretches(journeys, windows, zero_us)
    bands = [Band(r.name, r.from_s, r.to_s) for r in rows]
    moments = _moments(evidence, zero_us)
    label = _spoken(rows, moments)
    shown, left_out = _events(events, evidence, verdict)
    findings = sorted(verdict["findings"], key=lambda f: _ORDER[f["outcome"]])
    anchors = Anchors()
    for name in _RESERVED:
        anchors.add(name)
    ids = _anchored(anchors, findings, verdict, evidence, invariants, facts, shown)
    return Page(
        run, verdict, findings, files.experiment(), files.problems, zero, zero_us, evidence, invariants, diagnosis, facts, postmortem,
        binned, rows, draw(binned, bands, moments, WIDE, label, zero), draw(binned, bands, moments, NARROW, label, zero),
        shown, left_out, anchors, ids,
    )  # fmt: skip


def _zero(run: Json, evidence: Json | None, windows: Mapping[str, Interval]) -> tuple[int, str]:
    asked = [
        f["steps"]["requested"]["time_us"] for f in (evidence or {"faults": []})["faults"] if f["steps"]["requested"]
    ]
    if asked:
        return min(asked), "the fault was requested"
    if "fault" in windows:
        return windows["fault"].from_us, "the fault window began"
    return run["started_us"], "the run began"


def _span(windows: Mapping[str, Interval], journeys: Sequence[Iteration]) -> Interval:
    if windows:
        return Interval(min(w.from_us for w in windows.values()), max(w.to_us for w in windows.values()))
    if journeys:
        return Interval(journeys[0].intended_us, max(j.end_us for j in journeys) + 1)
    return Interval(0, 0)


def _moments(evidence: Json | None, zero_us: int) -> list[Moment]:
    faults = (evidence or {"faults": []})["faults"]
    found = []
    for fault in faults:
        for step in _MARKED:
            seen = fault["steps"][step]
            if seen:
                at_s = (seen["time_us"] - zero_us) / 1e6
                prefix = f"{fault['id']} " if len(faults) > 1 else ""
                found.append(Moment(f"{prefix}{step} {offset(at_s)}", at_s, step))
    return found[:MOMENTS_MAX]


def _spoken(rows: Sequence[Stretch], moments: Sequence[Moment]) -> str:
    """The chart in a sentence; the tables below it have the figures."""
    said = [
        f"{r.name.replace('_', '-')}: {r.due} journeys, {r.failed} failed, p95 {r.p95_ms:.0f} ms"
        for r in rows
        if r.p95_ms is not None
    ]
    marks = ", ".join(m.label for m in moments)
    return (
        "Journeys done, latency and failures over time. " + "; ".join(said) + (f". Marked: {marks}." if marks else ".")
    )


def _events(events: Sequence[Json], evidence: Json | None, verdict: Json) -> tuple[list[Json], int]:
    """Every event that something on the page refers to, and the first others."""
    named = {e for f in verdict["findings"] for e in f["evidence"]}
    for fault in (evidence or {"faults": []})["faults"]:
        named |= {e for step in fault["steps"].values() if step for e in step["events"]}
    others = {id(e) for e in [e for e in events if e["id"] not in named][:OTHER_EVENTS_MAX]}
    shown = [{**e, "named": e["id"] in named} for e in events if e["id"] in named or id(e) in others]
    return shown, len(events) - len(shown)


def _anchored(
    anchors: Anchors, findings: Sequence[Json], verdict: Json, evidence: Json | None, invariants: Json | None, facts: Json | None,
    events: Sequence[Json],
) -> dict[str, str | None]:  # fmt: skip
    """Element ids by kind and place, so that the template gives each row its own or none."""
    references = {f"finding.{n}": f["id"] for n, f in enumerate(findings)}
    references |= {f"slo.{n}": s["id"] for n, s in enumerate(verdict["slos"])}
    for n, fault in enumerate((evidence or {"faults": []})["faults"]):
        references[f"fault.{n}"] = fault["id"]
        references |= {f"fault.{n}.{step}": f"{fault['id']}.{step}" for step in STEPS}
    references |= {
        f"invariant.{n}": f"invariant.{r['name']}" for n, r in enumerate((invariants or {"results": []})["results"])
    }
    references |= {f"fact.{n}": f["id"] for n, f in enumerate(facts or [])}
    references |= {f"event.{n}": e["id"] for n, e in enumerate(events)}
    return {place: anchors.add(reference) for place, reference in references.items()}


def moment(time_us: int | None) -> str:
    """`2026-01-15 10:00:00.123 UTC`."""
    if time_us is None:
        return "not known"
    try:
        return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"
    except (ValueError, OverflowError, OSError):
        return f"{time_us} us"


def offset(at_s: float, digits: int = 2) -> str:
    """`+0.01 s`; never `-0.00 s`."""
    return f"{round(at_s, digits) + 0.0:+.{digits}f} s"


def figure(value: Any, unit: str | None = None) -> str:
    """A measured value for people: ratios as percent, at most four digits otherwise; `-` where nothing was measured."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"{value} {unit}".strip() if unit else str(value)
    if unit == "ratio":
        return f"{value * 100:.2f} %"
    text = (
        str(value)
        if isinstance(value, int)
        else f"{value:.4g}"
        if 1e-4 <= abs(value) < 1e6 or value == 0
        else f"{value:.3e}"
    )
    return f"{text} {unit}" if unit else text


def answer(value: bool | None, yes: str = "yes", no: str = "no") -> str:
    """Three values in words."""
    return "not known" if value is None else yes if value else no
