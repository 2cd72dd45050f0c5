"""The experiment file: a Chaos Toolkit experiment in YAML with one `extensions` entry named `aftershock`.

`load` reads and checks a file; everything after it works on the frozen `Experiment`. Unknown keys are errors with file and line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aftershock.errors import BadExperiment

Window = Literal["baseline", "fault", "recovery"]
INVARIANTS = ("no_lost_order", "no_doubled_order", "stock_never_negative", "paid_iff_shipped")
INDICATORS = ("success_ratio", "latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "outage_s_max")

# Arguments that decide where and how hard a fault hits: an action that takes one must be given it.
_TARGET_ARGUMENTS = {
    "chaosk8s.pod.actions.terminate_pods": ("ns", "label_selector|name_pattern", "qty|all"),
    "chaosk8s.pod.actions.exec_in_pods": ("ns", "label_selector|name_pattern", "qty|all", "container_name"),
    "chaosk8s.deployment.actions.scale_deployment": ("ns", "name", "replicas"),
    "chaosk8s.deployment.actions.rollout_deployment": ("ns", "name"),
    "chaosk8s.statefulset.actions.scale_statefulset": ("ns", "name", "replicas"),
    "chaosk8s.node.actions.cordon_node": ("name|label_selector",),
    "chaosk8s.node.actions.drain_nodes": ("name|label_selector",),
}


@dataclass(frozen=True)
class Activity:
    """One probe or action; `raw` is what Chaos Toolkit is given."""

    name: str
    kind: Literal["probe", "action"]
    provider_type: str  # python | http | process
    module: str  # "" unless the provider is python
    func: str
    arguments: Mapping[str, Any]
    raw: Mapping[str, Any]

    @property
    def target(self) -> str:
        """`module.func` of a python activity, else the provider type."""
        return f"{self.module}.{self.func}" if self.module else self.provider_type


@dataclass(frozen=True)
class Load:
    """What is offered: `rate_per_s` iterations a second on a schedule that never waits."""

    tool: Literal["k6", "locust"]
    scenario: Path
    service: str
    port: str
    rate_per_s: float
    warm_up_s: float
    baseline_s: float
    fault_s: float
    recovery_s: float
    runs_on: Literal["runner", "cluster"]

    @property
    def total_s(self) -> float:
        """Length of the whole schedule."""
        return self.warm_up_s + self.baseline_s + self.fault_s + self.recovery_s


@dataclass(frozen=True)
class Slo:
    """`indicator` of `journey` in `window` must be at least `min` or at most `max` (ratio, ms or s by the indicator's name)."""

    id: str
    journey: str
    indicator: str
    window: Window
    min: float | None
    max: float | None

    @property
    def bound(self) -> float:
        """The figure on the right of the comparison."""
        value = self.min if self.min is not None else self.max
        assert value is not None
        return value

    def holds(self, measured: float) -> bool:
        """True if a measured value keeps the objective."""
        return measured >= self.bound if self.min is not None else measured <= self.bound

    def describe(self) -> str:
        """`checkout success_ratio >= 0.99 in fault`."""
        return (
            f"{self.journey} {self.indicator} {'>=' if self.min is not None else '<='} {self.bound:g} in {self.window}"
        )


@dataclass(frozen=True)
class BlastRadius:
    """The most that an experiment may touch."""

    namespaces: tuple[str, ...]
    pods_max: int
    nodes_max: int
    seconds_max: float


@dataclass(frozen=True)
class WeakTwin:
    """The weakness with which this experiment must FAIL, and the indicator or invariant that must break."""

    weakness: str
    must_break: str


@dataclass(frozen=True)
class Experiment:
    """A checked experiment; `source` is the file's text as read."""

    path: Path
    name: str  # file name without suffix
    title: str
    description: str
    hypothesis: tuple[Activity, ...]
    method: tuple[Activity, ...]
    rollbacks: tuple[Activity, ...]
    load: Load
    expect: Literal["fault", "refused", "none"]
    slos: tuple[Slo, ...]
    recovery_deadline_s: float
    blast_radius: BlastRadius
    invariants: tuple[str, ...]
    weak_twin: WeakTwin | None
    seed: int
    document: Mapping[str, Any]
    source: str

    @property
    def actions(self) -> tuple[Activity, ...]:
        """The faults: actions of the method, in order."""
        return tuple(a for a in self.method if a.kind == "action")

    def with_rate(self, rate_per_s: float) -> Experiment:
        """The same experiment under another load."""
        return replace(self, load=replace(self.load, rate_per_s=rate_per_s))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Seconds = Annotated[float, Field(gt=0, le=3600)]


class _TargetModel(_Strict):
    service: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    port: str = "http"


class _LoadModel(_Strict):
    tool: Literal["k6", "locust"]
    scenario: str
    target: _TargetModel
    rate_per_s: Annotated[float, Field(ge=0, le=10_000)]
    warm_up_s: Annotated[float, Field(ge=0, le=3600)]
    baseline_s: _Seconds
    fault_s: _Seconds
    recovery_s: _Seconds
    runs_on: Literal["runner", "cluster"] = "runner"


class _SloModel(_Strict):
    journey: str
    indicator: Literal["success_ratio", "latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "outage_s_max"]
    window: Window
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> _SloModel:
        if (self.min is None) == (self.max is None):
            raise ValueError("give exactly one of min and max")
        if self.indicator == "success_ratio":
            if self.min is None or not 0 < self.min <= 1:
                raise ValueError("success_ratio takes min, a ratio above 0 and up to 1")
        elif self.max is None or self.max <= 0:
            raise ValueError(f"{self.indicator} takes max, above 0")
        return self


class _BlastModel(_Strict):
    namespaces: Annotated[list[str], Field(min_length=1)]
    pods_max: Annotated[int, Field(ge=0)]
    nodes_max: Annotated[int, Field(ge=0)]
    seconds_max: _Seconds


class _TwinModel(_Strict):
    weakness: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    must_break: Literal[
        "success_ratio", "latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "outage_s_max",
        "no_lost_order", "no_doubled_order", "stock_never_negative", "paid_iff_shipped", "recovery",
    ]  # fmt: skip


class _ExtensionModel(_Strict):
    name: Literal["aftershock"]
    load: _LoadModel
    expect: Literal["fault", "refused", "none"]
    slo: Annotated[list[_SloModel], Field(min_length=1)]
    recovery_deadline_s: _Seconds
    blast_radius: _BlastModel
    invariants: list[Literal["no_lost_order", "no_doubled_order", "stock_never_negative", "paid_iff_shipped"]]
    weak_twin: _TwinModel | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)]


class _LineLoader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys and remembers the line of every key and item by path."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.lines: dict[tuple[str | int, ...], int] = {}

    def note(self, node: yaml.Node, path: tuple[str | int, ...]) -> None:
        """Record the lines below `node`; aliases are bounded by the size of the file."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        if len(path) > 30 or len(self.lines) > 20_000:
            raise yaml.YAMLError("nested too deeply")
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                if name in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1}: key {name!r} is given twice")
                seen.add(name)
                self.lines[(*path, name)] = key.start_mark.line + 1
                self.note(value, (*path, name))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.note(value, (*path, index))


_TOP_KEYS = frozenset({
    "version", "title", "description", "tags", "contributions", "configuration", "secrets",
    "steady-state-hypothesis", "method", "rollbacks", "extensions", "controls", "runtime",
})  # fmt: skip


class _Reader:
    """Turns one document into an `Experiment`; every complaint knows its line."""

    def __init__(
        self, path: Path, document: Any, lines: Mapping[tuple[str | int, ...], int], source: str, stored: bool
    ) -> None:
        self.path, self.document, self.lines, self.source, self.stored = path, document, lines, source, stored

    def bad(self, at: tuple[str | int, ...], message: str, hint: str | None = None) -> BadExperiment:
        where = at
        while where and where not in self.lines:
            where = where[:-1]
        dotted = ".".join(str(part) for part in at)
        return BadExperiment(
            f"{self.path}:{self.lines.get(where, 1)}: {dotted + ': ' if dotted else ''}{message}", hint=hint
        )

    def read(self) -> Experiment:
        document = self.document
        if not isinstance(document, dict):
            raise self.bad((), "an experiment is a mapping", "see experiments/payments-pod-kill.yaml for the shape")
        for key in document:
            if key not in _TOP_KEYS:
                raise self.bad((str(key),), "unknown key", f"known keys: {', '.join(sorted(_TOP_KEYS))}")
        title = self.text("title")
        index, extension = self.extension()
        hypothesis = document.get("steady-state-hypothesis")
        if not isinstance(hypothesis, dict) or not hypothesis.get("probes"):
            raise self.bad(("steady-state-hypothesis",), "needs at least one probe",
                           "without a steady state nothing can be proven to have been steady")  # fmt: skip
        method = self.activities(("method",), document.get("method"))
        model = self.extension_model(index, extension)
        experiment = Experiment(
            path=self.path, name=self.path.stem, title=title, description=self.text("description"),
            hypothesis=self.activities(("steady-state-hypothesis", "probes"), hypothesis["probes"], tolerance=True),
            method=method, rollbacks=self.activities(("rollbacks",), document.get("rollbacks") or []),
            load=self.load_of(index, model.load), expect=model.expect,
            slos=tuple(Slo(f"slo.{n}", s.journey, s.indicator, s.window, s.min, s.max) for n, s in enumerate(model.slo, 1)),
            recovery_deadline_s=model.recovery_deadline_s,
            blast_radius=BlastRadius(tuple(model.blast_radius.namespaces), model.blast_radius.pods_max,
                                     model.blast_radius.nodes_max, model.blast_radius.seconds_max),
            invariants=tuple(dict.fromkeys(model.invariants)),
            weak_twin=WeakTwin(model.weak_twin.weakness, model.weak_twin.must_break) if model.weak_twin else None,
            seed=model.seed, document=document, source=self.source,
        )  # fmt: skip
        self.consistent(experiment)
        return experiment

    def text(self, key: str) -> str:
        value = self.document.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.bad((key,), "is missing or empty", f"give a one-line {key}")
        return value.strip()

    def extension(self) -> tuple[int, dict[str, Any]]:
        entries = self.document.get("extensions")
        if not isinstance(entries, list):
            entries = []
        found = [(n, e) for n, e in enumerate(entries) if isinstance(e, dict) and e.get("name") == "aftershock"]
        if len(found) != 1:
            raise self.bad(("extensions",), f"needs exactly one entry named aftershock, found {len(found)}",
                           "the entry holds load, slo, blast_radius, invariants and seed")  # fmt: skip
        return found[0]

    def extension_model(self, index: int, extension: dict[str, Any]) -> _ExtensionModel:
        try:
            return _ExtensionModel.model_validate(extension)
        except ValidationError as error:
            # A key that is unknown explains the one that is missing.
            first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
            at = ("extensions", index, *first["loc"])
            what = {"extra_forbidden": "unknown key", "missing": "is missing and has no default"}.get(
                first["type"], first["msg"]
            )
            raise self.bad(at, what, "docs/experiments.md lists every key") from None

    def load_of(self, index: int, model: _LoadModel) -> Load:
        scenario = Path(model.scenario) if self.stored else _find(self.path, model.scenario)
        if scenario is None:
            raise self.bad(("extensions", index, "load", "scenario"), f"{model.scenario}: no such file",
                           "paths are relative to the project, that is a parent folder of the experiment file")  # fmt: skip
        return Load(model.tool, scenario, model.target.service, model.target.port, model.rate_per_s,
                    model.warm_up_s, model.baseline_s, model.fault_s, model.recovery_s, model.runs_on)  # fmt: skip

    def activities(self, at: tuple[str | int, ...], value: Any, *, tolerance: bool = False) -> tuple[Activity, ...]:
        if not isinstance(value, list):
            raise self.bad(at, "must be a list of activities")
        return tuple(self.activity((*at, n), entry, tolerance) for n, entry in enumerate(value))

    def activity(self, at: tuple[str | int, ...], entry: Any, tolerance: bool) -> Activity:
        if not isinstance(entry, dict):
            raise self.bad(at, "an activity is a mapping")
        kind, name, provider = entry.get("type"), entry.get("name"), entry.get("provider")
        if kind not in ("probe", "action"):
            raise self.bad((*at, "type"), "must be probe or action")
        if not isinstance(name, str) or not name:
            raise self.bad((*at, "name"), "is missing")
        if tolerance and "tolerance" not in entry:
            raise self.bad(
                (*at, "tolerance"), "a steady-state probe needs a tolerance", "without one it accepts anything"
            )
        if not isinstance(provider, dict) or provider.get("type") not in ("python", "http", "process"):
            raise self.bad((*at, "provider"), "needs a type: python, http or process")
        arguments = provider.get("arguments") or {}
        module, func = provider.get("module", ""), provider.get("func", "")
        if provider["type"] == "python":
            if not module or not func:
                raise self.bad((*at, "provider"), "a python provider needs module and func")
            self.targeted(at, f"{module}.{func}", arguments)
        return Activity(name, kind, provider["type"], module, func, arguments, entry)

    def targeted(self, at: tuple[str | int, ...], target: str, arguments: Any) -> None:
        if not isinstance(arguments, dict):
            raise self.bad((*at, "provider", "arguments"), "must be a mapping")
        for choice in _TARGET_ARGUMENTS.get(target, ()):
            if not any(arguments.get(name) not in (None, "") for name in choice.split("|")):
                raise self.bad((*at, "provider", "arguments"), f"{target} needs {choice.replace('|', ' or ')}",
                               "namespace, selector and count have no defaults here")  # fmt: skip

    def consistent(self, experiment: Experiment) -> None:
        if experiment.expect == "none" and experiment.actions:
            raise self.bad(("method",), "expect: none is a control run and takes no action")
        if experiment.expect != "none" and not experiment.actions:
            raise self.bad(
                ("method",), "has no action, so there is no fault to observe", "a control run says expect: none"
            )
        if experiment.load.fault_s > experiment.blast_radius.seconds_max:
            raise self.bad(("extensions",), "load.fault_s is longer than blast_radius.seconds_max")
        names = [a.name for a in (*experiment.hypothesis, *experiment.method, *experiment.rollbacks)]
        for name in names:
            if not re.fullmatch(r"[^\x00-\x1f]{1,120}", name):
                raise self.bad((), f"activity name {name!r} must be printable and at most 120 characters")


def _find(experiment: Path, relative: str) -> Path | None:
    for parent in experiment.resolve().parents:
        candidate = parent / relative
        if candidate.is_file():
            return candidate
    return None


def load(path: Path) -> Experiment:
    """Read and check one experiment file.

    Raises `BadExperiment` naming file, line and key for unreadable YAML, unknown keys, missing values and contradictions.
    """
    try:
        source = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadExperiment(
            f"{path}: no such file",
            hint="give the path of an experiment file, such as experiments/payments-pod-kill.yaml",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadExperiment(f"{path}: cannot be read: {error}") from None
    return parse(path, source)


def parse(path: Path, source: str, *, stored: bool = False) -> Experiment:
    """Check the text of an experiment; `path` says where it stands and anchors relative paths.

    `stored` is for the copy in a run folder, whose scenario file need not exist any more.
    """
    if len(source) > 1_000_000:
        raise BadExperiment(f"{path}: larger than 1 MB")
    loader = _LineLoader(source)
    try:
        node = loader.get_single_node()
        if node is None:
            raise BadExperiment(f"{path}: is empty")
        loader.note(node, ())
        document = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise BadExperiment(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    finally:
        loader.dispose()
    return _Reader(path, document, loader.lines, source, stored).read()
