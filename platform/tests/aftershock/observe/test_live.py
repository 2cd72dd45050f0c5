"""All observers at once on a real pocketkube cluster with the shop on it, while a pod dies and a connection gets slow."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from aftershock import testbed, undo
from aftershock.cluster import Cluster
from aftershock.events import EventLog, now_us
from aftershock.folder import RunFolder
from aftershock.load.plan import LoadPlan
from aftershock.load.remote import RemoteLoad
from aftershock.observe import reach, scrape, topology, watch
from aftershock.observe.collector import Collector
from aftershock.observe.ledger import Ledger
from aftershock.observe.scrape import Scraper
from aftershock.observe.watch import Watcher
from aftershock.settings import read
from aftershock.slo import Interval

PROJECT = Path(__file__).parents[4]
NAME = "observed"
DELAY = {
    "apiVersion": "chaos-mesh.org/v1alpha1", "kind": "NetworkChaos", "metadata": {"name": "slow", "namespace": "shop"},
    "spec": {
        "action": "delay", "mode": "all", "direction": "from", "delay": {"latency": "150ms"},
        "selector": {"namespaces": ["shop"], "labelSelectors": {"app": "payments"}},
        "target": {"mode": "all", "selector": {"namespaces": ["shop"], "labelSelectors": {"app": "orders"}}},
    },
}  # fmt: skip


def pocketkube(state: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pocketkube.cli", *arguments, "--name", NAME], capture_output=True, text=True,
                          timeout=60, env={**os.environ, "XDG_STATE_HOME": str(state)}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    made = EventLog(tmp_path / "events.jsonl")
    yield made
    made.close()


@pytest.fixture(scope="module")
def cluster(state: Path) -> Iterator[Cluster]:
    try:
        pocketkube(state, "up", "--images", str(PROJECT / "gitops/apps/pocket/images.yaml"))
        made = Cluster.connect("pocket", read({"XDG_STATE_HOME": str(state)}))
        testbed.deploy(made, PROJECT / "gitops/apps/pocket", lambda text, done: None)
        yield made
        made.close()
    finally:
        pocketkube(state, "down")


def spawn(argv: list[str], *, name: str, scratch: Path, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, cwd=scratch, process_group=0, **streams)


def check_out(url: str, count: int) -> Interval:
    """Orders of `count` customers, one after the other; the time that it took."""
    begun = now_us()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)

    def post(path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 201, content
        told: dict[str, Any] = json.loads(content)
        return told

    for n in range(count):
        cart = post("/carts", {"items": [{"sku": "sku-001", "quantity": 1}]})
        key = f"live-{begun}-{n}"
        post("/checkout", {"cart_id": cart["cart_id"], "customer": "c"}, **{"Idempotency-Key": key})
    connection.close()
    return Interval(begun, now_us())


@pytest.mark.cluster
def test_everything_that_happens_is_seen(
    cluster: Cluster, log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(watch, "GAP_S", 30.0)  # a busy machine makes no gaps here
    monkeypatch.setattr(watch, "SILENT_S", 30.0)
    monkeypatch.setattr(scrape, "LATE_S", 30.0)
    assert (cluster.identity.kind, cluster.identity.own) == ("pocket", True)
    assert cluster.allowed("create", "", "pods", "shop", "eviction")
    assert any("runAsNonRoot" in field for field in cluster.unenforced())
    folder = RunFolder(tmp_path)
    watcher = Watcher(cluster, log, ["shop"])
    collector = Collector(cluster, folder, ["shop"], tmp_path, spawn=spawn)
    scraper = Scraper(cluster, folder, ["shop"], period_s=0.3)
    begun = now_us()
    for observer in (watcher, collector, scraper):
        observer.start()
    url = cluster.service_url("shop", "storefront", "http")

    before = check_out(url, 5)
    cluster.apply([DELAY], "test")
    assert log.wait_for(
        lambda e: e.kind == "NetworkChaos" and e.detail["conditions"].get("AllInjected") == "True", 20.0
    )
    during = check_out(url, 5)
    assert cluster.delete(DELAY)
    victim = next(e for e in log.all() if e.kind == "Pod" and e.service == "payments")
    cluster.request("DELETE", f"/api/v1/namespaces/shop/pods/{victim.name}", query={"gracePeriodSeconds": 0})
    assert log.wait_for(lambda e: e.type == "DELETED" and e.uid == victim.uid, 20.0)
    replaced = log.wait_for(
        lambda e: (
            e.kind == "Pod" and e.service == "payments" and bool(e.detail["ready"]) and not e.detail.get("initial")
        ),
        20.0,
    )
    assert replaced is not None
    assert replaced.node in cluster.identity.nodes

    found = Ledger(cluster).collect(folder, begun, 20.0)
    metrics, spans, watched = scraper.stop(), collector.stop(), watcher.stop()
    assert (found.settled, found.error) == (True, None)
    assert found.lines is not None
    assert sum(line["kind"] == "order" for line in found.lines) == 10
    assert [report.gaps for report in (metrics, spans, watched)] == [(), (), ()]

    traces = folder.table("traces.parquet")
    usual, slow = (reach.hop_latency_ms(traces, "orders", "payments", window) for window in (before, during))
    assert usual.ms_p50 is not None
    assert slow.ms_p50 is not None
    assert len(usual.ms) == len(slow.ms) + slow.unmatched == 5
    assert slow.unmatched <= 1, "only the victim may have died before it could send its last span"
    assert slow.ms_p50 - usual.ms_p50 > 120
    assert ["orders", "payments"] in topology.calls(traces)
    assert len(topology.pods(cluster, ["shop"], "app=payments")) == 2
    rows = folder.table("metrics.parquet").to_pylist()
    up = {(r["service"]) for r in rows if r["name"] == "up" and r["value"] == 1.0}
    assert up == {"storefront", "catalog", "cart", "orders", "payments", "shipping"}
    assert {"http_request_duration_seconds_bucket", "client_requests_total"} <= {r["name"] for r in rows}
    assert "otel-collector-aftershock" not in str(
        cluster.list("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices")
    )


@pytest.mark.cluster
def test_a_stopped_api_server_is_a_gap(cluster: Cluster, state: Path, log: EventLog) -> None:
    watcher = Watcher(cluster, log, ["shop"])
    watcher.start()
    daemon = json.loads((state / "pocketkube" / NAME / "cluster.json").read_text())["pid"]
    os.kill(daemon, signal.SIGSTOP)
    try:
        time.sleep(2.5)  # longer than SILENT_S
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert log.wait_for(lambda e: e.type == "GAP", 10.0)
    assert "did not answer" in watcher.stop().gaps[0].reason


@pytest.mark.cluster
def test_load_from_pods_of_the_cluster_comes_home(cluster: Cluster, tmp_path: Path) -> None:
    plan = LoadPlan("k6", PROJECT / "scenarios/checkout.js", "http://storefront.shop", 15, 1.5, seed=7)
    load = RemoteLoad(cluster, "shop", plan, "storefront", "http", "20261125T012206Z-abc123", "aftershock/runner:dev")
    try:
        load.start(RunFolder(tmp_path), lambda text: None)
        load.begun_us(20.0)
        facts = load.finish(25.0)
    finally:
        load.stop()
    assert (facts["error"], facts["scheduled"], facts["dropped"]) == (None, 23, 0)
    rows = RunFolder(tmp_path).table("samples.parquet").num_rows
    assert facts["made"] == facts["arrived"] == rows
    assert load.described["as"] == "Pod", "pocketkube has no Jobs"
    for inverse in load.inverses():
        assert undo.apply(cluster, inverse, 10.0) is None
