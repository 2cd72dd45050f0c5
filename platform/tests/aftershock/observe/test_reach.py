"""Ways to a Service, time on the way, who calls whom, and whose clock says what."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.cluster import Cluster
from aftershock.errors import ClusterError, ClusterUnreachable, NotFound
from aftershock.observe import clock, reach, topology
from aftershock.observe.clock import SECOND_US, Reading
from aftershock.observe.observer import ObserverGap, ObserverReport, merged
from aftershock.observe.reach import hop_latency_ms
from aftershock.slo import Interval

from .api import PODS, Api, connected, pod, running

SERVICE = "/api/v1/namespaces/shop/services/storefront"
NOTHING = "no load balancer, NodePort or Ingress leads to it"


@pytest.fixture
def api() -> Iterator[Api]:
    with running() as server:
        yield server


@pytest.fixture
def cluster(api: Api, tmp_path: Path) -> Iterator[Cluster]:
    with connected(api, tmp_path) as made:
        yield made


def table(*spans: tuple[Any, ...]) -> dict[str, list[Any]]:
    return {name: [span[n] for span in spans] for n, name in enumerate(reach.HOP_COLUMNS)}


CALL = ("c1", "root", "orders", "CLIENT", "payments", 1_000, 320_000)
SERVED = ("s1", "c1", "payments", "SERVER", None, 200_000, 12_000)


def test_the_way_is_the_call_less_what_the_callee_took() -> None:
    hop = hop_latency_ms(table(CALL, SERVED), "orders", "payments")
    assert (hop.ms, hop.ms_p50, hop.unmatched) == ((308.0,), 308.0, 0)


@pytest.mark.parametrize(
    ("spans", "interval", "unmatched"),
    [
        ((CALL,), None, 1),  # it never arrived
        ((SERVED,), None, 0),
        ((CALL, SERVED), Interval(0, 1_000), 0),  # another window
        ((CALL, ("s1", "c9", *SERVED[2:])), None, 1),
        ((CALL, ("s1", "c1", "cart", *SERVED[3:])), None, 1),
        ((("c1", "root", "cart", *CALL[3:]), SERVED), None, 0),
    ],
)
def test_without_a_pair_nothing_is_claimed(spans: Any, interval: Interval | None, unmatched: int) -> None:
    hop = hop_latency_ms(table(*spans), "orders", "payments", interval)
    assert (hop.ms, hop.ms_p50, hop.unmatched) == ((), None, unmatched)


def test_calls_are_pairs_that_really_happened() -> None:
    spans = {"service": ["a", "a", "b", "c", "d"], "kind": ["CLIENT", "CLIENT", "SERVER", "CLIENT", "CLIENT"],
             "peer": ["b", "b", "x", "c", None]}  # fmt: skip
    assert topology.calls(spans) == [["a", "b"]]


def test_pods_of_the_topology(api: Api, cluster: Cluster) -> None:
    api.put(PODS, pod("payments-b"))
    api.put(PODS, pod("payments-a"))
    api.put(PODS, pod("done", phase="Succeeded"))
    found = topology.pods(cluster, ["shop"])
    assert [p["name"] for p in found] == ["payments-a", "payments-b"]
    assert found[0] == {
        "name": "payments-a",
        "uid": "uid-payments-a",
        "service": "payments",
        "node": "body",
        "ip": "127.1.2.3",
    }


def serve(api: Api, **spec: Any) -> None:
    ports = [{"name": "http", "port": 80, **spec.pop("port", {})}]
    api.routes["GET", SERVICE] = lambda _: (200, {
        "metadata": {"name": "storefront", "namespace": "shop"}, "spec": {"ports": ports, **spec}, "status": {}})  # fmt: skip


def test_pocketkube_is_reached_at_the_services_own_address(api: Api, cluster: Cluster) -> None:
    api.version = "v1.34.0+pocketkube"
    cluster._identity = None
    serve(api, clusterIP="127.5.1.3")
    assert cluster.service_url("shop", "storefront", "http") == "http://127.5.1.3:80"
    assert cluster.service_url("shop", "storefront", 80) == "http://127.5.1.3:80"
    serve(api, clusterIP="None")
    with pytest.raises(ClusterError, match="no address"):
        cluster.service_url("shop", "storefront", "http")


def test_elsewhere_only_a_way_that_answers_counts(api: Api, cluster: Cluster) -> None:
    serve(api, clusterIP="10.0.0.1")
    with pytest.raises(ClusterUnreachable, match=NOTHING):
        cluster.service_url("shop", "storefront", "http")
    serve(api, clusterIP="10.0.0.1", port={"nodePort": 1})
    with pytest.raises(ClusterUnreachable, match=r"tried: 127\.0\.0\.1:1"):
        cluster.service_url("shop", "storefront", "http")
    serve(api, clusterIP="10.0.0.1", port={"nodePort": api.port})  # a node that is forwarded to where the API server is
    assert cluster.service_url("shop", "storefront", "http") == f"http://127.0.0.1:{api.port}"
    with pytest.raises(ClusterError, match="has no port https"):
        cluster.service_url("shop", "storefront", "https")
    with pytest.raises(NotFound):
        cluster.service_url("shop", "nothing", "http")


def test_a_load_balancer_comes_before_a_node_port(api: Api, cluster: Cluster) -> None:
    serve(api, clusterIP="10.0.0.1", type="LoadBalancer", port={"port": api.port, "nodePort": api.port})
    _, described = api.routes["GET", SERVICE]({})[:2]
    assert reach.way_to(cluster, "shop", "storefront", "http").kind == "node-port"  # no address was given to it yet
    described["status"] = {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}
    api.routes["GET", SERVICE] = lambda _: (200, described)
    way = reach.way_to(cluster, "shop", "storefront", "http")
    assert (way.kind, way.url, way.honest) == ("load-balancer", f"http://127.0.0.1:{api.port}", True)


def ingress(api: Api, *rules: dict[str, Any], addresses: tuple[str, ...] = ("127.0.0.9",)) -> None:
    """The cluster has this Ingress, whose controller says that it listens at these addresses."""
    group = "/apis/networking.k8s.io/v1"
    resources = {"resources": [{"name": "ingresses", "kind": "Ingress", "namespaced": True}]}
    balancer = {"loadBalancer": {"ingress": [{"ip": a} for a in addresses]}}
    items = [{"metadata": {"name": "storefront"}, "spec": {"rules": list(rules)}, "status": balancer}]
    api.routes["GET", group] = lambda _: (200, resources)
    api.routes["GET", f"{group}/namespaces/shop/ingresses"] = lambda _: (200, {"metadata": {}, "items": items})


def rule(service: str = "storefront", path: str = "/", **more: str) -> dict[str, Any]:
    return {"http": {"paths": [{"path": path, "backend": {"service": {"name": service}}}]}, **more}


@pytest.mark.parametrize(
    ("rules", "addresses", "tried"),
    [
        ([rule()], ("127.0.0.9",), "tried: 127.0.0.9:80"),
        ([rule()], ("127.0.0.9", "127.0.0.8"), "tried: 127.0.0.9:80, 127.0.0.8:80"),
        (
            [rule(host="shop.localhost")],
            ("127.0.0.9",),
            "tried: shop.localhost:80",
        ),  # asked by the name, wherever it leads
        ([rule()], (), NOTHING),  # no controller took it
        ([rule(service="cart")], ("127.0.0.9",), NOTHING),
        ([rule(path="/pay")], ("127.0.0.9",), NOTHING),
        ([rule(service="cart"), rule()], ("127.0.0.9",), "tried: 127.0.0.9:80"),
        ([{"host": "shop.localhost"}], ("127.0.0.9",), NOTHING),
    ],
)
def test_an_ingress_counts_where_its_root_leads_to_the_service(
    api: Api, cluster: Cluster, rules: list[dict[str, Any]], addresses: tuple[str, ...], tried: str
) -> None:
    serve(api, clusterIP="10.0.0.1")
    ingress(api, *rules, addresses=addresses)
    with pytest.raises(ClusterUnreachable, match=re.escape(f"({tried})")):
        reach.way_to(cluster, "shop", "storefront", "http")


def test_ingresses_that_may_not_be_read_are_no_way(api: Api, cluster: Cluster) -> None:
    serve(api, clusterIP="10.0.0.1")
    ingress(api, rule())
    forbidden = {"kind": "Status", "code": 403, "reason": "Forbidden", "message": "ingresses is forbidden"}
    api.routes["GET", "/apis/networking.k8s.io/v1/namespaces/shop/ingresses"] = lambda _: (403, forbidden)
    with pytest.raises(ClusterUnreachable, match=NOTHING):
        cluster.service_url("shop", "storefront", "http")


def test_timings_from_here_and_answers_that_never_came(api: Api, cluster: Cluster) -> None:
    serve(api, port={"nodePort": api.port})
    found = reach.measure_latency(cluster, "shop", "storefront", tries=3)
    assert (len(found.ms), found.errors) == (3, ())
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and never answers
        serve(api, port={"nodePort": mute.getsockname()[1]})
        found = reach.measure_latency(cluster, "shop", "storefront", tries=2, timeout_s=0.1)
    assert found.ms == ()
    assert ["TimeoutError" in error for error in found.errors] == [True, True]


# Clocks


@given(
    st.integers(-5_000_000, 5_000_000),
    st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 90_000)), min_size=1),
)
def test_the_true_offset_is_always_within_bounds(true_us: int, answers: list[tuple[int, int]]) -> None:
    readings = []
    for sent_us, trip_us in answers:
        at_server = 10**15 + sent_us + trip_us // 2 + true_us
        readings.append(Reading(10**15 + sent_us, 10**15 + sent_us + trip_us, at_server // SECOND_US * SECOND_US))
    bounds = clock.offset(readings)
    assert bounds is not None
    assert bounds[0] <= true_us <= bounds[1]


def test_no_readings_or_readings_that_contradict_give_no_offset() -> None:
    assert clock.offset([]) is None
    assert clock.offset([Reading(0, 10, 50 * SECOND_US), Reading(100, 110, 10 * SECOND_US)]) is None


def test_a_clock_that_cannot_be_measured_is_null(api: Api, cluster: Cluster) -> None:
    measured = clock.measure(cluster, 0.1)
    assert measured.offset_us is not None
    assert abs(measured.offset_us) < SECOND_US
    api.version = "v1.34.0+pocketkube"
    cluster._identity = None
    assert clock.measure(cluster).offset_us == 0
    cluster._identity = None
    api.version = "v1.34.0"
    assert cluster.identity.kind == "kubernetes"
    api.down()
    assert clock.measure(cluster, 0.1).offset_us is None
    api.up()


# Gaps


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=8))
def test_merged_gaps_cover_the_same_time_without_overlap(spans: list[tuple[int, int]]) -> None:
    gaps = merged(ObserverGap(start, start + length, "why") for start, length in spans)
    assert all(a.to_us < b.from_us for a, b in itertools.pairwise(gaps))
    covered = {t for start, length in spans for t in range(start, start + length)}
    assert {t for gap in gaps for t in range(gap.from_us, gap.to_us)} == covered


def test_a_report_is_an_entry_of_the_evidence() -> None:
    report = ObserverReport("watch", 1, 9, 4, (ObserverGap(2, 3, "why"),))
    assert report.as_evidence() == {"name": "watch", "from_us": 1, "to_us": 9, "records": 4,
                                    "gaps": [{"from_us": 2, "to_us": 3, "reason": "why"}]}  # fmt: skip
