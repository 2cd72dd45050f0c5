"""What upstream would refuse (pkg/apis/*/validation): field paths, messages and causes alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pocketkube import selectors
from pocketkube.admission import changes
from pocketkube.admission.causes import (
    DNS_1123,
    LABEL,
    QUALIFIED,
    SUBDOMAIN,
    Cause,
    amount,
    invalid,
    labels,
    port,
    positive,
    quantity,
    required,
    selector,
    unsupported,
)
from pocketkube.admission.pods import pod_spec
from pocketkube.storage import Object

Json = Any


def check(kind: str, obj: Object, old: Object | None) -> list[Cause]:
    """All that is wrong with an object, or with its change from `old`; shapes are known to be right."""
    causes = list(_metadata(kind, obj["metadata"]))
    rule = _BY_KIND.get(kind)
    if rule is not None:
        causes += rule(obj)
    if old is not None:
        causes += changes.check(kind, obj, old)
    return causes


def _metadata(kind: str, meta: Mapping[str, Json]) -> Iterable[Cause]:
    name = meta.get("name") or ""
    if not name and not meta.get("generateName"):
        yield required("metadata.name", "name or generateName is required")
    pattern, most = (LABEL, 63) if kind in ("Service", "Namespace") else (SUBDOMAIN, 253)
    if (
        name
        and (len(name) > most or not pattern.fullmatch(name))
        and not kind.removeprefix("Cluster").startswith("Role")
        and kind != "Event"
    ):
        yield invalid("metadata.name", name, DNS_1123)
    yield from labels(meta.get("labels"), "metadata.labels")
    for key in meta.get("annotations") or {}:
        if not QUALIFIED.fullmatch(key.lower()):
            yield invalid(
                "metadata.annotations", key, "name part must consist of alphanumeric characters, '-', '_' or '.'"
            )


def _pod(obj: Object) -> list[Cause]:
    return list(pod_spec(obj["spec"], "spec"))


def _workload(obj: Object) -> list[Cause]:
    spec = obj["spec"]
    causes = list(
        positive(spec, "spec", "replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds")
    )
    causes += selector(spec.get("selector"), "spec.selector")
    template = spec.get("template")
    if template is None:
        return [*causes, required("spec.template")]
    has = template.get("metadata", {}).get("labels") or {}
    causes += labels(has, "spec.template.metadata.labels")
    if not causes and not selectors.of(spec["selector"])({"metadata": {"labels": has}}):
        causes.append(invalid("spec.template.metadata.labels", str(has), "`selector` does not match template `labels`"))
    causes += pod_spec(template["spec"], "spec.template.spec")
    if template["spec"].get("restartPolicy") in ("OnFailure", "Never"):
        causes.append(unsupported("spec.template.spec.restartPolicy", template["spec"]["restartPolicy"], ("Always",)))
    return causes


def _deployment(obj: Object) -> list[Cause]:
    causes = _workload(obj)
    strategy = obj["spec"]["strategy"]
    if strategy["type"] not in ("RollingUpdate", "Recreate"):
        causes.append(unsupported("spec.strategy.type", strategy["type"], ("RollingUpdate", "Recreate")))
    elif strategy["type"] == "Recreate" and strategy.get("rollingUpdate"):
        causes.append(
            (
                "spec.strategy.rollingUpdate",
                "Forbidden: may not be specified when strategy `type` is 'Recreate'",
                "FieldValueForbidden",
            )
        )
    rolling = strategy.get("rollingUpdate") or {}
    for name in ("maxSurge", "maxUnavailable"):
        causes += amount(rolling.get(name), f"spec.strategy.rollingUpdate.{name}")
    if strategy["type"] == "RollingUpdate" and all(rolling.get(n) in (0, "0%") for n in ("maxSurge", "maxUnavailable")):
        causes.append(
            invalid(
                "spec.strategy.rollingUpdate.maxUnavailable",
                rolling.get("maxUnavailable"),
                "may not be 0 when `maxSurge` is 0",
            )
        )
    return causes


def _stateful_set(obj: Object) -> list[Cause]:
    causes = _workload(obj)
    spec = obj["spec"]
    for path, value, allowed in (
        ("spec.podManagementPolicy", spec["podManagementPolicy"], ("OrderedReady", "Parallel")),
        ("spec.updateStrategy.type", spec["updateStrategy"]["type"], ("RollingUpdate", "OnDelete")),
    ):
        if value not in allowed:
            causes.append(unsupported(path, value, allowed))
    claims = {c.get("metadata", {}).get("name") for c in spec.get("volumeClaimTemplates") or []}
    return [c for c in causes if not (c[0].endswith("].name") and any(c[1] == f'Not found: "{n}"' for n in claims))]


def _service(obj: Object) -> list[Cause]:
    spec = obj["spec"]
    causes: list[Cause] = list(labels(spec.get("selector"), "spec.selector"))
    ports = spec.get("ports") or []
    if not ports and spec.get("clusterIP") != "None":
        causes.append(required("spec.ports"))
    if spec["type"] != "ClusterIP":
        causes.append(
            ("spec.type", f'Unsupported value: "{spec["type"]}": pocketkube serves ClusterIP', "FieldValueNotSupported")
        )
    if spec["sessionAffinity"] != "None":
        causes.append(
            (
                "spec.sessionAffinity",
                f'Unsupported value: "{spec["sessionAffinity"]}": pocketkube serves None',
                "FieldValueNotSupported",
            )
        )
    names: set[Json] = set()
    for n, entry in enumerate(ports):
        causes += port(entry, f"spec.ports[{n}]", "port")
        if len(ports) > 1 and not entry.get("name"):
            causes.append(required(f"spec.ports[{n}].name"))
        elif entry.get("name") in names:
            causes.append((f"spec.ports[{n}].name", f'Duplicate value: "{entry["name"]}"', "FieldValueDuplicate"))
        names.add(entry.get("name"))
        target = entry.get("targetPort")
        if isinstance(target, int) and not 1 <= target <= 65535:
            causes.append(invalid(f"spec.ports[{n}].targetPort", target, "must be between 1 and 65535, inclusive"))
    return causes


def _budget(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes: list[Cause] = []
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        causes.append(invalid("spec", "{}", "minAvailable and maxUnavailable cannot be both set"))
    for name in ("minAvailable", "maxUnavailable"):
        causes += amount(spec.get(name), f"spec.{name}")
    if spec.get("selector") is not None:
        causes += selector(spec["selector"], "spec.selector", empty=True)
    if spec.get("unhealthyPodEvictionPolicy") not in (None, "IfHealthyBudget", "AlwaysAllow"):
        causes.append(
            unsupported(
                "spec.unhealthyPodEvictionPolicy",
                spec["unhealthyPodEvictionPolicy"],
                ("IfHealthyBudget", "AlwaysAllow"),
            )
        )
    return causes


def _slice(obj: Object) -> list[Cause]:
    causes: list[Cause] = []
    if obj.get("addressType") != "IPv4":
        causes.append(unsupported("addressType", obj.get("addressType"), ("IPv4",)))
    for n, endpoint in enumerate(obj["endpoints"]):
        if not endpoint.get("addresses"):
            causes.append(required(f"endpoints[{n}].addresses", "must contain at least 1 address"))
    return causes


def _claim(obj: Object) -> list[Cause]:
    spec, causes = obj["spec"], []
    if not spec.get("accessModes"):
        causes.append(required("spec.accessModes", "at least 1 access mode is required"))
    if not ((spec.get("resources") or {}).get("requests") or {}).get("storage"):
        causes.append(required("spec.resources[storage]"))
    return causes


def _autoscaler(obj: Object) -> list[Cause]:
    spec = obj["spec"]
    causes: list[Cause] = []
    target, least, most = spec.get("scaleTargetRef") or {}, spec["minReplicas"], spec.get("maxReplicas") or 0
    causes += [required(f"spec.scaleTargetRef.{name}") for name in ("kind", "name") if not target.get(name)]
    if least < 1:
        causes.append(invalid("spec.minReplicas", least, "must be greater than or equal to 1"))
    if most < 1:
        causes.append(invalid("spec.maxReplicas", most, "must be greater than 0"))
    elif most < least:
        causes.append(invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`"))
    for n, metric in enumerate(spec["metrics"]):
        causes += _metric(metric, f"spec.metrics[{n}]")
    for direction in ("scaleUp", "scaleDown") if spec.get("behavior") else ():
        causes += _scaling_rules(spec["behavior"][direction], f"spec.behavior.{direction}")
    return causes


def _metric(metric: Mapping[str, Json], path: str) -> Iterable[Cause]:
    if metric.get("type") != "Resource":
        yield unsupported(f"{path}.type", metric.get("type"), ("Resource",))
        return
    resource = metric.get("resource") or {}
    if resource.get("name") not in ("cpu", "memory"):
        yield unsupported(f"{path}.resource.name", resource.get("name"), ("cpu", "memory"))
    target, at = resource.get("target") or {}, f"{path}.resource.target"
    if target.get("type") == "Utilization":
        if not isinstance(target.get("averageUtilization"), int) or target["averageUtilization"] < 1:
            yield invalid(f"{at}.averageUtilization", target.get("averageUtilization"), "must be greater than 0")
    elif target.get("type") == "AverageValue":
        yield from quantity(target.get("averageValue"), f"{at}.averageValue")
    else:
        yield unsupported(f"{at}.type", target.get("type"), ("Utilization", "AverageValue"))


def _scaling_rules(rules: Mapping[str, Json], path: str) -> Iterable[Cause]:
    window = rules.get("stabilizationWindowSeconds")
    if window is not None and not 0 <= window <= 3600:
        yield invalid(f"{path}.stabilizationWindowSeconds", window, "must be between 0 and 3600")
    if rules["selectPolicy"] not in ("Max", "Min", "Disabled"):
        yield unsupported(f"{path}.selectPolicy", rules["selectPolicy"], ("Max", "Min", "Disabled"))
    if not rules["policies"]:
        yield required(f"{path}.policies", "must specify at least one Policy")
    for n, policy in enumerate(rules["policies"]):
        at = f"{path}.policies[{n}]"
        if policy.get("type") not in ("Pods", "Percent"):
            yield unsupported(f"{at}.type", policy.get("type"), ("Pods", "Percent"))
        if not isinstance(policy.get("value"), int) or policy["value"] < 1:
            yield invalid(f"{at}.value", policy.get("value"), "must be greater than zero")
        if not isinstance(policy.get("periodSeconds"), int) or not 1 <= policy["periodSeconds"] <= 1800:
            yield invalid(f"{at}.periodSeconds", policy.get("periodSeconds"), "must be between 1 and 1800")


_MODES = ("all", "one", "fixed", "fixed-percent", "random-max-percent")
_DURATION = re.compile(r"(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+")


def _network_chaos(obj: Object) -> list[Cause]:
    spec, causes = obj["spec"], []
    action = spec.get("action")
    if action not in ("delay", "loss", "partition"):
        causes.append(unsupported("spec.action", action, ("delay", "loss", "partition")))
    elif action != "partition" and not spec.get(action):
        causes.append(required(f"spec.{action}", f"action {action} needs it"))
    for path, part in (("spec", spec), ("spec.target", spec.get("target"))):
        if part is None:
            continue
        if part.get("mode") not in _MODES:
            causes.append(unsupported(f"{path}.mode", part.get("mode"), _MODES))
        elif part["mode"] not in ("all", "one") and not str(part.get("value") or "").isdecimal():
            causes.append(required(f"{path}.value", f"mode {part['mode']} needs a whole number"))
        if part.get("selector") is None:
            causes.append(required(f"{path}.selector"))
    if spec["direction"] not in ("to", "from", "both"):
        causes.append(unsupported("spec.direction", spec["direction"], ("to", "from", "both")))
    elif spec["direction"] != "to" and not spec.get("target"):
        causes.append(required("spec.target", f"direction {spec['direction']} needs it"))
    delay, loss = spec.get("delay") or {}, spec.get("loss") or {}
    durations = {
        "spec.duration": spec.get("duration"),
        "spec.delay.latency": delay.get("latency"),
        "spec.delay.jitter": delay.get("jitter"),
    }
    for path, value in durations.items():
        if value and value != "0" and not _DURATION.fullmatch(value):
            causes.append(invalid(path, value, "is not a duration such as 300ms"))
    shares = {"spec.loss.loss": loss.get("loss"), "spec.loss.correlation": loss.get("correlation"),
              "spec.delay.correlation": delay.get("correlation")}  # fmt: skip
    for path, value in shares.items():
        if value and not (re.fullmatch(r"\d+(\.\d+)?", value) and float(value) <= 100):
            causes.append(invalid(path, value, "is not a percentage between 0 and 100"))
    return causes


_BY_KIND: dict[str, Callable[[Object], list[Cause]]] = {
    "Pod": _pod, "Deployment": _deployment, "ReplicaSet": _workload, "StatefulSet": _stateful_set, "Service": _service,
    "PodDisruptionBudget": _budget, "EndpointSlice": _slice, "PersistentVolumeClaim": _claim, "NetworkChaos": _network_chaos,
    "HorizontalPodAutoscaler": _autoscaler,
}  # fmt: skip
