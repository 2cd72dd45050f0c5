"""Chaos Toolkit's activities, run one by one in aftershock's own order; the only module that imports chaoslib.

chaoslib's own runner checks the final steady state before the rollbacks, and calls a probe that answered nothing a success; here an
activity's outcome is a value, and a tolerance is met only by an answer. chaoslib wants the main thread.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from chaoslib import substitute
from chaoslib.activity import execute_activity
from chaoslib.configuration import load_configuration
from chaoslib.exceptions import ChaosException, InterruptExecution
from chaoslib.experiment import ensure_experiment_is_valid
from chaoslib.hypothesis import within_tolerance
from chaoslib.run import initialize_run_journal
from chaoslib.secret import load_secrets

from aftershock.errors import BadExperiment
from aftershock.experiment import Activity, Experiment

if TYPE_CHECKING:
    from aftershock.cluster import Cluster

Phase = Literal["before", "method", "rollback", "after"]
Status = Literal["succeeded", "failed"]
OUTPUT_CHARS_MAX = 20_000
DOCUMENT_CHARS_MAX = 5_000_000
KUBECONFIG, CONTEXT, RUN_ID, SEED = (f"aftershock_{key}" for key in ("kubeconfig", "context", "run_id", "seed"))
_LOGGER = logging.getLogger("chaostoolkit")
_QUALIFIED = re.compile(r"^[A-Za-z_][\w]*(\.\w+)+: ")


@dataclass(frozen=True)
class ActivityRun:
    """What became of one activity; `raw` is Chaos Toolkit's own record of it, for journal.json."""

    name: str
    kind: Literal["probe", "action"]
    phase: Phase
    status: Status
    time_us: int
    duration_us: int
    output: Any
    error: str | None
    tolerance_met: bool | None
    raw: Mapping[str, Any]

    @property
    def succeeded(self) -> bool:
        """True if it ran without an error; for a probe with a tolerance look at `tolerance_met` too."""
        return self.status == "succeeded"

    def evidence(self) -> dict[str, Any]:
        """As in `evidence.json`."""
        return {
            "name": self.name, "kind": self.kind, "phase": self.phase, "status": self.status, "time_us": self.time_us,
            "duration_us": self.duration_us, "output": self.output, "error": self.error, "tolerance_met": self.tolerance_met,
        }  # fmt: skip


class _DeadlineOver(BaseException):
    """Raised by the alarm; no Exception, so that no activity swallows it."""


class Chaos:
    """The activities of one run on one cluster; `runs` is what became of them, in order."""

    def __init__(self, experiment: Experiment, cluster: Cluster, scratch: Path, run_id: str) -> None:
        self.experiment = experiment
        self.runs: list[ActivityRun] = []
        kubeconfig, context = cluster.kubeconfig_for_child(scratch), cluster.identity.context
        self.configuration, self.secrets = configure(experiment, kubeconfig=kubeconfig, context=context, run_id=run_id)

    def resolve(self, activity: Activity) -> Activity:
        """The activity with `${...}` filled in."""
        return resolve(activity, self.configuration, self.secrets)

    def execute(self, activity: Activity, phase: Phase, deadline_s: float) -> ActivityRun:
        """Run one activity and keep what became of it."""
        run = execute(activity, phase, self.configuration, self.secrets, deadline_s)
        self.runs.append(run)
        return run

    def steady(self, phase: Literal["before", "after"]) -> tuple[bool | None, str]:
        """Whether the steady state held in a phase, and why."""
        return steady(self.runs, phase)

    def journal(self, started_us: int, ended_us: int, *, interrupted: bool = False) -> dict[str, Any]:
        """`journal.json`."""
        return journal(self.experiment, self.runs, started_us, ended_us, interrupted=interrupted)


def validate(experiment: Experiment) -> None:
    """See that chaoslib would run this file: providers' modules import, functions exist and take these arguments.

    Raises BadExperiment before anything was started.
    """
    for activity in (*experiment.hypothesis, *experiment.method, *experiment.rollbacks):
        for key in ("dry", "background"):
            if activity.raw.get(key):
                raise BadExperiment(f"{experiment.path}: activity {activity.name!r}: {key} is not possible here",
                                    hint="activities run one by one, and all of them for real")  # fmt: skip
    try:
        with _quiet():
            ensure_experiment_is_valid(copy.deepcopy(dict(experiment.document)))
    except ChaosException as error:
        raise BadExperiment(f"{experiment.path}: Chaos Toolkit does not accept it: {error}",
                            hint=f"chaos validate {experiment.path}") from None  # fmt: skip
    except Exception as error:  # a provider's module is foreign code and runs when it is imported
        raise BadExperiment(
            f"{experiment.path}: a provider cannot be loaded: {type(error).__name__}: {error}"
        ) from None


def configure(
    experiment: Experiment, *, kubeconfig: Path | None = None, context: str = "", run_id: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and secrets of an experiment, with where its cluster is and which run this is. Raises BadExperiment."""
    try:
        with _quiet():
            configuration = dict(load_configuration(copy.deepcopy(experiment.document.get("configuration") or {})))
            secrets = dict(load_secrets(copy.deepcopy(experiment.document.get("secrets") or {}), configuration) or {})
    except ChaosException as error:
        raise BadExperiment(f"{experiment.path}: {error}") from None
    configuration |= {RUN_ID: run_id, SEED: experiment.seed}
    if kubeconfig is not None:
        configuration |= {KUBECONFIG: str(kubeconfig), CONTEXT: context}
    return configuration, secrets


def resolve(activity: Activity, configuration: Mapping[str, Any], secrets: Mapping[str, Any]) -> Activity:
    """The activity with `${...}` in its arguments filled in, as chaoslib will do when it runs it."""
    arguments = substitute(copy.deepcopy(dict(activity.arguments)), dict(configuration), dict(secrets))
    return replace(activity, arguments=arguments)


def activity_of(raw: Mapping[str, Any]) -> Activity:
    """An activity as Chaos Toolkit has it; for files that aftershock did not read itself."""
    provider = raw.get("provider") or {}
    return Activity(str(raw.get("name")), raw["type"], str(provider.get("type")), str(provider.get("module") or ""),
                    str(provider.get("func") or ""), provider.get("arguments") or {}, raw)  # fmt: skip


def run_of(raw: Mapping[str, Any], phase: Phase) -> ActivityRun:
    """What Chaos Toolkit itself recorded of an activity that it ran."""
    activity = activity_of(raw["activity"])
    begun_us = round(datetime.fromisoformat(raw["start"]).timestamp() * 1e6)
    succeeded = raw.get("status") == "succeeded"
    return ActivityRun(activity.name, activity.kind, phase, "succeeded" if succeeded else "failed", begun_us,
                       round(float(raw.get("duration") or 0) * 1e6), plain(raw.get("output")),
                       None if succeeded else _message(raw), raw.get("tolerance_met"), plain(dict(raw)))  # fmt: skip


def interruption(why: str) -> Exception:
    """What a control raises to stop Chaos Toolkit; anything else it swallows."""
    stop: Exception = InterruptExecution(why)
    return stop


def activities_of(experiment: Experiment) -> tuple[tuple[Phase, Activity], ...]:
    """All activities of a run with their phases, in the order in which they run."""
    phases: tuple[tuple[Phase, Sequence[Activity]], ...] = (
        ("before", experiment.hypothesis), ("method", experiment.method),
        ("rollback", experiment.rollbacks), ("after", experiment.hypothesis),
    )  # fmt: skip
    return tuple((phase, activity) for phase, group in phases for activity in group)


def execute(
    activity: Activity, phase: Phase, configuration: Mapping[str, Any], secrets: Mapping[str, Any], deadline_s: float
) -> ActivityRun:
    """Run one activity for real, at most `deadline_s` seconds; what goes wrong is in the result and never raised.

    Only KeyboardInterrupt passes.
    """
    assert threading.current_thread() is threading.main_thread(), "chaoslib wants the main thread"
    raws: list[dict[str, Any]] = []
    begun_us, begun = time.time_ns() // 1000, time.monotonic()
    met: bool | None = None
    error: str | None = None
    probe = "tolerance" in activity.raw and activity.kind == "probe"
    random.seed(int(configuration.get(SEED, 0)))  # actions that pick at random do it through this module
    try:
        with _quiet(), _pointed_at(configuration), _deadline(deadline_s):
            execute_activity(
                experiment={}, activity=copy.deepcopy(dict(activity.raw)), configuration=dict(configuration),
                secrets=dict(secrets), dry=None, runs=raws,
            )  # fmt: skip
            if probe and raws and raws[0].get("status") == "succeeded":
                met = _met(activity, raws[0].get("output"), configuration, secrets)
    except _DeadlineOver:
        error = f"did not end within {deadline_s:g} s (it may have been done all the same)"
    except Exception as unexpected:  # foreign code; chaoslib contains only what it expects
        error = f"{type(unexpected).__name__}: {unexpected}"
    raw: dict[str, Any] = raws[0] if raws else {"activity": dict(activity.raw), "output": None}
    if error is None and raw.get("status") != "succeeded":
        error = _message(raw)
    status: Status = "succeeded" if error is None else "failed"
    raw = {**raw, "status": status, "output": plain(raw.get("output")), "activity": plain(raw["activity"])}
    raw.setdefault("start", _iso(begun_us))
    raw.setdefault("end", _iso(time.time_ns() // 1000))
    if error is not None and "exception" not in raw:
        raw["exception"] = [error]
    if probe:
        met = bool(met) and error is None
        raw["tolerance_met"] = met
    return ActivityRun(activity.name, activity.kind, phase, status, begun_us, round((time.monotonic() - begun) * 1e6),
                       raw["output"], error, met, raw)  # fmt: skip


def steady(runs: Sequence[ActivityRun], phase: Literal["before", "after"]) -> tuple[bool | None, str]:
    """Whether the steady state held, and why; None if no probe of this phase ran."""
    chosen = [r for r in runs if r.phase == phase and r.tolerance_met is not None]
    if not chosen:
        return None, "no steady-state probe ran"
    missed = [f"{r.name}: {r.error or _outside(r)}" for r in chosen if not r.tolerance_met]
    return (False, "; ".join(missed)) if missed else (True, f"{len(chosen)} probe(s) within tolerance")


def _outside(run: ActivityRun) -> str:
    return f"answered {json.dumps(run.output)[:300]}, tolerance {run.raw['activity'].get('tolerance')!r}"


def journal(
    experiment: Experiment, runs: Sequence[ActivityRun], started_us: int, ended_us: int, *, interrupted: bool = False
) -> dict[str, Any]:
    """`journal.json` in Chaos Toolkit's format; `status` says what Chaos Toolkit would call it and is no verdict."""
    with _quiet():
        document: dict[str, Any] = initialize_run_journal(dict(experiment.document))
    before, after = _state(runs, "before"), _state(runs, "after")
    deviated = (
        before is not None and bool(before["steady_state_met"]) and after is not None and not after["steady_state_met"]
    )
    failed = any(not r.succeeded for r in runs if r.phase == "method") or (before and not before["steady_state_met"])
    document |= {
        "experiment": plain(document["experiment"], DOCUMENT_CHARS_MAX), "start": _iso(started_us), "end": _iso(ended_us),
        "duration": (ended_us - started_us) / 1e6, "deviated": deviated,
        "status": "interrupted" if interrupted else "failed" if failed else "completed",
        "steady_states": {"before": before, "after": after, "during": []},
        "run": [dict(r.raw) for r in runs if r.phase == "method"],
        "rollbacks": [dict(r.raw) for r in runs if r.phase == "rollback"],
    }  # fmt: skip
    return document


def _state(runs: Sequence[ActivityRun], phase: Literal["before", "after"]) -> dict[str, Any] | None:
    met, _ = steady(runs, phase)
    if met is None:
        return None
    return {"steady_state_met": met, "probes": [dict(r.raw) for r in runs if r.phase == phase]}


def _met(activity: Activity, output: Any, configuration: Mapping[str, Any], secrets: Mapping[str, Any]) -> bool:
    """chaoslib's tolerance check, except that no answer is never within a tolerance."""
    if output is None:
        return False
    tolerance = copy.deepcopy(activity.raw["tolerance"])
    if isinstance(tolerance, str):
        tolerance = substitute(tolerance, dict(configuration), dict(secrets))
    return within_tolerance(tolerance, output, configuration=dict(configuration), secrets=dict(secrets)) is True


def _message(raw: Mapping[str, Any]) -> str:
    lines = [str(line) for line in raw.get("exception") or [] if str(line).strip()]
    last = lines[-1].strip() if lines else "failed without saying why"
    for _ in range(2):  # chaoslib's own exception around the provider's
        last = _QUALIFIED.sub("", last)
    return last[:2000]


def plain(value: Any, chars_max: int = OUTPUT_CHARS_MAX) -> Any:
    """JSON only, and bounded: what an activity returns is foreign."""
    text = json.dumps(value, default=str)
    if len(text) > chars_max:
        return {"truncated": text[:chars_max], "chars": len(text)}
    return json.loads(text)


def _iso(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()


@contextmanager
def _deadline(deadline_s: float) -> Iterator[None]:
    """Raise in this thread once the time is over; a blocking system call of the activity is interrupted too."""

    def over(number: int, frame: FrameType | None) -> None:
        raise _DeadlineOver

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, deadline_s), 0.5)  # again, should a destructor have swallowed it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _pointed_at(configuration: Mapping[str, Any]) -> Iterator[None]:
    """Let Kubernetes extensions find exactly this cluster, through the environment that they read."""
    path = configuration.get(KUBECONFIG)
    if not path:
        yield
        return
    wanted = {"KUBECONFIG": str(path), "KUBERNETES_CONTEXT": str(configuration.get(CONTEXT, ""))}
    before = {name: os.environ.get(name) for name in wanted}
    # The client reads $KUBECONFIG when it is imported and never again; importing it here would hold up an activity that needs none.
    client: Any = sys.modules.get("kubernetes.config.kube_config")
    location = getattr(client, "KUBE_CONFIG_DEFAULT_LOCATION", None)
    os.environ.update(wanted)
    if client is not None:
        client.KUBE_CONFIG_DEFAULT_LOCATION = str(path)
    try:
        yield
    finally:
        if client is not None:
            client.KUBE_CONFIG_DEFAULT_LOCATION = location
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep chaoslib's log from the terminal; what it says is in the results."""
    level = _LOGGER.level
    _LOGGER.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        _LOGGER.setLevel(level)
