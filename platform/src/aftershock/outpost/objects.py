"""What the cluster is asked to run for us, as Kubernetes objects, and how each is taken back. Pure.

Every object carries the labels of `labels`; pods hold to the Pod Security Standard "restricted".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aftershock.undo import Inverse

Object = dict[str, Any]
OURS = "app.kubernetes.io/part-of=aftershock"
LOAD_PORT, COLLECTOR_PORT, CREW_PORT = 7171, 4318, 5557
PORTS = {"load": LOAD_PORT, "collector": COLLECTOR_PORT}
USER = 10001
SECONDS_MAX = 3600  # a Job that everybody forgot ends by itself
GRACE_S = 2  # nothing in a pod of ours is worth a longer goodbye: what it recorded is at home by then
WORK = "/tmp"  # noqa: S108  (in the pod, a volume of its own)
SCENARIOS = "/scenarios"
_POLICY = {"Job": "Foreground", "Pod": "Background", "ConfigMap": "Background"}


@dataclass(frozen=True)
class Crew:
    """Some pods of one kind: `component` is load or collector, `role` what they are among themselves."""

    name: str
    namespace: str
    run_id: str
    component: str
    role: str
    image: str
    count: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    files: str | None = None  # a ConfigMap with the scenario
    avoid: Sequence[str] = ()  # nodes on which it must not be, since they are about to be broken
    memory: str = "1Gi"

    @property
    def selector(self) -> str:
        """Its pods."""
        return f"{OURS},aftershock.dev/run={self.run_id},aftershock.dev/role={self.role}"

    @property
    def port(self) -> int:
        """Where its pods answer."""
        return PORTS[self.component]


def labels(crew: Crew) -> dict[str, str]:
    """Labels of a pod, by which NetworkPolicies know it and cleaning up finds it."""
    return {
        "app.kubernetes.io/part-of": "aftershock", "app.kubernetes.io/name": f"aftershock-{crew.component}",
        "aftershock.dev/component": crew.component, "aftershock.dev/role": crew.role, "aftershock.dev/run": crew.run_id,
    }  # fmt: skip


def pod_spec(crew: Crew) -> Object:
    """One pod: restricted, without a token, away from the shop's pods where there is room, and never started twice."""
    env: list[Object] = [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                         {"name": "AFTERSHOCK_SPOOL", "value": WORK}, {"name": "TMPDIR", "value": WORK},
                         {"name": "HOME", "value": WORK},
                         *({"name": k, "value": v} for k, v in crew.env.items())]  # fmt: skip
    mounts: list[Object] = [{"name": "work", "mountPath": WORK}]
    volumes: list[Object] = [{"name": "work", "emptyDir": {"sizeLimit": "1Gi"}}]
    if crew.files:
        mounts.append({"name": "scenarios", "mountPath": SCENARIOS, "readOnly": True})
        volumes.append({"name": "scenarios", "configMap": {"name": crew.files}})
    affinity: Object = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {
            "matchExpressions": [{"key": "app.kubernetes.io/part-of", "operator": "NotIn", "values": ["aftershock"]}]}}}]}}  # fmt: skip
    if crew.avoid:
        expression = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": list(crew.avoid)}
        affinity["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [expression]}]}}  # fmt: skip
    return {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE_S, "automountServiceAccountToken": False,
        "enableServiceLinks": True, "affinity": affinity, "volumes": volumes,
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                            "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": crew.component, "image": crew.image, "imagePullPolicy": "IfNotPresent",
            "args": ["aftershock.outpost", crew.component, "--listen", f"$(POD_IP):{crew.port}", "--run", crew.run_id],
            "env": env, "volumeMounts": mounts, "ports": [{"name": "outpost", "containerPort": crew.port}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": crew.memory}},
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                "capabilities": {"drop": ["ALL"]}},
        }],
    }  # fmt: skip


def workload(crew: Crew, jobs: bool) -> list[Object]:
    """One Job, or bare pods where the cluster has no Jobs."""
    meta = {"namespace": crew.namespace, "labels": labels(crew)}
    if not jobs:
        return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **meta}, "spec": pod_spec(crew)}
                for name in pod_names(crew)]  # fmt: skip
    return [{
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": crew.name, **meta},
        "spec": {
            "parallelism": crew.count, "completions": crew.count, "backoffLimit": 0, "activeDeadlineSeconds": SECONDS_MAX,
            "ttlSecondsAfterFinished": SECONDS_MAX,
            "template": {"metadata": {"labels": labels(crew)}, "spec": pod_spec(crew)},
        },
    }]  # fmt: skip


def pod_names(crew: Crew) -> list[str]:
    """Names of bare pods."""
    return [crew.name] if crew.count == 1 else [f"{crew.name}-{n}" for n in range(crew.count)]


def config_map(crew: Crew, name: str, files: Mapping[str, str]) -> Object:
    """The scenario's files, byte for byte."""
    meta = {"name": name, "namespace": crew.namespace, "labels": labels(crew)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "immutable": True, "data": dict(files)}


def path(obj: Mapping[str, Any]) -> str:
    """Where the API keeps one of our objects."""
    meta, kind = obj["metadata"], obj["kind"]
    root = {"Pod": "/api/v1", "ConfigMap": "/api/v1", "Job": "/apis/batch/v1"}[kind]
    return f"{root}/namespaces/{meta['namespace']}/{kind.lower()}s/{meta['name']}"


def removal(obj: Mapping[str, Any]) -> Inverse:
    """Delete it with its pods; it is gone when they are."""
    at, meta = path(obj), obj["metadata"]
    return Inverse("remove", "DELETE", at, {"propagationPolicy": _POLICY[obj["kind"]]}, "application/json", at, {"absent": True},
                   f"remove {obj['kind']} {meta['namespace']}/{meta['name']}")  # fmt: skip
