"""What one experiment leaves to the next: who waits until it is gone, and which pod moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aftershock import between, experiment, preflight
from aftershock.between import Between
from aftershock.cluster import Cluster
from aftershock.errors import ClusterError
from aftershock.progress import silent
from tests.aftershock.small_api import SmallApi, serving

PROJECT = Path(__file__).parents[3]

ROLES = {"body": "body", "body2": "body", "memory": "memory", "brain": None}


@pytest.mark.parametrize(
    ("nodes", "onto", "moved"),
    [
        (["body", "body2"], [], None),
        (["body", "body2"], ["body2"], None),
        (["body", "body"], [], "pod-0"),
        (["body"], ["body2"], None),  # the only one stays
        ([], ["body2"], None),
        (["body", "memory"], [], None),
        (["body", "memory"], ["body2"], "pod-1"),  # it is away from its kind
        (["body", "body", "memory"], ["body2"], "pod-2"),
        (["body", "body", "brain", "brain", "brain"], ["body2"], "pod-2"),
        (["body2", "body", "body"], ["body2"], None),
        (["body", "body", "memory"], ["memory"], None),
    ],
)
def test_the_pod_that_moves(nodes: list[str], onto: list[str], moved: str | None) -> None:
    pods = [{"metadata": {"name": f"pod-{n}"}, "spec": {"nodeName": node}} for n, node in enumerate(nodes)]
    assert between._misplaced(pods, onto, ROLES) == moved


PODS, DEPLOYMENT = "/api/v1/namespaces/shop/pods", "/apis/apps/v1/namespaces/shop/deployments/cart"


def crowded(api: SmallApi) -> None:
    """Both pods of a Deployment on one node, and a controller that makes a new one on the other."""
    status = {"observedGeneration": 1, "readyReplicas": 2, "updatedReplicas": 2}
    for node in ("body", "body2"):
        api.put(f"/api/v1/nodes/{node}", metadata={"labels": {between.ROLE: "body"}})
    api.put(DEPLOYMENT, spec={"replicas": 2, "selector": {"matchLabels": {"app": "cart"}}}, status=status)
    for name in ("cart-a", "cart-b"):
        api.put(f"{PODS}/{name}", metadata={"labels": {"app": "cart"}}, spec={"nodeName": "body"})
    api.evicted = lambda pod: api.put(
        f"{PODS}/cart-c", metadata={"labels": {"app": "cart"}}, spec={"nodeName": "body2"}
    )  # type: ignore[assignment,return-value]


def test_a_budget_that_says_no_for_a_while_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path) as (api, cluster, _):
        crowded(api)
        left = iter(range(4))
        api.refuse = lambda method, path: (
            (429, "TooManyRequests", "budget") if path.endswith("/eviction") and next(left, None) is not None else None
        )
        between.spread(cluster, "shop", silent, ["body2"])
        assert {path: api.objects[path]["spec"]["nodeName"] for path in sorted(api.objects) if path.startswith(PODS)} == {
            f"{PODS}/cart-b": "body", f"{PODS}/cart-c": "body2"}  # fmt: skip
    with serving(tmp_path) as (api, cluster, _):
        crowded(api)
        monkeypatch.setattr(between, "READY_S", 0.5)
        api.refuse = lambda method, path: (429, "TooManyRequests", "budget") if path.endswith("/eviction") else None
        with pytest.raises(ClusterError, match="429"):
            between.spread(cluster, "shop", silent, ["body2"])


@dataclass
class Heard:
    """Whom it told what; what is told while it works may change the cluster."""

    said: list[str] = field(default_factory=list)
    works: list[str] = field(default_factory=list)
    then: object = None

    def __call__(self, text: str, done: float | None = None) -> None:
        self.works.append(text)
        if callable(self.then):
            self.then()

    def say(self, text: str) -> None:
        self.said.append(text)


def grown(api: SmallApi, replicas: int, there: int) -> None:
    """Storefront has an autoscaler, wants so many replicas and has these pods; cart has none and grows as it likes."""
    api.groups.add("autoscaling/v2")
    target = {"kind": "Deployment", "name": "storefront"}
    api.put("/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/storefront", spec={"scaleTargetRef": target})
    for name in ("storefront", "cart"):
        selector = {"matchLabels": {"app": name}}
        api.put(f"/apis/apps/v1/namespaces/shop/deployments/{name}", spec={"replicas": replicas, "selector": selector})
    for path in [path for path in api.objects if path.startswith(f"{PODS}/storefront-")]:
        del api.objects[path]
    api.put(f"{PODS}/storefront-evicted", metadata={"labels": {"app": "storefront"}}, status={"phase": "Failed"})
    for n in range(there):
        api.put(f"{PODS}/storefront-{n}", metadata={"labels": {"app": "storefront"}}, spec={"nodeName": "body"})


CONTROL = experiment.load(PROJECT / "experiments/control.yaml")
DRAIN = experiment.load(PROJECT / "experiments/body2-drain.yaml")
REFUSED = experiment.load(PROJECT / "experiments/drain-refused.yaml")


def plan(tested: experiment.Experiment, cluster: Cluster) -> preflight.Plan:
    """What preflight makes of an experiment, whatever speaks against it."""
    return preflight.Plan(tested, cluster.identity, tuple(preflight._faults(tested, cluster, "r1")[0]))


def test_the_next_experiment_waits_until_autoscalers_are_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(between, "POLL_S", 0.01)
    with serving(tmp_path) as (api, cluster, _):
        heard = Heard()
        series = Between()
        grown(api, 2, 2)
        series.prepare(cluster, plan(CONTROL, cluster), heard)
        assert (heard.works, heard.said) == ([], [])
        grown(api, 6, 6)
        steps = iter([(2, 6), (2, 3), (2, 2)])  # pods that are leaving are there until they are gone
        heard.then = lambda: grown(api, *next(steps))
        series.prepare(cluster, plan(CONTROL, cluster), heard)
        more = [f"autoscalers take pods back: storefront {n} of 2" for n in (6, 6, 3)]
        assert (heard.works, heard.said) == (more, [])


def test_an_autoscaler_that_keeps_its_pods_is_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(between, "POLL_S", 0.01)
    monkeypatch.setattr(between, "TAKEN_BACK_S", 0.1)
    with serving(tmp_path) as (api, cluster, _):
        heard = Heard()
        series = Between()
        for replicas in (2, 6):
            grown(api, replicas, replicas)
            series.prepare(cluster, plan(CONTROL, cluster), heard)
        assert heard.said == ["warning: not within 0.1 s: autoscalers take pods back: storefront 6 of 2"]


@pytest.mark.parametrize(("tested", "moves"), [(DRAIN, True), (CONTROL, False), (REFUSED, False)])
def test_pods_move_only_for_a_node_that_will_be_emptied(
    tmp_path: Path, tested: experiment.Experiment, moves: bool
) -> None:
    with serving(tmp_path) as (api, cluster, _):
        crowded(api)
        heard = Heard()
        Between().prepare(cluster, plan(tested, cluster), heard)
        assert (f"{PODS}/cart-c" in api.objects) is moves
        assert any(method == "POST" and path.endswith("/eviction") for method, path in api.seen) is moves
        assert heard.said == []
