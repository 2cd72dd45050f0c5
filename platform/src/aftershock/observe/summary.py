"""What an event line keeps of a Kubernetes object: what evidence needs, nothing secret, bounded in size. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Object = Mapping[str, Any]
TEXT_MAX, ENTRIES_MAX = 300, 100


@dataclass(frozen=True)
class Summary:
    """One object, as far as it matters."""

    namespace: str | None
    name: str
    uid: str | None
    node: str | None = None
    service: str | None = None
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


def pod(obj: Object) -> Summary:
    """Phase, readiness, address, owner and containers of a Pod."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    disruption = condition(obj, "DisruptionTarget")
    containers = _some(status.get("containerStatuses"))
    waiting = next(
        (c["state"]["waiting"].get("reason") for c in containers if "waiting" in (c.get("state") or {})), None
    )
    detail = {
        "phase": status.get("phase"), "ready": condition(obj, "Ready").get("status") == "True",
        "restarts": sum(int(c.get("restartCount") or 0) for c in containers),
        "ip": status.get("podIP"), "owner": _owner(obj), "containers": [_container(c) for c in containers],
    }  # fmt: skip
    if disruption.get("status") == "True":
        detail["disruption"] = {"reason": disruption.get("reason"), "message": _cut(disruption.get("message"))}
    if status.get("message"):
        detail["message"] = _cut(status["message"])
    deleting = "Deleting" if obj["metadata"].get("deletionTimestamp") else None
    reason = status.get("reason") or disruption.get("reason") or deleting or waiting
    return _summary(obj, detail, node=spec.get("nodeName"), service=_labels(obj).get("app"), reason=reason)


def node(obj: Object) -> Summary:
    """Whether a Node is ready and takes pods."""
    spec, ready = obj.get("spec") or {}, condition(obj, "Ready")
    taints = [f"{t.get('key')}={t.get('value') or ''}:{t.get('effect')}" for t in _some(spec.get("taints"))]
    detail = {
        "unschedulable": bool(spec.get("unschedulable")),
        "ready": ready.get("status") == "True",
        "taints": taints,
    }
    return _summary(obj, detail, node=obj["metadata"]["name"], reason=ready.get("reason"))


def endpoint_slice(obj: Object) -> Summary:
    """Which addresses a Service sends to."""
    ready, not_ready, terminating, pods = set(), set(), set(), set()
    for entry in _some(obj.get("endpoints")):
        state, addresses = entry.get("conditions") or {}, set(entry.get("addresses") or [])
        if state.get("ready") is False:
            not_ready |= addresses
        else:  # absent means ready
            ready |= addresses
            pods |= {entry["targetRef"]["name"]} if entry.get("targetRef") else set()
        if state.get("terminating"):
            terminating |= addresses
    detail = {"ready": sorted(ready), "not_ready": sorted(not_ready), "terminating": sorted(terminating),
              "ready_pods": sorted(pods)}  # fmt: skip
    return _summary(obj, detail, service=_labels(obj).get("kubernetes.io/service-name"))


def deployment(obj: Object) -> Summary:
    """Replicas and images of a Deployment."""
    spec, status, meta = obj.get("spec") or {}, obj.get("status") or {}, obj["metadata"]
    containers = _some(((spec.get("template") or {}).get("spec") or {}).get("containers"))
    detail = {
        "replicas": spec.get("replicas", 1), "ready": status.get("readyReplicas", 0),
        "updated": status.get("updatedReplicas", 0), "available": status.get("availableReplicas", 0),
        "image": ", ".join(str(c.get("image")) for c in containers), "generation": meta.get("generation"),
        "observed_generation": status.get("observedGeneration"),
    }  # fmt: skip
    service = _labels(obj).get("app") or ((spec.get("selector") or {}).get("matchLabels") or {}).get("app")
    return _summary(obj, detail, service=service, reason=condition(obj, "Progressing").get("reason"))


def stateful_set(obj: Object) -> Summary:
    """Replicas and images of a StatefulSet."""
    status = obj.get("status") or {}
    seen = deployment(obj)
    revisions = {"revision": status.get("currentRevision"), "update_revision": status.get("updateRevision")}
    return replace(seen, detail={**seen.detail, **revisions})


def disruption_budget(obj: Object) -> Summary:
    """How many pods a PodDisruptionBudget lets go now."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    detail = {
        "min_available": spec.get("minAvailable"), "max_unavailable": spec.get("maxUnavailable"),
        "allowed": status.get("disruptionsAllowed"), "healthy": status.get("currentHealthy"),
        "desired": status.get("desiredHealthy"), "expected": status.get("expectedPods"),
    }  # fmt: skip
    service = ((spec.get("selector") or {}).get("matchLabels") or {}).get("app")
    return _summary(obj, detail, service=service, reason=condition(obj, "DisruptionAllowed").get("reason"))


def autoscaler(obj: Object) -> Summary:
    """What a HorizontalPodAutoscaler wants, has and measures."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    about = spec.get("scaleTargetRef") or {}
    measured = [m["resource"] for m in _some(status.get("currentMetrics")) if m.get("resource")]
    detail = {
        "min": spec.get("minReplicas", 1), "max": spec.get("maxReplicas"),
        "current": status.get("currentReplicas", 0), "desired": status.get("desiredReplicas", 0),
        "target": f"{about.get('kind')}/{about.get('name')}",
        "utilization": {str(m.get("name")): (m.get("current") or {}).get("averageUtilization") for m in measured},
        "conditions": {str(c.get("type")): c.get("status") for c in _some(status.get("conditions"))},
    }  # fmt: skip
    service = about.get("name") if about.get("kind") == "Deployment" else None
    return _summary(obj, detail, service=service, reason=condition(obj, "AbleToScale").get("reason"))


def network_chaos(obj: Object) -> Summary:
    """What a NetworkChaos asks for, and whether it says that it acts."""
    spec = obj.get("spec") or {}
    wanted = {k: spec[k] for k in ("action", "mode", "direction", "duration", "delay", "loss", "selector") if k in spec}
    if spec.get("target"):
        wanted["target"] = spec["target"]
    conditions = {str(c.get("type")): c.get("status") for c in _some((obj.get("status") or {}).get("conditions"))}
    return _summary(obj, {"spec": wanted, "conditions": conditions}, reason=spec.get("action"))


def event(obj: Object) -> Summary:
    """An Event of events.k8s.io/v1, under the name of what it is about."""
    about = obj.get("regarding") or obj.get("involvedObject") or {}
    series = obj.get("series") or {}
    detail = {
        "regarding": about.get("kind"), "note": _cut(obj.get("note") or obj.get("message")),
        "count": series.get("count") or obj.get("deprecatedCount") or 1,
        "reporter": obj.get("reportingController"), "action": obj.get("action"),
    }  # fmt: skip
    source = (obj.get("deprecatedSource") or {}).get("host")
    return Summary(about.get("namespace"), str(about.get("name") or ""), about.get("uid"),
                   node=about.get("name") if about.get("kind") == "Node" else source,
                   reason=obj.get("reason"), detail=detail)  # fmt: skip


SUMMARIES: Mapping[str, Callable[[Object], Summary]] = {
    "Pod": pod, "Node": node, "EndpointSlice": endpoint_slice, "Deployment": deployment,
    "StatefulSet": stateful_set, "PodDisruptionBudget": disruption_budget, "HorizontalPodAutoscaler": autoscaler,
    "NetworkChaos": network_chaos, "Event": event,
}  # fmt: skip


def finished(pod: Object) -> bool:
    """Whether a pod has ended, for good or ill, and runs nothing any more."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def condition(obj: Object, type_: str) -> Mapping[str, Any]:
    """A condition of an object's status, empty if it has none of this type."""
    found = next((c for c in (obj.get("status") or {}).get("conditions") or [] if c.get("type") == type_), None)
    return found or {}


def _summary(
    obj: Object, detail: dict[str, Any], *, node: Any = None, service: Any = None, reason: Any = None
) -> Summary:
    meta = obj["metadata"]
    if meta.get("deletionTimestamp"):
        detail["deletionTimestamp"] = meta["deletionTimestamp"]
        detail["deletion_grace_s"] = meta.get("deletionGracePeriodSeconds")
    return Summary(meta.get("namespace"), str(meta["name"]), meta.get("uid"), node, service, reason, detail)


def _container(entry: Mapping[str, Any]) -> dict[str, Any]:
    states: list[tuple[str | None, Mapping[str, Any]]] = [*(entry.get("state") or {}).items(), (None, {})]
    name, inside = states[0]
    kept: dict[str, Any] = {"name": entry.get("name"), "image": entry.get("image"), "image_id": entry.get("imageID"),
            "ready": bool(entry.get("ready")), "restarts": entry.get("restartCount", 0), "state": name}  # fmt: skip
    last = (entry.get("lastState") or {}).get("terminated")
    for key, ended in (("ended", inside if name == "terminated" else None), ("last", last)):
        if ended:
            kept[key] = {k: ended[k] for k in ("exitCode", "signal", "reason") if k in ended}
    if name == "waiting":
        kept["waiting"] = inside.get("reason")
    if inside.get("startedAt"):
        kept["started"] = inside["startedAt"]
    return kept


def _owner(obj: Object) -> str | None:
    owners = obj["metadata"].get("ownerReferences") or []
    return f"{owners[0].get('kind')}/{owners[0].get('name')}" if owners else None


def _labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def _some(entries: Any) -> list[Any]:
    return list(entries or [])[:ENTRIES_MAX]


def _cut(text: Any) -> str:
    return str(text or "")[:TEXT_MAX]
