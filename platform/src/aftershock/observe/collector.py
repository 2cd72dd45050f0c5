"""Spans of the shop: the receiver, and the EndpointSlice that leads the pods to it while a run lasts.

On pocketkube the receiver is a process here; pods of a real cluster seldom reach this machine, so there it is a pod of the runner's image
(`remote.py`), and a process here only if that cannot be and there is a way. Whether the receiver can be reached is tried out, through the
API server, before anything is promised; that spans arrive is seen by their arriving. Without them the report says why.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aftershock import processes
from aftershock.cluster import Cluster
from aftershock.errors import AftershockError, ClusterError, NotFound, ObserverError
from aftershock.events import now_us
from aftershock.folder import RunFolder
from aftershock.observe.observer import ObserverGap, ObserverReport
from aftershock.observe.remote import RemoteReceiver
from aftershock.undo import Inverse

SERVICE, SLICE, PORT_NAME = "otel-collector", "otel-collector-aftershock", "otlp-http"
MANAGER = "aftershock-collector"
BEGIN_S, REACH_S, END_S = 15.0, 4.0, 10.0
Spawn = Callable[..., "subprocess.Popen[bytes]"]


class Collector:
    """The observer `traces`; start it on the main thread, since it spawns."""

    name = "traces"

    def __init__(
        self, cluster: Cluster, folder: RunFolder, namespaces: Sequence[str], scratch: Path, *,
        spawn: Spawn = processes.spawn, end: Callable[..., int] = processes.end, remote: RemoteReceiver | None = None,
    ) -> None:  # fmt: skip
        self._cluster, self._folder, self._namespaces, self._scratch = cluster, folder, tuple(namespaces), scratch
        self._spawn, self._end = spawn, end
        self._process: subprocess.Popen[bytes] | None = None
        self._token = ""
        self._gaps: list[ObserverGap] = []
        self._served: list[str] = []
        self._from_us = 0
        self._report: ObserverReport | None = None
        self._remote, self._inside = remote, False

    @property
    def clocks(self) -> list[dict[str, Any]]:
        """Clocks that were compared on the way, for run.json."""
        return self._remote.clocks if self._remote is not None else []

    def inverses(self) -> list[Inverse]:
        """For the undo journal, before `start`: what removes EndpointSlices and pod if this process dies."""
        pod = self._remote.inverses() if self._remote is not None else []
        return pod + [
            Inverse("remove", "DELETE", _path(namespace), None, "application/json", _path(namespace), {"absent": True},
                    f"remove EndpointSlice {namespace}/{SLICE}")
            for namespace in self._namespaces
        ]  # fmt: skip

    def start(self) -> None:
        """Start the receiver and lead the pods to it. Raises ObserverError if the receiver cannot be started."""
        self._from_us = now_us()
        place = self._place()
        if place is None:
            return
        address, port = place
        for namespace in self._namespaces:
            try:
                self._cluster.request("GET", f"/api/v1/namespaces/{namespace}/services/{SERVICE}")
                self._cluster.apply([_slice(namespace, address, port)], MANAGER)
                self._served.append(namespace)
                if (
                    self._cluster.identity.kind == "pocket"
                ):  # elsewhere services/proxy follows Endpoints, and sees no slice of ours
                    self._reach(namespace)
            except NotFound:
                self._without(f"there is no Service {namespace}/{SERVICE}")
            except ClusterError as error:
                self._without(f"{namespace}: the pods cannot reach the collector: {error}")

    def stop(self) -> ObserverReport:
        """Remove the way, finish the file and report."""
        if self._report is not None:
            return self._report
        left = None if self._inside else self._remove()
        counts = self._fetched() if self._inside else self._finish()
        left = self._remove() if self._inside else left  # spans that are under way still find the pod
        to_us = now_us()
        gaps = [ObserverGap(gap.from_us, to_us, gap.reason) for gap in self._gaps]
        if counts is None and self._process is not None:
            gaps = [ObserverGap(self._from_us, to_us, f"the collector died: {self._said()}")]
        spans = int(counts["spans"]) if counts else 0
        if counts and not spans and not gaps:
            gaps = [ObserverGap(self._from_us, to_us, "not one span arrived")]
        if counts and (counts["dropped"] or counts["error"]):
            gaps.append(
                ObserverGap(
                    counts["last_us"] or self._from_us, to_us, str(counts["error"] or "more spans than are kept")
                )
            )
        if left:
            gaps.append(ObserverGap(to_us, to_us, left))
        self._report = ObserverReport(self.name, self._from_us, to_us, spans, tuple(gaps))
        return self._report

    def _place(self) -> tuple[str, int] | None:
        """Address and port of a receiver that the pods may reach; None if there is none, and why is in the gaps."""
        why = None
        if self._remote is not None:
            try:
                place = self._remote.start(self._folder)
                self._token, self._inside = self._remote.token, True
                return place
            except AftershockError as error:
                why = f"no receiver in the cluster: {error}{f' ({error.hint})' if error.hint else ''}"
                self._remote.stop()
        address = self._address()
        if address is None:
            self._without(why or "this machine has no address that the cluster's pods could reach")
            return None
        return address, self._begin(address)

    def _fetched(self) -> dict[str, Any] | None:
        assert self._remote is not None
        counts = self._remote.stop()
        if counts is not None and (lost := self._remote.lost):
            self._gaps.append(
                ObserverGap(counts.last_us or self._from_us, self._from_us, f"the collector's pod: {lost}")
            )
        if missed := self._remote.missed:
            self._without(f"{missed} exports of spans found no room in the collector's pod")
        return None if counts is None else asdict(counts)

    def _address(self) -> str | None:
        if self._cluster.identity.kind == "pocket":
            return "127.0.0.1"
        host = urlsplit(self._cluster.server).hostname or ""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing, only asks for the route
            try:
                probe.connect((host, 9))
            except OSError:
                return None
            address = str(probe.getsockname()[0])
        return None if address.startswith("127.") else address

    def _begin(self, address: str) -> int:
        command = [sys.executable, "-m", "aftershock.observe.receiver", "--listen", f"{address}:0",
                   "--folder", str(self._folder.path.resolve())]  # fmt: skip
        with (self._scratch / "collector.err").open("wb") as errors:
            self._process = self._spawn(command, name="collector", scratch=self._scratch, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=errors)  # fmt: skip
        assert self._process.stdout is not None
        line = processes.line(self._process.stdout, BEGIN_S)
        try:
            told = json.loads(line)
            self._token = told["token"]
            return int(told["port"])
        except (ValueError, KeyError):
            self._end(self._process, 1.0)
            self._process = None
            raise ObserverError(f"the collector did not start: {self._said() or line[:200]!r}") from None

    def _reach(self, namespace: str) -> None:
        """Ask the receiver through the Service. Raises ClusterError with the last answer."""
        path = f"/api/v1/namespaces/{namespace}/services/{SERVICE}:{PORT_NAME}/proxy/healthz"
        ends = time.monotonic() + REACH_S
        while True:
            try:
                status, content = self._cluster.raw("GET", path, timeout_s=1.0)
                said = f"status {status}: {content[:100].decode('utf-8', 'replace')}"
            except ClusterError as error:
                status, content, said = 0, b"", str(error)
            if status == 200 and content.decode("utf-8", "replace").strip() == self._token:
                return
            if time.monotonic() > ends:
                raise ClusterError(said)
            time.sleep(0.05)

    def _without(self, reason: str) -> None:
        self._gaps.append(ObserverGap(self._from_us, self._from_us, reason))

    def _remove(self) -> str | None:
        left = None
        for namespace in self._served:
            try:
                self._cluster.request("DELETE", _path(namespace), timeout_s=5.0)
            except NotFound:
                continue
            except ClusterError as error:
                left = f"EndpointSlice {namespace}/{SLICE} is left: {error}"
        return left

    def _finish(self) -> dict[str, Any] | None:
        process = self._process
        if process is None:
            return None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass
        line = processes.line(process.stdout, END_S)
        try:
            process.wait(2.0 if line else 0.1)  # it has said its last word; a signal now would only spoil its exit code
        except subprocess.TimeoutExpired:
            pass
        code = self._end(process, 2.0)
        if code != 0 or not line:
            for partial in self._folder.path.glob(".traces.parquet.*"):
                partial.unlink(missing_ok=True)
            return None
        told: dict[str, Any] = json.loads(line)
        return told

    def _said(self) -> str:
        lines = (self._scratch / "collector.err").read_text("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


def _path(namespace: str) -> str:
    return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{SLICE}"


def _slice(namespace: str, address: str, port: int) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": SERVICE, "endpointslice.kubernetes.io/managed-by": "aftershock"}
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": SLICE, "namespace": namespace, "labels": labels},
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}],
    }  # fmt: skip
