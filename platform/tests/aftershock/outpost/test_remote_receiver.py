"""Spans that are received in a pod, and come home by pods/proxy."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from aftershock.folder import RunFolder
from aftershock.observe.collector import Collector
from aftershock.observe.remote import RemoteReceiver
from aftershock.outpost import objects
from tests.aftershock.observe.api import Object, connected
from tests.aftershock.observe.test_collector import export, post
from tests.aftershock.outpost import machine as machines
from tests.aftershock.outpost.machine import PODS, Machine

RUN = "20261125T012206Z-abc123"
POD = "aftershock-collector-abc123"
SLICE = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/otel-collector-aftershock"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A cluster with the Service that spans are sent to."""
    work = tmp_path / "pods"
    work.mkdir()
    with machines.running(work) as made:
        made.routes["GET", "/api/v1/namespaces/shop/services/otel-collector"] = lambda _: (200, {"metadata": {}})
        made.routes["PATCH", SLICE] = lambda seen: (200, {})
        made.routes["DELETE", SLICE] = lambda _: (200, {})
        yield made


@pytest.fixture
def collector(machine: Machine, tmp_path: Path) -> Iterator[Collector]:
    """As a session makes it on a real cluster."""
    folder = tmp_path / "run"
    folder.mkdir()
    with connected(machine, tmp_path) as cluster:
        remote = RemoteReceiver(cluster, "shop", RUN, "aftershock/runner:dev")
        made = Collector(cluster, RunFolder(folder), ["shop"], tmp_path, remote=remote)
        yield made
        made.stop()


def rows(tmp_path: Path) -> int:
    """Spans that are in the file."""
    return int(RunFolder(tmp_path / "run").table("traces.parquet").num_rows)


def test_spans_come_home_without_loss(machine: Machine, collector: Collector, tmp_path: Path) -> None:
    collector.start()
    pod = machine.collections[PODS][POD]
    assert pod["metadata"]["labels"]["aftershock.dev/component"] == "collector"
    for _ in range(50):
        assert post(machine.ports[POD], export(20)) == (200, b"")
    assert post(machine.ports[POD], gzip.compress(export(2)), **{"Content-Encoding": "gzip"})[0] == 200
    assert post(machine.ports[POD], b"{}", **{"Content-Type": "application/json"})[0] == 415
    report = collector.stop()
    assert (report.records, report.gaps, rows(tmp_path)) == (1002, (), 1002)
    assert machine.collections[PODS] == {}
    assert [c["of"] for c in collector.clocks] == [f"pod {POD}"]
    assert [i.what for i in collector.inverses()] == [
        f"remove Pod shop/{POD}",
        "remove EndpointSlice shop/otel-collector-aftershock",
    ]


def test_the_pods_are_led_to_the_receivers_pod(machine: Machine, collector: Collector) -> None:
    seen: list[Object] = []
    machine.routes["PATCH", SLICE] = lambda one: (seen.append(one), (200, {}))[1]  # type: ignore[func-returns-value]
    collector.start()
    assert b'"addresses": ["127.0.0.1"]' in seen[0]["body"]
    assert f'"port": {objects.COLLECTOR_PORT}'.encode() in seen[0]["body"]


def test_an_api_server_that_is_away_for_a_while_costs_no_span(
    machine: Machine, collector: Collector, tmp_path: Path
) -> None:
    collector.start()
    machine.down()
    for _ in range(5):
        assert post(machine.ports[POD], export(4))[0] == 200
    machine.up()
    report = collector.stop()
    assert (report.records, report.gaps) == (20, ())
    assert rows(tmp_path) == 20


def test_a_pod_that_dies_is_a_gap_and_what_had_come_is_kept(
    machine: Machine, collector: Collector, tmp_path: Path
) -> None:
    collector.start()
    assert post(machine.ports[POD], export(4))[0] == 200
    remote = collector._remote
    assert remote is not None
    assert remote._fetch()
    machine.fail(POD, "Evicted")
    report = collector.stop()
    assert report.records == rows(tmp_path) == 4
    assert any("Evicted" in gap.reason for gap in report.gaps)


def test_a_missing_image_is_a_gap_that_says_what_to_load(machine: Machine, collector: Collector) -> None:
    machine.waiting = "ErrImagePull"
    collector.start()
    (gap,) = collector.stop().gaps
    assert "no image aftershock/runner:dev" in gap.reason
    assert "load aftershock/runner:dev into every node" in gap.reason
    assert machine.collections[PODS] == {}


def test_silence_is_a_gap(collector: Collector) -> None:
    collector.start()
    assert [gap.reason for gap in collector.stop().gaps] == ["not one span arrived"]
