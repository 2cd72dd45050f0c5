"""Filters, scores and the sentence that says why there is no place."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkube.placement import FILTERS, HOSTNAME, Node, Nowhere, place, requests, tolerates
from pocketkube.storage import Object

CONTROL_PLANE = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
ROLE = "aftershock.dev/role"


def pod(labels: dict[str, str] | None = None, cpu: str | None = None, **spec: Any) -> Object:
    container: Object = {"name": "main", **({"resources": {"requests": {"cpu": cpu}}} if cpu else {})}
    meta = {"name": "p", "namespace": "shop", "labels": labels or {"app": "payments"}}
    return {"metadata": meta, "spec": {"containers": [container], **spec}}


def node(
    name: str, *on: Object, labels: dict[str, str] | None = None, cpu: str = "4", pods: str = "110", **spec: Any
) -> Node:
    made = {
        "metadata": {"name": name, "labels": {HOSTNAME: name, **(labels or {})}}, "spec": spec,
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": pods}},
    }  # fmt: skip
    return Node(made, on)


def required(*terms: Object) -> Object:
    return {
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
        }
    }


def expression(key: str, operator: str, *values: str) -> Object:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def anti(topology: str = HOSTNAME, **labels: str) -> Object:
    term = {"topologyKey": topology, "labelSelector": {"matchLabels": labels}}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def near(**labels: str) -> Object:
    term = {"topologyKey": HOSTNAME, "labelSelector": {"matchLabels": labels}}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def even(max_skew: int = 1, when: str = "DoNotSchedule", topology: str = HOSTNAME) -> Object:
    return {"topologySpreadConstraints": [{"maxSkew": max_skew, "topologyKey": topology, "whenUnsatisfiable": when,
                                           "labelSelector": {"matchLabels": {"app": "payments"}}}]}  # fmt: skip


HAPPY: dict[str, tuple[Object, list[Node], str]] = {
    "tolerated taint": (pod(tolerations=[{"operator": "Exists"}]), [node("brain", taints=[CONTROL_PLANE])], "brain"),
    "PreferNoSchedule is only a wish": (pod(), [node("a", taints=[{"key": "k", "effect": "PreferNoSchedule"}])], "a"),
    "and is heeded": (pod(), [node("a", taints=[{"key": "k", "effect": "PreferNoSchedule"}]), node("b")], "b"),
    "nodeSelector": (pod(nodeSelector={ROLE: "memory"}), [node("a"), node("b", labels={ROLE: "memory"})], "b"),
    "affinity In": (pod(**required(expression(ROLE, "In", "x", "body"))), [node("a"), node("b", labels={ROLE: "body"})], "b"),
    "affinity NotIn": (pod(**required(expression(ROLE, "NotIn", "body"))), [node("a", labels={ROLE: "body"}), node("b")], "b"),
    "affinity Gt": (pod(**required(expression("cores", "Gt", "4"))),
                    [node("a", labels={"cores": "4"}), node("b", labels={"cores": "8"})], "b"),
    "one of two terms": (pod(**required(expression("x", "Exists"), expression(ROLE, "Exists"))),
                         [node("a"), node("b", labels={ROLE: "r"})], "b"),
    "matchFields": (pod(**required({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]})),
                    [node("a"), node("b")], "b"),
    "cordon tolerated": (pod(tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]),
                         [node("a", unschedulable=True)], "a"),
    "just fits": (pod(cpu="1"), [node("a", pod(cpu="3"), cpu="4")], "a"),
    "least used": (pod(cpu="1"), [node("a", pod(cpu="2")), node("b", pod({"app": "x"}, cpu="1"))], "b"),
    "anti-affinity to others": (pod(affinity=anti(app="payments")), [node("a", pod()), node("b")], "b"),
    "affinity to others": (pod(affinity=near(app="db")), [node("a"), node("b", pod({"app": "db"}))], "b"),
    "the first of its own group may start": (pod(affinity=near(app="payments")), [node("a")], "a"),
    "spread over zones": (pod(**even(topology="zone")),
                          [node("a", pod(), labels={"zone": "1"}), node("b", labels={"zone": "2"})], "b"),
    "preferred role beats spread": (
        pod(**even(when="ScheduleAnyway"), affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "preference": expression(ROLE, "In", "body")}]}}),
        [node("body", pod(), labels={ROLE: "body"}), node("body2", labels={ROLE: "body"}), node("memory")], "body2"),
    "equals go by name": (pod(), [node("b"), node("a")], "a"),
}  # fmt: skip


def test_data_keeps_its_pod_on_its_node() -> None:
    wanted = pod(volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data-0"}}])
    body, body2 = node("body"), node("body2")
    away = dataclasses.replace(body, foreign=frozenset({("shop", "data-0")}))
    assert place(wanted, [away, body2]) == "body2"
    assert place(pod(), [away]) == "body"
    found = place(wanted, [away])
    assert isinstance(found, Nowhere)
    assert found.message().startswith(
        "0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity."
    )
    assert "Preemption is not helpful" in found.message()
    other = dataclasses.replace(body, foreign=frozenset({("elsewhere", "data-0")}))
    assert place(wanted, [other]) == "body"


@pytest.mark.parametrize("case", HAPPY)
def test_a_pod_finds_its_place(case: str) -> None:
    wanted, nodes, expected = HAPPY[case]
    assert place(wanted, nodes) == expected


SAD: dict[str, tuple[Object, Node, str]] = {
    "cordoned": (pod(), node("a", unschedulable=True), "node(s) were unschedulable"),
    "tainted": (pod(), node("a", taints=[CONTROL_PLANE]), "node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }"),
    "toleration of another value": (pod(tolerations=[{"key": "k", "value": "x"}]),
                                    node("a", taints=[{"key": "k", "value": "y", "effect": "NoExecute"}]),
                                    "node(s) had untolerated taint {k: y}"),
    "selector": (pod(nodeSelector={ROLE: "memory"}), node("a"), "node(s) didn't match Pod's node affinity/selector"),
    "a term without expressions": (pod(**required({})), node("a"), "node(s) didn't match Pod's node affinity/selector"),
    "Gt of no number": (pod(**required(expression("cores", "Gt", "4"))), node("a", labels={"cores": "many"}),
                        "node(s) didn't match Pod's node affinity/selector"),
    "cpu": (pod(cpu="1001m"), node("a", pod(cpu="3"), cpu="4"), "Insufficient cpu"),
    "pods": (pod(), node("a", pod(), pods="1"), "Too many pods"),
    "spread": (pod(**even()), node("a", pod(), pod()), "node(s) didn't match pod topology spread constraints"),
    "spread without the label": (pod(**even(topology="zone")), node("a"),
                                 "node(s) didn't match pod topology spread constraints (missing required label)"),
    "anti-affinity": (pod(affinity=anti(app="payments")), node("a", pod()), "node(s) didn't match pod anti-affinity rules"),
    "their anti-affinity": (pod(), node("a", pod({"app": "x"}, affinity=anti(app="payments"))),
                            "node(s) didn't satisfy existing pods anti-affinity rules"),
    "affinity": (pod(affinity=near(app="db")), node("a"), "node(s) didn't match pod affinity rules"),
    "host port": (pod(containers=[{"ports": [{"hostPort": 80}]}]), node("a", pod(containers=[{"ports": [{"hostPort": 80}]}])),
                  "node(s) didn't have free ports for the requested pod ports"),
}  # fmt: skip


@pytest.mark.parametrize("case", SAD)
def test_a_node_says_why_it_is_no_place(case: str) -> None:
    wanted, refusing, reason = SAD[case]
    others = [refusing, node("empty", taints=[CONTROL_PLANE])] if case == "spread" else [refusing]
    found = place(wanted, others)
    assert isinstance(found, Nowhere)
    assert reason in found.reasons


def test_the_message_is_that_of_kubernetes() -> None:
    body = node("body", unschedulable=True)
    found = place(
        pod(cpu="1"),
        [node("brain", taints=[CONTROL_PLANE]), body, node("body2", cpu="500m"), node("memory", unschedulable=True)],
    )
    assert isinstance(found, Nowhere)
    assert found.message() == (
        "0/4 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
        "2 node(s) were unschedulable. preemption: 0/4 nodes are available: 1 No preemption victims found for incoming pod, "
        "3 Preemption is not helpful for scheduling."
    )
    nothing = place(pod(), [])
    assert isinstance(nothing, Nowhere)
    assert nothing.message() == "no nodes available to schedule pods"


def test_several_lacks_of_one_node_are_all_told() -> None:
    wanted = pod(containers=[{"resources": {"requests": {"cpu": "9", "memory": "9Gi"}}}])
    found = place(wanted, [node("a")])
    assert isinstance(found, Nowhere)
    assert found.reasons == {"Insufficient cpu": 1, "Insufficient memory": 1}


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "v", "effect": "NoExecute"}, False),
        ({"key": "k"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"operator": "Exists"}, True),
        ({}, False),
    ],
)
def test_tolerations(toleration: Object, expected: bool) -> None:
    assert tolerates([toleration], {"key": "k", "value": "v", "effect": "NoSchedule"}) is expected


def test_requests_are_the_containers_together_or_the_largest_init_container() -> None:
    def container(cpu: str, **more: Any) -> Object:
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    wanted = pod(
        containers=[container("1"), container("500m")],
        initContainers=[container("2"), container("1")],
        overhead={"cpu": "10m"},
    )
    assert requests(wanted)["cpu"] == 2010
    sidecar = pod(
        containers=[container("1")], initContainers=[container("1", restartPolicy="Always"), container("1500m")]
    )
    assert requests(sidecar)["cpu"] == 2500
    assert requests(pod(containers=[{"resources": {"limits": {"cpu": "3"}}}]))["cpu"] == 3000


names = st.sampled_from("abcdef")


@given(
    st.dictionaries(names, st.tuples(st.booleans(), st.integers(0, 4)), min_size=1), st.integers(1, 3), st.booleans()
)
def test_a_pod_lands_only_where_all_filters_agree(nodes: dict[str, tuple[bool, int]], skew: int, strict: bool) -> None:
    wanted = pod(cpu="1", **even(skew, "DoNotSchedule" if strict else "ScheduleAnyway"))
    all_nodes = [node(n, *[pod(cpu="1")] * count, unschedulable=cordoned) for n, (cordoned, count) in nodes.items()]
    fitting = {n.name for n in all_nodes if all(not check(wanted, n, all_nodes) for check in FILTERS)}
    found = place(wanted, all_nodes)
    assert isinstance(found, Nowhere) is not bool(fitting)
    if not isinstance(found, Nowhere):
        assert found in fitting


@given(st.integers(1, 5), st.integers(1, 15), st.integers(1, 3), st.sampled_from(["DoNotSchedule", "ScheduleAnyway"]))
def test_pods_placed_one_by_one_are_spread(count: int, replicas: int, skew: int, when: str) -> None:
    on: dict[str, list[Object]] = {f"n{n}": [] for n in range(count)}
    for _ in range(replicas):
        found = place(pod(**even(skew, when)), [node(n, *p, cpu="64") for n, p in on.items()])
        assert not isinstance(found, Nowhere)
        on[found].append(pod())
        sizes = [len(p) for p in on.values()]
        assert max(sizes) - min(sizes) <= skew
