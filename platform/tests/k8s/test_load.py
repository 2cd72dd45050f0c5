"""Load, spans and clocks on a real cluster: from here, from pods, by a port-forward; whole, or told why not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aftershock.folder import RunFolder

from .conftest import OURS, SHOP, Bed, until

SHORT = {"rate_per_s": 20, "warm_up_s": 2, "baseline_s": 3, "fault_s": 3, "recovery_s": 2}
INNER = "aftershock-inner"


def load_pods(bed: Bed) -> list[dict[str, Any]]:
    """Our load's pods that run."""
    pods = bed.cluster.list(f"{SHOP}/pods", f"{OURS},aftershock.dev/component=load")
    return [p for p in pods if (p.get("status") or {}).get("phase") == "Running"]


def samples(bed: Bed, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = RunFolder(bed.reports / name / "latest").table("samples.parquet").to_pylist()
    return rows


def begun(bed: Bed, name: str) -> Callable[[], object]:
    """Whether the newest run's schedule is known."""
    return lambda: (bed.reports / name / "latest" / "run.json").is_file() and bed.document(name, "run.json")["windows"]


def offered(bed: Bed, run: subprocess.Popen[str], name: str) -> dict[str, Any]:
    """The load of a run that must have been whole, whatever a busy machine made of the shop's latencies."""
    run.wait(150)
    load: dict[str, Any] = bed.document(name, "evidence.json")["load"]
    said = [(f["rule"], f["summary"], f["hint"]) for f in bed.verdict(name)["findings"] if f["outcome"] != "PASS"]
    assert (load["error"], load["dropped"]) == (None, 0), said
    assert not [text for rule, text, _ in said if rule in ("preflight", "undo", "observers")], said
    print(f"{name}: {said or 'PASS'}, {load}, {bed.document(name, 'run.json')['load']['path']}")
    return load


@pytest.mark.parametrize(("tool", "scenario", "pods"), [("k6", "checkout.js", 1), ("locust", "checkout.py", 3)])
def test_load_in_the_cluster_comes_home_whole(bed: Bed, tool: str, scenario: str, pods: int) -> None:
    name = f"inside-{tool}"
    path = bed.variant("control", name, load={**SHORT, "tool": tool, "scenario": f"scenarios/{scenario}"})
    run = bed.run(path, "--load-on", "cluster")
    load, manifest = offered(bed, run, name), bed.document(name, "run.json")
    assert load["made"] == load["arrived"] == len(samples(bed, name))
    assert len({r["iteration"] for r in samples(bed, name)}) == load["scheduled"]
    assert (manifest["load"]["on"], manifest["load"]["as"], len(manifest["load"]["pods"])) == ("cluster", "Job", pods)
    assert manifest["load"]["path"]["kind"] == "inside"
    assert manifest["load"]["path"]["busy_requests"] > 0
    clocks = {c["of"]: c for c in manifest["clocks"]}
    assert len([c for c in clocks if c.startswith("pod aftershock-load-")]) == pods
    assert {c["node"] for c in clocks.values()} >= {"body", "body2"}
    assert all(c["uncertainty_us"] < 100_000 for c in clocks.values())
    (traces,) = (o for o in bed.document(name, "evidence.json")["observers"] if o["name"] == "traces")
    assert traces["records"] > 500
    assert traces["gaps"] == []
    assert not any(p["name"].startswith("aftershock-") for p in manifest["topology"]["pods"])


@contextmanager
def inner(bed: Bed) -> Iterator[None]:
    """The storefront behind a Service that nobody reaches from outside."""
    body = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": INNER, "namespace": "shop"},
        "spec": {"selector": {"app": "storefront"}, "ports": [{"name": "http", "port": 7070, "targetPort": "http"}]},
    }  # fmt: skip
    bed.cluster.request("POST", f"{SHOP}/services", body=body)
    try:
        yield
    finally:
        bed.cluster.request("DELETE", f"{SHOP}/services/{INNER}")


def test_a_port_forward_is_the_last_way_and_said_to_be_less_honest(bed: Bed) -> None:
    path = bed.variant("control", "forwarded", load={**SHORT, "target": {"service": INNER, "port": "http"}})
    with inner(bed):
        offered(bed, bed.run(path), "forwarded")
    way = bed.document("forwarded", "run.json")["load"]["path"]
    assert (way["kind"], way["honest"]) == ("port-forward", False)
    assert way["idle_answers"] == 20
    assert "less honest" in (bed.reports / "forwarded" / "latest" / "report.html").read_text()


@pytest.mark.parametrize(
    ("tool", "scenario", "role"), [("k6", "checkout.js", "alone"), ("locust", "checkout.py", "worker")]
)
def test_a_generator_that_is_deleted_makes_the_run_inconclusive(bed: Bed, tool: str, scenario: str, role: str) -> None:
    name = f"fallen-{tool}"
    load = {**SHORT, "fault_s": 30, "tool": tool, "scenario": f"scenarios/{scenario}"}
    run = bed.run(bed.variant("control", name, load=load), "--load-on", "cluster")
    bed.during(run, begun(bed, name))
    pod = next(p["metadata"] for p in load_pods(bed) if p["metadata"]["labels"]["aftershock.dev/role"] == role)
    bed.cluster.request("DELETE", f"{SHOP}/pods/{pod['name']}", body={"gracePeriodSeconds": 0})
    run.wait(90)
    assert run.returncode == 2
    seen = bed.document(name, "evidence.json")["load"]
    assert seen["offered"] is False
    assert pod["name"] in seen["error"]


def test_a_killed_run_leaves_no_load_behind(bed: Bed) -> None:
    run = bed.run(bed.variant("control", "killed-load", load={**SHORT, "fault_s": 60}), "--load-on", "cluster")
    bed.during(run, begun(bed, "killed-load"))
    assert load_pods(bed)
    run.kill()
    run.wait()
    until(lambda: not bed.left(), 30, lambda: f"left: {bed.left()}")


def test_a_missing_image_stops_the_run_before_anything_is_broken(bed: Bed, tmp_path: Path) -> None:
    path = bed.variant("payments-pod-kill", "no-image", load=SHORT)
    run = bed.run(path, "--load-on", "cluster", AFTERSHOCK_RUNNER_IMAGE="aftershock/runner:nowhere")
    run.wait(150)
    assert run.returncode == 2
    verdict = bed.verdict("no-image")
    said = " ".join(f"{f['summary']} {f['hint']}" for f in verdict["findings"])
    assert "aftershock/runner:nowhere" in said
    (traces,) = (o for o in bed.document("no-image", "evidence.json")["observers"] if o["name"] == "traces")
    assert any("aftershock/runner:nowhere" in g["reason"] for g in traces["gaps"])
    assert not any(s["accepted"] for s in (f["steps"] for f in bed.document("no-image", "evidence.json")["faults"]))
