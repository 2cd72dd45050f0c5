"""Chaos Toolkit actions of aftershock's own, usable from any experiment file as `module: aftershock.actions`.

Each says in its result what it did; what it could not do is an error. The cluster comes from aftershock's configuration or, under a plain
`chaos run`, from $KUBECONFIG and $KUBERNETES_CONTEXT.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from aftershock import crowd as crowds
from aftershock import eviction, faults, power, rollouts, settings, targets
from aftershock.cluster import Cluster
from aftershock.errors import BadInput, ClusterError, DeadlineExceeded, NotFound, Refused

Configuration = Mapping[str, Any] | None
Json = dict[str, Any]
RUN_ID = "AFTERSHOCK_RUN_ID"  # set by our control, so that a fault has the name by which its inverse finds it
OWNER = {"app.kubernetes.io/managed-by": "aftershock"}
_RETRY_S = 0.3
_POLL_S = 0.1
_INJECT_S = 10.0
_LABEL = re.compile(r"[A-Za-z0-9./_-]+")

__all__ = [
    "crowd", "delete_pods", "drain_node", "network_delay", "network_loss", "network_partition", "power_off_node",
    "remove_network_fault", "roll_deployment", "set_image", "uncordon_node",
]  # fmt: skip


def cluster_of(configuration: Configuration, secrets: Mapping[str, Any] | None = None) -> Cluster:
    """The cluster that an activity acts on: the one that chaosk8s' actions would take. Raises BadInput, ClusterUnreachable."""
    given = configuration or {}
    config = str(given.get("aftershock_kubeconfig") or os.environ.get("KUBECONFIG") or "~/.kube/config")
    context = (
        given.get("aftershock_context")
        or (secrets or {}).get("KUBERNETES_CONTEXT")
        or os.environ.get("KUBERNETES_CONTEXT")
    )
    return _connect(str(context or current_context(config)), config)


def current_context(listed: str) -> str:
    """The current context of $KUBECONFIG's files, the first that names one (as kubectl does). Raises BadInput."""
    for path in (Path(part).expanduser() for part in listed.split(os.pathsep) if part):
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(document, dict) and document.get("current-context"):
            return str(document["current-context"])
    raise BadInput(f"no current context in {listed}", hint="set KUBECONFIG and KUBERNETES_CONTEXT")


@lru_cache(maxsize=4)
def _connect(context: str, config: str) -> Cluster:
    return Cluster.connect(context, settings.read({**os.environ, "KUBECONFIG": config}))


def drain_node(
    name: str, ns: str | None = None, pod_selector: str | None = None, timeout_s: float = 60.0, grace_period_s: int | None = None,
    at_once: int | None = None, configuration: Configuration = None, secrets: Mapping[str, Any] | None = None,
) -> Json:  # fmt: skip
    """Cordon a node, evict its pods (of `ns` and `pod_selector` only, if given) through the eviction API, and wait until they are gone.

    With `at_once` no more pods than that are without a replacement that is Ready, and of one owner no more than one; a replacement that
    no node takes is not waited for. Without it all go that the budgets let go, as with kubectl. A budget that says no (429) is asked
    again until `timeout_s`; then the drain ends as refused with the API's reason. Pods of DaemonSets, mirror pods and finished pods stay
    and are listed. Returns node, evicted, skipped, seconds.
    """
    if at_once is not None and at_once < 1:
        raise BadInput("at_once is how many pods may be without a replacement, 1 or more")
    cluster = cluster_of(configuration, secrets)
    begun = time.monotonic()
    ends = begun + timeout_s
    cluster.request("PATCH", f"/api/v1/nodes/{name}", body={"spec": {"unschedulable": True}},
                    content_type="application/strategic-merge-patch+json")  # fmt: skip
    path, on_node = f"/api/v1/namespaces/{ns}/pods" if ns else "/api/v1/pods", f"spec.nodeName={name}"
    there = cluster.list(path, pod_selector, on_node)
    skipped = [{"pod": _name(p), "why": why} for p in there if (why := targets.stays(p))]
    left = {p["metadata"]["uid"]: p for p in there if not targets.stays(p)}
    evicted: list[str] = []
    blocked: dict[str, str] = {}
    waiting = dict(left)  # not yet accepted
    moving: dict[str, int] = {}  # owners of which a pod has gone, and how many of theirs served before
    live = cluster.list(path) if at_once else there
    while left and time.monotonic() <= ends:
        serving = Counter(_owner(pod) for pod in live if targets.serves(pod))
        homeless = {_owner(pod) for pod in live if targets.homeless(pod)}
        moving = {o: before for o, before in moving.items() if serving[o] < before and o not in homeless}
        for uid, pod in list(waiting.items()):
            owner = _owner(pod)
            if at_once and (len(moving) >= at_once or owner in moving):
                continue
            answer = eviction.evict(cluster, pod, grace_period_s)
            if answer is not None:
                blocked[_name(pod)] = answer
                continue
            evicted.append(_name(pod))
            del waiting[uid]
            blocked.pop(_name(pod), None)
            if owner:
                moving[owner] = serving[owner]
        time.sleep(_RETRY_S)
        live = cluster.list(path, field_selector=None if at_once else on_node)
        here = {pod["metadata"]["uid"] for pod in live}
        left = {uid: pod for uid, pod in left.items() if uid in waiting or uid in here}
    if not left:
        seconds = round(time.monotonic() - begun, 3)
        return {"node": name, "evicted": sorted(evicted), "skipped": skipped, "seconds": seconds}
    if blocked:
        reason = next(iter(blocked.values()))
        raise Refused(f"429 {reason} ({', '.join(sorted(blocked))} not evicted within {timeout_s:g} s;"
                      f" {len(evicted)} of {len(evicted) + len(waiting)} pods evicted)")  # fmt: skip
    names = ", ".join(sorted(_name(p) for p in left.values()))
    stuck = f"; {len(waiting)} wait for the replacements of others" if waiting else ""
    raise DeadlineExceeded(f"not gone from {name} within {timeout_s:g} s: {names}{stuck}")


def _owner(pod: Json) -> str:
    """The uid of what keeps up the number of such pods; empty if nothing does."""
    owners = pod["metadata"].get("ownerReferences") or []
    return next((str(o.get("uid")) for o in owners if o.get("controller")), "")


def uncordon_node(name: str, configuration: Configuration = None, secrets: Mapping[str, Any] | None = None) -> Json:
    """Let pods be scheduled on a node again."""
    cluster_of(configuration, secrets).request(
        "PATCH", f"/api/v1/nodes/{name}", body={"spec": {"unschedulable": False}},
        content_type="application/strategic-merge-patch+json",
    )  # fmt: skip
    return {"node": name, "unschedulable": False}


def power_off_node(
    name: str, ns: str, also: Sequence[str] = (), configuration: Configuration = None, secrets: Mapping[str, Any] | None = None
) -> Json:  # fmt: skip
    """Cut the power of a node by the program that the user configured (`aftershock.power`), without a word to its pods.

    `ns` is whose pods are meant, `also` names other namespaces that may lose pods there; preflight refuses if there are any more.
    Returns node, seconds and the program's last words; what becomes of the node is for the watch to see.
    """
    begun = time.monotonic()
    said = power.run(power.command(cluster_of(configuration, secrets), "off", name))
    return {"node": name, "seconds": round(time.monotonic() - begun, 3), "said": said}


def roll_deployment(
    ns: str, name: str, timeout_s: float = 60.0, configuration: Configuration = None, secrets: Mapping[str, Any] | None = None
) -> Json:  # fmt: skip
    """Roll a Deployment over to a new version of the same thing by its own rules, and wait until all its pods are of it and ready."""
    return rollouts.roll(cluster_of(configuration, secrets), ns, name, _run_of(configuration) or _moment(), timeout_s)


def set_image(
    ns: str, name: str, image: str, container: str | None = None,
    configuration: Configuration = None, secrets: Mapping[str, Any] | None = None,
) -> Json:  # fmt: skip
    """Give a Deployment another image and return; `container` may be left out where there is one only."""
    return rollouts.set_image(cluster_of(configuration, secrets), ns, name, image, container)


def crowd(
    ns: str, name: str, rate_per_s: float, seconds: float, replicas: int, port: str = "http", path: str = "/",
    configuration: Configuration = None, secrets: Mapping[str, Any] | None = None,
) -> Json:  # fmt: skip
    """Send a crowd to a Service whose Deployment of the same `name` has an autoscaler; `replicas` is what the crowd needs.

    It comes from this machine, as customers do, and goes after `seconds`; its own answers are not measured.
    """
    if replicas < 1:
        raise BadInput("replicas is how many pods the crowd needs, 1 or more")
    return crowds.send(cluster_of(configuration, secrets), ns, name, port, path, rate_per_s, seconds)


def delete_pods(
    ns: str, uids: Sequence[str], grace_period_s: int | None = None,
    configuration: Configuration = None, secrets: Mapping[str, Any] | None = None,
) -> list[str]:  # fmt: skip
    """Delete exactly these pods; one that is gone or was replaced is an error, since then the wrong thing was aimed at."""
    cluster = cluster_of(configuration, secrets)
    by_uid = {p["metadata"]["uid"]: p["metadata"]["name"] for p in targets.pods(cluster, ns)}
    if missing := sorted(set(uids) - set(by_uid)):
        raise NotFound(f"no pods with uid {', '.join(missing)} in {ns}")
    for uid in uids:
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        cluster.request("DELETE", f"/api/v1/namespaces/{ns}/pods/{by_uid[uid]}", body=options)
    return [by_uid[uid] for uid in uids]


def network_delay(
    ns: str, label_selector: str, latency_ms: float, jitter_ms: float = 0.0,
    direction: Literal["to", "from", "both"] = "to", target_ns: str | None = None, target_selector: str | None = None,
    configuration: Configuration = None, secrets: Mapping[str, Any] | None = None,
) -> Json:  # fmt: skip
    """Delay what flows between the selected pods and the target (everything, without one) by `latency_ms` a direction."""
    if not 0 < latency_ms <= 60_000 or not 0 <= jitter_ms <= latency_ms:
        raise BadInput("latency_ms takes 0 to 60000 and jitter_ms at most as much")
    delay = {"latency": f"{latency_ms:g}ms", "jitter": f"{jitter_ms:g}ms", "correlation": "0"}
    spec = {"action": "delay", "delay": delay, **_between(ns, label_selector, direction, target_ns, target_selector)}
    return _inject(cluster_of(configuration, secrets), ns, "network-delay", spec, configuration)


def network_loss(
    ns: str, label_selector: str, loss_percent: float,
    direction: Literal["to", "from", "both"] = "to", target_ns: str | None = None, target_selector: str | None = None,
    configuration: Configuration = None, secrets: Mapping[str, Any] | None = None,
) -> Json:  # fmt: skip
    """Lose `loss_percent` of what flows between the selected pods and the target."""
    if not 0 < loss_percent <= 100:
        raise BadInput("loss_percent takes more than 0 and at most 100")
    loss = {"loss": f"{loss_percent:g}", "correlation": "0"}
    spec = {"action": "loss", "loss": loss, **_between(ns, label_selector, direction, target_ns, target_selector)}
    return _inject(cluster_of(configuration, secrets), ns, "network-loss", spec, configuration)


def network_partition(
    ns: str, label_selector: str, direction: Literal["to", "from", "both"] = "both",
    target_ns: str | None = None, target_selector: str | None = None,
    configuration: Configuration = None, secrets: Mapping[str, Any] | None = None,
) -> Json:  # fmt: skip
    """Let nothing flow between the selected pods and the target."""
    spec = {"action": "partition", **_between(ns, label_selector, direction, target_ns, target_selector)}
    return _inject(cluster_of(configuration, secrets), ns, "network-partition", spec, configuration)


def remove_network_fault(
    ns: str, name: str | None = None, timeout_s: float = 15.0,
    configuration: Configuration = None, secrets: Mapping[str, Any] | None = None,
) -> list[str]:  # fmt: skip
    """Remove one network fault, or without a name all of aftershock's in a namespace, and wait until they are gone."""
    cluster = cluster_of(configuration, secrets)
    collection = f"{faults.CHAOS_MESH}/namespaces/{ns}/networkchaos"
    selector = ",".join(f"{key}={value}" for key, value in OWNER.items())
    names = [name] if name else [o["metadata"]["name"] for o in cluster.list(collection, label_selector=selector)]
    ends = time.monotonic() + timeout_s
    for each in names:
        if not _gone(cluster, "DELETE", f"{collection}/{each}"):
            while not _gone(cluster, "GET", f"{collection}/{each}"):
                if time.monotonic() > ends:
                    raise DeadlineExceeded(f"NetworkChaos {each} is not gone within {timeout_s:g} s")
                time.sleep(_POLL_S)
    return names


def _gone(cluster: Cluster, method: str, path: str) -> bool:
    try:
        cluster.request(method, path)
    except NotFound:
        return True
    return False


def _between(ns: str, selector: str, direction: str, target_ns: str | None, target_selector: str | None) -> Json:
    if direction not in ("to", "from", "both"):
        raise BadInput("direction is to, from or both")
    if direction != "to" and not target_selector:
        raise BadInput(
            f"direction {direction} needs target_selector", hint="Chaos Mesh knows no `from` without a target"
        )
    spec: Json = {"mode": "all", "direction": direction, "selector": _selector(ns, selector)}
    if target_selector:
        spec["target"] = {"mode": "all", "selector": _selector(target_ns or ns, target_selector)}
    return spec


def _selector(ns: str, text: str) -> Json:
    labels = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.lstrip("=").strip()
        if not equals or not _LABEL.fullmatch(key) or not (value == "" or _LABEL.fullmatch(value)):
            raise BadInput(f"{text!r} is no list of key=value", hint="network faults select pods by equal labels")
        labels[key] = value
    return {"namespaces": [ns], "labelSelectors": labels}


def _run_of(configuration: Configuration) -> str:
    return str((configuration or {}).get("aftershock_run_id") or os.environ.get(RUN_ID) or "")


def _moment() -> str:
    return str(time.time_ns() // 1_000_000)


def _inject(cluster: Cluster, ns: str, action: str, spec: Json, configuration: Configuration) -> Json:
    run_id = _run_of(configuration)
    if not run_id:  # a plain `chaos run` without our control: the same fault has the same name
        run_id = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]
    name = faults.network_fault_name(run_id, action)
    collection = f"{faults.CHAOS_MESH}/namespaces/{ns}/networkchaos"
    body = {"apiVersion": "chaos-mesh.org/v1alpha1", "kind": "NetworkChaos", "spec": spec,
            "metadata": {"name": name, "namespace": ns, "labels": OWNER}}  # fmt: skip
    try:
        cluster.request("POST", collection, body=body)
    except NotFound:
        raise ClusterError("fault not available on this cluster: it does not serve chaos-mesh.org/v1alpha1",
                           hint="install Chaos Mesh, or use pocketkube") from None  # fmt: skip
    ends = time.monotonic() + _INJECT_S
    while True:
        live = cluster.request("GET", f"{collection}/{name}")
        conditions = {c["type"]: c for c in (live.get("status") or {}).get("conditions") or []}
        if conditions.get("AllInjected", {}).get("status") == "True":
            return {"name": name, "uid": live["metadata"]["uid"], "action": spec["action"], "injected": True}
        if time.monotonic() > ends:
            told = json.dumps(list(conditions.values()))[:300]
            raise DeadlineExceeded(f"NetworkChaos {name} is not injected within {_INJECT_S:g} s: {told}")
        time.sleep(_POLL_S)


def _name(pod: Json) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
