"""The gate from outside: the command line against a real cluster with the real shop, right for the right reason, and clean afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parents[3]
WINDOWS = {"rate_per_s": 20, "warm_up_s": 0.5, "baseline_s": 3, "fault_s": 3, "recovery_s": 2}
RUN_S = 60


class Bed:
    """A cluster with the shop in a state folder of its own, and the command line pointed at it."""

    def __init__(self, folder: Path) -> None:
        self.reports = folder / "reports"
        self.state = folder / "state"
        self.env = {**os.environ, "XDG_STATE_HOME": str(self.state), "NO_COLOR": "1"}
        self.folder = folder
        (folder / "scenarios").symlink_to(PROJECT / "scenarios")
        (folder / "gitops").symlink_to(PROJECT / "gitops")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "aftershock.cli", *arguments]
        return subprocess.Popen(
            command, env=self.env, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def call(self, *arguments: str, code: int | None = 0) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=RUN_S)
        assert code is None or process.returncode == code, f"{process.returncode}\n{out}\n{err}"
        return out

    def run(self, path: Path, *arguments: str, code: int) -> dict[str, Any]:
        """Run one experiment and return its verdict.json."""
        rows = json.loads(self.call("run", str(path), "--json", "--model", "none", *arguments, code=code))
        verdict: dict[str, Any] = json.loads((self.folder / rows[0]["report"]).with_name("verdict.json").read_text())
        return verdict

    def kubectl(self, method: str, path: str, body: Any = None, content: str = "application/merge-patch+json") -> Any:
        from aftershock import settings
        from aftershock.cluster import Cluster

        cluster = Cluster.connect("pocket", settings.read(self.env))
        try:
            return cluster.request(method, path, body=body, content_type=content)
        finally:
            cluster.close()

    def faults(self) -> list[str]:
        chaos = self.kubectl("GET", "/apis/chaos-mesh.org/v1alpha1/networkchaos")["items"]
        leases = self.kubectl("GET", "/apis/coordination.k8s.io/v1/namespaces/shop/leases")["items"]
        slices = self.kubectl("GET", "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices")["items"]
        nodes = self.kubectl("GET", "/api/v1/nodes")["items"]
        return [
            *(c["metadata"]["name"] for c in chaos), *(x["metadata"]["name"] for x in leases),
            *(s["metadata"]["name"] for s in slices if s["metadata"]["name"].startswith("otel")),
            *(n["metadata"]["name"] for n in nodes if n["spec"].get("unschedulable")),
        ]  # fmt: skip

    def children(self) -> list[str]:
        """Processes of runs that this bed started and that still live."""
        wanted = f"XDG_STATE_HOME={self.state}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return [c for c in found if "pocketkube" not in c and c]

    def clean(self) -> None:
        """Wait until nothing of a run is left, in the cluster or on the machine."""
        ends = time.monotonic() + 10
        while (left := [*self.faults(), *self.children()]) and time.monotonic() < ends:
            time.sleep(0.1)
        assert not left, f"left behind: {left}"


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    made = Bed(tmp_path_factory.mktemp("gate"))
    try:
        made.call("testbed", "up")
        yield made
    finally:
        made.call("testbed", "down", code=None)


def variant(bed: Bed, base: str, name: str, **changes: Any) -> Path:
    """An experiment of the project with short windows and some keys changed (dotted paths below the extension)."""
    document = yaml.safe_load((PROJECT / "experiments" / f"{base}.yaml").read_text())
    extension = document["extensions"][0]
    extension["load"].update(WINDOWS)
    for key, value in changes.items():
        if key == "arguments":
            document["method"][0]["provider"]["arguments"].update(value)
        elif key == "load":
            extension["load"].update(value)
        else:
            extension[key] = value
    path = bed.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def reasons(verdict: dict[str, Any], outcome: str) -> dict[str, str]:
    return {f["rule"]: f["summary"] for f in verdict["findings"] if f["outcome"] == outcome}


def test_a_killed_pod_passes_and_leaves_a_whole_folder(bed: Bed) -> None:
    verdict = bed.run(variant(bed, "payments-pod-kill", "kill"), code=0)
    assert verdict["verdict"] == "PASS"
    latest = bed.reports / "kill" / "latest"
    written = {p.name for p in latest.iterdir()}
    assert written >= {
        "run.json", "journal.json", "samples.parquet", "metrics.parquet", "traces.parquet", "ledger.ndjson", "events.jsonl",
        "evidence.json", "invariants.json", "verdict.json", "diagnosis.json", "facts.json", "postmortem.md", "postmortem.ko.md",
        "postmortem.json", "report.html", "junit.xml", "experiment.yaml",
    }  # fmt: skip
    assert not [name for name in written if name.startswith(".")], "no temporary file stays"
    assert json.loads((latest / "diagnosis.json").read_text())["ranked"][0]["entity"] == "payments"
    bed.call("verify", "kill")
    bed.clean()


def test_a_changed_claim_is_found(bed: Bed) -> None:
    path = bed.reports / "kill" / "latest" / "postmortem.md"
    true = path.read_text()
    path.write_text(re.sub(r"\bPASS\b", "FAIL", true, count=1))
    try:
        bed.call("verify", "kill", code=1)
    finally:
        path.write_text(true)


@pytest.mark.parametrize(
    ("name", "changes", "rule", "says"),
    [
        ("no-load", {"load": {**WINDOWS, "rate_per_s": 0}}, "load", "0"),
        ("no-target", {"arguments": {"label_selector": "app=nobody"}}, "targets", "nothing|no pod|matched"),
        ("too-far", {"blast_radius": {"namespaces": ["shop"], "pods_max": 0, "nodes_max": 0, "seconds_max": 60}}, "preflight", "pods"),
        ("elsewhere", {"arguments": {"ns": "kube-system"}}, "preflight", "kube-system"),
    ],
)  # fmt: skip
def test_what_tests_nothing_is_inconclusive_before_load_starts(
    bed: Bed, name: str, changes: dict[str, Any], rule: str, says: str
) -> None:
    verdict = bed.run(variant(bed, "payments-pod-kill", name, **changes), code=2)
    assert verdict["verdict"] == "INCONCLUSIVE"
    found = reasons(verdict, "INCONCLUSIVE")
    assert re.search(says, found[rule]), found
    assert not (bed.reports / name / "latest" / "samples.parquet").exists()
    assert (bed.reports / name / "latest" / "report.html").is_file()
    bed.clean()


def test_a_shop_that_is_down_already_is_inconclusive(bed: Bed) -> None:
    path = "/apis/apps/v1/namespaces/shop/deployments/cart"
    bed.kubectl("PATCH", path, {"spec": {"replicas": 0}})
    try:
        verdict = bed.run(variant(bed, "payments-pod-kill", "down"), code=2)
        assert verdict["verdict"] == "INCONCLUSIVE"
        assert "steady" in reasons(verdict, "INCONCLUSIVE")["steady_before"]
        evidence = json.loads((bed.reports / "down" / "latest" / "evidence.json").read_text())
        assert not evidence["faults"], "nothing may be broken that was not whole"
    finally:
        bed.kubectl("PATCH", path, {"spec": {"replicas": 2}})
        ready(bed, path)


def ready(bed: Bed, path: str) -> None:
    ends = time.monotonic() + 20
    while (live := bed.kubectl("GET", path))["status"].get("readyReplicas", 0) < live["spec"]["replicas"]:
        assert time.monotonic() < ends, live["status"]
        time.sleep(0.1)


def test_a_shop_that_stalls_fails_and_the_load_stays_valid(bed: Bed) -> None:
    document = yaml.safe_load((PROJECT / "experiments" / "payments-latency.yaml").read_text())
    document["method"][0]["provider"]["func"] = "network_partition"
    del document["method"][0]["provider"]["arguments"]["latency_ms"]
    document["extensions"][0]["load"].update(WINDOWS)
    document["extensions"][0]["weak_twin"] = {"weakness": "no-timeout", "must_break": "success_ratio"}
    path = bed.folder / "stall.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    verdict = bed.run(path, "--weak", code=1)
    assert any("success_ratio" in f["summary"] for f in verdict["findings"] if f["outcome"] == "FAIL")
    assert reasons(verdict, "PASS")["load"], "what the shop does not answer is no fault of the load"
    bed.clean()


def until(process: subprocess.Popen[str], text: str) -> None:
    """Read the progress of a run until it tells a step."""
    assert process.stderr is not None
    for line in process.stderr:
        if re.search(text, line):
            return
    raise AssertionError(f"the run ended before {text!r}")


@pytest.mark.parametrize("step", ["preflight", "starting k6", "baseline", ": fault", "recovery"])
def test_ctrl_c_leaves_nothing_behind(bed: Bed, step: str) -> None:
    process = bed.start("run", str(variant(bed, "payments-latency", "ctrl-c")), "--model", "none")
    until(process, step)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, out + err
    verdict = json.loads((bed.reports / "ctrl-c" / "latest" / "verdict.json").read_text())
    assert verdict["verdict"] == "INCONCLUSIVE"
    assert "interrupted" in verdict["findings"][0]["summary"]
    bed.clean()


def test_kill_9_in_the_fault_is_undone_within_two_seconds_and_the_next_run_works(bed: Bed) -> None:
    process = bed.start("run", str(variant(bed, "payments-latency", "killed")), "--model", "none")
    until(process, ": fault")
    assert bed.kubectl("GET", "/apis/chaos-mesh.org/v1alpha1/networkchaos")["items"]
    process.kill()
    process.communicate(timeout=10)
    killed = time.monotonic()
    while bed.kubectl("GET", "/apis/chaos-mesh.org/v1alpha1/networkchaos")["items"]:
        assert time.monotonic() - killed < 2.0, "the watchdog has two seconds"
        time.sleep(0.05)
    bed.clean()
    assert bed.call("undo").strip() == "nothing to undo"
    bed.run(variant(bed, "payments-latency", "after-kill"), code=0)


def test_two_runs_at_once_do_not_mix(bed: Bed) -> None:
    first = bed.start("run", str(variant(bed, "payments-pod-kill", "first")), "--model", "none")
    until(first, "baseline")
    second = bed.run(variant(bed, "payments-latency", "second"), code=2)
    assert "another run" in reasons(second, "INCONCLUSIVE")["preflight"]
    out, err = first.communicate(timeout=RUN_S)
    assert first.returncode == 0, out + err
    bed.clean()


def test_check_tells_the_targets_and_changes_nothing(bed: Bed) -> None:
    plan = json.loads(bed.call("check", str(PROJECT / "experiments" / "body2-drain.yaml"), "--json"))[0]
    kinds = [t["kind"] for t in plan["faults"][0]["targets"]]
    assert kinds.count("Node") == 1
    assert kinds.count("Pod") >= 1
    bed.clean()


def test_bad_arguments_and_files_are_254(bed: Bed) -> None:
    bed.call("run", "nowhere.yaml", code=254)
    bed.call("run", code=254)
    bed.call("verify", "nothing-of-that-name", code=254)
    broken = bed.folder / "broken.yaml"
    broken.write_text((PROJECT / "experiments" / "control.yaml").read_text().replace("expect:", "expects:"))
    process = bed.start("check", str(broken))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 254
    assert re.search(r"broken\.yaml:\d+: .*expects", err)
    assert "hint:" in err


def test_experiments_are_tests(bed: Bed) -> None:
    folder = bed.folder / "suite"
    folder.mkdir()
    for name, changes in (("good", {}), ("untested", {"arguments": {"label_selector": "app=nobody"}})):
        path = variant(bed, "payments-pod-kill", name, **changes)
        document = yaml.safe_load(path.read_text())
        del document["extensions"][0]["weak_twin"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        path.unlink()
    (folder / "notes.yaml").write_text("just: a file\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder), "--rootdir", str(folder),
               "--aftershock-on", "pocket", "--junitxml", "gate.xml"]  # fmt: skip
    done = subprocess.run(
        command, env=bed.env, cwd=bed.folder, capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "untested is INCONCLUSIVE, and must be PASS" in done.stdout
    assert 'tests="2"' in (bed.folder / "gate.xml").read_text()
    (folder / "good.yaml").unlink()
    (folder / "untested.yaml").unlink()
    empty = subprocess.run(
        command, env=bed.env, cwd=bed.folder, capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert empty.returncode == 5, "a gate that collected nothing is red"
