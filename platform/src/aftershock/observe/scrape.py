"""Metrics of the shop's pods, once a second through the API server's pods/proxy, into metrics.parquet.

A pod that does not answer is a row `up` = 0 with the reason, never zeros. When the API server itself does not answer, nothing is known
about the pods: that is a gap.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from aftershock.answers import Object
from aftershock.cluster import Cluster
from aftershock.errors import ClusterError, ClusterUnreachable, FolderError, ObserverError
from aftershock.events import now_us
from aftershock.folder import RunFolder, TableWriter
from aftershock.observe import exposition
from aftershock.observe.observer import ObserverGap, ObserverReport, merged

PERIOD_S = 1.0
TIMEOUT_S = 0.9
LATE_S = 2.5  # between two scrapes; more is a gap
PARALLEL = 4
ROWS_MAX = 2_000_000
PODS_MAX = 200
STOP_S = 3.0
SELECTOR = "app.kubernetes.io/part-of=shop"
Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A pod with a metrics port."""

    namespace: str
    pod: str
    service: str | None
    node: str | None
    port: int

    @property
    def path(self) -> str:
        """Where the API server hands the request on."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}:{self.port}/proxy/metrics"


class Scraper:
    """The observer `metrics`."""

    name = "metrics"

    def __init__(
        self, cluster: Cluster, folder: RunFolder, namespaces: Sequence[str], *, selector: str = SELECTOR,
        port_name: str = "http", period_s: float = PERIOD_S,
    ) -> None:  # fmt: skip
        self._cluster, self._folder, self._namespaces = cluster, folder, tuple(namespaces)
        self._selector, self._port_name, self._period_s = selector, port_name, period_s
        self._ended = threading.Event()
        self._gaps: list[ObserverGap] = []
        self._thread: threading.Thread | None = None
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="scrape")
        self._writer: TableWriter | None = None
        self._rows = 0
        self._from_us = self._last_us = 0
        self._error: str | None = None
        self._report: ObserverReport | None = None

    def start(self) -> None:
        """Open the table and begin. Raises ObserverError if the pods cannot be listed."""
        self._from_us = self._last_us = now_us()
        try:
            self._targets()
        except ClusterError as error:
            raise ObserverError(f"metrics: {error}", hint=error.hint) from None
        self._writer = self._folder.writer("metrics.parquet")
        self._thread = threading.Thread(target=self._work, name="scrape", daemon=True)
        self._thread.start()

    def stop(self) -> ObserverReport:
        """End, finish the file and report."""
        if self._report is not None:
            return self._report
        self._ended.set()
        if self._thread is not None:
            self._thread.join(STOP_S)
        self._pool.shutdown(wait=False, cancel_futures=True)
        to_us = now_us()
        if to_us - self._last_us > LATE_S * 1e6:
            self._gaps.append(ObserverGap(self._last_us, to_us, self._error or "no scrape until the run ended"))
        if self._writer is not None and not (self._thread and self._thread.is_alive()):
            try:
                self._writer.close()
            except FolderError as error:
                self._gaps.append(ObserverGap(self._from_us, to_us, f"metrics.parquet was not written: {error}"))
        self._report = ObserverReport(self.name, self._from_us, to_us, self._rows, merged(self._gaps))
        return self._report

    def _work(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            begun = time.monotonic()
            try:
                self._append(self._scrape())
            except ClusterError as error:
                self._error = str(error)
            except FolderError as error:
                self._error = str(error)
                return
            due = max(due + self._period_s, begun + self._period_s / 2)

    def _append(self, rows: list[Row]) -> None:
        at_us = now_us()
        if at_us - self._last_us > LATE_S * 1e6:
            self._gaps.append(ObserverGap(self._last_us, at_us, self._error or "a scrape came late"))
        if self._rows + len(rows) > ROWS_MAX:
            raise FolderError(f"more than {ROWS_MAX} rows of metrics; the rest is not recorded")
        assert self._writer is not None
        self._writer.append(rows)
        self._rows += len(rows)
        self._last_us, self._error = at_us, None

    def _scrape(self) -> list[Row]:
        asked: dict[Future[list[Row]], Target] = {self._pool.submit(self._ask, t): t for t in self._targets()}
        done, late = wait(asked, timeout=2 * TIMEOUT_S)
        rows = [row for future in done for row in future.result()]  # raises ClusterUnreachable: then nothing is known
        for future in late:
            future.cancel()
            rows.append(_up(asked[future], now_us(), "timeout"))
        return rows

    def _ask(self, target: Target) -> list[Row]:
        at_us = now_us()
        try:
            status, content = self._cluster.raw("GET", target.path, timeout_s=TIMEOUT_S)
        except ClusterUnreachable as error:
            if "in time" not in str(error):
                raise
            return [_up(target, at_us, "timeout")]
        if status != 200:
            return [] if status == 404 and b'"Status"' in content else [_up(target, at_us, f"status {status}")]
        at_us = (at_us + now_us()) // 2
        try:
            found = exposition.samples(content.decode("utf-8"))
        except ValueError as error:
            return [_up(target, at_us, f"unreadable: {error}"[:200])]
        return [_up(target, at_us, None), *(_row(target, at_us, *sample) for sample in found)]

    def _targets(self) -> list[Target]:
        found: list[Target] = []
        for namespace in self._namespaces:
            for pod in self._cluster.list_at(f"/api/v1/namespaces/{namespace}/pods", self._selector, timeout_s=2.0)[0]:
                port = _port(pod, self._port_name)
                if port is not None and (pod.get("status") or {}).get("phase") == "Running":
                    meta = pod["metadata"]
                    found.append(Target(namespace, meta["name"], (meta.get("labels") or {}).get("app"),
                                        (pod.get("spec") or {}).get("nodeName"), port))  # fmt: skip
        return found[:PODS_MAX]


def _port(pod: Object, name: str) -> int | None:
    containers: Sequence[Mapping[str, Any]] = (pod.get("spec") or {}).get("containers") or []
    ports = (p for c in containers for p in c.get("ports") or [])
    return next((int(p["containerPort"]) for p in ports if p.get("name") == name), None)


def _up(target: Target, at_us: int, why: str | None) -> Row:
    return _row(target, at_us, "up", json.dumps({"reason": why} if why else {}), 0.0 if why else 1.0)


def _row(target: Target, at_us: int, name: str, labels: str, value: float) -> Row:
    return {"time_us": at_us, "pod": target.pod, "service": target.service, "node": target.node, "name": name,
            "labels": labels, "value": value}  # fmt: skip
