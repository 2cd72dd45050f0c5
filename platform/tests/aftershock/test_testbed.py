"""Which pod moves so that a node that was emptied has some again."""

from __future__ import annotations

from pathlib import Path

import pytest

from aftershock import testbed
from aftershock.errors import ClusterError
from aftershock.progress import silent
from tests.aftershock.small_api import SmallApi, serving

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
    assert testbed._misplaced(pods, onto, ROLES) == moved


PODS, DEPLOYMENT = "/api/v1/namespaces/shop/pods", "/apis/apps/v1/namespaces/shop/deployments/cart"


def crowded(api: SmallApi) -> None:
    """Both pods of a Deployment on one node, and a controller that makes a new one on the other."""
    status = {"observedGeneration": 1, "readyReplicas": 2, "updatedReplicas": 2}
    for node in ("body", "body2"):
        api.put(f"/api/v1/nodes/{node}", metadata={"labels": {testbed.ROLE: "body"}})
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
        testbed.spread(cluster, "shop", silent, ["body2"])
        assert {path: api.objects[path]["spec"]["nodeName"] for path in sorted(api.objects) if path.startswith(PODS)} == {
            f"{PODS}/cart-b": "body", f"{PODS}/cart-c": "body2"}  # fmt: skip
    with serving(tmp_path) as (api, cluster, _):
        crowded(api)
        monkeypatch.setattr(testbed, "READY_S", 0.5)
        api.refuse = lambda method, path: (429, "TooManyRequests", "budget") if path.endswith("/eviction") else None
        with pytest.raises(ClusterError, match="429"):
            testbed.spread(cluster, "shop", silent, ["body2"])
