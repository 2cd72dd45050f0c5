"""The columns that kubectl prints (`as=Table`), as upstream computes them (pkg/printers/internalversion)."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pocketkube.api.resources import Resource
from pocketkube.storage import Object

Json = Any
Cell = Callable[[Object], Json]
NONE = "<none>"
UNKNOWN = "<unknown>"


@dataclass(frozen=True)
class Column:
    """One column; priority 1 is shown with `-o wide` only."""

    name: str
    cell: Cell
    type: str = "string"
    priority: int = 0
    format: str = ""

    def definition(self) -> dict[str, Json]:
        """As in a Table."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.name,
            "priority": self.priority,
        }


def table(resource: Resource, objects: Iterable[Object], version: str, include: str | None) -> dict[str, Json]:
    """A Table; `include` is None or "Metadata", "Object" or "None"."""
    columns = _COLUMNS.get((resource.group, resource.plural), _PLAIN)
    return {
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": version},
        "columnDefinitions": [c.definition() for c in columns],
        "rows": [{"cells": [c.cell(obj) for c in columns], "object": _included(obj, include)} for obj in objects],
    }  # fmt: skip


def _included(obj: Object, include: str | None) -> Json:
    if include == "None":
        return None
    if include == "Object":
        return obj
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def seconds_since(text: str | None) -> float | None:
    """Age of an RFC 3339 time."""
    if not text:
        return None
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (datetime.datetime.now(datetime.UTC) - at).total_seconds()


def duration(seconds: float | None) -> str:
    """As `duration.HumanDuration`: 42s, 5m30s, 12m, 3h20m, 20h, 5d, 2y."""
    if seconds is None:
        return UNKNOWN
    s = max(0, int(seconds))
    if s < 120:
        return f"{s}s"
    minutes, hours, days = s // 60, s // 3600, s // 86400
    if minutes < 10:
        return f"{minutes}m{s % 60}s" if s % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d" if days < 730 else f"{days // 365}y"


def age(text: str | None) -> str:
    """The age of a time, as kubectl shows it."""
    return duration(seconds_since(text))


def _at(path: str, default: Json = NONE) -> Cell:
    steps = path.split(".")

    def cell(obj: Object) -> Json:
        node: Json = obj
        for step in steps:
            node = node.get(step) if isinstance(node, Mapping) else None
        return default if node in (None, "") else node

    return cell


def _count(path: str) -> Cell:
    return lambda obj: len(_at(path, {})(obj))


def _labels(path: str) -> Cell:
    def cell(obj: Object) -> str:
        pairs = _at(path, {})(obj)
        return ",".join(f"{k}={v}" for k, v in sorted(pairs.items())) or NONE

    return cell


def selector_text(obj: Object) -> str:
    """A workload's selector in one line."""
    wanted = _at("spec.selector", {})(obj)
    parts = [f"{k}={v}" for k, v in sorted((wanted.get("matchLabels") or {}).items())]
    for e in wanted.get("matchExpressions") or []:
        operator = e["operator"]
        values = f"({','.join(e.get('values') or [])})"
        parts.append(e["key"] if operator == "Exists" else f"!{e['key']}" if operator == "DoesNotExist"
                     else f"{e['key']} {'in' if operator == 'In' else 'notin'} {values}")  # fmt: skip
    return ",".join(parts) or NONE


def _template(field: str) -> Cell:
    return lambda obj: ",".join(c.get(field, "") for c in _at("spec.template.spec.containers", [])(obj))


def _of(path: str, wanted: str) -> Cell:
    return lambda obj: f"{_at(path, 0)(obj)}/{_at(wanted, 0)(obj)}"


_NAME = Column("Name", _at("metadata.name"), format="name")
_AGE = Column("Age", lambda obj: age(obj["metadata"].get("creationTimestamp")))
_PLAIN = (_NAME, Column("Created At", _at("metadata.creationTimestamp"), format="date-time"))


def pod_reason(pod: Object) -> str:
    """The STATUS column: what a person wants to know first."""
    status = pod.get("status") or {}
    reason = str(status.get("reason") or status.get("phase") or "Unknown")
    has_running = False
    for container in reversed(status.get("containerStatuses") or []):
        state = container.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated")
        if waiting.get("reason"):
            reason = waiting["reason"]
        elif ended is not None:
            signal = ended.get("signal")
            reason = ended.get("reason") or (f"Signal:{signal}" if signal else f"ExitCode:{ended.get('exitCode', 0)}")
        elif container.get("ready") and state.get("running") is not None:
            has_running = True
    if reason == "Completed" and has_running:
        reason = "Running"
    if pod["metadata"].get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return reason


def _pod_ready(pod: Object) -> str:
    statuses = _at("status.containerStatuses", [])(pod)
    return f"{sum(bool(s.get('ready')) for s in statuses)}/{len(pod['spec'].get('containers') or [])}"


def _pod_restarts(pod: Object) -> str:
    statuses = _at("status.containerStatuses", [])(pod)
    count = sum(int(s.get("restartCount") or 0) for s in statuses)
    ended = [
        a
        for s in statuses
        if (a := seconds_since(((s.get("lastState") or {}).get("terminated") or {}).get("finishedAt"))) is not None
    ]
    return f"{count} ({duration(min(ended))} ago)" if count and ended else str(count)


def _node_status(node: Object) -> str:
    ready = next((c for c in _at("status.conditions", [])(node) if c["type"] == "Ready"), None)
    words = ["Unknown" if ready is None else "Ready" if ready["status"] == "True" else "NotReady"]
    if (node.get("spec") or {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _node_roles(node: Object) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = sorted(k.removeprefix(prefix) for k in node["metadata"].get("labels") or {} if k.startswith(prefix))
    return ",".join(roles) or NONE


def _node_address(kind: str) -> Cell:
    return lambda node: next((a["address"] for a in _at("status.addresses", [])(node) if a["type"] == kind), NONE)


def _service_ports(service: Object) -> str:
    return ",".join(f"{p.get('port')}/{p.get('protocol', 'TCP')}" for p in _at("spec.ports", [])(service)) or NONE


def _role(binding: Object) -> str:
    return f"{_at('roleRef.kind')(binding)}/{_at('roleRef.name')(binding)}"


def _controller(obj: Object) -> str:
    by = next((r for r in obj["metadata"].get("ownerReferences") or [] if r.get("controller")), None)
    return NONE if by is None else f"{by['kind'].lower()}.{by['apiVersion'].partition('/')[0]}/{by['name']}"


def _targets(autoscaler: Object) -> str:
    shown = []
    for n, metric in enumerate(_at("spec.metrics", [])(autoscaler)):
        currents = _at("status.currentMetrics", [])(autoscaler)
        current = ((currents[n] if n < len(currents) else {}).get("resource") or {}).get("current") or {}
        target = metric["resource"]["target"]
        if target["type"] == "Utilization":
            now = current.get("averageUtilization")
            words = f"{UNKNOWN if now is None else f'{now}%'}/{target['averageUtilization']}%"
        else:
            words = f"{current.get('averageValue', UNKNOWN)}/{target['averageValue']}"
        shown.append(f"{metric['resource']['name']}: {words}")
    return _more(shown, most=2)


def _more(items: list[str], none: str = NONE, most: int = 3) -> str:
    shown = ",".join(items[:most]) or none
    return f"{shown} + {len(items) - most} more..." if len(items) > most else shown


def _endpoints(obj: Object) -> str:
    pairs = [
        f"{a['ip']}:{p['port']}"
        for s in obj.get("subsets") or []
        for a in s.get("addresses") or []
        for p in s.get("ports") or []
    ]
    return _more(pairs)


def _event_seen(event: Object) -> str:
    last = event.get("lastTimestamp") or event.get("deprecatedLastTimestamp") or event.get("eventTime")
    first = event.get("firstTimestamp") or event.get("deprecatedFirstTimestamp") or event.get("eventTime")
    count = event.get("count") or event.get("deprecatedCount") or 1
    series = event.get("series") or {}
    last, count = series.get("lastObservedTime") or last, series.get("count") or count
    return f"{age(last)} (x{count} over {age(first)})" if count > 1 else age(last)


def _event_object(event: Object) -> str:
    about = event.get("involvedObject") or event.get("regarding") or {}
    return f"{str(about.get('kind') or '').lower()}/{about.get('name', '')}"


_WORKLOAD_WIDE = (
    Column("Containers", _template("name"), priority=1), Column("Images", _template("image"), priority=1),
    Column("Selector", selector_text, priority=1),
)  # fmt: skip
_EVENTS = (
    Column("Last Seen", _event_seen), Column("Type", _at("type")), Column("Reason", _at("reason")), Column("Object", _event_object),
    Column("Message", lambda e: str(e.get("message") or e.get("note") or "").strip()),
    Column("Name", _at("metadata.name"), priority=1),
)  # fmt: skip
_COLUMNS: dict[tuple[str, str], tuple[Column, ...]] = {
    ("", "pods"): (
        _NAME, Column("Ready", _pod_ready), Column("Status", pod_reason), Column("Restarts", _pod_restarts), _AGE,
        Column("IP", _at("status.podIP"), priority=1), Column("Node", _at("spec.nodeName"), priority=1),
        Column("Nominated Node", _at("status.nominatedNodeName"), priority=1), Column("Readiness Gates", lambda _: NONE, priority=1)),
    ("", "nodes"): (
        _NAME, Column("Status", _node_status), Column("Roles", _node_roles), _AGE,
        Column("Version", _at("status.nodeInfo.kubeletVersion", "")),
        Column("Internal-IP", _node_address("InternalIP"), priority=1), Column("External-IP", _node_address("ExternalIP"), priority=1),
        Column("OS-Image", _at("status.nodeInfo.osImage", UNKNOWN), priority=1),
        Column("Kernel-Version", _at("status.nodeInfo.kernelVersion", UNKNOWN), priority=1),
        Column("Container-Runtime", _at("status.nodeInfo.containerRuntimeVersion", UNKNOWN), priority=1)),
    ("", "namespaces"): (_NAME, Column("Status", _at("status.phase", "")), _AGE),
    ("", "services"): (
        _NAME, Column("Type", _at("spec.type")), Column("Cluster-IP", _at("spec.clusterIP")), Column("External-IP", lambda _: NONE),
        Column("Port(s)", _service_ports), _AGE, Column("Selector", _labels("spec.selector"), priority=1)),
    ("", "endpoints"): (_NAME, Column("Endpoints", _endpoints), _AGE),
    ("", "events"): _EVENTS, ("events.k8s.io", "events"): _EVENTS,
    ("", "configmaps"): (_NAME, Column("Data", _count("data"), "integer"), _AGE),
    ("", "secrets"): (_NAME, Column("Type", _at("type")), Column("Data", _count("data"), "integer"), _AGE),
    ("", "serviceaccounts"): (_NAME, Column("Secrets", _count("secrets"), "integer"), _AGE),
    ("", "persistentvolumeclaims"): (
        _NAME, Column("Status", _at("status.phase", "")), Column("Volume", _at("spec.volumeName", "")),
        Column("Capacity", _at("status.capacity.storage", "")), Column("Access Modes", lambda c: ",".join(_at("spec.accessModes", [])(c))),
        Column("StorageClass", _at("spec.storageClassName", "")), _AGE),
    ("apps", "deployments"): (
        _NAME, Column("Ready", _of("status.readyReplicas", "spec.replicas")),
        Column("Up-to-date", _at("status.updatedReplicas", 0), "integer"),
        Column("Available", _at("status.availableReplicas", 0), "integer"),
        _AGE, *_WORKLOAD_WIDE),
    ("apps", "replicasets"): (
        _NAME, Column("Desired", _at("spec.replicas", 0), "integer"), Column("Current", _at("status.replicas", 0), "integer"),
        Column("Ready", _at("status.readyReplicas", 0), "integer"), _AGE, *_WORKLOAD_WIDE),
    ("apps", "statefulsets"): (
        _NAME, Column("Ready", _of("status.readyReplicas", "spec.replicas")), _AGE, *_WORKLOAD_WIDE[:2]),
    ("apps", "controllerrevisions"): (
        _NAME, Column("Controller", _controller), Column("Revision", _at("revision", 0), "integer"), _AGE),
    ("autoscaling", "horizontalpodautoscalers"): (
        _NAME, Column("Reference", lambda a: f"{_at('spec.scaleTargetRef.kind')(a)}/{_at('spec.scaleTargetRef.name')(a)}"),
        Column("Targets", _targets), Column("MinPods", _at("spec.minReplicas", "<unset>")), Column("MaxPods", _at("spec.maxReplicas")),
        Column("Replicas", _at("status.currentReplicas", 0)), _AGE),
    ("policy", "poddisruptionbudgets"): (
        _NAME, Column("Min Available", _at("spec.minAvailable", "N/A")), Column("Max Unavailable", _at("spec.maxUnavailable", "N/A")),
        Column("Allowed Disruptions", _at("status.disruptionsAllowed", 0), "integer"), _AGE),
    ("discovery.k8s.io", "endpointslices"): (
        _NAME, Column("AddressType", _at("addressType")),
        Column("Ports", lambda s: _more([str(p.get("port")) for p in s.get("ports") or []], "<unset>")),
        Column("Endpoints", lambda s: _more([a for e in s.get("endpoints") or [] for a in e["addresses"]], "<unset>")),
        _AGE),
    ("coordination.k8s.io", "leases"): (_NAME, Column("Holder", _at("spec.holderIdentity", "")), _AGE),
    ("networking.k8s.io", "networkpolicies"): (_NAME, Column("Pod-Selector", _labels("spec.podSelector.matchLabels")), _AGE),
    ("rbac.authorization.k8s.io", "rolebindings"): (_NAME, Column("Role", _role), _AGE),
    ("rbac.authorization.k8s.io", "clusterrolebindings"): (_NAME, Column("Role", _role), _AGE),
    ("chaos-mesh.org", "networkchaos"): (_NAME, Column("Action", _at("spec.action")), Column("Duration", _at("spec.duration", "")), _AGE),
}  # fmt: skip
