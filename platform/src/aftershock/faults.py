"""What is known of each action: whom it hits, what takes it back, what it needs to be allowed.

`KNOWN` maps `module.func` to one entry. Targets are computed from the same selectors as the action itself uses. Adding a fault is adding an
entry here (and a rule in `proofs.py`, without which it is never seen as more than accepted).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from aftershock import power, rollouts, targets, undo
from aftershock.errors import BadInput
from aftershock.experiment import Activity
from aftershock.targets import Aim, Arguments
from aftershock.undo import Inverse

if TYPE_CHECKING:
    from aftershock.cluster import Cluster
    from aftershock.undo import UndoJournal

Json = dict[str, Any]
CHAOS_MESH = "/apis/chaos-mesh.org/v1alpha1"


@dataclass(frozen=True)
class Need:
    """One permission, as SelfSubjectAccessReview asks for it; `namespace` None is cluster-wide."""

    verb: str
    group: str
    resource: str
    namespace: str | None
    subresource: str = ""
    name: str = ""  # only this object

    def __str__(self) -> str:
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        group = f".{self.group}" if self.group else ""
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {resource}{group}{f' {self.name}' if self.name else ''}{where}"


@dataclass(frozen=True)
class Planned:
    """One fault of a run: what is asked for, whom it may hit, and how it is taken back."""

    id: str  # f1, f2, ...
    activity: Activity  # with its arguments filled in
    action: str
    aim: Aim
    inverses: tuple[Inverse, ...]
    undo: Literal["journal", "heals", "rollbacks", "impossible"]


@dataclass(frozen=True)
class Kind:
    """One kind of fault. `heals` is set where the cluster itself makes it good, and says how."""

    action: str  # pod-kill | node-drain | network-delay | ...
    aim: Callable[[Cluster, Arguments], Aim]
    inverses: Callable[[Cluster, Arguments, str], Iterable[Inverse]]
    needs: Callable[[Arguments], Iterable[Need]]
    heals: str | None = None
    api: str = ""  # a group version that must be served for this fault to exist on a cluster
    plural: str = ""  # and the resource in it
    empties: bool = False  # the node that it names is without pods then, and stays so
    undoable: bool = True  # False: only the file's own rollbacks can take it back
    lacks: Callable[[Cluster, Arguments], str | None] = lambda cluster, args: None  # why this cluster cannot have it


def kind_of(activity: Activity) -> Kind | None:
    """What is known of an action; None for an action of somebody else's."""
    return KNOWN.get(activity.target)


def action_of(activity: Activity) -> str:
    """Name of the fault: that of a known kind, else the function's."""
    kind = kind_of(activity)
    return kind.action if kind else (activity.func.replace("_", "-") or activity.provider_type)


def plan(activity: Activity, cluster: Cluster, fault_id: str, run_id: str, *, rollbacks: bool) -> Planned:
    """Whom an action would hit now and what would take it back; `rollbacks` says that the file brings some.

    Raises ClusterError when the state cannot be read, BadInput for arguments that make no sense.
    """
    kind = kind_of(activity)
    try:
        aim = kind.aim(cluster, activity.arguments) if kind else targets.declared(cluster, activity.arguments)
        inverses = tuple(inverse_of(activity, cluster, run_id))
    except (KeyError, ValueError, TypeError, re.error) as error:
        raise BadInput(f"arguments of {activity.target}: {type(error).__name__}: {error}") from None
    undone: Literal["journal", "heals", "rollbacks", "impossible"]
    if not inverses:
        undone = "rollbacks" if rollbacks else "impossible"
    else:
        undone = "heals" if all(i.kind == "none" for i in inverses) else "journal"
    return Planned(fault_id, activity, action_of(activity), aim, inverses, undone)


def arm(planned: Planned, cluster: Cluster, journal: UndoJournal, run_id: str) -> list[int]:
    """Write what takes a fault back to the journal, as the cluster is now; call it right before injecting. Returns entry ids."""
    identity = cluster.identity
    inverses = inverse_of(planned.activity, cluster, run_id) or [
        undo.nothing("only the file's rollbacks can undo this")
    ]
    return [journal.record(run_id, identity.fingerprint, planned.action, i, identity.context) for i in inverses]


def inverse_of(activity: Activity, cluster: Cluster, run_id: str) -> list[Inverse]:
    """What takes this action back, captured from the cluster as it is now (so call it right before the fault).

    One entry of kind `none` where the cluster heals itself; empty for an unknown action, whose file must bring rollbacks.
    Raises ClusterError when the state cannot be read.
    """
    kind = kind_of(activity)
    if kind is None or not kind.undoable:
        return []
    found = list(kind.inverses(cluster, activity.arguments, run_id))
    return found or [undo.nothing(kind.heals or "all was already as the fault would make it")]


def network_fault_name(run_id: str, action: str) -> str:
    """Name of the NetworkChaos that a run makes for one action; a DNS label, the same whenever it is asked for."""
    return f"aftershock-{re.sub(r'[^a-z0-9-]', '-', run_id.lower())}-{action}"[:63].rstrip("-")


def need_of(inverse: Inverse) -> list[Need]:
    """The permissions that undoing takes: its own verb, and the look at whether it worked."""
    if inverse.kind == "none":
        return []
    if inverse.kind == "command":  # what a program may do is its own affair
        return [_need("get", inverse.check_path)]
    verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}[inverse.method]
    return [_need(verb, inverse.path), _need("get", inverse.check_path)]


def _need(verb: str, path: str) -> Need:
    parts = path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    namespace = None
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    return Need(verb, group, rest[0], namespace, rest[2] if len(rest) > 2 else "")


# Pod kill


def _terminate_needs(args: Arguments) -> list[Need]:
    return [Need("list", "", "pods", args["ns"]), Need("delete", "", "pods", args["ns"])]


# Nodes


def _schedulable(cluster: Cluster, args: Arguments, run_id: str) -> list[Inverse]:
    """Uncordon the nodes that are not cordoned now: a node that somebody else cordoned stays so."""
    return [
        undo.restoration(f"/api/v1/nodes/{n['metadata']['name']}", n, {"spec": {"unschedulable": True}},
                         f"uncordon node {n['metadata']['name']}")
        for n in targets.nodes(cluster, args) if not n.get("spec", {}).get("unschedulable")
    ]  # fmt: skip


def _unschedulable(cluster: Cluster, args: Arguments, run_id: str) -> list[Inverse]:
    return [
        undo.restoration(f"/api/v1/nodes/{n['metadata']['name']}", n, {"spec": {"unschedulable": False}},
                         f"cordon node {n['metadata']['name']} again")
        for n in targets.nodes(cluster, args) if n.get("spec", {}).get("unschedulable")
    ]  # fmt: skip


def _cordon_needs(args: Arguments) -> list[Need]:
    return [Need("get", "", "nodes", None), Need("patch", "", "nodes", None)]


def _drain_needs(args: Arguments) -> list[Need]:
    ns = args.get("ns")
    return [*_cordon_needs(args), Need("list", "", "pods", ns), Need("create", "", "pods", ns, "eviction")]


def _power_on(cluster: Cluster, args: Arguments, run_id: str) -> list[Inverse]:
    return [undo.power_on(power.command(cluster, "on", args["name"]), args["name"])]


def _powerless(cluster: Cluster, args: Arguments) -> str | None:
    """Why a node's power cannot be cut here, or not be given back."""
    try:
        power.command(cluster, "on", args["name"])
    except BadInput as error:
        return f"{error}; {error.hint}"
    return None


def _power_needs(args: Arguments) -> list[Need]:
    return [Need("get", "", "nodes", None), Need("list", "", "pods", None)]


# Workloads


def _crowd_needs(args: Arguments) -> list[Need]:
    return [
        Need("get", "", "services", args["ns"]),
        Need("list", "autoscaling", "horizontalpodautoscalers", args["ns"]),
    ]


def _roll_back(cluster: Cluster, args: Arguments, run_id: str) -> list[Inverse]:
    return _versions_back(cluster, args, lambda live: rollouts.rolled(run_id))


def _image_back(cluster: Cluster, args: Arguments, run_id: str) -> list[Inverse]:
    return _versions_back(cluster, args, lambda live: rollouts.imaged(live, args["image"], args.get("container")))


def _versions_back(cluster: Cluster, args: Arguments, patch: Callable[[Json], Json]) -> list[Inverse]:
    return [
        undo.restoration(f"{targets.path_of(args['ns'], 'deployments')}/{w['metadata']['name']}", w, patch(w),
                         f"roll {w['metadata']['name']} back", rolled_out=True)
        for w in targets.named(cluster, args, "deployments")
    ]  # fmt: skip


def _unscale(plural: str) -> Callable[[Cluster, Arguments, str], list[Inverse]]:
    def inverses(cluster: Cluster, args: Arguments, run_id: str) -> list[Inverse]:
        return [
            undo.restoration(f"{targets.path_of(args['ns'], plural)}/{w['metadata']['name']}", w,
                             {"spec": {"replicas": int(args["replicas"])}},
                             f"scale {w['metadata']['name']} back to {w['spec'].get('replicas', 1)}")
            for w in targets.named(cluster, args, plural)
        ]  # fmt: skip

    return inverses


def _recreate(plural: str, api_version: str, kind: str) -> Callable[[Cluster, Arguments, str], list[Inverse]]:
    def inverses(cluster: Cluster, args: Arguments, run_id: str) -> list[Inverse]:
        return [
            undo.recreation(targets.path_of(args["ns"], plural), {"apiVersion": api_version, "kind": kind, **w},
                            f"create {kind} {w['metadata']['name']} again")
            for w in targets.named(cluster, args, plural)
        ]  # fmt: skip

    return inverses


def _workload_needs(plural: str, verb: str) -> Callable[[Arguments], list[Need]]:
    def needs(args: Arguments) -> list[Need]:
        group = targets.GROUPS.get(plural, "")
        return [Need("list", group, plural, args["ns"]), Need(verb, group, plural, args["ns"])]

    return needs


# Network


def _remove_ours(action: str) -> Callable[[Cluster, Arguments, str], list[Inverse]]:
    def inverses(cluster: Cluster, args: Arguments, run_id: str) -> list[Inverse]:
        name = network_fault_name(run_id, action)
        path = f"{CHAOS_MESH}/namespaces/{args['ns']}/networkchaos/{name}"
        return [undo.removal(path, f"remove NetworkChaos {name}")]

    return inverses


def _remove_named(plural: str) -> Callable[[Cluster, Arguments, str], list[Inverse]]:
    def inverses(cluster: Cluster, args: Arguments, run_id: str) -> list[Inverse]:
        path = f"{CHAOS_MESH}/namespaces/{args.get('ns', 'default')}/{plural}/{args['name']}"
        return [undo.removal(path, f"remove {plural} {args['name']}")]

    return inverses


def _chaos_needs(plural: str) -> Callable[[Arguments], list[Need]]:
    def needs(args: Arguments) -> list[Need]:
        return [Need("create", "chaos-mesh.org", plural, args.get("ns", "default"))]

    return needs


def _none(cluster: Cluster, args: Arguments, run_id: str) -> list[Inverse]:
    return []


_KILL = Kind("pod-kill", targets.of_kill, _none, _terminate_needs, "the pods' controller replaces them")
_EXEC = Kind(
    "pod-exec", targets.of_kill, _none, lambda args: [Need("create", "", "pods", args["ns"], "exec")], undoable=False
)
_CORDON = Kind("node-cordon", targets.of_cordon, _schedulable, _cordon_needs)
_POWER = Kind("node-power-off", targets.of_power, _power_on, _power_needs, empties=True, lacks=_powerless)
_DRAIN = Kind("node-drain", targets.of_drain, _schedulable, _drain_needs, empties=True)


def _scaling(plural: str, kind: str, action: Literal["deployment-scale", "statefulset-scale"]) -> Kind:
    return Kind(action, targets.of_scale(plural, kind), _unscale(plural), _workload_needs(plural, "patch"))


def _deletion(plural: str, api_version: str, kind: str) -> Kind:
    needs = _workload_needs(plural, "delete")
    return Kind(f"{kind.lower()}-delete", targets.of_whole(plural, kind), _recreate(plural, api_version, kind), needs)


def _ours(action: str) -> Kind:
    return Kind(
        action,
        targets.of_network,
        _remove_ours(action),
        _chaos_needs("networkchaos"),
        api=CHAOS_MESH,
        plural="networkchaos",
    )


def _mesh(action: str, plural: str) -> Kind:
    return Kind(action, targets.of_network, _remove_named(plural), _chaos_needs(plural), api=CHAOS_MESH, plural=plural)


KNOWN: dict[str, Kind] = {
    "chaosk8s.pod.actions.terminate_pods": _KILL,
    "chaosk8s.pod.actions.delete_pods": _KILL,
    "chaosk8s.pod.actions.exec_in_pods": _EXEC,
    "aftershock.actions.delete_pods": _KILL,
    "aftershock.actions.drain_node": _DRAIN,
    "aftershock.actions.power_off_node": _POWER,
    "chaosk8s.node.actions.drain_nodes": _DRAIN,
    "chaosk8s.node.actions.cordon_node": _CORDON,
    "chaosk8s.node.actions.uncordon_node": Kind("node-uncordon", targets.of_cordon, _unschedulable, _cordon_needs),
    "aftershock.actions.uncordon_node": Kind("node-uncordon", targets.of_cordon, _unschedulable, _cordon_needs),
    "chaosk8s.deployment.actions.scale_deployment": _scaling("deployments", "Deployment", "deployment-scale"),
    "chaosk8s.statefulset.actions.scale_statefulset": _scaling("statefulsets", "StatefulSet", "statefulset-scale"),
    "chaosk8s.deployment.actions.rollout_deployment": Kind(
        "deployment-rollout", targets.of_whole("deployments", "Deployment"), _none, _workload_needs("deployments", "patch"),
        "a rolling restart completes by itself"),
    "aftershock.actions.crowd": Kind(
        "crowd", targets.of_crowd, _none, _crowd_needs, "the crowd goes when its time is over, and the autoscaler takes pods back"),
    "aftershock.actions.roll_deployment": Kind(
        "deployment-rollout", targets.of_whole("deployments", "Deployment"), _roll_back, _workload_needs("deployments", "patch")),
    "aftershock.actions.set_image": Kind("image-change", targets.of_image, _image_back, _workload_needs("deployments", "patch")),
    "chaosk8s.deployment.actions.delete_deployment": _deletion("deployments", "apps/v1", "Deployment"),
    "chaosk8s.statefulset.actions.remove_statefulset": _deletion("statefulsets", "apps/v1", "StatefulSet"),
    "chaosk8s.service.actions.delete_service": _deletion("services", "v1", "Service"),
    "aftershock.actions.network_delay": _ours("network-delay"),
    "aftershock.actions.network_loss": _ours("network-loss"),
    "aftershock.actions.network_partition": _ours("network-partition"),
    "chaosk8s.chaosmesh.network.actions.add_latency": _mesh("network-delay", "networkchaos"),
    "chaosk8s.chaosmesh.network.actions.set_loss": _mesh("network-loss", "networkchaos"),
    "chaosk8s.chaosmesh.network.actions.duplicate_packets": _mesh("network-duplicate", "networkchaos"),
    "chaosk8s.chaosmesh.network.actions.corrupt_packets": _mesh("network-corrupt", "networkchaos"),
    "chaosk8s.chaosmesh.network.actions.reorder_packets": _mesh("network-reorder", "networkchaos"),
    "chaosk8s.chaosmesh.network.actions.set_bandwidth": _mesh("network-bandwidth", "networkchaos"),
    "chaosk8s.chaosmesh.stress.actions.stress_cpu": _mesh("stress-cpu", "stresschaos"),
    "chaosk8s.chaosmesh.stress.actions.stress_memory": _mesh("stress-memory", "stresschaos"),
}  # fmt: skip
