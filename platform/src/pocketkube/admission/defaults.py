"""Values that a client may leave out, as upstream fills them in (pkg/apis/*/v1/defaults.go). They change the object in place."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from pocketkube.storage import Object

Json = Any


def fill(kind: str, obj: Object) -> None:
    """Fill in one object of a known kind."""
    change = _BY_KIND.get(kind)
    if change is not None:
        change(obj)


def _namespace(obj: Object) -> None:
    obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    obj.setdefault("status", {}).setdefault("phase", "Active")
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")


def _pod(obj: Object) -> None:
    obj.setdefault("spec", {}).setdefault("serviceAccountName", "default")
    pod_spec(obj["spec"])
    for toleration in ("not-ready", "unreachable"):
        key = f"node.kubernetes.io/{toleration}"
        tolerations = obj["spec"].setdefault("tolerations", [])
        if not any(t.get("key") in (None, "", key) and t.get("effect") in (None, "", "NoExecute") for t in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    obj.setdefault("status", {}).setdefault("phase", "Pending")
    obj["status"].setdefault("qosClass", _qos(obj["spec"]))


def _qos(spec: Json) -> str:
    resources = [c.get("resources") or {} for c in spec.get("containers") or []]
    if not any(r.get("requests") or r.get("limits") for r in resources):
        return "BestEffort"
    same = all(
        {"cpu", "memory"} <= (r.get("limits") or {}).keys() and r.get("requests", r["limits"]) == r["limits"]
        for r in resources
    )
    return "Guaranteed" if same else "Burstable"


def pod_spec(spec: Json) -> None:
    """A pod's spec, or that of a template."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("enableServiceLinks", True)
    if spec.get("serviceAccountName"):
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for volume in _maps(spec.get("volumes")):
        if not (volume.keys() - {"name"}):
            volume["emptyDir"] = {}
        for source in ("configMap", "secret", "downwardAPI", "projected"):
            if isinstance(volume.get(source), dict):
                volume[source].setdefault("defaultMode", 420)
    for container in (*_maps(spec.get("initContainers")), *_maps(spec.get("containers"))):
        _container(container)


def _container(container: Json) -> None:
    image = str(container.get("image") or "")
    tagged = ":" in image.rsplit("/", 1)[-1] and not image.endswith(":latest")
    container.setdefault("imagePullPolicy", "IfNotPresent" if tagged else "Always")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    resources = container.setdefault("resources", {})
    if isinstance(resources, dict) and resources.get("limits"):
        resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}
    for port in _maps(container.get("ports")):
        port.setdefault("protocol", "TCP")
    for variable in _maps(container.get("env")):
        source = variable.get("valueFrom")
        if isinstance(source, dict) and isinstance(source.get("fieldRef"), dict):
            source["fieldRef"].setdefault("apiVersion", "v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if isinstance(probe, dict):
            for key, value in (
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ):
                probe[key] = probe.get(key) or value
            if isinstance(probe.get("httpGet"), dict):
                probe["httpGet"].setdefault("path", "/")
                probe["httpGet"].setdefault("scheme", "HTTP")


def _maps(items: Json) -> list[dict[str, Json]]:
    return [item for item in items or [] if isinstance(item, dict)]


def _template(obj: Object) -> Json:
    spec = obj.setdefault("spec", {})
    if spec.get("replicas") is None:
        spec["replicas"] = 1
    if isinstance(spec.get("template"), dict):
        spec["template"].setdefault("metadata", {})
        pod_spec(spec["template"].setdefault("spec", {}))
    return spec


def _replica_set(obj: Object) -> None:
    _template(obj)


def _deployment(obj: Object) -> None:
    spec = _template(obj)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy["rollingUpdate"] = dict(strategy.get("rollingUpdate") or {})
        rolling.setdefault("maxSurge", "25%")
        rolling.setdefault("maxUnavailable", "25%")


def _stateful_set(obj: Object) -> None:
    spec = _template(obj)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    spec.setdefault("persistentVolumeClaimRetentionPolicy", {"whenDeleted": "Retain", "whenScaled": "Retain"})
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        strategy["rollingUpdate"] = {"partition": 0, **(strategy.get("rollingUpdate") or {})}
    for claim in _maps(spec.get("volumeClaimTemplates")):
        claim.setdefault("apiVersion", "v1")
        claim.setdefault("kind", "PersistentVolumeClaim")
        claim.setdefault("status", {"phase": "Pending"})
        if isinstance(claim.get("spec"), dict):
            claim["spec"].setdefault("volumeMode", "Filesystem")


def _service(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    spec.setdefault("ipFamilies", ["IPv4"])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    for port in _maps(spec.get("ports")):
        port.setdefault("protocol", "TCP")
        if port.get("targetPort") in (None, "", 0):
            port["targetPort"] = port.get("port")


def _claim(obj: Object) -> None:
    obj.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
    obj.setdefault("status", {}).setdefault("phase", "Pending")


def _secret(obj: Object) -> None:
    obj.setdefault("type", "Opaque")
    plain = obj.pop("stringData", None) or {}
    if plain:
        data = obj.setdefault("data", {})
        data.update({key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()})


def _slice(obj: Object) -> None:
    obj["endpoints"] = obj.get("endpoints") or []
    for port in _maps(obj.get("ports")):
        port.setdefault("protocol", "TCP")
        port.setdefault("name", "")


def _endpoints(obj: Object) -> None:
    for subset in _maps(obj.get("subsets")):
        for port in _maps(subset.get("ports")):
            port.setdefault("protocol", "TCP")


def _autoscaler(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec["minReplicas"] = 1 if spec.get("minReplicas") is None else spec["minReplicas"]
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    behavior = spec.get("behavior")
    if not isinstance(behavior, dict):
        return
    percent = {"type": "Percent", "value": 100, "periodSeconds": 15}
    pods = {"type": "Pods", "value": 4, "periodSeconds": 15}
    for direction, usual in (
        ("scaleUp", {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [pods, percent]}),
        ("scaleDown", {"selectPolicy": "Max", "policies": [dict(percent)]}),
    ):
        behavior[direction] = {**usual, **(behavior.get(direction) or {})}


def _network_chaos(obj: Object) -> None:
    obj.setdefault("spec", {}).setdefault("direction", "to")


_BY_KIND: dict[str, Callable[[Object], None]] = {
    "Namespace": _namespace, "Pod": _pod, "Deployment": _deployment, "ReplicaSet": _replica_set,
    "StatefulSet": _stateful_set, "Service": _service, "PersistentVolumeClaim": _claim, "Secret": _secret,
    "EndpointSlice": _slice, "Endpoints": _endpoints, "NetworkChaos": _network_chaos,
    "HorizontalPodAutoscaler": _autoscaler,
}  # fmt: skip
