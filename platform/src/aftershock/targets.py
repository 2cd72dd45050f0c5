"""Whom an action would hit: the same selectors as the action itself uses, looked up in the cluster."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aftershock.errors import BadInput, NotFound
from aftershock.observe.summary import condition, finished
from aftershock.rollouts import image_of

if TYPE_CHECKING:
    from aftershock.cluster import Cluster

Json = dict[str, Any]
Arguments = Mapping[str, Any]
MIRROR = "kubernetes.io/config.mirror"
CONTROL_PLANE = frozenset({"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"})
GROUPS = {"deployments": "apps", "statefulsets": "apps", "replicasets": "apps"}


@dataclass(frozen=True)
class Target:
    """One object that a fault may hit, as in `evidence.json`."""

    kind: str
    namespace: str | None
    name: str
    uid: str | None
    node: str | None
    service: str | None


@dataclass(frozen=True)
class Aim:
    """What an action would hit now: `count` of `targets`, all of them unless it picks."""

    targets: tuple[Target, ...]
    count: int
    pods: int = 0  # how many pods it takes away or disturbs
    nodes: int = 0
    namespaces: frozenset[str] = frozenset()
    asked: Mapping[str, Any] = field(default_factory=dict)  # figures that evidence must find again
    moot: str = ""  # why nothing of it could be seen, however well it is done


# Reading the cluster


def pods(cluster: Cluster, ns: str, label_selector: str | None = None, name_pattern: str | None = None) -> list[Json]:
    """Pods of a namespace in the API's order."""
    found = cluster.list(f"/api/v1/namespaces/{ns}/pods", label_selector=label_selector or None)
    return [p for p in found if not name_pattern or re.search(name_pattern, p["metadata"]["name"])]


def serves(pod: Json) -> bool:
    """Whether a pod is Ready, and not about to end."""
    return not pod["metadata"].get("deletionTimestamp") and condition(pod, "Ready").get("status") == "True"


def homeless(pod: Json) -> bool:
    """Whether the scheduler has found no node for a pod."""
    return condition(pod, "PodScheduled").get("reason") == "Unschedulable"


def pods_on(cluster: Cluster, node: str, ns: str | None = None, selector: str | None = None) -> list[Json]:
    """Pods on a node that a drain evicts: not finished, no mirror pod, not of a DaemonSet; of `ns` and `selector` only, if given."""
    path = f"/api/v1/namespaces/{ns}/pods" if ns else "/api/v1/pods"
    return [p for p in cluster.list(path, selector, f"spec.nodeName={node}") if stays(p) is None]


def stays(pod: Json) -> str | None:
    """Why a drain leaves a pod where it is; None if it must go."""
    meta = pod["metadata"]
    if MIRROR in (meta.get("annotations") or {}):
        return "mirror pod"
    if any(o.get("kind") == "DaemonSet" and o.get("controller") for o in meta.get("ownerReferences") or []):
        return "of a DaemonSet"
    if finished(pod):
        return "finished"
    return None


def target_of(obj: Json, kind: str) -> Target:
    """An object as a target."""
    meta = obj["metadata"]
    labels = meta.get("labels") or {}
    service = meta["name"] if kind == "Service" else labels.get("app") or labels.get("app.kubernetes.io/name")
    node = meta["name"] if kind == "Node" else (obj.get("spec") or {}).get("nodeName")
    return Target(kind, meta.get("namespace"), meta["name"], meta.get("uid"), node, None if kind == "Node" else service)


def of_workload(cluster: Cluster, workload: Mapping[str, Any]) -> list[Json]:
    """Pods of a Deployment or StatefulSet by its labels, those that are leaving or have ended included."""
    labels = (workload["spec"].get("selector") or {}).get("matchLabels") or {}
    if not labels:
        return []
    selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return pods(cluster, workload["metadata"]["namespace"], selector)


def _get(cluster: Cluster, path: str) -> Json | None:
    try:
        return cluster.request("GET", path)
    except NotFound:
        return None


def _apps(ns: str, plural: str) -> str:
    return f"/apis/apps/v1/namespaces/{ns}/{plural}"


# Whom each kind of action would hit


def declared(cluster: Cluster, args: Arguments) -> Aim:
    """Targets of an action of somebody else's, by the words that such actions use; none if it has none of them."""
    ns, selector, pattern = (
        args.get("ns") or args.get("namespace"),
        args.get("label_selector"),
        args.get("name_pattern"),
    )
    if ns and (selector or pattern):
        found = pods(cluster, str(ns), selector, pattern)
        return Aim(tuple(target_of(p, "Pod") for p in found), len(found), len(found), namespaces=frozenset({str(ns)}))
    name = args.get("node_name") or args.get("node")
    if name and (node := _get(cluster, f"/api/v1/nodes/{name}")):
        return Aim((target_of(node, "Node"),), 1, nodes=1)
    return Aim((), 0)


def of_kill(cluster: Cluster, args: Arguments) -> Aim:
    ns = args["ns"]
    pool = pods(cluster, ns, args.get("label_selector"), args.get("name_pattern") or args.get("name"))
    if uids := args.get("uids"):
        pool = [p for p in pool if p["metadata"]["uid"] in uids]
    if args.get("order") == "oldest":
        pool.sort(key=lambda p: p["metadata"].get("creationTimestamp") or "")
    qty = int(args.get("qty", 1))
    if args.get("all") or args.get("uids"):
        count = len(pool)
    elif args.get("mode") == "percentage":
        count = math.ceil(qty * len(pool) / 100)
    else:
        count = min(qty, len(pool))
    if not args.get("rand"):
        pool = pool[:count]
    return Aim(
        tuple(target_of(p, "Pod") for p in pool), count, pods=count, namespaces=frozenset({ns}), asked={"count": count}
    )


def nodes(cluster: Cluster, args: Arguments) -> list[Json]:
    if name := args.get("name"):
        node = _get(cluster, f"/api/v1/nodes/{name}")
        return [node] if node else []
    return cluster.list("/api/v1/nodes", label_selector=args.get("label_selector"))


def of_cordon(cluster: Cluster, args: Arguments) -> Aim:
    chosen = [target_of(n, "Node") for n in nodes(cluster, args)]
    return Aim(tuple(chosen), len(chosen), nodes=len(chosen))


def of_drain(cluster: Cluster, args: Arguments) -> Aim:
    chosen = nodes(cluster, args)
    leaving = [
        p for n in chosen for p in pods_on(cluster, n["metadata"]["name"], args.get("ns"), args.get("pod_selector"))
    ]
    targets = (*(target_of(n, "Node") for n in chosen), *(target_of(p, "Pod") for p in leaving))
    count = min(len(chosen), int(args["count"])) if args.get("count") else len(chosen)
    return Aim(targets if leaving else (), len(targets), pods=len(leaving), nodes=count,
               namespaces=frozenset(p["metadata"]["namespace"] for p in leaving), asked={"pods": len(leaving)})  # fmt: skip


def of_power(cluster: Cluster, args: Arguments) -> Aim:
    """A node with all that runs on it: power knows no selector. Raises BadInput for a node without which nobody could see the rest."""
    node = _get(cluster, f"/api/v1/nodes/{args['name']}")
    if node is None:
        return Aim((), 0)
    if CONTROL_PLANE & set(node["metadata"].get("labels") or {}):
        raise BadInput(f"node {args['name']} is of the control plane",
                       hint="with its power off nobody could see what happens, nor undo it")  # fmt: skip
    leaving = pods_on(cluster, args["name"])
    own = [p for p in leaving if p["metadata"]["namespace"] == args["ns"]]
    also = set(args.get("also") or ())
    touched = {p["metadata"]["namespace"] for p in leaving} - also
    chosen = (target_of(node, "Node"), *(target_of(p, "Pod") for p in own))
    return Aim(chosen if own else (), len(chosen), pods=len(own), nodes=1, namespaces=frozenset(touched | {args["ns"]}),
               asked={"pods": len(own)})  # fmt: skip


def named(cluster: Cluster, args: Arguments, plural: str) -> list[Json]:
    ns = args["ns"]
    if name := args.get("name"):
        found = _get(cluster, f"{path_of(ns, plural)}/{name}")
        return [found] if found else []
    if selector := args.get("label_selector"):
        return cluster.list(path_of(ns, plural), label_selector=selector)
    return []  # chaosk8s would take every one of the namespace; nobody asks for that by leaving a word out


def path_of(ns: str, plural: str) -> str:
    return _apps(ns, plural) if GROUPS.get(plural) else f"/api/v1/namespaces/{ns}/{plural}"


def of_scale(plural: str, kind: str) -> Callable[[Cluster, Arguments], Aim]:
    def aim(cluster: Cluster, args: Arguments) -> Aim:
        found = named(cluster, args, plural)
        before = sum(int(w["spec"].get("replicas", 1)) for w in found)
        wanted = int(args["replicas"])
        return Aim(tuple(target_of(w, kind) for w in found), len(found), pods=max(0, before - wanted * len(found)),
                   namespaces=frozenset({args["ns"]}), asked={"replicas": wanted, "before": before})  # fmt: skip

    return aim


def of_whole(plural: str, kind: str) -> Callable[[Cluster, Arguments], Aim]:
    def aim(cluster: Cluster, args: Arguments) -> Aim:
        found = named(cluster, args, plural)
        behind = [p for w in found for p in of_workload(cluster, w)] if kind != "Service" else []
        uids = sorted(str(p["metadata"].get("uid")) for p in behind)
        return Aim(tuple(target_of(w, kind) for w in found), len(found), pods=len(behind), namespaces=frozenset({args["ns"]}),
                   asked={"uids": uids})  # fmt: skip

    return aim


def of_crowd(cluster: Cluster, args: Arguments) -> Aim:
    """The Deployment that a crowd comes to; none without an autoscaler, which nothing could be asked of."""
    ns, name = args["ns"], args["name"]
    found = named(cluster, {"ns": ns, "name": name}, "deployments")
    scalers = [
        s for s in cluster.list(f"/apis/autoscaling/v2/namespaces/{ns}/horizontalpodautoscalers")
        if (s["spec"].get("scaleTargetRef") or {}).get("name") == name
    ]  # fmt: skip
    wanted = [m["resource"]["target"].get("averageUtilization") for s in scalers for m in s["spec"].get("metrics") or []
              if (m.get("resource") or {}).get("name") == "cpu"]  # fmt: skip
    needed = int(args["replicas"])
    asked = {"replicas": needed, "utilization": wanted[0] if wanted else None}
    targets = tuple(target_of(w, "Deployment") for w in found) if scalers else ()
    had = sum(int((w.get("status") or {}).get("replicas") or 0) for w in found)
    moot = f"{name} has {had} pods already, and the crowd needs {needed}" if had >= needed else ""
    return Aim(targets, len(targets), namespaces=frozenset({ns}), asked=asked, moot=moot)


def of_image(cluster: Cluster, args: Arguments) -> Aim:
    """A Deployment that gets another image; its blast radius is all its pods, since its own rules decide how many go at once."""
    aim = of_whole("deployments", "Deployment")(cluster, args)
    was = sorted({image_of(w, args.get("container")) for w in named(cluster, args, "deployments")})
    return replace(aim, asked={**aim.asked, "image": args["image"], "was": was})


def _selected(cluster: Cluster, args: Arguments) -> list[Json]:
    """The pods that a network or stress fault selects, by our arguments or by those of chaosk8s' wrappers."""
    if "label_selector" in args:
        return pods(cluster, args["ns"], args["label_selector"])
    namespaces = args.get("namespaces_selectors") or args.get("ns", "default")
    names = namespaces.split(",") if isinstance(namespaces, str) else list(namespaces)
    labels = args.get("label_selectors") or ""
    selector = labels if isinstance(labels, str) else ",".join(f"{k}={v}" for k, v in labels.items())
    return [p for ns in names for p in pods(cluster, ns, selector)]


def of_network(cluster: Cluster, args: Arguments) -> Aim:
    chosen = _selected(cluster, args)
    count = (
        min(1, len(chosen)) if args.get("mode", "all" if "label_selector" in args else "one") == "one" else len(chosen)
    )
    far = (
        pods(cluster, args.get("target_ns") or args["ns"], args["target_selector"])
        if args.get("target_selector")
        else []
    )
    targets = tuple(target_of(p, "Pod") for p in chosen)
    asked = {
        key: args[key] for key in ("latency_ms", "jitter_ms", "loss_percent", "direction") if args.get(key) is not None
    }
    if str(args.get("latency", "")).endswith("ms"):
        asked["latency_ms"] = float(str(args["latency"])[:-2])
    asked["services"] = sorted({t.service for t in targets if t.service})
    asked["far_services"] = sorted({s for p in far if (s := target_of(p, "Pod").service)})
    if args.get("target_selector") and not far:
        targets, count = (), 0  # nothing flows between something and nothing
    return Aim(targets, count, pods=count, namespaces=frozenset(t.namespace or "" for t in targets), asked=asked)
