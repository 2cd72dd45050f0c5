"""Activities through the real chaoslib and the real chaosk8s, against a real API over HTTP."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock import activities, experiment
from aftershock.activities import Chaos
from aftershock.cluster import Cluster
from aftershock.errors import BadExperiment
from aftershock.experiment import Activity, Experiment
from aftershock.folder import validator
from aftershock.settings import Settings
from tests.aftershock.small_api import SmallApi, serving

PROJECT = Path(__file__).parents[3]
FILE = PROJECT / "experiments/payments-pod-kill.yaml"
World = tuple[SmallApi, Cluster, Settings]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A server with three pods."""
    with serving(tmp_path) as world:
        for name in ("payments-a", "payments-b", "orders-a"):
            labels = {"app": name.split("-")[0]}
            world[0].put(f"/api/v1/namespaces/shop/pods/{name}", metadata={"labels": labels},
                         spec={"nodeName": "body", "containers": [{"name": "c"}]})  # fmt: skip
        yield world


def changed(**changes: Any) -> Experiment:
    """The experiment file with some keys replaced."""
    document = {**yaml.safe_load(FILE.read_text()), **changes}
    return experiment.parse(FILE, yaml.safe_dump(document))


def python(func: str, arguments: dict[str, Any] | None = None, kind: str = "probe", **more: Any) -> Activity:
    """An activity of a function in this module or elsewhere."""
    module, _, name = func.rpartition(".")
    provider = {"type": "python", "module": module or __name__, "func": name, "arguments": arguments or {}}
    raw = {"type": kind, "name": func, "provider": provider, **more}
    return Activity(func, kind, "python", provider["module"], name, provider["arguments"], raw)  # type: ignore[arg-type]


def answer(value: Any = None) -> Any:
    """A probe that answers what it is told to."""
    return value


def broken() -> None:
    """A probe that cannot."""
    raise RuntimeError("no way")


def slow(seconds: float) -> str:
    """An action that swallows everything and takes its time."""
    while True:
        try:
            time.sleep(seconds)
            return "done"
        except Exception:  # noqa: S112
            continue


@pytest.mark.parametrize("name", ["payments-pod-kill", "body2-drain", "payments-latency", "control", "drain-refused"])
def test_every_experiment_is_accepted_by_chaos_toolkit(name: str) -> None:
    activities.validate(experiment.load(PROJECT / f"experiments/{name}.yaml"))


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ({"module": "no.such.module"}, "could not find Python module"),
        ({"func": "no_such_function"}, "does not expose a function"),
        ({"arguments": {"ns": "shop", "label_selector": "a=b", "qty": 1, "bogus": 1}}, "bogus"),
    ],
)
def test_what_cannot_be_called_is_refused_before_anything_starts(provider: dict[str, Any], said: str) -> None:
    method = copy.deepcopy(yaml.safe_load(FILE.read_text())["method"])
    method[0]["provider"] |= provider
    with pytest.raises(BadExperiment, match=said):
        activities.validate(changed(method=method))


@pytest.mark.parametrize("key", ["dry", "background"])
def test_activities_that_would_do_nothing_or_run_aside_are_refused(key: str) -> None:
    method = copy.deepcopy(yaml.safe_load(FILE.read_text())["method"])
    method[0][key] = True
    with pytest.raises(BadExperiment, match=key):
        activities.validate(changed(method=method))


@pytest.mark.parametrize(
    ("value", "tolerance", "met"),
    [
        (True, True, True), (False, True, False), (None, None, False), (None, True, False), (None, False, False),
        (200, 200, True), ({"status": 503}, 200, False), ({"status": 200}, [200, 201], True), (5, [1, 4], False),
        ("ok", {"type": "regex", "pattern": "^ok$"}, True), ("ko", {"type": "regex", "pattern": "^ok$"}, False),
        ([], True, False),
    ],
)  # fmt: skip
def test_a_tolerance_is_met_by_an_answer_only(value: Any, tolerance: Any, met: bool) -> None:
    run = activities.execute(python("answer", {"value": value}, tolerance=tolerance), "before", {}, {}, 5.0)
    assert (run.succeeded, run.tolerance_met) == (True, met)
    assert activities.steady([run], "before")[0] is met


def test_no_probe_at_all_is_no_steady_state() -> None:
    assert activities.steady([], "before")[0] is None


def test_what_goes_wrong_is_in_the_result() -> None:
    run = activities.execute(python("broken", tolerance=True), "before", {}, {}, 5.0)
    assert (run.status, run.error, run.tolerance_met) == ("failed", "RuntimeError: no way", False)
    assert activities.steady([run], "before") == (False, "broken: RuntimeError: no way")
    run = activities.execute(python("no.such.func"), "method", {}, {}, 5.0)
    assert run.status == "failed"
    assert "ModuleNotFoundError" in str(run.error)
    run = activities.execute(python("answer", {"wrong": 1}), "method", {}, {}, 5.0)
    assert "unexpected keyword" in str(run.error)


def test_a_deadline_ends_an_activity_that_swallows_every_exception() -> None:
    begun = time.monotonic()
    run = activities.execute(python("slow", {"seconds": 30}, kind="action"), "method", {}, {}, 0.1)
    assert time.monotonic() - begun < 2
    assert run.status == "failed"
    assert "did not end within 0.1 s (it may have been done all the same)" in str(run.error)
    assert activities.execute(python("answer", {"value": 1}), "method", {}, {}, 5.0).output == 1


def test_outputs_are_json_and_bounded() -> None:
    assert activities.execute(python("answer", {"value": object}), "method", {}, {}, 5.0).output == "<class 'object'>"
    output = activities.execute(python("answer", {"value": "x" * 50_000}), "method", {}, {}, 5.0).output
    assert output["chars"] == 50_002


def test_chaosk8s_acts_on_exactly_this_cluster_and_picks_by_the_seed(world: World, tmp_path: Path) -> None:
    api, cluster, _ = world
    before = dict(os.environ)
    chaos = Chaos(experiment.load(FILE), cluster, tmp_path, "20260101T000000Z-abcdef")
    run = chaos.execute(chaos.experiment.actions[0], "method", 10.0)
    assert run.succeeded, run.error
    assert run.output == ["payments-b"]
    assert ("DELETE", "/api/v1/namespaces/shop/pods/payments-b") in api.seen
    assert "/api/v1/namespaces/shop/pods/payments-a" in api.objects
    assert dict(os.environ) == before


def test_a_refusal_of_the_api_is_told_with_its_reason(world: World, tmp_path: Path) -> None:
    api, cluster, _ = world
    api.refuse = lambda method, path: (403, "Forbidden", "pods are precious") if method == "DELETE" else None
    chaos = Chaos(experiment.load(FILE), cluster, tmp_path, "r")
    run = chaos.execute(chaos.experiment.actions[0], "method", 10.0)
    assert not run.succeeded
    assert "pods are precious" in str(run.error)


def test_variables_are_filled_in_as_chaoslib_does(world: World, tmp_path: Path) -> None:
    method = copy.deepcopy(yaml.safe_load(FILE.read_text())["method"])
    method[0]["provider"]["arguments"]["label_selector"] = "app=${who}"
    chaos = Chaos(changed(method=method, configuration={"who": "orders"}), world[1], tmp_path, "r")
    assert chaos.resolve(chaos.experiment.actions[0]).arguments["label_selector"] == "app=orders"
    assert chaos.execute(chaos.experiment.actions[0], "method", 10.0).output == ["orders-a"]


def test_the_journal_is_chaos_toolkits(world: World, tmp_path: Path) -> None:
    chaos = Chaos(changed(), world[1], tmp_path, "r")
    chaos.runs.append(activities.execute(python("answer", {"value": True}, tolerance=True), "before", {}, {}, 5.0))
    chaos.execute(chaos.experiment.actions[0], "method", 10.0)
    chaos.runs.append(activities.execute(python("answer", {"value": False}, tolerance=True), "after", {}, {}, 5.0))
    journal = chaos.journal(1_700_000_000_000_000, 1_700_000_001_500_000)
    validator("journal").validate(journal)
    assert (journal["status"], journal["deviated"], journal["duration"]) == ("completed", True, 1.5)
    assert journal["steady_states"]["before"]["steady_state_met"] is True
    assert journal["steady_states"]["after"]["probes"][0]["tolerance_met"] is False
    assert journal["run"][0]["output"] == ["payments-b"]
    assert [phase for phase, _ in activities.activities_of(chaos.experiment)] == [
        "before",
        "before",
        "method",
        "after",
        "after",
    ]
