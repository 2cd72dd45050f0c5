"""The chain of each fault from made-up observations: accepted alone is never observed, and every rule has a case in which it says no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from aftershock import evidence
from aftershock.activities import ActivityRun
from aftershock.chain import Step
from aftershock.events import Event
from aftershock.experiment import Activity
from aftershock.faults import Planned
from aftershock.folder import validator
from aftershock.observe.observer import ObserverReport
from aftershock.observe.reach import Hop
from aftershock.slo import Interval
from aftershock.targets import Aim, Target
from aftershock.undo import Entry, removal

S = 1_000_000
WINDOWS = {"baseline": {"from_us": 2 * S, "to_us": 8 * S}, "fault": {"from_us": 8 * S, "to_us": 16 * S},
           "recovery": {"from_us": 16 * S, "to_us": 22 * S}}  # fmt: skip
UNDO_US = 16 * S


def pod_target(name: str, node: str = "body") -> Target:
    return Target("Pod", "shop", name, f"uid-{name}", node, name.split("-")[0])


def planned(action: str, *targets: Target, count: int | None = None, **asked: Any) -> Planned:
    activity = Activity("hit", "action", "python", "m", "f", {"ns": "shop"}, {})
    return Planned(
        "f1", activity, action, Aim(targets, len(targets) if count is None else count, asked=asked), (), "journal"
    )


def ran(output: Any = None, error: str | None = None) -> ActivityRun:
    return ActivityRun(
        "hit", "action", "method", "failed" if error else "succeeded", 8 * S, S // 10, output, error, None, {}
    )


def events(*lines: tuple[float, str, str, str, dict[str, Any]]) -> list[Event]:
    """(second, type, kind, name, fields and detail) as events; pods have a uid after their name and an owner."""
    made = []
    for number, (at_s, type_, kind, name, given) in enumerate(lines, 1):
        detail = {key: value for key, value in given.items() if key not in ("uid", "node", "service")}
        if kind == "Pod":
            detail.setdefault("owner", f"ReplicaSet/{name.split('-')[0]}")
        made.append(Event(f"ev-{number:06d}", round(at_s * S), "watch", type_, kind, "shop", name, given.get("uid", f"uid-{name}"),
                          given.get("node", "body"), given.get("service", name.split("-")[0]), None, detail))  # fmt: skip
    return made


def entry(action: str = "hit", state: str = "done", at_s: float = 16.1) -> Entry:
    return Entry(1, "r", "c", "x", action, removal("/x", "remove"), state, 0, round(at_s * S), None)  # type: ignore[arg-type]


def chain(
    fault: Planned, run: ActivityRun, seen: Sequence[Event] = (), entries: Sequence[Entry] = (), **more: Any
) -> Mapping[str, Any]:
    """The one chain, checked against the schema."""
    made = evidence.chains([fault], [run], seen, WINDOWS, entries, undone_us=UNDO_US, ended_us=22 * S, **more)
    load = {
        "offered": True,
        "scheduled": 1,
        "started_on_time": 1,
        "late_max_us": 0,
        "dropped": 0,
        "exit_code": 0,
        "error": None,
    }
    report = ObserverReport("watch", 0, 1, 1)
    steady = {"before": (True, "ok")}
    validator("evidence").validate(evidence.build(made, [run], entries, observers=[report], steady=steady, load=load))
    return made[0]


def steps(made: Mapping[str, Any]) -> set[str]:
    """Names of the steps that were proven."""
    return {name for name, step in made["steps"].items() if step}


BEFORE = (
    (1.0, "ADDED", "Pod", "payments-a", {"ready": True}),
    (1.0, "ADDED", "Pod", "payments-b", {"ready": True, "node": "body2"}),
)
KILL = planned("pod-kill", pod_target("payments-a"), pod_target("payments-b", "body2"), count=1)
DIES: tuple[Any, ...] = (
    (8.1, "MODIFIED", "Pod", "payments-a", {"deletionTimestamp": "x"}),
    (8.4, "DELETED", "Pod", "payments-a", {}),
)
COMES = (8.2, "ADDED", "Pod", "payments-c", {"ready": False}), (9.5, "MODIFIED", "Pod", "payments-c", {"ready": True})


def test_a_killed_pod_is_observed_by_its_uid_and_recovers_by_a_new_one() -> None:
    made = chain(KILL, ran(["payments-a"]), events(*BEFORE, *DIES, *COMES))
    assert steps(made) == {"requested", "accepted", "observed", "recovered"}
    assert [t["name"] for t in made["targets"]] == ["payments-a"]
    assert made["steps"]["observed"]["time_us"] == round(8.1 * S)
    assert made["steps"]["observed"]["value"] == 1
    assert made["steps"]["recovered"]["time_us"] == round(9.5 * S)
    assert made["steps"]["recovered"]["value"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("lines", "proven"),
    [
        ((), {"requested", "accepted"}),
        (BEFORE, {"requested", "accepted"}),
        # died before it was asked for, or after the undo
        ((*BEFORE, (7.9, "MODIFIED", "Pod", "payments-a", {"deletionTimestamp": "x"})), {"requested", "accepted"}),
        ((*BEFORE, (16.5, "DELETED", "Pod", "payments-a", {})), {"requested", "accepted"}),
        # another one died, or both did
        ((*BEFORE, (8.1, "DELETED", "Pod", "payments-b", {})), {"requested", "accepted"}),
        ((*BEFORE, *DIES, (8.1, "DELETED", "Pod", "payments-b", {})), {"requested", "accepted"}),
        # same name, other uid
        ((*BEFORE, (8.1, "DELETED", "Pod", "payments-a", {"uid": "old"})), {"requested", "accepted"}),
        # no replacement; one that was there before; one of somebody else; one that is never ready
        ((*BEFORE, *DIES), {"requested", "accepted", "observed"}),
        ((*BEFORE, *DIES, (9.0, "MODIFIED", "Pod", "payments-b", {"ready": True})), {"requested", "accepted", "observed"}),
        ((*BEFORE, *DIES, (9.0, "ADDED", "Pod", "orders-x", {"ready": True})), {"requested", "accepted", "observed"}),
        ((*BEFORE, *DIES, COMES[0]), {"requested", "accepted", "observed"}),
        ((*BEFORE, *DIES, COMES[0], (9.5, "MODIFIED", "Pod", "payments-c", {"ready": True, "deletionTimestamp": "x"})),
         {"requested", "accepted", "observed"}),
    ],
)  # fmt: skip
def test_a_kill_that_was_only_accepted_is_not_observed(lines: Any, proven: set[str]) -> None:
    assert steps(chain(KILL, ran(["payments-a"]), events(*lines))) == proven


def test_fewer_dead_pods_than_asked_for_are_not_the_fault() -> None:
    both = planned("pod-kill", pod_target("payments-a"), pod_target("payments-b"), count=2)
    assert "observed" not in steps(chain(both, ran(["payments-a", "payments-b"]), events(*BEFORE, *DIES)))


def test_a_container_that_dies_in_place_counts_and_recovers_itself() -> None:
    fault = planned("pod-kill", pod_target("payments-a"))
    up, down = {"containers": [{"restarts": 0}], "ready": True}, {"containers": [{"restarts": 1}], "ready": False}
    lines = ((1.0, "ADDED", "Pod", "payments-a", up), (8.3, "MODIFIED", "Pod", "payments-a", down),
             (9.3, "MODIFIED", "Pod", "payments-a", {**down, "ready": True}))  # fmt: skip
    assert steps(chain(fault, ran(["payments-a"]), events(*lines))) == {
        "requested",
        "accepted",
        "observed",
        "recovered",
    }


DRAIN = planned(
    "node-drain", Target("Node", None, "body2", "n", "body2", None), pod_target("payments-b", "body2"), pods=1
)
CORDON = (8.05, "MODIFIED", "Node", "body2", {"unschedulable": True, "ready": "True"})
UNCORDON = (16.2, "MODIFIED", "Node", "body2", {"unschedulable": False, "ready": "True"})
EVICTED = (8.6, "DELETED", "Pod", "payments-b", {"node": "body2"})
MOVED = (
    (8.5, "ADDED", "Pod", "payments-d", {"ready": False}),
    (10.0, "MODIFIED", "Pod", "payments-d", {"ready": True, "node": "memory"}),
)
BACK = (
    (8.5, "ADDED", "Pod", "payments-d", {"ready": False}),
    (10.0, "MODIFIED", "Pod", "payments-d", {"ready": True, "node": "body2"}),
)


def test_a_drain_is_a_cordon_and_pods_that_moved() -> None:
    made = chain(
        DRAIN, ran({"evicted": ["shop/payments-b"]}), events(*BEFORE, CORDON, EVICTED, *MOVED, UNCORDON), [entry()]
    )
    assert steps(made) == {"requested", "accepted", "observed", "undone", "recovered"}
    assert made["steps"]["undone"]["time_us"] == round(16.2 * S)


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        ((CORDON, EVICTED, *MOVED), {"undone"}),
        ((EVICTED, *MOVED, UNCORDON), {"observed", "undone"}),
        ((CORDON, *MOVED, UNCORDON), {"observed", "recovered"}),
        ((CORDON, (8.6, "MODIFIED", "Pod", "payments-b", {"deletionTimestamp": "x"}), *MOVED, UNCORDON), {"observed"}),
        ((CORDON, EVICTED, *BACK, UNCORDON), {"recovered"}),
        ((CORDON, EVICTED, UNCORDON), {"recovered"}),
    ],
)
def test_half_a_drain_is_none(lines: Any, missing: set[str]) -> None:
    made = chain(DRAIN, ran({}), events(*BEFORE, *lines))
    assert {"requested", "accepted", "observed", "undone", "recovered"} - steps(made) == missing


def test_a_pod_may_come_back_to_its_node_after_the_undo() -> None:
    back = (
        (8.5, "ADDED", "Pod", "payments-d", {"node": None}),
        (17.0, "MODIFIED", "Pod", "payments-d", {"ready": True, "node": "body2"}),
    )
    assert "recovered" in steps(chain(DRAIN, ran({}), events(*BEFORE, CORDON, EVICTED, *back, UNCORDON)))


REFUSAL = "429 Cannot evict pod as it would violate the pod's disruption budget. (shop/x not evicted within 3 s; 0 of 1 pods evicted)"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (REFUSAL, REFUSAL),
        (
            'ApiException: (403)\nReason: Forbidden\nHTTP response body: {"message":"pods \\"a\\" is forbidden"}',
            '403 pods "a" is forbidden',
        ),
        ("RuntimeError: no way", None),
        ("ApiException: (500) boom", None),
        ("ApiException: (404) not found", None),
        ("did not end within 429000 s (it may have been done all the same)", None),
        (None, None),
    ],
)
def test_a_refusal_is_the_apis_no_and_nothing_else(error: str | None, reason: str | None) -> None:
    assert evidence.refusal(error) == reason


def test_a_refused_drain_has_a_reason_and_no_effect() -> None:
    made = chain(DRAIN, ran(None, REFUSAL), events(*BEFORE, CORDON, UNCORDON), [entry()])
    assert steps(made) == {"requested", "undone"}
    assert made["refused"] == REFUSAL


CALLS = (("orders", "payments"), ("orders", "shipping"))
DELAY = planned(
    "network-delay", pod_target("payments-a"), latency_ms=300, services=["payments"], far_services=["orders"]
)


def hops(before: float, during: float, after: float, unmatched: int = 0) -> Any:
    """The way orders -> payments at three times; every other way is as it was."""

    def hop(caller: str, callee: str, interval: Interval) -> Hop:
        if (caller, callee) != ("orders", "payments"):
            return Hop((1.0,) * 20, 0)
        at = interval.from_us
        ms = before if at < 8 * S else during if at < 16.1 * S else after
        gone = unmatched if 8 * S <= at < 16.1 * S else 0
        return Hop((ms,) * (20 - gone), gone)

    return hop


@pytest.mark.parametrize(
    ("hop", "proven"),
    [
        (hops(4, 310, 4), {"observed", "undone", "recovered"}),
        (hops(4, 310, 310), {"observed", "undone"}),
        (hops(4, 100, 4), {"undone"}),
        (hops(290, 310, 290), {"undone"}),
        (hops(4, 4, 4, unmatched=20), {"observed", "undone", "recovered"}),
        (hops(4, 4, 4, unmatched=5), {"undone"}),
        (None, {"undone"}),
    ],
)
def test_latency_is_observed_by_measuring_the_way(hop: Any, proven: set[str]) -> None:
    injected = (8.2, "MODIFIED", "NetworkChaos", "x", {"conditions": {"AllInjected": "True"}})
    made = chain(DELAY, ran({"injected": True}), events(injected), [entry()], hop=hop, calls=CALLS)
    assert steps(made) - {"requested", "accepted"} == proven


def test_the_measured_latency_is_the_added_one() -> None:
    step = chain(DELAY, ran({}), (), [entry()], hop=hops(4, 310, 4), calls=CALLS)["steps"]["observed"]
    assert (step["value"], step["unit"]) == (306.0, "ms")
    assert "orders -> payments took 310 ms instead of 4 ms" in step["summary"]


def test_an_undo_that_the_journal_does_not_vouch_for_is_none() -> None:
    assert "undone" not in steps(chain(DELAY, ran({}), (), [entry(state="failed")], hop=hops(4, 310, 4), calls=CALLS))
    assert "undone" not in steps(chain(DELAY, ran({}), (), [], hop=hops(4, 310, 4), calls=CALLS))


@pytest.mark.parametrize(("lost", "observed"), [(20, True), (10, False), (0, False)])
def test_a_partition_lets_nearly_nothing_through(lost: int, observed: bool) -> None:
    cut = planned("network-partition", pod_target("payments-a"), services=["payments"], far_services=["orders"])
    made = chain(cut, ran({}), (), [entry()], hop=hops(4, 4, 4, unmatched=lost), calls=CALLS)
    assert ("observed" in steps(made)) is observed
    assert ("recovered" in steps(made)) is observed


SCALE = planned(
    "deployment-scale", Target("Deployment", "shop", "payments", "d", None, "payments"), replicas=0, before=2
)


def deployment(
    at_s: float, replicas: int, ready: int, type_: str = "MODIFIED"
) -> tuple[float, str, str, str, dict[str, Any]]:
    return (
        at_s,
        type_,
        "Deployment",
        "payments",
        {"replicas": replicas, "ready": ready, "updated": ready, "available": ready},
    )


@pytest.mark.parametrize(
    ("lines", "proven"),
    [
        (
            (deployment(8.1, 0, 2), deployment(8.5, 0, 0), deployment(16.1, 2, 0), deployment(18, 2, 2)),
            {"observed", "undone", "recovered"},
        ),
        ((deployment(8.1, 0, 2), deployment(16.1, 2, 2)), {"undone", "recovered"}),
        ((deployment(8.5, 0, 0), deployment(16.1, 2, 1)), {"observed", "undone"}),
        ((), set()),
    ],
)
def test_scaling_is_seen_in_ready_replicas(lines: Any, proven: set[str]) -> None:
    assert (
        steps(chain(SCALE, ran(None), events(deployment(1, 2, 2, "ADDED"), *lines))) - {"requested", "accepted"}
        == proven
    )


def test_a_deleted_deployment_and_its_return() -> None:
    fault = planned("deployment-delete", SCALE.aim.targets[0])
    lines = deployment(8.2, 2, 2, "DELETED"), deployment(16.2, 2, 0, "ADDED"), deployment(18, 2, 2)
    made = chain(fault, ran(None), events(*lines), [entry()])
    assert steps(made) == {"requested", "accepted", "observed", "undone", "recovered"}
    assert steps(chain(fault, ran(None), events(*lines[1:]))) == {"requested", "accepted", "recovered"}


def test_an_unknown_fault_is_observed_only_on_the_target_that_it_names() -> None:
    fault = planned("break-something", pod_target("payments-a"))
    assert "observed" not in steps(
        chain(fault, ran("fine"), events(*BEFORE, (8.2, "DELETED", "Pod", "payments-b", {})))
    )
    assert "observed" in steps(chain(fault, ran("fine"), events(*BEFORE, *DIES)))
    node = planned("stop-machine", Target("Node", None, "body2", "n", "body2", None))
    lost = (
        (9.0, "MODIFIED", "Node", "body2", {"ready": "Unknown"}),
        (17.0, "MODIFIED", "Node", "body2", {"ready": "True"}),
    )
    assert {"observed", "recovered"} <= steps(chain(node, ran("fine"), events(*lost)))
    assert steps(chain(planned("magic"), ran("fine"), events(*BEFORE, *DIES))) == {"requested", "accepted"}


def test_a_fault_that_was_never_requested_has_no_chain() -> None:
    assert evidence.chains([KILL], [], (), WINDOWS) == []


def test_an_action_that_failed_is_not_accepted() -> None:
    made = chain(KILL, ran(None, "RuntimeError: no way"), events(*BEFORE))
    assert steps(made) == {"requested"}
    assert made["refused"] is None


def test_recovery_is_never_seen_before_the_whole_fault() -> None:
    observed, early = Step(2_000_000, "watch", "gone"), Step(1_000_000, "watch", "ready", value=0.5, unit="s")
    late = Step(3_000_000, "watch", "ready", value=2.5, unit="s")
    assert evidence._not_before(observed, early, 500_000) == Step(2_000_000, "watch", "ready", value=1.5, unit="s")
    assert evidence._not_before(observed, late, 500_000) is late
    assert evidence._not_before(None, early, 500_000) is early
    assert evidence._not_before(observed, None, 500_000) is None


OFF = planned("node-power-off", Target("Node", None, "body2", "n", "body2", None), pod_target("payments-b", "body2"))
UNREACHABLE = "node.kubernetes.io/unreachable=:NoExecute"


def node(at_s: float, ready: bool, *taints: str) -> Any:
    return (at_s, "MODIFIED", "Node", "body2", {"ready": ready, "taints": list(taints)})


ELSEWHERE = (
    (10.5, "MODIFIED", "Pod", "payments-b", {"node": "body2", "deletionTimestamp": "x"}),
    (10.6, "ADDED", "Pod", "payments-c", {"ready": False}),
    (12.0, "MODIFIED", "Pod", "payments-c", {"ready": True}),
)


@pytest.mark.parametrize(
    ("lines", "proven"),
    [
        ((node(10, False), *ELSEWHERE, node(17, True, UNREACHABLE), node(18, True)), {"observed", "undone", "recovered"}),
        # the program said that it did, and the node goes on
        ((), set()),
        # noticed only after the power was given back
        ((node(16.5, False), node(18, True)), set()),
        # back, but pods are still sent away; never back; back without its pods
        ((node(10, False), *ELSEWHERE, node(17, True, UNREACHABLE)), {"observed"}),
        ((node(10, False), *ELSEWHERE), {"observed"}),
        ((node(10, False), *ELSEWHERE[:2], node(17, True)), {"observed", "undone"}),
        # it was back before it was given up: its own pods go on
        ((node(10, False), node(17, True), (16.5, "MODIFIED", "Pod", "payments-b", {"node": "body2", "restarts": 1, "containers": [
            {"restarts": 1, "state": "terminated"}]}), (18.0, "MODIFIED", "Pod", "payments-b", {"node": "body2", "ready": True})),
         {"observed", "undone", "recovered"}),
    ],
)  # fmt: skip
def test_a_node_without_power_is_seen_by_its_silence(lines: Any, proven: set[str]) -> None:
    made = chain(OFF, ran({"node": "body2"}), events(*BEFORE, (1.0, "ADDED", "Node", "body2", {"ready": True}), *lines))
    assert steps(made) - {"requested", "accepted"} == proven


ROLL = planned(
    "deployment-rollout", Target("Deployment", "shop", "payments", "d", None, "payments"), uids=["uid-payments-a"]
)


def rolling(at_s: float, updated: int, ready: int, image: str = "shop:1", **more: Any) -> Any:
    detail = {"replicas": 2, "updated": updated, "ready": ready, "available": ready, "image": image, "generation": 2,
              "observed_generation": 2, **more}  # fmt: skip
    return (at_s, "MODIFIED", "Deployment", "payments", detail)


def test_a_rollout_is_old_pods_that_end_and_a_new_version_that_is_complete() -> None:
    lines = (*BEFORE, rolling(8.2, 0, 2), *DIES, rolling(12, 2, 2))
    assert steps(chain(ROLL, ran({}), events(*lines), [entry()])) == {
        "requested",
        "accepted",
        "observed",
        "undone",
        "recovered",
    }
    # no pod died; nothing rolled; a status that tells of the version before
    assert "observed" not in steps(chain(ROLL, ran({}), events(*BEFORE, rolling(8.2, 0, 2), rolling(12, 2, 2))))
    assert "observed" not in steps(chain(ROLL, ran({}), events(*BEFORE, *DIES)))
    stale = chain(ROLL, ran({}), events(*BEFORE, rolling(8.2, 0, 2), *DIES, rolling(12, 2, 2, observed_generation=1)))
    assert "recovered" not in steps(stale)


IMAGE = planned("image-change", ROLL.aim.targets[0], image="shop:none", was=["shop:1"])


def fresh(state: dict[str, Any], image: str = "shop:none", name: str = "payments-new") -> Any:
    return (9.0, "ADDED", "Pod", name, {"containers": [{"image": image, **state}]})


@pytest.mark.parametrize(
    ("lines", "proven"),
    [
        ((rolling(8.2, 1, 2, "shop:none"), fresh({"waiting": "ErrImagePull", "state": "waiting"}), rolling(17, 2, 2)),
         {"observed", "recovered"}),
        ((rolling(8.2, 1, 2, "shop:none"), fresh({"state": "running"}), rolling(17, 2, 2)), {"observed", "recovered"}),
        # asked for, and no pod shows it yet; a pod of another image; of another service; one that was there before
        ((rolling(8.2, 1, 2, "shop:none"), fresh({"waiting": "ContainerCreating", "state": "waiting"})), set()),
        ((rolling(8.2, 1, 2, "shop:none"), fresh({"state": "running"}, "shop:1")), set()),
        ((rolling(8.2, 1, 2, "shop:none"), fresh({"state": "running"}, name="orders-new")), set()),
        ((fresh({"state": "running"}),), set()),
        # the image is back, and its pods are not
        ((rolling(8.2, 1, 2, "shop:none"), fresh({"state": "running"}), rolling(17, 1, 2)), {"observed"}),
    ],
)  # fmt: skip
def test_a_changed_image_is_seen_on_a_new_pod(lines: Any, proven: set[str]) -> None:
    assert steps(chain(IMAGE, ran({}), events(*BEFORE, *lines))) - {"requested", "accepted"} == proven


def test_a_deployment_is_gone_when_its_pods_are() -> None:
    fault = planned("deployment-delete", SCALE.aim.targets[0], uids=["uid-payments-a"])
    lines = (*BEFORE, deployment(8.05, 2, 2, "DELETED"), *DIES, deployment(16.2, 2, 0, "ADDED"), deployment(18, 2, 2))
    assert {"observed", "recovered"} <= steps(chain(fault, ran(None), events(*lines), [entry()]))
    orphaned = chain(fault, ran(None), events(*BEFORE, deployment(8.05, 2, 2, "DELETED")), [entry()])
    assert "observed" not in steps(orphaned)


CROWD = planned("crowd", ROLL.aim.targets[0], replicas=6, utilization=80)


def measured(at_s: float, percent: int | None, target: str = "Deployment/payments") -> Any:
    return (
        at_s,
        "MODIFIED",
        "HorizontalPodAutoscaler",
        "payments",
        {"target": target, "utilization": {"cpu": percent}},
    )


@pytest.mark.parametrize(
    ("lines", "proven"),
    [
        ((measured(9, 140), deployment(10, 6, 4), deployment(11, 6, 6)), {"observed", "recovered"}),
        # not more than it wants; of another workload; not measured at all; measured before the crowd
        ((measured(9, 86), deployment(11, 6, 6)), {"recovered"}),
        ((measured(9, 140, "Deployment/orders"),), set()),
        ((measured(9, None),), set()),
        ((measured(5, 140),), set()),
        # capped; grown only when the crowd had gone
        ((measured(9, 140), deployment(11, 2, 2)), {"observed"}),
        ((measured(9, 140), deployment(17, 6, 6)), {"observed"}),
    ],
)  # fmt: skip
def test_a_crowd_is_what_the_autoscaler_measures(lines: Any, proven: set[str]) -> None:
    assert steps(chain(CROWD, ran({}), events(*BEFORE, *lines))) - {"requested", "accepted"} == proven
