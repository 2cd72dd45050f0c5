"""Where a pod may run and where it best runs: filters and scores of the scheduler, pure.

Source: kubernetes pkg/scheduler/framework/plugins; one function per plugin, the weights of the default profile.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pocketkube import selectors
from pocketkube.controllers.quantity import milli
from pocketkube.storage import Object

UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
HOSTNAME = "kubernetes.io/hostname"
DEFAULT_REQUEST = {
    "cpu": 100,
    "memory": 200 * 1024 * 1024 * 1000,
}  # what a container without requests counts as when scored


@dataclass(frozen=True)
class Node:
    """A node and the pods on it."""

    object: Object
    pods: tuple[Object, ...]
    foreign: frozenset[tuple[str, str]] = frozenset()  # claims (namespace, name) whose data is on another node

    @property
    def name(self) -> str:
        """metadata.name."""
        return str(self.object["metadata"]["name"])

    @property
    def labels(self) -> Mapping[str, str]:
        """metadata.labels."""
        return self.object["metadata"].get("labels") or {}

    @property
    def taints(self) -> list[dict[str, Any]]:
        """spec.taints."""
        return (self.object.get("spec") or {}).get("taints") or []

    def allocatable(self) -> dict[str, int]:
        """Resources in thousandths."""
        status = self.object.get("status") or {}
        return {
            name: milli(value) for name, value in (status.get("allocatable") or status.get("capacity") or {}).items()
        }


def requests(pod: Object, default: Mapping[str, int] | None = None) -> Counter[str]:
    """What a pod asks for, in thousandths: its containers together, or its largest init container."""
    spec = pod["spec"]
    total: Counter[str] = Counter()
    for container in spec.get("containers", []):
        total.update(_request(container, default or {}))
    largest: Counter[str] = Counter()
    sidecars: Counter[str] = Counter()
    for container in spec.get("initContainers") or []:
        asked = Counter(_request(container, default or {}))
        if container.get("restartPolicy") == "Always":
            sidecars.update(asked)
            largest |= sidecars
        else:
            largest |= sidecars + asked
    result = (total + sidecars) | largest
    result.update({k: milli(v) for k, v in (spec.get("overhead") or {}).items()})
    return result


def _request(container: Object, default: Mapping[str, int]) -> dict[str, int]:
    resources = container.get("resources") or {}
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {**default, **{k: milli(v) for k, v in asked.items()}}


def tolerates(tolerations: Iterable[Mapping[str, Any]], taint: Mapping[str, Any]) -> bool:
    """True if one of the tolerations covers the taint."""
    for t in tolerations:
        if t.get("effect") and t["effect"] != taint["effect"]:
            continue
        if t.get("key") and t["key"] != taint["key"]:
            continue
        if t.get("operator") == "Exists" or (t.get("key") and (t.get("value") or "") == (taint.get("value") or "")):
            return True
    return False


Reasons = list[str]

# Filters: each answers why the node is no place for the pod; nothing if it is one.


def cordoned(pod: Object, node: Node, others: list[Node]) -> Reasons:
    """NodeUnschedulable."""
    taint = {"key": UNSCHEDULABLE, "effect": "NoSchedule"}
    if (node.object.get("spec") or {}).get("unschedulable") and not tolerates(
        pod["spec"].get("tolerations") or [], taint
    ):
        return ["node(s) were unschedulable"]
    return []


def tainted(pod: Object, node: Node, others: list[Node]) -> Reasons:
    """TaintToleration."""
    for taint in node.taints:
        if taint["effect"] in ("NoSchedule", "NoExecute") and not tolerates(
            pod["spec"].get("tolerations") or [], taint
        ):
            return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value') or ''}}}"]
    return []


def unaffine(pod: Object, node: Node, others: list[Node]) -> Reasons:
    """NodeAffinity: nodeSelector and required node affinity."""
    return [] if _required_node(pod, node) else ["node(s) didn't match Pod's node affinity/selector"]


def _required_node(pod: Object, node: Node) -> bool:
    selector = pod["spec"].get("nodeSelector") or {}
    if not selector.items() <= node.labels.items():
        return False
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return required is None or any(_term(t, node) for t in required.get("nodeSelectorTerms") or [])


def _term(term: Mapping[str, Any], node: Node) -> bool:
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    return all(_node_expression(e, node.labels) for e in expressions) and all(
        _node_expression(e, {"metadata.name": node.name}) for e in fields
    )


def _node_expression(wanted: Mapping[str, Any], has: Mapping[str, str]) -> bool:
    if wanted["operator"] in ("Gt", "Lt"):
        try:
            value, bound = int(has[wanted["key"]]), int(wanted["values"][0])
        except (KeyError, ValueError, IndexError):
            return False
        return value > bound if wanted["operator"] == "Gt" else value < bound
    return selectors.expression(wanted, has)


def crowded(pod: Object, node: Node, others: list[Node]) -> Reasons:
    """NodePorts."""
    wanted = _host_ports(pod)
    if wanted and any(wanted & _host_ports(p) for p in node.pods):
        return ["node(s) didn't have free ports for the requested pod ports"]
    return []


def _host_ports(pod: Object) -> set[tuple[str, int]]:
    return {
        (port.get("protocol") or "TCP", port["hostPort"])
        for c in pod["spec"].get("containers", []) for port in c.get("ports") or [] if port.get("hostPort")
    }  # fmt: skip


def full(pod: Object, node: Node, others: list[Node]) -> Reasons:
    """NodeResourcesFit: all that lacks."""
    allocatable = node.allocatable()
    if len(node.pods) + 1 > allocatable.get("pods", 110_000) // 1000:
        return ["Too many pods"]
    used: Counter[str] = Counter()
    for p in node.pods:
        used.update(requests(p))
    return [
        f"Insufficient {name}" for name, asked in sorted(requests(pod).items())
        if asked > 0 and used[name] + asked > allocatable.get(name, 0)
    ]  # fmt: skip


def volumes_elsewhere(pod: Object, node: Node, others: list[Node]) -> Reasons:
    """VolumeBinding: data stays on the node that used it first, as with volumes of a node's own disk."""
    names = {(pod["metadata"].get("namespace") or "", name) for name in claims_of(pod)}
    return ["node(s) didn't match PersistentVolume's node affinity"] if names & node.foreign else []


def claims_of(pod: Object) -> list[str]:
    """Names of the claims that a pod uses."""
    sources = [v.get("persistentVolumeClaim") for v in pod["spec"].get("volumes") or []]
    return [source["claimName"] for source in sources if source]


def skewed(pod: Object, node: Node, others: list[Node]) -> Reasons:
    """PodTopologySpread with whenUnsatisfiable: DoNotSchedule."""
    for constraint in pod["spec"].get("topologySpreadConstraints") or []:
        if constraint.get("whenUnsatisfiable") == "ScheduleAnyway":
            continue
        key = constraint["topologyKey"]
        if key not in node.labels:
            return ["node(s) didn't match pod topology spread constraints (missing required label)"]
        counts = spread(pod, constraint, others)
        least = min(counts.values(), default=0)
        if len(counts) < (constraint.get("minDomains") or 1):
            least = 0
        itself = int(selectors.of(constraint.get("labelSelector"))(pod))
        if counts.get(node.labels[key], 0) + itself - least > constraint["maxSkew"]:
            return ["node(s) didn't match pod topology spread constraints"]
    return []


def spread(pod: Object, constraint: Mapping[str, Any], nodes: list[Node]) -> dict[str, int]:
    """Matching pods in each domain of a constraint, over the nodes that the pod could use by affinity (and taints, if asked)."""
    key, counts = constraint["topologyKey"], dict[str, int]()
    selector = dict(constraint.get("labelSelector") or {})
    labels = pod["metadata"].get("labels") or {}
    if same := {k: labels[k] for k in constraint.get("matchLabelKeys") or [] if k in labels}:
        selector["matchLabels"] = {**(selector.get("matchLabels") or {}), **same}
    matches = selectors.of(selector or constraint.get("labelSelector"))
    for node in nodes:
        if key not in node.labels:
            continue
        if constraint.get("nodeAffinityPolicy") != "Ignore" and not _required_node(pod, node):
            continue
        if constraint.get("nodeTaintsPolicy") == "Honor" and tainted(pod, node, nodes):
            continue
        found = sum(_counts(p, pod) and matches(p) for p in node.pods)
        counts[node.labels[key]] = counts.get(node.labels[key], 0) + found
    return counts


def _counts(other: Object, pod: Object) -> bool:
    return (
        other["metadata"].get("namespace") == pod["metadata"].get("namespace") and "deletionTimestamp" not in other["metadata"]
    )  # fmt: skip


def disliked(pod: Object, node: Node, others: list[Node]) -> Reasons:
    """InterPodAffinity: required affinity and anti-affinity, and the anti-affinity of pods that are there already."""
    for term in _pod_terms(pod, "podAffinity"):
        if term["topologyKey"] not in node.labels:
            return ["node(s) didn't match pod affinity rules"]
        if not _near(term, pod, node, others):
            nowhere = not any(_selected(term, pod, p) for o in others for p in o.pods)
            if not (nowhere and _selected(term, pod, pod)):
                return ["node(s) didn't match pod affinity rules"]
    if any(_near(term, pod, node, others) for term in _pod_terms(pod, "podAntiAffinity")):
        return ["node(s) didn't match pod anti-affinity rules"]
    for other in others:
        for p in other.pods:
            for term in _pod_terms(p, "podAntiAffinity"):
                key = term["topologyKey"]
                same = key in node.labels and node.labels[key] == other.labels.get(key)
                if same and _selected(term, p, pod):
                    return ["node(s) didn't satisfy existing pods anti-affinity rules"]
    return []


def _pod_terms(pod: Object, kind: str) -> list[dict[str, Any]]:
    affinity = (pod["spec"].get("affinity") or {}).get(kind) or {}
    return affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or []


def _selected(term: Mapping[str, Any], owner: Object, pod: Object) -> bool:
    """True if a (anti-)affinity term of `owner` speaks of `pod`."""
    namespaces = term.get("namespaces") or (
        [] if term.get("namespaceSelector") == {} else [owner["metadata"].get("namespace")]
    )
    in_namespace = not namespaces or pod["metadata"].get("namespace") in namespaces
    return in_namespace and selectors.of(term.get("labelSelector"))(pod)


def _near(term: Mapping[str, Any], pod: Object, node: Node, others: list[Node]) -> bool:
    key = term["topologyKey"]
    return key in node.labels and any(
        _selected(term, pod, p) for o in others if o.labels.get(key) == node.labels[key] for p in o.pods
    )


Filter = Callable[[Object, Node, list[Node]], Reasons]
FILTERS: tuple[Filter, ...] = (cordoned, tainted, unaffine, crowded, full, volumes_elsewhere, skewed, disliked)


# Scores: higher is better; each gives a mapping of node name to 0..100.


def _normal(raw: Mapping[str, float], *, reverse: bool = False) -> dict[str, float]:
    most = max(raw.values(), default=0)
    if most == 0:
        return dict.fromkeys(raw, 100.0 if reverse else 0.0)
    return {n: 100 - 100 * v / most if reverse else 100 * v / most for n, v in raw.items()}


def least_tainted(pod: Object, fitting: list[Node], nodes: list[Node]) -> dict[str, float]:
    """TaintToleration: fewer PreferNoSchedule taints."""
    tolerations = [t for t in pod["spec"].get("tolerations") or [] if t.get("effect") in (None, "", "PreferNoSchedule")]
    return _normal({
        n.name: sum(t["effect"] == "PreferNoSchedule" and not tolerates(tolerations, t) for t in n.taints) for n in fitting
    }, reverse=True)  # fmt: skip


def preferred(pod: Object, fitting: list[Node], nodes: list[Node]) -> dict[str, float]:
    """NodeAffinity: weights of the preferred terms that match."""
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    terms = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []
    return _normal({n.name: sum(t["weight"] for t in terms if _term(t["preference"], n)) for n in fitting})


def evenly(pod: Object, fitting: list[Node], nodes: list[Node]) -> dict[str, float]:
    """PodTopologySpread with ScheduleAnyway; a pod without constraints is spread over nodes by its own labels."""
    given = pod["spec"].get("topologySpreadConstraints") or []
    constraints = [c for c in given if c.get("whenUnsatisfiable") == "ScheduleAnyway"]
    if not given and (labels := pod["metadata"].get("labels")):
        constraints = [{"topologyKey": HOSTNAME, "maxSkew": 3, "labelSelector": {"matchLabels": labels}}]
    raw: dict[str, float] = {}
    ignored = {n.name for n in fitting if any(c["topologyKey"] not in n.labels for c in constraints)}
    kept = [n for n in fitting if n.name not in ignored]
    for constraint in constraints:
        counts = spread(pod, constraint, nodes)
        weight = math.log(len({n.labels[constraint["topologyKey"]] for n in kept}) + 2)
        for node in kept:
            found = counts.get(node.labels[constraint["topologyKey"]], 0)
            raw[node.name] = raw.get(node.name, 0) + found * weight + constraint["maxSkew"] - 1
    if not constraints:
        return dict.fromkeys((n.name for n in fitting), 0.0)
    raw = {name: float(round(value)) for name, value in raw.items()}
    most, least = max(raw.values(), default=0), min(raw.values(), default=0)
    scores = {n: 100.0 if most == 0 else 100 * (most + least - v) // most for n, v in raw.items()}
    return {**dict.fromkeys(ignored, 0.0), **scores}


def attracted(pod: Object, fitting: list[Node], nodes: list[Node]) -> dict[str, float]:
    """InterPodAffinity: preferred affinity and anti-affinity of the pod."""
    affinity = pod["spec"].get("affinity") or {}
    raw = dict.fromkeys((n.name for n in fitting), 0.0)
    for kind, sign in (("podAffinity", 1), ("podAntiAffinity", -1)):
        for entry in (affinity.get(kind) or {}).get("preferredDuringSchedulingIgnoredDuringExecution") or []:
            term, key = entry["podAffinityTerm"], entry["podAffinityTerm"]["topologyKey"]
            for node in fitting:
                near = [
                    p for o in nodes if key in node.labels and o.labels.get(key) == node.labels[key] for p in o.pods
                ]
                raw[node.name] += sign * entry["weight"] * sum(_selected(term, pod, p) for p in near)
    most, least = max(raw.values(), default=0.0), min(raw.values(), default=0.0)
    return {n: 100 * (v - least) / (most - least) if most > least else 0.0 for n, v in raw.items()}


def _fractions(pod: Object, node: Node) -> list[float]:
    """Used part of cpu and memory if the pod came here."""
    used = requests(pod, DEFAULT_REQUEST)
    for p in node.pods:
        used.update(requests(p, DEFAULT_REQUEST))
    allocatable = node.allocatable()
    return [min(1.0, used[r] / allocatable[r]) for r in ("cpu", "memory") if allocatable.get(r)]


def least_used(pod: Object, fitting: list[Node], nodes: list[Node]) -> dict[str, float]:
    """NodeResourcesFit with LeastAllocated."""
    return {n.name: 100 * (1 - sum(f) / len(f)) if (f := _fractions(pod, n)) else 0.0 for n in fitting}


def balanced(pod: Object, fitting: list[Node], nodes: list[Node]) -> dict[str, float]:
    """NodeResourcesBalancedAllocation: cpu and memory used alike."""
    return {n.name: 100 * (1 - (max(f) - min(f)) / 2) if (f := _fractions(pod, n)) else 0.0 for n in fitting}


Score = Callable[[Object, list[Node], list[Node]], dict[str, float]]
SCORES: tuple[tuple[Score, int], ...] = (
    (least_tainted, 3), (preferred, 2), (evenly, 2), (attracted, 2), (least_used, 1), (balanced, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Nowhere:
    """No node fits: how many are there, and how many refuse for each reason."""

    nodes: int
    reasons: Mapping[str, int]
    hopeless: int  # nodes where removing pods would not help

    def message(self) -> str:
        """The sentence that kubectl describe shows."""
        if not self.nodes:
            return "no nodes available to schedule pods"
        reasons = ", ".join(sorted(f"{count} {reason}" for reason, count in self.reasons.items()))
        helped = self.nodes - self.hopeless
        parts = [f"{self.hopeless} Preemption is not helpful for scheduling"] if self.hopeless else []
        parts += [f"{helped} No preemption victims found for incoming pod"] if helped else []
        of = f"0/{self.nodes} nodes are available:"
        return f"{of} {reasons}. preemption: {of} {', '.join(sorted(parts))}."


_BY_PODS = frozenset({crowded, full, skewed, disliked})  # filters that say yes once other pods are gone


def place(pod: Object, nodes: list[Node]) -> str | Nowhere:
    """The best node's name; of equals, the first by name."""
    fitting, reasons, hopeless = [], Counter[str](), 0
    for node in nodes:
        for check in FILTERS:
            if why := check(pod, node, nodes):
                reasons.update(why)
                hopeless += check not in _BY_PODS
                break
        else:
            fitting.append(node)
    if not fitting:
        return Nowhere(len(nodes), reasons, hopeless)
    if len(fitting) == 1:
        return fitting[0].name
    totals: Counter[str] = Counter()
    for score, weight in SCORES:
        for name, value in score(pod, fitting, nodes).items():
            totals[name] += weight * int(value)
    return min(fitting, key=lambda n: (-totals[n.name], n.name)).name
