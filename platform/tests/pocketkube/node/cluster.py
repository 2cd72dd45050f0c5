"""A real cluster for tests: the command line, kubectl, and a look at its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

BIN = Path(sys.executable).parent
DEADLINE_S = 15.0


@dataclass(frozen=True)
class Cluster:
    """A state home with one cluster, or none yet."""

    home: Path
    name: str = "default"

    @property
    def folder(self) -> Path:
        """Its state folder."""
        return self.home / "pocketkube" / self.name

    @property
    def facts(self) -> dict[str, Any]:
        """cluster.json."""
        found: dict[str, Any] = json.loads((self.folder / "cluster.json").read_text())
        return found

    def pocketkube(self, *arguments: str, code: int = 0) -> str:
        """Run the command line; its stdout."""
        done = self.run([str(BIN / "pocketkube"), *arguments])
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, argv: list[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program with this cluster's environment."""
        env = {**os.environ, "XDG_STATE_HOME": str(self.home), "KUBECONFIG": str(self.folder / "kubeconfig"),
               "KUBECACHEDIR": str(self.home / "cache")}  # fmt: skip
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False, input=text)

    def kubectl(self, *arguments: str, text: str | None = None, code: int = 0) -> str:
        """Run kubectl; its stdout."""
        done = self.run([str(BIN / "kubectl"), *arguments], text)
        assert done.returncode == code, f"kubectl {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects."""
        self.kubectl("apply", "-f", "-", text="\n---\n".join(json.dumps(o) for o in objects))

    def get(self, *what: str) -> Any:
        """`kubectl get ... -o json`."""
        return json.loads(self.kubectl("get", *what, "-o", "json"))

    def wait(self, what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
        """The first true answer. Fails with what it waited for, the pods and the daemon's log."""
        deadline = time.monotonic() + deadline_s
        while not (found := condition()):
            if time.monotonic() > deadline:
                pods = self.kubectl("get", "pods", "-A", "-o", "wide")
                raise AssertionError(
                    f"not within {deadline_s} s: {what}\n{pods}\n{(self.folder / 'daemon.log').read_text()}"
                )
            time.sleep(0.02)
        return found

    def ready(self, selector: str, count: int, namespace: str = "default") -> list[dict[str, Any]]:
        """Wait until exactly so many pods are Ready and none is ending; the pods."""

        def look() -> list[dict[str, Any]] | None:
            pods = [
                p
                for p in self.get("pods", "-n", namespace, "-l", selector)["items"]
                if "deletionTimestamp" not in p["metadata"]
            ]
            return pods if len(pods) == count and all(is_ready(p) for p in pods) else None

        found: list[dict[str, Any]] = self.wait(f"{count} Ready pods of {selector}", look)
        return found

    def pod(self, name: str) -> dict[str, Any]:
        """A pod."""
        found: dict[str, Any] = self.get("pod", name)
        return found

    def processes(self) -> list[psutil.Process]:
        """The daemon and everything that descends from it."""
        daemon = psutil.Process(self.facts["pid"])
        return [daemon, *daemon.children(recursive=True)]


def is_ready(obj: dict[str, Any]) -> bool:
    """True if its Ready condition is True."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in obj.get("status", {}).get("conditions", []))


def alive(found: list[psutil.Process]) -> list[str]:
    """What of these still runs; psutil compares start times."""
    left = []
    for process in found:
        try:
            if process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                left.append(f"{process.pid} {process.name()} {process.cmdline()[:4]}")
        except psutil.NoSuchProcess:
            continue
    return left


def gone(found: list[psutil.Process], deadline_s: float = 2.0) -> None:
    """Fails if any of these still runs at the deadline."""
    deadline = time.monotonic() + deadline_s
    while left := alive(found):
        assert time.monotonic() < deadline, f"left {deadline_s} s after: {left}"
        time.sleep(0.02)


IMAGES = """\
images:
  web:1:
    entrypoint: [python, -m, http.server]
    command: [--bind, $(POD_IP), "7070"]
    preload: [http.server]
  python:3:
    entrypoint: [python]
  shell:1:
    entrypoint: [sh, -c]
"""

POD_IP = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


def shell(script: str, **container: Any) -> dict[str, Any]:
    """A container that runs a script."""
    return {"name": "main", "image": "shell:1", "args": [script], "env": [POD_IP], **container}


def pod(name: str, container: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A pod with one container."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 2, **spec}}  # fmt: skip


def web(replicas: int) -> list[dict[str, Any]]:
    """A Deployment and a Service of web servers."""
    container = {"name": "web", "image": "web:1", "env": [POD_IP], "ports": [{"name": "http", "containerPort": 7070}],
                 "startupProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 20},
                 "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1}}  # fmt: skip
    labels = {"app": "web"}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
         "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
         "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
             "metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 2}}}},
    ]  # fmt: skip
