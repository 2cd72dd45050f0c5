"""A cluster whose pods are real processes of this machine: a small API server that starts outposts, and proxies to them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from tests.aftershock.observe.api import Answer, Api, Object

Command = Callable[[str, Object, Path], list[str]]  # name of the pod, its container, its folder
PODS = "/api/v1/namespaces/shop/pods"


def outpost(name: str, container: Object, folder: Path) -> list[str]:
    """What the runner's image would run."""
    args = [a for a in container["args"] if not a.startswith("$(POD_IP)")]
    at = args.index("--listen") + 1
    return [sys.executable, "-m", *args[:at], "127.0.0.1:0", *args[at:]]


class Machine(Api):
    """`shop` is where the Service's environment leads; `behave` may answer instead of a pod."""

    def __init__(self, folder: Path, shop: int, command: Command = outpost) -> None:
        self.folder, self.shop, self.command = folder, shop, command
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}
        self.waiting: str | None = None  # why no container starts
        self.behave: Callable[[str, Object], Answer | None] = lambda pod, seen: None
        super().__init__()

    def answer(self, seen: Object) -> Answer:
        """Pods and ConfigMaps are made, asked and deleted; all else as in a small API."""
        method, path = seen["method"], seen["path"]
        if method == "POST" and path.rsplit("/", 1)[-1] in ("pods", "configmaps"):
            return 201, self.make(path, json.loads(seen["body"]))
        if "/proxy/" in path:
            pod, _, what = path.removeprefix(PODS + "/").partition("/proxy/")
            return self.behave(pod.partition(":")[0], seen) or self.proxy(pod.partition(":")[0], what, seen["query"])
        if method == "DELETE" and path.rpartition("/")[2] in self.collections.get(path.rpartition("/")[0], {}):
            self.remove(path)
            return 200, {}
        status, content, *more = super().answer(seen)
        if path == PODS and method == "GET" and (selector := seen["query"].get("labelSelector")):
            wanted = dict(part.split("=") for part in selector.split(","))
            content["items"] = [o for o in content["items"] if wanted.items() <= o["metadata"]["labels"].items()]
        return status, content, *more  # type: ignore[return-value]

    def make(self, path: str, obj: Object) -> Object:
        """Store it; a pod's process is started unless the image is missing."""
        name = obj["metadata"]["name"]
        obj["metadata"]["uid"] = f"uid-{name}"
        if path == PODS:
            if self.waiting:
                state = {"waiting": {"reason": self.waiting, "message": "no"}}
                obj["status"] = {"phase": "Pending", "containerStatuses": [{"name": "c", "state": state}]}
            else:
                obj["spec"]["nodeName"] = "memory"
                obj["status"] = {"phase": "Running", "podIP": "127.0.0.1"}
                self.begin(name, obj["spec"])
        self.put(path, obj)
        return obj

    def begin(self, name: str, spec: Object) -> None:
        """Start a pod's only container."""
        container, work = spec["containers"][0], self.folder / name
        work.mkdir()
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        service = {"$(STOREFRONT_SERVICE_HOST)": "127.0.0.1", "$(STOREFRONT_SERVICE_PORT_HTTP)": str(self.shop),
                   "$(POD_IP)": "127.0.0.1", "/scenarios": str(work)}  # fmt: skip
        for entry in container["env"]:
            value = str(work) if entry.get("value") == "/tmp" else entry.get("value", "127.0.0.1")  # noqa: S108  (the pod's)
            for text, meant in service.items():
                value = value.replace(text, meant)
            env[entry["name"]] = value
        for volume in spec["volumes"]:
            config = self.collections.get("/api/v1/namespaces/shop/configmaps", {}).get(
                volume.get("configMap", {}).get("name", ""), {}
            )
            for file, text in config.get("data", {}).items():
                (work / file).write_text(text)
        process = subprocess.Popen(
            self.command(name, container, work), env=env, stdout=subprocess.PIPE, cwd=work, process_group=0
        )
        assert process.stdout is not None
        self.processes[name] = process
        self.ports[name] = json.loads(process.stdout.readline())["port"]

    def proxy(self, pod: str, what: str, query: dict[str, str]) -> Answer:
        """GET on to a pod's process."""
        if pod not in self.collections.get(PODS, {}):
            return 404, {"kind": "Status", "code": 404, "reason": "NotFound", "message": f"pods {pod} not found"}
        connection = http.client.HTTPConnection("127.0.0.1", self.ports.get(pod, 1), timeout=5)
        try:
            connection.request("GET", f"/{what}?{urlencode(query)}")
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError as error:
            return 503, {"kind": "Status", "code": 503, "message": f"error trying to reach service: {error}"}
        finally:
            connection.close()

    def remove(self, path: str) -> None:
        """As a kubelet would, only at once."""
        collection, _, name = path.rpartition("/")
        self.put(collection, self.collections[collection][name], "DELETED")
        if collection == PODS:
            self.kill(name)

    def kill(self, pod: str) -> None:
        """End a pod's processes without a word."""
        process = self.processes.pop(pod, None)
        if process is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def fail(self, pod: str, reason: str) -> None:
        """The kubelet's word for a pod that it ended."""
        self.kill(pod)
        obj = self.collections[PODS][pod]
        obj["status"] = {"phase": "Failed", "reason": reason}
        self.put(PODS, obj)


@contextmanager
def running(folder: Path, shop: int = 1, command: Command = outpost) -> Iterator[Machine]:
    """One machine for the length of a `with`; nothing of it is left."""
    machine = Machine(folder, shop, command)
    try:
        yield machine
    finally:
        for pod in list(machine.processes):
            machine.kill(pod)
        machine.end()
