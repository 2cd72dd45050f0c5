"""Spans over real sockets into a real process, and every way in which there are none."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from aftershock.errors import ObserverError
from aftershock.folder import RunFolder
from aftershock.observe import collector as collectors
from aftershock.observe import connection, otlp
from aftershock.observe.collector import Collector

from .api import Api, connected, running

SLICE = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/otel-collector-aftershock"
SERVICE = "/api/v1/namespaces/shop/services/otel-collector"
HEADERS = {"Content-Type": "application/x-protobuf"}


def export(count: int = 1, **change: Any) -> bytes:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    for key, value in (("service.name", "orders"), ("k8s.pod.name", "orders-a"), ("k8s.node.name", "body")):
        group.resource.attributes.add(key=key).value.string_value = value
    scope = group.scope_spans.add()
    for n in range(count):
        span = scope.spans.add(trace_id=b"t" * 16, span_id=n.to_bytes(8, "big"), parent_span_id=b"p" * 8, name="POST payments",
                               kind=3, start_time_unix_nano=5_000_000, end_time_unix_nano=8_500_000)  # fmt: skip
        for key, text in (
            ("peer.service", "payments"),
            ("error.type", "timeout"),
            ("order.id", "o-1"),
            ("secret", "x"),
        ):
            span.attributes.add(key=key).value.string_value = text
        span.attributes.add(key="http.response.status_code").value.int_value = 503
        span.status.code = 2
        for field, value in change.items():
            setattr(span, field, value)
    return bytes(request.SerializeToString())


def test_a_span_becomes_a_row() -> None:
    rows, odd = otlp.rows(export())
    assert odd == 0
    assert rows == [{
        "trace_id": "74" * 16, "span_id": "00" * 8, "parent_span_id": "70" * 8, "service": "orders", "pod": "orders-a",
        "node": "body", "kind": "CLIENT", "operation": "POST payments", "peer": "payments", "start_us": 5_000,
        "duration_us": 3_500, "status_code": 503, "error": True, "error_type": "timeout", "order_id": "o-1",
    }]  # fmt: skip


@pytest.mark.parametrize(
    "change", [{"trace_id": b"short"}, {"span_id": b""}, {"end_time_unix_nano": 1}, {"start_time_unix_nano": 0}]
)
def test_spans_that_make_no_sense_are_counted_not_kept(change: dict[str, Any]) -> None:
    assert otlp.rows(export(2, **change)) == ([], 2)


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_a_bad_export(body: bytes) -> None:
    try:
        otlp.rows(body)
    except otlp.BadExport:
        return


@given(st.binary(max_size=500))
def test_gunzip_is_bounded_and_strict(content: bytes) -> None:
    packed = gzip.compress(content)
    assert otlp.gunzip(packed, 500) == content
    for bad in (packed[:-1], packed[1:], gzip.compress(b"x" * 501)):
        with pytest.raises(otlp.BadExport):
            otlp.gunzip(bad, 500)


# The process


@contextmanager
def received(folder: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "aftershock.observe.receiver", "--listen", "127.0.0.1:0", "--folder", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield json.loads(process.stdout.readline())["port"], process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def post(port: int, body: bytes, path: str = "/v1/traces", method: str = "POST", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body, {**HEADERS, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def counts_of(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    told: dict[str, Any] = json.loads(process.stdout.readline())
    assert process.wait(5) == 0
    return told


def test_exports_are_kept_and_nonsense_is_refused(tmp_path: Path) -> None:
    with received(tmp_path) as (port, process):
        assert post(port, export(3)) == (200, b"")
        assert post(port, gzip.compress(export(2)), **{"Content-Encoding": "gzip"})[0] == 200
        assert post(port, b"\xff\xff")[0] == 400
        assert post(port, b"no gzip", **{"Content-Encoding": "gzip"})[0] == 400
        assert post(port, b"x", **{"Content-Encoding": "br"})[0] == 400
        assert post(port, b"{}", **{"Content-Type": "application/json"})[0] == 415
        assert post(port, b"", path="/v1/metrics")[0] == 404
        assert post(port, b"", method="GET")[0] == 405
        assert post(port, b"x", **{"X-Long": "x" * 20_000})[0] == 400
        assert post(port, b"", **{f"X-{n}": "" for n in range(100)})[0] == 400
        assert post(port, b"", **{"Content-Length": str(connection.BODY_MAX + 1)})[0] == 413
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            raw.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
        assert process.stdin is not None
        process.stdin.close()
        counts = counts_of(process)
    assert (counts["spans"], counts["odd"], counts["dropped"], counts["error"]) == (5, 0, 0, None)
    table = RunFolder(tmp_path).table("traces.parquet")
    assert (table.num_rows, set(table.column("service").to_pylist())) == (5, {"orders"})


def test_a_signal_finishes_the_file_and_late_spans_are_kept(tmp_path: Path) -> None:
    with received(tmp_path) as (port, process):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("POST", "/v1/traces", export(), HEADERS)
        connection.getresponse().read()
        process.send_signal(signal.SIGTERM)
        connection.request("POST", "/v1/traces", export(), HEADERS)
        connection.getresponse().read()
        assert counts_of(process)["spans"] == 2
        connection.close()
    assert RunFolder(tmp_path).table("traces.parquet").num_rows == 2


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aftershock.observe.receiver", "--listen", "127.0.0.1:0", "--folder", str(tmp_path / "no")],
        capture_output=True, timeout=10, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"cannot be written" in done.stderr


# The observer


@pytest.fixture
def api() -> Iterator[Api]:
    """A cluster in which a Service leads where its EndpointSlice says."""
    with running() as server:
        server.version = "v1.34.0+pocketkube"
        ports: list[int] = []

        def apply(seen: dict[str, Any]) -> Any:
            body = json.loads(seen["body"])
            ports[:] = [body["ports"][0]["port"]]
            assert body["endpoints"][0]["addresses"] == ["127.0.0.1"]
            return 200, body

        def healthz(_: dict[str, Any]) -> Any:
            return post(ports[0], b"", path="/healthz", method="GET") if ports else (503, b"no endpoints")

        server.routes["GET", SERVICE] = lambda _: (200, {"metadata": {"name": "otel-collector"}})
        server.routes["PATCH", SLICE] = apply
        server.routes["GET", f"{SERVICE}:otlp-http/proxy/healthz"] = healthz
        server.routes["DELETE", SLICE] = lambda _: (200, {})
        server.ports = ports  # type: ignore[attr-defined]
        yield server


def spawn(argv: list[str], *, name: str, scratch: Path, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, cwd=scratch, process_group=0, **streams)


@pytest.fixture
def collector(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder, scratch = tmp_path / "run", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    with connected(api, tmp_path) as cluster:
        made = Collector(cluster, RunFolder(folder), ["shop"], scratch, spawn=spawn)
        yield made
        made.stop()


def methods(api: Api) -> list[tuple[str, str]]:
    return [(r["method"], r["path"]) for r in api.requests if r["path"] == SLICE]


def test_the_way_is_there_while_it_lasts(api: Api, collector: Collector, tmp_path: Path) -> None:
    collector.start()
    assert post(api.ports[0], export(4))[0] == 200  # type: ignore[attr-defined]
    report = collector.stop()
    assert (report.name, report.records, report.gaps) == ("traces", 4, ())
    assert methods(api) == [("PATCH", SLICE), ("DELETE", SLICE)]
    assert RunFolder(tmp_path / "run").table("traces.parquet").num_rows == 4
    inverse = collector.inverses()[0]
    assert (inverse.method, inverse.path, inverse.check) == ("DELETE", SLICE, {"absent": True})


def test_silence_is_a_gap(collector: Collector) -> None:
    collector.start()
    report = collector.stop()
    assert (report.records, [gap.reason for gap in report.gaps]) == (0, ["not one span arrived"])


def test_a_cluster_without_the_service_has_no_traces(api: Api, collector: Collector) -> None:
    del api.routes["GET", SERVICE]
    collector.start()
    report = collector.stop()
    assert "there is no Service shop/otel-collector" in report.gaps[0].reason
    assert methods(api) == []


def test_pods_that_cannot_reach_it_are_no_silence(
    api: Api, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collectors, "REACH_S", 0.1)
    api.routes["GET", f"{SERVICE}:otlp-http/proxy/healthz"] = lambda _: (200, b"somebody else")
    collector.start()
    report = collector.stop()
    assert "cannot reach the collector" in report.gaps[0].reason
    assert methods(api)[-1] == ("DELETE", SLICE)


def test_a_killed_receiver_is_a_gap_and_leaves_nothing(api: Api, collector: Collector, tmp_path: Path) -> None:
    collector.start()
    assert collector._process is not None
    os.kill(collector._process.pid, signal.SIGKILL)
    report = collector.stop()
    assert report.records == 0
    assert "died" in report.gaps[0].reason
    assert list((tmp_path / "run").iterdir()) == []


def test_an_endpoint_that_cannot_be_removed_is_told(api: Api, collector: Collector) -> None:
    collector.start()
    api.routes["DELETE", SLICE] = lambda _: (500, {"message": "etcd is full"})
    assert any("is left" in gap.reason for gap in collector.stop().gaps)


def test_a_receiver_that_cannot_start_is_an_error(collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "run").rmdir()
    with pytest.raises(ObserverError, match="cannot be written"):
        collector.start()


def test_a_remote_cluster_behind_loopback_gets_no_promise(api: Api, collector: Collector) -> None:
    api.version = "v1.34.0"
    collector._cluster._identity = None
    begun = time.monotonic()
    collector.start()
    report = collector.stop()
    assert "no address" in report.gaps[0].reason
    assert report.gaps[0].to_us == report.to_us
    assert time.monotonic() - begun < 1
