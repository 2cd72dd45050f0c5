"""A whole cluster of real processes, from its start to its end, and what is left when any part of it is killed."""

from __future__ import annotations

import base64
import functools
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.pocketkube.node.cluster import BIN, IMAGES, Cluster, alive, gone, pod, shell, web

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("state")
    (home / "images.yaml").write_text(IMAGES)
    made = Cluster(home)
    made.pocketkube("up", "--images", str(home / "images.yaml"), "--owner", str(os.getpid()))
    made.apply(*web(2))
    yield made
    running = made.processes()
    made.pocketkube("down")
    gone(running)
    assert not made.folder.exists()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster to be killed."""
    (tmp_path / "images.yaml").write_text(IMAGES)
    made = Cluster(tmp_path)
    made.pocketkube("up", "--images", str(tmp_path / "images.yaml"), "--nodes", "body,memory",
                    "--owner", str(os.getpid()))  # fmt: skip
    made.apply(pod("one", shell("sleep 1000 & exec sleep 1000")), *web(1))
    made.ready("app=one", 1)
    made.ready("app=web", 1)
    yield made
    made.pocketkube("down")


def fetch(url: str, timeout_s: float = 5.0) -> int:
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:
        return int(answer.status)


def state_of(cluster: Cluster, name: str) -> dict[str, Any]:
    statuses = cluster.pod(name).get("status", {}).get("containerStatuses") or [
        {"state": {}, "restartCount": 0, "lastState": {}}
    ]
    found: dict[str, Any] = statuses[0]
    return found


def succeeded(cluster: Cluster, name: str) -> bool:
    return bool(cluster.pod(name)["status"].get("phase") == "Succeeded")


def waiting(cluster: Cluster, name: str) -> str:
    return str(state_of(cluster, name)["state"].get("waiting", {}).get("reason", ""))


def reasons(cluster: Cluster, name: str) -> set[str]:
    return {e["reason"] for e in cluster.get("events")["items"] if e["involvedObject"]["name"] == name}


def test_a_second_up_of_a_running_name_only_says_so(cluster: Cluster) -> None:
    again = json.loads(cluster.pocketkube("up", "--json"))
    assert again == cluster.facts
    assert cluster.pocketkube("kubeconfig").strip() == str(cluster.folder / "kubeconfig")
    assert cluster.pocketkube("list").startswith("default: https://127.")
    assert cluster.folder.stat().st_mode & 0o777 == 0o700


def test_bad_arguments_end_with_a_hint(cluster: Cluster) -> None:
    for arguments, code in ((["up", "--name", "Not A Name"], 1), (["status", "--name", "absent"], 1), (["upp"], 254),
                            (["up", "--name", "x", "--images", "/absent.yaml"], 1)):  # fmt: skip
        done = cluster.run([str(BIN / "pocketkube"), *arguments])
        assert (done.returncode, "hint:" in done.stderr) == (code, True), done.stderr


def test_nodes_are_those_of_the_contract(cluster: Cluster) -> None:
    nodes = {n["metadata"]["name"]: n for n in cluster.get("nodes")["items"]}
    assert set(nodes) == {"brain", "body", "body2", "memory"}
    assert nodes["brain"]["spec"]["taints"] == [
        {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
    ]
    roles = {name: n["metadata"]["labels"].get("aftershock.dev/role") for name, n in nodes.items()}
    assert roles == {"brain": None, "body": "body", "body2": "body", "memory": "memory"}
    assert "Ready" in cluster.pocketkube("status")


def test_a_service_is_reached_by_its_cluster_ip_and_by_pods_at_addresses_of_their_own(cluster: Cluster) -> None:
    servers = cluster.ready("app=web", 2)
    ip = cluster.get("service", "web")["spec"]["clusterIP"]
    assert fetch(f"http://{ip}/") == 200
    script = "import os,urllib.request;h=os.environ['WEB_SERVICE_HOST'];print(h, os.environ['WEB_SERVICE_PORT_HTTP'], "
    script += "urllib.request.urlopen(f'http://{h}:80/').status)"
    for name in ("caller-a", "caller-b"):
        cluster.apply(pod(name, {"name": "main", "image": "python:3", "args": ["-c", script]}, restartPolicy="Never"))
    logs = []
    for name in ("caller-a", "caller-b"):
        cluster.wait(f"{name} succeeds", functools.partial(succeeded, cluster, name))
        logs.append(cluster.kubectl("logs", name).split())
    assert [words[1:] for words in logs] == [["80", "200"], ["80", "200"]]
    assert len({logs[0][0], logs[1][0], ip}) == 3, "each pod has its own address for the Service"
    seen = "".join(cluster.kubectl("logs", s["metadata"]["name"]) for s in servers)
    addresses = {cluster.pod(name)["status"]["podIP"] for name in ("caller-a", "caller-b")}
    assert all(address in seen for address in addresses), "the server sees the caller's pod address"


def test_a_deleted_pod_is_replaced_and_its_process_ends(cluster: Cluster) -> None:
    first, _ = cluster.ready("app=web", 2)
    begun = time.monotonic()
    cluster.kubectl("delete", "pod", first["metadata"]["name"], "--wait=false")
    replaced = cluster.ready("app=web", 2)
    assert time.monotonic() - begun < 2.0
    assert first["metadata"]["name"] not in {p["metadata"]["name"] for p in replaced}
    cluster.wait("the object is gone", lambda: len(cluster.get("pods", "-l", "app=web")["items"]) == 2)


def test_exec_runs_in_the_containers_surroundings(cluster: Cluster) -> None:
    name = cluster.ready("app=web", 2)[0]["metadata"]["name"]
    done = cluster.run([str(BIN / "kubectl"), "exec", name, "--", "sh", "-c", "echo $HOSTNAME; echo no >&2; exit 3"])
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0]) == (3, f"{name}\n", "no")
    assert cluster.kubectl("exec", "-i", name, "--", "cat", text="hello") == "hello"
    absent = cluster.run([str(BIN / "kubectl"), "exec", name, "--", "absent"])
    assert absent.returncode == 127
    assert "executable file not found" in absent.stderr


def test_exec_with_a_terminal(cluster: Cluster) -> None:
    name = cluster.ready("app=web", 2)[0]["metadata"]["name"]
    ours, theirs = os.openpty()
    try:
        argv = [
            str(BIN / "kubectl"),
            "exec",
            "-it",
            name,
            "--",
            "sh",
            "-c",
            "test -t 0 && test -t 1 && read line && echo got $line",
        ]
        env = {**os.environ, "KUBECONFIG": str(cluster.folder / "kubeconfig")}
        running = subprocess.Popen(argv, env=env, stdin=theirs, stdout=subprocess.PIPE)
        os.write(ours, b"hello\n")
        assert b"got hello" in running.communicate(timeout=10)[0]
        assert running.returncode == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_pod_with_init_containers_runs_them_first(cluster: Cluster) -> None:
    volumes = [{"name": "shared", "emptyDir": {}}]
    mount: dict[str, Any] = {
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
        "env": [{"name": "F", "value": "/shared/x"}],
    }
    wanted = pod("staged", shell("cat $F; exec sleep 1000", **mount), volumes=volumes)
    wanted["spec"]["initContainers"] = [
        shell("echo one > $F", **mount, name="first"),
        shell("echo two >> $F", **mount, name="second"),
    ]
    cluster.apply(wanted)
    cluster.ready("app=staged", 1)
    cluster.wait("its log", lambda: cluster.kubectl("logs", "staged") == "one\ntwo\n")
    cluster.kubectl("delete", "pod", "staged")


def test_a_crashing_container_is_restarted_with_back_off(cluster: Cluster) -> None:
    cluster.apply(pod("crash", shell("echo run; exit 7")), pod("never", shell("exit 7"), restartPolicy="Never"),
                  pod("done", shell("exit 0"), restartPolicy="OnFailure"))  # fmt: skip
    cluster.wait("CrashLoopBackOff", lambda: waiting(cluster, "crash") == "CrashLoopBackOff")
    status = state_of(cluster, "crash")
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 7
    assert "back-off 10s" in status["state"]["waiting"]["message"]
    assert cluster.kubectl("logs", "crash").strip() == "run"
    cluster.wait("Failed", lambda: cluster.pod("never")["status"]["phase"] == "Failed")
    cluster.wait("Succeeded", lambda: cluster.pod("done")["status"]["phase"] == "Succeeded")
    assert {"Scheduled", "Pulled", "Created", "Started", "BackOff"} <= reasons(cluster, "crash")
    cluster.kubectl("delete", "pod", "crash", "never", "done")


def test_images_secrets_and_programs_that_are_not_there(cluster: Cluster) -> None:
    secret = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "late", "key": "token"}}}
    cluster.apply(
        pod("no-image", {"name": "main", "image": "nobody/knows:1"}),
        pod("no-secret", shell("echo $TOKEN; exec sleep 1000", env=[secret])),
        pod("no-program", {"name": "main", "image": "python:3", "command": ["/absent"]}),
    )
    cluster.wait("ImagePullBackOff", lambda: waiting(cluster, "no-image") == "ImagePullBackOff")
    cluster.wait("CreateContainerConfigError", lambda: waiting(cluster, "no-secret") == "CreateContainerConfigError")
    cluster.wait(
        "StartError",
        lambda: state_of(cluster, "no-program")["lastState"].get("terminated", {}).get("reason") == "StartError",
    )
    assert "ErrImagePull" in cluster.kubectl("describe", "pod", "no-image")
    cluster.kubectl("create", "secret", "generic", "late", "--from-literal=token=abc")
    cluster.wait(
        "the secret is found",
        lambda: cluster.kubectl("logs", "no-secret") == "abc\n" if not waiting(cluster, "no-secret") else None,
    )
    cluster.kubectl("delete", "pod", "no-image", "no-secret", "no-program")


def test_volumes_are_found_where_the_environment_says(cluster: Cluster) -> None:
    cluster.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf", "namespace": "default"}, "data": {"a.txt": "from-map"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sec", "namespace": "default"},
         "data": {"key": base64.b64encode(b"from-secret").decode()}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "claim", "namespace": "default"},
         "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}},
    )  # fmt: skip
    volumes = [{"name": "conf", "configMap": {"name": "conf"}}, {"name": "sec", "secret": {"secretName": "sec"}},
               {"name": "data", "persistentVolumeClaim": {"claimName": "claim"}}, {"name": "tmp", "emptyDir": {}}]  # fmt: skip
    mounts = [{"name": "conf", "mountPath": "/etc/conf"}, {"name": "sec", "mountPath": "/etc/sec"}, {"name": "data", "mountPath": "/data"},
              {"name": "tmp", "mountPath": "/scratch", "subPath": "below"}]  # fmt: skip
    env = [
        {"name": n, "value": v}
        for n, v in {"CONF": "/etc/conf/a.txt", "SEC": "/etc/sec/key", "DATA": "/data", "TMP": "/scratch/x"}.items()
    ]
    script = "cat $CONF $SEC; echo; cat $DATA/before 2>/dev/null; echo kept > $DATA/before; echo x > $TMP; cat $TMP"
    for expected in ("from-mapfrom-secret\nx\n", "from-mapfrom-secret\nkept\nx\n"):
        cluster.apply(
            pod("volumes", shell(script, env=env, volumeMounts=mounts), volumes=volumes, restartPolicy="Never")
        )
        cluster.wait("Succeeded", lambda: cluster.pod("volumes")["status"]["phase"] == "Succeeded")
        assert cluster.kubectl("logs", "volumes") == expected
        cluster.kubectl("delete", "pod", "volumes")


def test_files_of_a_config_map_follow_it_and_a_forced_deletion_is_at_once(cluster: Cluster) -> None:
    conf: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "live", "namespace": "default"},
    }
    cluster.apply({**conf, "data": {"a": "one"}})
    container = shell(
        "exec sleep 1000",
        env=[{"name": "CONF", "value": "/etc/live/a"}],
        volumeMounts=[{"name": "c", "mountPath": "/etc/live"}],
    )
    cluster.apply(
        pod(
            "reader",
            container,
            volumes=[{"name": "c", "configMap": {"name": "live"}}],
            terminationGracePeriodSeconds=30,
        )
    )
    cluster.ready("app=reader", 1)
    for value in ("one", "two"):
        cluster.apply({**conf, "data": {"a": value}})
        cluster.wait(f"the file says {value}", functools.partial(_says, cluster, value))
    sleeping = [p for p in cluster.processes() if p.cmdline()[:2] == ["sleep", "1000"]]
    assert sleeping
    cluster.kubectl("delete", "pod", "reader", "--force", "--grace-period=0")
    cluster.wait("its process ends", lambda: len(alive(sleeping)) < len(sleeping), 3.0)


def _says(cluster: Cluster, value: str) -> bool:
    return cluster.kubectl("exec", "reader", "--", "sh", "-c", "cat $CONF") == value


def test_a_failing_liveness_probe_restarts_and_a_stubborn_process_is_killed(cluster: Cluster) -> None:
    liveness = {"exec": {"command": ["sh", "-c", "test ! -f sick"]}, "periodSeconds": 1, "failureThreshold": 1}
    cluster.apply(pod("sick", shell("trap 'echo no' TERM; rm -f sick; while :; do sleep .05; done", livenessProbe=liveness),
                      terminationGracePeriodSeconds=1))  # fmt: skip
    cluster.ready("app=sick", 1)
    cluster.kubectl("exec", "sick", "--", "touch", "sick")
    cluster.wait("a restart", lambda: state_of(cluster, "sick")["restartCount"] == 1)
    assert state_of(cluster, "sick")["lastState"]["terminated"]["exitCode"] == 137
    assert "no" in cluster.kubectl("logs", "sick", "--previous")
    assert {"Unhealthy", "Killing"} <= reasons(cluster, "sick")
    cluster.kubectl("delete", "pod", "sick")


def test_prestop_runs_before_sigterm_and_nothing_of_the_container_outlives_it(cluster: Cluster) -> None:
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo stopping >> $LOG"]}}}
    log = cluster.home / "prestop.log"
    script = (
        "setsid sleep 1000 & trap 'echo term >> $LOG; exit 0' TERM; echo $! > $LOG.pid; while :; do sleep .05; done"
    )
    cluster.apply(pod("polite", shell(script, env=[{"name": "LOG", "value": str(log)}], lifecycle=hook)))
    cluster.ready("app=polite", 1)
    child = psutil.Process(
        int(cluster.wait("its child", lambda: Path(f"{log}.pid").exists() and Path(f"{log}.pid").read_text()))
    )
    cluster.kubectl("delete", "pod", "polite")
    assert log.read_text().split() == ["stopping", "term"]
    gone([child], 4.0)


def test_a_bad_image_stalls_its_rollout_while_the_old_serve_and_undo_takes_the_old_set_again(cluster: Cluster) -> None:
    before = {p["metadata"]["uid"] for p in cluster.ready("app=web", 2)}
    first = cluster.get("rs", "-l", "app=web")["items"]
    ip = cluster.get("service", "web")["spec"]["clusterIP"]
    cluster.kubectl("set", "image", "deployment/web", "web=nobody/knows:1")

    def stalled() -> bool:
        pods = cluster.get("pods", "-l", "app=web")["items"]
        return "ImagePullBackOff" in {waiting(cluster, p["metadata"]["name"]) for p in pods}

    cluster.wait("ImagePullBackOff", stalled)
    assert fetch(f"http://{ip}/") == 200
    assert before <= {p["metadata"]["uid"] for p in cluster.get("pods", "-l", "app=web")["items"]}
    assert cluster.kubectl("rollout", "history", "deployment/web").split()[-4:] == ["1", "<none>", "2", "<none>"]
    cluster.kubectl("rollout", "undo", "deployment/web")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=10s")
    assert {p["metadata"]["uid"] for p in cluster.ready("app=web", 2)} == before, "nothing that worked was ended"
    sizes = {rs["metadata"]["uid"]: rs["spec"]["replicas"] for rs in cluster.get("rs", "-l", "app=web")["items"]}
    assert sizes[first[0]["metadata"]["uid"]] == 2
    assert sum(sizes.values()) == 2


def chaos(
    name: str, action: str, direction: str, *, target: str | None, selected: str = "web", **more: Any
) -> dict[str, Any]:
    def part(app: str) -> dict[str, Any]:
        return {"mode": "all", "selector": {"namespaces": ["default"], "labelSelectors": {"app": app}}}

    spec = {"action": action, "direction": direction, **part(selected), **more}
    if target:
        spec["target"] = part(target)
    return {
        "apiVersion": "chaos-mesh.org/v1alpha1",
        "kind": "NetworkChaos",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def condition(cluster: Cluster, name: str, kind: str) -> str:
    conditions = cluster.get("networkchaos", name).get("status", {}).get("conditions", [])
    return next((str(c["status"]) for c in conditions if c["type"] == kind), "")


MEASURE = """
import http.client, os, sys, time
c = http.client.HTTPConnection(os.environ['WEB_SERVICE_HOST'], 80, timeout=1)
begun = time.time()
try:
    c.request('GET', '/'); c.getresponse().read()
    print(int((time.time() - begun) * 1000))
except OSError as error:
    print(type(error).__name__)
"""


def test_network_faults_act_between_the_chosen_pods_and_leave_with_their_object(cluster: Cluster) -> None:
    cluster.apply(pod("client", shell("exec sleep 1000")), pod("bystander", shell("exec sleep 1000")))
    cluster.ready("app=client", 1)
    cluster.ready("app=bystander", 1)
    cluster.ready("app=web", 2)

    def measure(name: str) -> str:
        return str(cluster.kubectl("exec", name, "--", "python", "-c", MEASURE).strip())

    assert int(measure("client")) < 240
    cluster.apply(chaos("slow", "delay", "from", target="client", delay={"latency": "120ms"}))
    cluster.wait("AllInjected", lambda: condition(cluster, "slow", "AllInjected") == "True")
    records = cluster.get("networkchaos", "slow")["status"]["experiment"]["containerRecords"]
    assert sorted((r["selectorKey"], r["phase"]) for r in records) == [
        (".", "Injected"),
        (".", "Injected"),
        (".Target", "Injected"),
    ]
    assert 240 <= int(measure("client")) < 480, "handshake and request are late"
    assert int(measure("bystander")) < 240
    cluster.kubectl("delete", "networkchaos", "slow")
    assert int(measure("client")) < 240

    cluster.apply(chaos("cut", "partition", "to", target="client"))
    cluster.wait("AllInjected", lambda: condition(cluster, "cut", "AllInjected") == "True")
    assert measure("client") == "TimeoutError"
    assert int(measure("bystander")) < 1000
    cluster.kubectl("delete", "networkchaos", "cut")
    assert int(measure("client")) < 1000


def test_a_fault_ends_with_its_duration(cluster: Cluster) -> None:
    cluster.ready("app=web", 2)
    cluster.apply(chaos("short", "delay", "to", target=None, delay={"latency": "1ms"}, duration="300ms"))
    cluster.wait("AllRecovered", lambda: condition(cluster, "short", "AllRecovered") == "True")
    assert condition(cluster, "short", "AllInjected") == "False"
    record = cluster.get("networkchaos", "short")["status"]["experiment"]["containerRecords"][0]
    assert (record["injectedCount"], record["recoveredCount"]) == (1, 1)
    cluster.kubectl("delete", "networkchaos", "short")


def test_a_fault_without_target_is_felt_from_outside_and_one_without_pods_is_not_injected(cluster: Cluster) -> None:
    cluster.ready("app=web", 2)
    ip = cluster.get("service", "web")["spec"]["clusterIP"]
    cluster.apply(chaos("out", "delay", "to", target=None, delay={"latency": "150ms"}),
                  chaos("nothing", "delay", "to", target=None, selected="absent", delay={"latency": "150ms"}))  # fmt: skip
    cluster.wait("AllInjected", lambda: condition(cluster, "out", "AllInjected") == "True")
    begun = time.perf_counter()
    fetch(f"http://{ip}/")
    assert 0.3 <= time.perf_counter() - begun < 0.6
    assert condition(cluster, "nothing", "Selected") == "False"
    assert condition(cluster, "nothing", "AllInjected") == "False"
    cluster.kubectl("delete", "networkchaos", "out", "nothing")


def named(cluster: Cluster, start: str) -> list[psutil.Process]:
    """Processes of the cluster by the names in its record."""
    lines = [json.loads(line) for line in (cluster.folder / "processes.jsonl").read_text().splitlines()]
    return [
        psutil.Process(line["pid"])
        for line in lines
        if line["name"].startswith(start) and psutil.pid_exists(line["pid"])
    ]


def test_a_dead_proxy_and_dead_forking_parents_are_replaced_and_pods_live_on(own: Cluster) -> None:
    ip = own.get("service", "web")["spec"]["clusterIP"]
    before = [p["metadata"]["uid"] for p in own.ready("app=web", 1)]
    for name in ("proxy", "parent-root", "parent-web:1", "parent-"):
        victims = named(own, name)
        assert victims
        for victim in victims:
            victim.kill()
        gone(victims)
        own.wait("the Service answers", lambda: _answers(f"http://{ip}/"))
        assert [p["metadata"]["uid"] for p in own.ready("app=web", 1)] == before
    assert sum(c["restartCount"] for p in own.get("pods")["items"] for c in p["status"]["containerStatuses"]) == 0
    own.kubectl("scale", "deployment", "web", "--replicas=2")
    own.ready("app=web", 2)


def _answers(url: str) -> bool:
    try:
        return fetch(url) == 200
    except (OSError, urllib.error.URLError):
        return False


def test_when_the_daemon_is_killed_nothing_remains_and_the_next_up_cleans(own: Cluster) -> None:
    found = own.processes()
    assert len(found) >= 8
    os.kill(own.facts["pid"], signal.SIGKILL)
    gone(found, 2.0)
    assert own.folder.exists()
    own.pocketkube("status", code=1)
    own.pocketkube("up", "--name", "other", "--nodes", "body")
    assert not own.folder.exists(), "the folder of the killed cluster is swept"
    own.pocketkube("down", "--name", "other")


def test_when_everything_is_killed_at_once_down_cleans(own: Cluster) -> None:
    found = own.processes()
    for process in found:
        process.kill()
    gone(found, 2.0)
    own.pocketkube("down")
    assert not own.folder.exists()


def test_what_a_killed_cluster_left_running_is_ended_by_its_record(tmp_path: Path) -> None:
    made = Cluster(tmp_path)
    made.folder.mkdir(parents=True)
    left = subprocess.Popen(["sleep", "1000"])
    other = subprocess.Popen(["sleep", "1000"])
    started = int(Path(f"/proc/{left.pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    lines = [{"pid": left.pid, "started": started, "boot": boot, "name": "left"},
             {"pid": other.pid, "started": started - 1, "boot": boot, "name": "another process of that number"}]  # fmt: skip
    (made.folder / "processes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"pid": 1')
    try:
        made.pocketkube("down")
        assert left.wait(5) == -signal.SIGKILL
        assert alive([psutil.Process(other.pid)]), "a process that only has the number is left alone"
        assert not made.folder.exists()
    finally:
        other.kill()
        other.wait()
        left.kill()
        left.wait()


def test_an_interrupted_up_leaves_nothing(tmp_path: Path) -> None:
    made = Cluster(tmp_path)
    starting = subprocess.Popen([str(BIN / "pocketkube"), "up"], env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
                                stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)  # fmt: skip
    assert starting.stderr is not None
    with starting.stderr:
        starting.stderr.readline()
        children = psutil.Process(starting.pid).children(recursive=True)
        starting.send_signal(signal.SIGINT)
        assert starting.wait(10) == 130
    gone(children)
    assert not made.folder.exists()


def test_a_cluster_ends_with_its_owner(tmp_path: Path) -> None:
    made = Cluster(tmp_path)
    owner = subprocess.Popen(["sleep", "1000"])
    made.pocketkube("up", "--nodes", "body", "--owner", str(owner.pid))
    found = made.processes()
    owner.kill()
    owner.wait()
    gone(found, 4.0)
    assert not made.folder.exists()
