"""What an experiment leaves to the next one: pods that a drain moved together, and more of them where an autoscaler answered a crowd.

No run takes these back: nothing of it is left, and moving pods once more would be a fault of its own. But an experiment that begins there
tests another shop than its file means.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aftershock import eviction, faults, targets
from aftershock.cluster import Cluster
from aftershock.errors import ClusterError, DeadlineExceeded, NotFound
from aftershock.observe.summary import finished
from aftershock.preflight import Plan
from aftershock.progress import Teller
from aftershock.testbed import Progress, wait_ready

READY_S = 90.0
TAKEN_BACK_S = 420.0  # Kubernetes looks back 300 s before it takes pods back, unless it is told otherwise
POLL_S = 0.5
ROLE = "aftershock.dev/role"  # a label of nodes; pods prefer those of their own
SPREADS_MAX = 3


class Between:
    """Before each experiment of a series: waits for autoscalers to be where they were, and spreads pods over a node to be emptied."""

    def __init__(self) -> None:
        # Namespace and name of an autoscaled Deployment: the replicas that it wanted when the series first came by.
        self._sizes: dict[tuple[str, str], int] = {}

    def prepare(self, cluster: Cluster, plan: Plan, tell: Teller) -> None:
        """Make ready for what preflight let pass; what cannot be done is told, and the run finds out by itself.

        Pods are moved only for an experiment that empties a node, and within their budgets.
        """
        onto = emptied(plan)
        try:
            for namespace in plan.namespaces:
                self._taken_back(cluster, namespace, tell)
                if onto:
                    spread(cluster, namespace, tell, onto)
        except (ClusterError, DeadlineExceeded) as error:
            tell.say(f"warning: {error}")

    def _taken_back(self, cluster: Cluster, namespace: str, tell: Teller) -> None:
        """Wait until no autoscaled Deployment has more pods than it wanted when this series first saw it. Raises DeadlineExceeded."""
        ends = time.monotonic() + TAKEN_BACK_S
        while True:
            sizes = autoscaled(cluster, namespace)
            for name, size in sizes.items():
                self._sizes.setdefault((namespace, name), size.wanted)
            more = [f"{name} {most} of {before}" for name, size in sizes.items()
                    if (most := max(size.wanted, size.there)) > (before := self._sizes[namespace, name])]  # fmt: skip
            if not more:
                return
            text = f"autoscalers take pods back: {', '.join(more)}"
            if time.monotonic() > ends:
                raise DeadlineExceeded(f"not within {TAKEN_BACK_S:g} s: {text}")
            tell(text, None)
            time.sleep(POLL_S)


def emptied(plan: Plan) -> list[str]:
    """Nodes that a plan leaves without pods, those without one now included; none if that must be refused."""
    if plan.experiment.expect != "fault":
        return []
    emptying = [f.activity for f in plan.faults if (kind := faults.kind_of(f.activity)) and kind.empties]
    return [str(activity.arguments["name"]) for activity in emptying if activity.arguments.get("name")]


@dataclass(frozen=True)
class Size:
    """Of a Deployment: the replicas that it wants, and the pods that are there, those that are leaving included."""

    wanted: int
    there: int


def autoscaled(cluster: Cluster, namespace: str) -> dict[str, Size]:
    """Each Deployment that has an autoscaler, by name; none where there are no autoscalers. Raises ClusterError."""
    if cluster.served("autoscaling/v2", "HorizontalPodAutoscaler") is None:
        return {}
    scalers = cluster.list(f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers")
    scaled = [s["spec"]["scaleTargetRef"] for s in scalers]
    names = {str(target["name"]) for target in scaled if target.get("kind") == "Deployment"}
    sizes = {}
    for deployment in cluster.list(f"/apis/apps/v1/namespaces/{namespace}/deployments"):
        if (name := deployment["metadata"]["name"]) in names:
            there = sum(not finished(p) for p in targets.of_workload(cluster, deployment))
            sizes[name] = Size(int(deployment["spec"].get("replicas", 1)), there)
    return sizes


def spread(cluster: Cluster, namespace: str, progress: Progress, onto: Collection[str] = ()) -> None:
    """Move a pod of each Deployment that has all its pods on one node, or none on one of `onto`: nothing moves back by itself.

    Each is evicted within its budget and waited for; where its replacement goes is the scheduler's business.
    """
    roles = {
        n["metadata"]["name"]: (n["metadata"].get("labels") or {}).get(ROLE) for n in cluster.list("/api/v1/nodes")
    }
    for workload in cluster.list(f"/apis/apps/v1/namespaces/{namespace}/deployments"):
        for _ in range(SPREADS_MAX):
            pods = {p["metadata"]["name"]: p for p in targets.of_workload(cluster, workload)}
            moved = _misplaced(list(pods.values()), onto, roles)
            if moved is None:
                break
            _evict(cluster, pods[moved])
            _wait_gone(cluster, f"/api/v1/namespaces/{namespace}/pods/{moved}")
            wait_ready(cluster, [{"apiVersion": "apps/v1", "kind": "Deployment", **workload}], READY_S, progress)


def _misplaced(pods: Sequence[dict[str, Any]], onto: Collection[str], roles: Mapping[str, str | None]) -> str | None:
    """Name of the pod that should go: one on a node of another role than it is wanted on, else one of the fullest node."""
    nodes = Counter(str(p["spec"].get("nodeName")) for p in pods)
    if len(pods) < 2 or (len(nodes) > 1 and set(onto) <= set(nodes)):
        return None
    wanted = {roles.get(node) for node in onto} or {roles.get(node) for node in nodes}
    first = max(nodes, key=lambda node: (roles.get(node) not in wanted, nodes[node]))
    return next(str(p["metadata"]["name"]) for p in pods if str(p["spec"].get("nodeName")) == first)


def _evict(cluster: Cluster, pod: dict[str, Any]) -> None:
    """Evict a pod as soon as its budget lets it go: what came before may have left others of it unready."""
    ends = time.monotonic() + READY_S
    while (why := eviction.evict(cluster, pod)) is not None:
        if time.monotonic() > ends:
            raise ClusterError(f"{pod['metadata']['name']} not evicted within {READY_S:g} s: 429 {why}", status=429)
        time.sleep(0.1)


def _wait_gone(cluster: Cluster, path: str) -> None:
    ends = time.monotonic() + READY_S
    while time.monotonic() < ends:
        try:
            cluster.request("GET", path)
        except NotFound:
            return
        time.sleep(0.1)
    raise DeadlineExceeded(f"{path} did not end within {READY_S:g} s")
