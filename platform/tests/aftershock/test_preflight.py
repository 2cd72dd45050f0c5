"""Preflight says no for every reason it knows, with the reason; against a real API over HTTP."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock import experiment, lease, preflight, undo
from aftershock.cluster import Cluster
from aftershock.experiment import Experiment
from aftershock.preflight import Check, Free, Leashed, RunRefused
from aftershock.undo import UndoJournal
from aftershock.verdict import Outcome
from tests.aftershock.small_api import SmallApi, serving

PROJECT = Path(__file__).parents[3]
World = tuple[SmallApi, Cluster, UndoJournal]
LEASE = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/aftershock-run"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A shop of six pods on two nodes."""
    with serving(tmp_path) as (api, cluster, settings), UndoJournal.of(settings) as journal:
        api.put("/api/v1/namespaces/shop", metadata={"labels": {"aftershock.dev/chaos": "allowed"}})
        for service in ("orders", "payments", "storefront"):
            api.put(f"/apis/apps/v1/namespaces/shop/deployments/{service}", spec={"replicas": 2})
            for letter, node in (("a", "body"), ("b", "body2")):
                api.put(f"/api/v1/namespaces/shop/pods/{service}-{letter}", metadata={"labels": {"app": service}},
                        spec={"nodeName": node})  # fmt: skip
        for node in ("body", "body2"):
            api.put(f"/api/v1/nodes/{node}", spec={})
        api.put("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/storefront-x", endpoints=[{"addresses": ["1"]}],
                metadata={"labels": {"kubernetes.io/service-name": "storefront"}})  # fmt: skip
        yield api, cluster, journal


def load(file: str = "payments-pod-kill", /, **arguments: Any) -> Experiment:
    """An experiment of the project, with some arguments of its action replaced (None leaves one out)."""
    path = PROJECT / f"experiments/{file}.yaml"
    document = yaml.safe_load(path.read_text())
    if arguments:
        given = document["method"][0]["provider"]["arguments"]
        given |= arguments
        for key in [key for key, value in given.items() if value is None]:
            del given[key]
    return experiment.parse(path, yaml.safe_dump(document))


def action(func: str, rollbacks: bool = False, **arguments: Any) -> Experiment:
    """An experiment with another action, and a rollback or none."""
    path = PROJECT / "experiments/payments-pod-kill.yaml"
    document = yaml.safe_load(path.read_text())
    module, _, name = func.rpartition(".")
    document["method"][0]["provider"] = {"type": "python", "module": module, "func": name, "arguments": arguments}
    if rollbacks:
        document["rollbacks"] = [{"type": "action", "name": "back", "provider": {"type": "process", "path": "true"}}]
    return experiment.parse(path, yaml.safe_dump(document))


def checked(world: World, tested: Experiment, unleash: bool = True) -> Check:
    """What preflight finds; it changes nothing."""
    api, cluster, journal = world
    api.seen.clear()
    found = preflight.check(tested, cluster, journal, unleash=unleash)
    assert {method for method, path in api.seen if not path.endswith("selfsubjectaccessreviews")} <= {"GET"}
    return found


def told(found: Check) -> list[tuple[str, str]]:
    """Rule and summary of each refusal."""
    assert all(f.outcome is Outcome.INCONCLUSIVE for f in found.refusals)
    return [(f.rule, f.summary) for f in found.refusals]


def test_exact_targets_and_nothing_against_it(world: World) -> None:
    found = checked(world, load())
    assert told(found) == []
    (fault,) = found.plan.faults
    assert (fault.id, fault.action, fault.aim.count, fault.aim.pods, fault.undo) == ("f1", "pod-kill", 1, 1, "heals")
    assert [(t.name, t.node, t.service) for t in fault.aim.targets] == [
        ("payments-a", "body", "payments"), ("payments-b", "body2", "payments")]  # fmt: skip
    text = found.describe()
    assert "may fire" in text
    assert "1 of 2 target(s)" in text
    assert "Pod shop/payments-b on body2" in text
    assert found.document()["faults"][0]["targets"][0]["uid"]


def test_a_fixed_choice_names_exactly_the_pods_that_the_action_will_take(world: World) -> None:
    (fault,) = checked(world, load(rand=None)).plan.faults
    assert [t.name for t in fault.aim.targets] == ["payments-a"]


@pytest.mark.parametrize(
    ("tested", "rule", "said"),
    [
        (load(label_selector="app=nobody"), "targets", "matches nothing"),
        (load(qty=0), "targets", "hits? none|would hit none|matches nothing"),
        (load(qty=2), "preflight", "2 pods would be hit, at most 1"),
        (load(qty=100, mode="percentage"), "preflight", "2 pods would be hit, at most 1"),
        (load(all=True), "preflight", "2 pods would be hit, at most 1"),
        (load().with_rate(0), "load", "rate_per_s is 0"),
        (load("body2-drain", name="body9"), "targets", "matches nothing"),
        (load("body2-drain", ns="elsewhere"), "targets", "matches nothing"),
        (action("chaosk8s.deployment.actions.scale_deployment", ns="shop", name="payments", replicas=0), "preflight", "2 pods"),
        (action("chaosk8s.node.actions.cordon_node", name="body"), "preflight", "1 nodes would be hit, at most 0"),
        (action("chaosk8s.node.actions.delete_nodes", label_selector="a=b"), "undo", "cannot undo"),
        (action("chaosk8s.deployment.actions.delete_deployment", ns="shop"), "targets", "matches nothing"),
        (action("chaosk8s.deployment.actions.scale_deployment", ns="shop", name="payments", replicas="few"), "targets", "cannot tell"),
        (action("time.sleep", rollbacks=True), "targets", "names no target"),
    ],
)  # fmt: skip
def test_every_refusal_says_why(world: World, tested: Experiment, rule: str, said: str) -> None:

    found = checked(world, tested) if tested.actions[0].module != "time" else _unvalidated(world, tested)
    assert not found.may_fire
    assert any(r == rule and re.search(said, s) for r, s in told(found)), told(found)
    assert all(f.hint for f in found.refusals)
    assert "will not fire" in found.describe()


def test_a_crowd_for_which_there_are_pods_enough_would_show_nothing(world: World) -> None:
    api = world[0]
    resource = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    api.put("/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/storefront",
            spec={"scaleTargetRef": {"kind": "Deployment", "name": "storefront"},
                  "metrics": [{"type": "Resource", "resource": resource}]})  # fmt: skip
    for pods, said in (
        (5, []),
        (6, ["send-a-crowd-to-storefront: storefront has 6 pods already, and the crowd needs 6"]),
    ):
        api.put("/apis/apps/v1/namespaces/shop/deployments/storefront", spec={"replicas": 2}, status={"replicas": pods})
        found = checked(world, load("autoscale"))
        assert [summary for rule, summary in told(found) if rule == "targets"] == said


def _unvalidated(world: World, tested: Experiment) -> Check:
    return checked(world, dataclasses.replace(tested, document=load().document))


def test_the_leash_holds_unless_it_is_let_go(world: World) -> None:
    assert told(checked(world, load(), unleash=False))[0][1].startswith("leashed: small is not a pocketkube cluster")
    identity = world[1].identity
    own = dataclasses.replace(identity, kind="pocket", own=True)
    assert isinstance(preflight.hand(own, False), Free)
    assert isinstance(preflight.hand(dataclasses.replace(own, own=False), False), Leashed)
    assert isinstance(preflight.hand(dataclasses.replace(identity, own=True), False), Leashed)
    assert isinstance(preflight.hand(identity, True), Free)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda api: api.put("/api/v1/namespaces/shop", metadata={"labels": {}}), "does not carry the label"),
        (lambda api: api.objects.pop("/api/v1/namespaces/shop"), "there is no namespace shop"),
        (lambda api: api.denied.add(("delete", "pods")), "may not delete pods in shop"),
        (lambda api: api.denied.add(("create", "leases")), "may not create leases"),
        (lambda api: setattr(api, "refuse", lambda m, p: (403, "Forbidden", "x") if p.endswith("/pods") else None), "cannot tell whom"),
        (lambda api: setattr(api, "refuse", lambda m, p: (500, "Boom", "x") if "review" in p else None), "cannot tell whether these"),
    ],
)  # fmt: skip
def test_what_the_cluster_says_no_to(world: World, change: Callable[[SmallApi], object], said: str) -> None:
    change(world[0])
    assert any(said in summary for _, summary in told(checked(world, load()))), told(checked(world, load()))


def test_the_verbs_of_undoing_are_needed_before_the_fault(world: World) -> None:
    assert told(checked(world, load("payments-latency"))) == []
    world[0].denied.add(("delete", "networkchaos"))
    assert "may not delete networkchaos.chaos-mesh.org in shop" in told(checked(world, load("payments-latency")))[0][1]


def test_a_network_fault_needs_chaos_mesh_and_both_ends(world: World) -> None:
    (fault,) = checked(world, load("payments-latency")).plan.faults
    assert fault.aim.asked["services"] == ["payments"]
    assert fault.aim.asked["far_services"] == ["orders"]
    assert fault.aim.asked["latency_ms"] == 300
    assert told(checked(world, load("payments-latency", target_selector="app=nobody")))[0][0] == "targets"
    world[0].groups.discard("chaos-mesh.org/v1alpha1")
    assert "fault not available on this cluster" in told(checked(world, load("payments-latency")))[0][1]


def test_a_drain_counts_its_pods_and_stays_in_its_namespaces(world: World) -> None:
    api = world[0]
    api.put("/api/v1/namespaces/kube-system/pods/dns", spec={"nodeName": "body2"})
    api.put("/api/v1/namespaces/kube-system/pods/cni", spec={"nodeName": "body2"},
            metadata={"ownerReferences": [{"kind": "DaemonSet", "controller": True}]})  # fmt: skip
    (fault,) = checked(world, load("body2-drain")).plan.faults
    assert (fault.aim.pods, fault.aim.nodes, fault.undo) == (3, 1, "journal")
    assert [i.what for i in fault.inverses] == ["uncordon node body2"]
    assert "namespaces kube-system would be hit" in told(checked(world, load("body2-drain", ns=None)))[0][1]


def test_a_node_that_was_cordoned_before_stays_cordoned(world: World) -> None:
    world[0].put("/api/v1/nodes/body2", spec={"unschedulable": True})
    (fault,) = checked(world, load("body2-drain")).plan.faults
    assert [i.kind for i in fault.inverses] == ["none"]


def test_an_unknown_action_with_rollbacks_may_fire_at_what_it_names(world: World) -> None:
    found = checked(world, action("chaosk8s.pod.actions.exec_in_pods", rollbacks=True, ns="shop", label_selector="app=payments",
                                  qty=1, cmd="true", container_name="c"))  # fmt: skip
    assert told(found) == []
    assert found.plan.faults[0].undo == "rollbacks"
    assert any("only the file's own rollbacks" in note for note in found.plan.notes)


def test_leftovers_of_an_earlier_run_are_undone_first(world: World) -> None:
    _, cluster, journal = world
    journal.record("old", "another cluster", "pod-kill", undo.removal("/x", ""))
    assert told(checked(world, load())) == []
    journal.record("old", cluster.identity.fingerprint, "network-delay", undo.removal("/x", ""))
    (refusal,) = checked(world, load()).refusals
    assert (refusal.rule, refusal.hint) == ("undo", "aftershock undo")
    assert "network-delay of old" in refusal.summary


def test_a_run_takes_the_lease_and_a_second_one_is_refused(world: World) -> None:
    api, cluster, journal = world
    plan = preflight.preflight(load(), cluster, journal, unleash=True, run_id="run-1")
    with pytest.raises(RunRefused, match="another run works in namespace shop: run-1 on ") as refused:
        preflight.preflight(load(), cluster, journal, unleash=True, run_id="run-2")
    assert refused.value.findings[0].rule == "preflight"
    assert any("another run" in summary for _, summary in told(checked(world, load())))
    preflight.release(plan, cluster, "run-1")
    assert lease.holder(cluster, "shop") is None
    assert LEASE not in api.objects


def test_who_may_not_see_the_lease_is_told_so(world: World) -> None:
    api, _, _ = world
    api.refuse = lambda method, path: (403, "Forbidden", "leases is forbidden") if path == LEASE else None
    assert any("cannot tell whether another run works" in summary for _, summary in told(checked(world, load())))


def test_a_refused_run_lets_the_lease_go(world: World) -> None:
    api, cluster, journal = world
    with pytest.raises(RunRefused, match="matches nothing"):
        preflight.preflight(load(label_selector="app=no"), cluster, journal, unleash=True, run_id="run-1")
    assert LEASE not in api.objects


def test_a_plan_follows_the_cluster(world: World) -> None:
    api, cluster, journal = world
    plan = preflight.preflight(load(), cluster, journal, unleash=True, run_id="run-1")
    del api.objects["/api/v1/namespaces/shop/pods/payments-a"]
    assert [t.name for t in preflight.replan(plan, cluster, "run-1").faults[0].aim.targets] == ["payments-b"]
    del api.objects["/api/v1/namespaces/shop/pods/payments-b"]
    with pytest.raises(RunRefused, match="matches nothing"):
        preflight.replan(plan, cluster, "run-1")


def test_the_targets_of_a_weak_twin_count_when_its_weakness_is_on(world: World) -> None:
    api, cluster, journal = world
    tested = load(label_selector="app=moved")
    plan = preflight.preflight(tested, cluster, journal, unleash=True, run_id="run-1", targets_later=True)
    with pytest.raises(RunRefused, match="matches nothing"):
        preflight.replan(plan, cluster, "run-1")
    api.put("/api/v1/namespaces/shop/pods/moved", metadata={"labels": {"app": "moved"}}, spec={"nodeName": "body2"})
    assert [t.name for t in preflight.replan(plan, cluster, "run-1").faults[0].aim.targets] == ["moved"]
    with pytest.raises(RunRefused, match="leashed"):
        preflight.preflight(tested, cluster, journal, unleash=False, targets_later=True)


def test_a_shop_without_endpoints_is_noted(world: World) -> None:
    del world[0].objects["/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/storefront-x"]
    assert any("no ready endpoint" in note for note in checked(world, load()).plan.notes)


def test_a_node_that_could_not_be_powered_on_again_is_not_powered_off(world: World, tmp_path: Path) -> None:
    api, cluster, _ = world
    tested = load("node-loss")
    found = [f.summary for f in checked(world, tested).refusals]
    assert any("node-power-off: fault not available on this cluster: nobody knows how" in text for text in found), found
    program = tmp_path / "power"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    cluster.settings = dataclasses.replace(cluster.settings, node_power=str(program))
    plan = checked(world, tested)
    assert not [f for f in plan.refusals if "not available" in f.summary]
    assert plan.plan.faults[0].undo == "journal"
    assert [i.what for i in plan.plan.faults[0].inverses] == ["power on node body2"]
    api.put("/api/v1/namespaces/elsewhere/pods/other", spec={"nodeName": "body2"})
    assert any("namespaces elsewhere would be hit" in f.summary for f in checked(world, tested).refusals)
