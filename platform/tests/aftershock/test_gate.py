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

from aftershock.processes import MARK

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parents[3]
WINDOWS = {"rate_per_s": 20, "warm_up_s": 0.5, "baseline_s": 3, "fault_s": 3, "recovery_s": 2}
# For runs that nobody diagnoses: a window holds the journeys that an objective needs, and not many more.
SHORT = {**WINDOWS, "baseline_s": 2, "fault_s": 2.5}
RUN_S = 90  # a deadline for a machine that does other things too; nothing waits for it
KILL = "payments-pod-kill"
CHAOS = "/apis/chaos-mesh.org/v1alpha1/networkchaos"


class Bed:
    """A cluster with the shop in a state folder of its own, and the command line pointed at it."""

    def __init__(self, folder: Path) -> None:
        self.reports = folder / "reports"
        self.state = folder / "state"
        self.env = {**os.environ, "XDG_STATE_HOME": str(self.state), "NO_COLOR": "1"}
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        (folder / "scenarios").symlink_to(PROJECT / "scenarios")
        (folder / "gitops").symlink_to(PROJECT / "gitops")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "aftershock.cli", *arguments]
        self.started.append(
            subprocess.Popen(
                command, env=self.env, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
        return self.started[-1]

    def call(self, *arguments: str, code: int | None = 0) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=RUN_S)
        assert code is None or process.returncode == code, f"{process.returncode}\n{out}\n{err}"
        return out

    def run(self, path: Path, *arguments: str, code: int) -> dict[str, Any]:
        """Run one experiment and return its verdict.json."""
        self.call("run", str(path), "--model", "none", *arguments, code=code)
        return self.verdict(path.stem)

    def verdict(self, name: str) -> dict[str, Any]:
        """What the newest run of an experiment came to."""
        found: dict[str, Any] = json.loads((self.reports / name / "latest" / "verdict.json").read_text())
        return found

    def kubectl(self, method: str, path: str, body: Any = None, content: str = "application/merge-patch+json") -> Any:
        from aftershock import settings
        from aftershock.cluster import Cluster

        cluster = Cluster.connect("pocket", settings.read(self.env))
        try:
            return cluster.request(method, path, body=body, content_type=content)
        finally:
            cluster.close()

    def faults(self) -> list[str]:
        chaos = self.kubectl("GET", CHAOS)["items"]
        leases = self.kubectl("GET", "/apis/coordination.k8s.io/v1/namespaces/shop/leases")["items"]
        slices = self.kubectl("GET", "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices")["items"]
        nodes = self.kubectl("GET", "/api/v1/nodes")["items"]
        return [
            *(c["metadata"]["name"] for c in chaos), *(x["metadata"]["name"] for x in leases),
            *(s["metadata"]["name"] for s in slices if s["metadata"]["name"].startswith("otel")),
            *(n["metadata"]["name"] for n in nodes if n["spec"].get("unschedulable")),
        ]  # fmt: skip

    def processes(self) -> dict[int, str]:
        """Commands of this bed and what they started, watchdogs too; the cluster's own processes are none of them."""
        wanted = f"XDG_STATE_HOME={self.state}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and wanted in (environ := (entry / "environ").read_bytes()).split(b"\0"):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if command and ("-m aftershock." in command or f"{MARK}=".encode() in environ):
                        found[int(entry.name)] = command
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found

    def child(self, text: str) -> int:
        """The process of a run that has `text` in its command."""
        (pid,) = [pid for pid, command in self.processes().items() if text in command]
        return pid

    def clean(self) -> None:
        """Wait until nothing of a run is left, in the cluster or on the machine."""
        ends = time.monotonic() + 10
        while (left := [*self.faults(), *self.processes().values()]) and time.monotonic() < ends:
            time.sleep(0.1)
        assert not left, f"left behind: {left}"


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    made = Bed(tmp_path_factory.mktemp("gate"))
    try:
        made.call("testbed", "up")
        yield made
    finally:
        for process in made.started:  # what a test that failed left running
            with process:
                process.kill()
        made.call("testbed", "down", code=None)


def variant(bed: Bed, base: str, name: str, **changes: Any) -> Path:
    """An experiment of the project with other windows, arguments of its action, or keys of the extension."""
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


@pytest.fixture(scope="module")
def during(bed: Bed) -> dict[str, Any]:
    """A run that kills a pod, whole and with exit code 0; what a second run that was started meanwhile came to."""
    calm = {
        "warm_up_s": 1.5
    }  # the second one has come and gone before the baseline: what is diagnosed is the fault alone
    first = bed.start("run", str(variant(bed, KILL, "kill", load=calm)), "--model", "none")
    until(first, "starting observers")
    second = bed.run(variant(bed, "payments-latency", "second"), code=2)
    out, err = first.communicate(timeout=RUN_S)
    assert first.returncode == 0, out + err
    bed.clean()
    return second


def test_a_killed_pod_passes_and_leaves_a_whole_folder(bed: Bed, during: dict[str, Any]) -> None:
    assert bed.verdict("kill")["verdict"] == "PASS"
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


def test_two_runs_at_once_do_not_mix(bed: Bed, during: dict[str, Any]) -> None:
    assert "another run" in reasons(during, "INCONCLUSIVE")["preflight"]
    assert bed.verdict("kill")["verdict"] == "PASS"


@pytest.mark.usefixtures("during")
def test_a_changed_claim_is_found(bed: Bed) -> None:
    path = bed.reports / "kill" / "latest" / "postmortem.md"
    true = path.read_text()
    path.write_text(re.sub(r"\bPASS\b", "FAIL", true, count=1))
    try:
        bed.call("verify", "kill", code=1)
    finally:
        path.write_text(true)


NOTHING_TESTED = [
    ("no-load", {"load": {"rate_per_s": 0}}, "load", "0"),
    ("no-target", {"arguments": {"label_selector": "app=nobody"}}, "targets", "nothing|no pod|matched"),
    ("too-far", {"blast_radius": {"namespaces": ["shop"], "pods_max": 0, "nodes_max": 0, "seconds_max": 60}}, "preflight", "pods"),
    ("elsewhere", {"arguments": {"ns": "kube-system"}}, "preflight", "kube-system"),
]  # fmt: skip


@pytest.fixture(scope="module")
def refused(bed: Bed) -> list[dict[str, Any]]:
    """One command that runs four experiments, none of which may begin; its rows."""
    paths = [str(variant(bed, KILL, name, **changes)) for name, changes, _, _ in NOTHING_TESTED]
    rows: list[dict[str, Any]] = json.loads(bed.call("run", *paths, "--json", "--model", "none", code=2))
    bed.clean()
    return rows


@pytest.mark.parametrize(("name", "rule", "says"), [(name, rule, says) for name, _, rule, says in NOTHING_TESTED])
def test_what_tests_nothing_is_inconclusive_before_load_starts(
    bed: Bed, refused: list[dict[str, Any]], name: str, rule: str, says: str
) -> None:
    (row,) = [r for r in refused if r["experiment"] == name]
    verdict = bed.verdict(name)
    assert row["verdict"] == verdict["verdict"] == "INCONCLUSIVE"
    found = reasons(verdict, "INCONCLUSIVE")
    assert re.search(says, found[rule]), found
    assert not (bed.reports / name / "latest" / "samples.parquet").exists()
    assert (bed.folder / row["report"]).is_file()


def test_a_second_drain_of_one_command_finds_pods_again(bed: Bed) -> None:
    brief = {"rate_per_s": 10, "warm_up_s": 1, "baseline_s": 2, "fault_s": 8, "recovery_s": 2}
    path = variant(bed, "body2-drain", "twice", load=brief)
    rows = json.loads(bed.call("run", str(path), "--repeat", "2", "--json", "--model", "none", code=None))
    assert len(rows) == 2
    for row in rows:
        (fault,) = json.loads((bed.folder / row["report"]).with_name("evidence.json").read_text())["faults"]
        assert fault["steps"]["observed"] is not None, row
    bed.clean()


def test_a_shop_that_is_down_already_is_inconclusive(bed: Bed) -> None:
    path = "/apis/apps/v1/namespaces/shop/deployments/cart"
    bed.kubectl("PATCH", path, {"spec": {"replicas": 0}})
    try:
        verdict = bed.run(variant(bed, KILL, "down"), code=2)
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
    document["extensions"][0]["load"].update({**WINDOWS, "baseline_s": 2, "fault_s": 2, "recovery_s": 0.5})
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


# Each step, and the window that is open then: long, so that a busy machine cannot pass it by; the others are only to be passed.
STEPS = [("preflight", ""), ("starting k6", "warm_up_s"), ("baseline", "baseline_s"), (": fault", "fault_s"),
         ("recovery", "recovery_s"), ("letting orders settle", "")]  # fmt: skip


@pytest.mark.parametrize(("step", "window"), STEPS)
def test_ctrl_c_leaves_nothing_behind(bed: Bed, step: str, window: str) -> None:
    brief = {**WINDOWS, "baseline_s": 0.7, "fault_s": 0.7, "recovery_s": 0.7} | ({window: 60} if window else {})
    process = bed.start("run", str(variant(bed, "payments-latency", "ctrl-c", load=brief)), "--model", "none")
    until(process, step)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=RUN_S)
    assert process.returncode == 130, out + err
    verdict = bed.verdict("ctrl-c")
    assert verdict["verdict"] == "INCONCLUSIVE"
    assert "interrupted" in verdict["findings"][0]["summary"]
    bed.clean()


@pytest.fixture(scope="module")
def killed(bed: Bed) -> float:
    """`kill -9` of a run in the middle of its fault; seconds until the cluster was without the fault."""
    long = {**SHORT, "baseline_s": 1, "fault_s": 60}  # nobody but the watchdog can end it
    process = bed.start("run", str(variant(bed, "payments-latency", "killed", load=long)), "--model", "none")
    until(process, ": fault")
    assert bed.kubectl("GET", CHAOS)["items"]
    process.kill()
    begun = time.monotonic()
    process.communicate(timeout=10)
    while bed.kubectl("GET", CHAOS)["items"]:
        assert time.monotonic() - begun < RUN_S, "nobody undid it"
        time.sleep(0.02)
    return time.monotonic() - begun


def test_kill_9_in_the_fault_is_undone_within_two_seconds(bed: Bed, killed: float) -> None:
    assert killed < 2.0, "the watchdog has two seconds"
    bed.clean()
    assert bed.call("undo").strip() == "nothing to undo"


RECEIVER, WATCHDOG = "observe.receiver", "aftershock.watchdog"


@pytest.mark.parametrize(("children", "code", "says"), [(["k6"], 2, "load"), ([RECEIVER, WATCHDOG], 0, None)])
def test_a_run_bears_the_death_of_any_of_its_children(
    bed: Bed, children: list[str], code: int, says: str | None
) -> None:
    name = f"bereft-{len(children)}"  # not the children's own: it would be in the run's command too
    process = bed.start("run", str(variant(bed, KILL, name, load=SHORT)), "--model", "none")
    until(process, ": baseline")
    for child in children:
        os.kill(bed.child(child), signal.SIGKILL)
    out, err = process.communicate(timeout=RUN_S)
    assert process.returncode == code, out + err
    if says:
        assert says in reasons(bed.verdict(name), "INCONCLUSIVE")
    evidence = json.loads((bed.reports / name / "latest" / "evidence.json").read_text())
    gaps = [o["name"] for o in evidence["observers"] if o["gaps"]]
    assert ("traces" in gaps) == (RECEIVER in children), "what could not be seen is told"
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


@pytest.mark.usefixtures("killed")
def test_experiments_are_tests_and_the_run_after_a_kill_works(bed: Bed) -> None:
    folder = bed.folder / "suite"
    folder.mkdir()
    for base, name, changes in (("payments-latency", "good", {}), (KILL, "untested", NOTHING_TESTED[1][1])):
        path = variant(bed, base, name, **{"load": SHORT, **changes})
        document = yaml.safe_load(path.read_text())
        del document["extensions"][0]["weak_twin"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        path.unlink()
    (folder / "notes.yaml").write_text("just: a file\n")
    done = pytest_of(bed, folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "untested is INCONCLUSIVE, and must be PASS" in done.stdout
    assert 'tests="2"' in (bed.folder / "gate.xml").read_text()
    bed.clean()


def test_a_gate_that_collected_nothing_is_red(bed: Bed) -> None:
    folder = bed.folder / "empty"
    folder.mkdir()
    (folder / "notes.yaml").write_text("just: a file\n")
    assert pytest_of(bed, folder).returncode == 5


def pytest_of(bed: Bed, folder: Path) -> subprocess.CompletedProcess[str]:
    """A pytest session of a folder of experiments."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder), "--rootdir", str(folder),
               "--aftershock-on", "pocket", "--junitxml", "gate.xml"]  # fmt: skip
    return subprocess.run(
        command, env=bed.env, cwd=bed.folder, capture_output=True, text=True, timeout=RUN_S, check=False
    )
