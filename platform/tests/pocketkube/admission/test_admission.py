"""Defaults, validation and honesty about fields, on objects as clients send them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketkube.admission import Admission, defaults, shapes
from pocketkube.api.resources import load
from pocketkube.errors import ApiError, BadRequest, Invalid
from pocketkube.storage import Object, Store, clone

GITOPS = Path(__file__).parents[4] / "gitops" / "apps" / "base"
LABELS = {"app": "a"}


def admission() -> Admission:
    return Admission(Store(), lambda service: "127.9.0.1")


def make(kind: str, spec: Any, **more: Any) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec, **more}


def container(**fields: Any) -> dict[str, Any]:
    return {"name": "c", "image": "shop:1", **fields}


def pod(*containers: Any, **spec: Any) -> Object:
    return make("Pod", {"containers": list(containers) or [container()], **spec})


def workload(kind: str, labels: Any = None, template: Any = None, **spec: Any) -> Object:
    made = {
        "metadata": {"labels": LABELS if labels is None else labels},
        "spec": template or {"containers": [container()]},
    }
    return make(kind, {"selector": {"matchLabels": LABELS}, "template": made, **spec})


def fields(kind: str, obj: Object, old: Object | None = None) -> list[str]:
    """Paths that are refused, none if the object passes."""
    try:
        admission().admit(kind, "", obj, old)
    except Invalid as error:
        return [c["field"] for c in error.details["causes"]]
    return []


P = {"path": "/", "port": 80}
SPREAD = {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}
CHAOS: dict[str, Any] = {
    "action": "delay",
    "mode": "all",
    "selector": {"namespaces": ["shop"]},
    "delay": {"latency": "300ms"},
}


def scaler(**spec: Any) -> Object:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}
    return make("HorizontalPodAutoscaler", {"scaleTargetRef": target, "maxReplicas": 6, **spec})


def cpu(**target: Any) -> Object:
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


TARGET = {"mode": "all", "selector": {"labelSelectors": {"app": "orders"}}}


@pytest.mark.parametrize(
    ("kind", "obj", "expected"),
    [
        ("Pod", pod(), []),
        ("Pod", make("Pod", {"containers": []}), ["spec.containers"]),
        ("Pod", make("Pod", {}), ["spec.containers"]),
        ("Pod", pod({"name": "c"}), ["spec.containers[0].image"]),
        ("Pod", pod({"image": "x"}), ["spec.containers[0].name"]),
        ("Pod", pod(container(), container()), ["spec.containers[1].name"]),
        ("Pod", pod({"name": "A_B", "image": "x"}), ["spec.containers[0].name"]),
        ("Pod", pod(restartPolicy="Sometimes"), ["spec.restartPolicy"]),
        ("Pod", pod(terminationGracePeriodSeconds=-1), ["spec.terminationGracePeriodSeconds"]),
        ("Pod", pod(container(ports=[{"containerPort": 0}])), ["spec.containers[0].ports[0].containerPort"]),
        ("Pod", pod(container(ports=[{"containerPort": 80, "protocol": "UDP"}])), ["spec.containers[0].ports[0].protocol"]),
        ("Pod", pod(container(ports=[{"containerPort": 80, "hostPort": 80}])), ["spec.containers[0].ports[0].hostPort"]),
        ("Pod", pod(container(env=[{"name": "A=B"}])), ["spec.containers[0].env[0].name"]),
        ("Pod", pod(container(env=[{"name": "A", "valueFrom": {}}])), ["spec.containers[0].env[0].valueFrom"]),
        ("Pod", pod(container(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.color"}}}])),
         ["spec.containers[0].env[0].valueFrom.fieldRef.fieldPath"]),
        ("Pod", pod(container(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}])),
         ["spec.containers[0].env[0].valueFrom.secretKeyRef.key"]),
        ("Pod", pod(container(readinessProbe={"periodSeconds": 1})), ["spec.containers[0].readinessProbe"]),
        ("Pod", pod(container(readinessProbe={"httpGet": P, "tcpSocket": P})), ["spec.containers[0].readinessProbe.tcpSocket"]),
        ("Pod", pod(container(livenessProbe={"httpGet": {"port": "web"}})), ["spec.containers[0].livenessProbe.httpGet.port"]),
        ("Pod", pod(container(livenessProbe={"httpGet": P, "successThreshold": 2})), ["spec.containers[0].livenessProbe.successThreshold"]),
        ("Pod", pod(container(livenessProbe={"grpc": {"port": 1}})), ["spec.containers[0].livenessProbe.grpc"]),
        ("Pod", pod(container(lifecycle={"preStop": {"exec": {"command": []}}})), ["spec.containers[0].lifecycle.preStop.exec.command"]),
        ("Pod", pod(container(lifecycle={"preStop": {"sleep": {"seconds": 1}}})), []),
        ("Pod", pod(container(resources={"requests": {"cpu": "lots"}})), ["spec.containers[0].resources.requests.cpu"]),
        ("Pod", pod(container(volumeMounts=[{"name": "v", "mountPath": "/v"}])), ["spec.containers[0].volumeMounts[0].name"]),
        ("Pod", pod(container(volumeMounts=[{"name": "v"}]), volumes=[{"name": "v"}]), ["spec.containers[0].volumeMounts[0].mountPath"]),
        ("Pod", pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), ["spec.volumes[0].hostPath"]),
        ("Pod", pod(volumes=[{"name": "v", "secret": {}}]), ["spec.volumes[0].secret.secretName"]),
        ("Pod", pod(topologySpreadConstraints=[{**SPREAD, "maxSkew": 0}]), ["spec.topologySpreadConstraints[0].maxSkew"]),
        ("Pod", pod(tolerations=[{"operator": "Near"}]), ["spec.tolerations[0].operator"]),
        ("Pod", pod(initContainers=[{"name": "i"}]), ["spec.initContainers[0].image"]),
        ("Pod", pod(initContainers=[{**container(), "name": "i", "restartPolicy": "Always"}]), ["spec.initContainers[0].restartPolicy"]),
        ("Pod", pod(hostNetwork=True, hostPID=True), ["spec.hostNetwork", "spec.hostPID"]),
        ("Pod", pod(hostNetwork=False, schedulerName="default-scheduler"), []),
        ("Pod", pod(schedulerName="mine"), ["spec.schedulerName"]),
        ("HorizontalPodAutoscaler", scaler(), []),
        ("HorizontalPodAutoscaler", scaler(minReplicas=0), ["spec.minReplicas"]),
        ("HorizontalPodAutoscaler", scaler(maxReplicas=0), ["spec.maxReplicas"]),
        ("HorizontalPodAutoscaler", scaler(minReplicas=9), ["spec.maxReplicas"]),
        ("HorizontalPodAutoscaler", scaler(scaleTargetRef={}), ["spec.scaleTargetRef.kind", "spec.scaleTargetRef.name"]),
        ("HorizontalPodAutoscaler", scaler(metrics=[{"type": "Pods", "pods": {"x": 1}}]), ["spec.metrics[0].pods"]),
        ("HorizontalPodAutoscaler", scaler(metrics=[{"type": "External"}]), ["spec.metrics[0].type"]),
        ("HorizontalPodAutoscaler", scaler(metrics=[cpu(type="Utilization")]), ["spec.metrics[0].resource.target.averageUtilization"]),
        ("HorizontalPodAutoscaler", scaler(metrics=[cpu(type="AverageValue", averageValue="lots")]),
         ["spec.metrics[0].resource.target.averageValue"]),
        ("HorizontalPodAutoscaler", scaler(metrics=[cpu(type="Value", value="1")]), ["spec.metrics[0].resource.target.value"]),
        ("HorizontalPodAutoscaler", scaler(behavior={"scaleUp": {"selectPolicy": "Most"}}), ["spec.behavior.scaleUp.selectPolicy"]),
        ("HorizontalPodAutoscaler", scaler(behavior={"scaleDown": {"policies": []}}), ["spec.behavior.scaleDown.policies"]),
        ("HorizontalPodAutoscaler", scaler(behavior={"scaleDown": {"stabilizationWindowSeconds": 3601}}),
         ["spec.behavior.scaleDown.stabilizationWindowSeconds"]),
        ("HorizontalPodAutoscaler", scaler(behavior={"scaleDown": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 0}]}}),
         ["spec.behavior.scaleDown.policies[0].value", "spec.behavior.scaleDown.policies[0].periodSeconds"]),
        ("HorizontalPodAutoscaler", scaler(behavior={"scaleUp": {"tolerance": "0.2"}}), ["spec.behavior.scaleUp.tolerance"]),
        ("ClusterRole", make("ClusterRole", {}, name="aftershock:look"), []),
        ("Deployment", workload("Deployment"), []),
        ("Deployment", workload("Deployment", labels={"app": "b"}), ["spec.template.metadata.labels"]),
        ("Deployment", workload("Deployment", replicas=-1), ["spec.replicas"]),
        ("Deployment", workload("Deployment", selector={}), ["spec.selector"]),
        ("Deployment", workload("Deployment", strategy={"type": "Blue"}), ["spec.strategy.type"]),
        ("Deployment", workload("Deployment", strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
         ["spec.strategy.rollingUpdate.maxUnavailable"]),
        ("Deployment", workload("Deployment", strategy={"rollingUpdate": {"maxSurge": "many"}}), ["spec.strategy.rollingUpdate.maxSurge"]),
        ("Deployment", workload("Deployment", template={"containers": [container()], "restartPolicy": "Never"}),
         ["spec.template.spec.restartPolicy"]),
        ("Deployment", make("Deployment", {"selector": {"matchLabels": LABELS}}), ["spec.template"]),
        ("StatefulSet", workload("StatefulSet", podManagementPolicy="Random"), ["spec.podManagementPolicy"]),
        ("StatefulSet", workload("StatefulSet", template={"containers": [container(volumeMounts=[{"name": "d", "mountPath": "/d"}])]},
                                 volumeClaimTemplates=[{"metadata": {"name": "d"}, "spec": {}}]), []),
        ("Service", make("Service", {"ports": [{"port": 80}]}), []),
        ("Service", make("Service", {}), ["spec.ports"]),
        ("Service", make("Service", {"clusterIP": "None"}), []),
        ("Service", make("Service", {"type": "NodePort", "ports": [{"port": 80}]}), ["spec.type"]),
        ("Service", make("Service", {"ports": [{"port": 80}, {"port": 81}]}), ["spec.ports[0].name", "spec.ports[1].name"]),
        ("Service", make("Service", {"ports": [{"port": 80, "targetPort": 70000}]}), ["spec.ports[0].targetPort"]),
        ("PodDisruptionBudget", make("PodDisruptionBudget", {"minAvailable": 1, "maxUnavailable": 1, "selector": {}}), ["spec"]),
        ("PodDisruptionBudget", make("PodDisruptionBudget", {"minAvailable": "x", "selector": {}}), ["spec.minAvailable"]),
        ("NetworkChaos", make("NetworkChaos", CHAOS), []),
        ("NetworkChaos", make("NetworkChaos", {**CHAOS, "action": "bandwidth"}), ["spec.action"]),
        ("NetworkChaos", make("NetworkChaos", {**CHAOS, "bandwidth": {"rate": "1mbps"}}), ["spec.bandwidth"]),
        ("NetworkChaos", make("NetworkChaos", {**CHAOS, "direction": "from"}), ["spec.target"]),
        ("NetworkChaos", make("NetworkChaos", {**CHAOS, "direction": "from", "target": TARGET}), []),
        ("NetworkChaos", make("NetworkChaos", {**CHAOS, "delay": {"latency": "300"}}), ["spec.delay.latency"]),
        ("NetworkChaos", make("NetworkChaos", {**CHAOS, "mode": "fixed"}), ["spec.value"]),
        ("NetworkChaos", make("NetworkChaos", {**CHAOS, "action": "loss"}), ["spec.loss"]),
        ("NetworkChaos", make("NetworkChaos", {**CHAOS, "action": "loss", "loss": {"loss": "101"}}), ["spec.loss.loss"]),
        ("NetworkChaos", make("NetworkChaos", {**CHAOS, "selector": {}}), []),
        ("NetworkChaos", make("NetworkChaos", {**CHAOS, "selector": None}), ["spec.selector"]),
        ("ConfigMap", {"metadata": {"name": "Upper"}}, ["metadata.name"]),
        ("ConfigMap", {"metadata": {}}, ["metadata.name"]),
        ("ConfigMap", {"metadata": {"name": "a", "labels": {"a b": "c", "x": "-"}}}, ["metadata.labels", "metadata.labels"]),
        ("EndpointSlice", {"metadata": {"name": "a"}, "addressType": "FQDN", "endpoints": [{}]}, ["addressType", "endpoints[0].addresses"]),
    ],
)  # fmt: skip
def test_validation(kind: str, obj: Object, expected: list[str]) -> None:
    assert fields(kind, obj) == expected


def test_defaults_are_those_of_upstream() -> None:
    obj = pod(
        container(
            image="shop",
            readinessProbe={"httpGet": P},
            resources={"limits": {"cpu": "1"}},
            ports=[{"containerPort": 1}],
        )
    )
    admission().admit("Pod", "", obj, None)
    spec, first = obj["spec"], obj["spec"]["containers"][0]
    assert (spec["restartPolicy"], spec["terminationGracePeriodSeconds"], spec["dnsPolicy"]) == (
        "Always",
        30,
        "ClusterFirst",
    )
    assert (first["imagePullPolicy"], first["ports"][0]["protocol"], first["resources"]["requests"]) == (
        "Always",
        "TCP",
        {"cpu": "1"},
    )
    assert first["readinessProbe"] == {"httpGet": {**P, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                                       "successThreshold": 1, "failureThreshold": 3}  # fmt: skip
    assert [t["key"] for t in spec["tolerations"]] == ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
    assert obj["status"] == {"phase": "Pending", "qosClass": "Burstable"}
    deployment = workload("Deployment")
    admission().admit("Deployment", "apps", deployment, None)
    assert deployment["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
    }
    assert (deployment["spec"]["replicas"], deployment["spec"]["progressDeadlineSeconds"]) == (1, 600)
    service = make("Service", {"ports": [{"port": 80}]})
    admission().admit("Service", "", service, None)
    assert (service["spec"]["clusterIP"], service["spec"]["ports"][0]["targetPort"]) == ("127.9.0.1", 80)
    secret: Object = {"metadata": {"name": "s"}, "stringData": {"a": "b"}}
    admission().admit("Secret", "", secret, None)
    assert (secret["data"], secret["type"], "stringData" in secret) == ({"a": "Yg=="}, "Opaque", False)


def test_our_own_manifests_pass_and_defaults_settle_at_once() -> None:
    seen = set()
    for path in sorted(GITOPS.glob("*.yaml")):
        for obj in yaml.safe_load_all(path.read_text()):
            if obj["kind"] == "Kustomization":
                continue
            assert shapes.examine(obj["kind"], obj).unknown == []
            admission().admit(obj["kind"], "", obj, None, field_validation="Strict")
            again = clone(obj)
            admission().admit(obj["kind"], "", again, obj, field_validation="Strict")
            assert again == obj
            seen.add(obj["kind"])
    assert seen >= {"Namespace", "Service", "Deployment", "StatefulSet", "PodDisruptionBudget"}


def test_a_pod_of_a_controller_may_be_labelled() -> None:
    bare = pod()
    labelled = clone(bare)
    labelled["metadata"]["labels"] = {"x": "y"}
    assert fields("Pod", labelled, bare) == []


def test_types_are_checked_with_their_path() -> None:
    for obj, path in ((pod(container(ports={"a": 1})), "spec.containers[0].ports"), (pod(terminationGracePeriodSeconds="30"), "spec.term"),
                      (pod(nodeSelector={"a": 1}), "spec.nodeSelector.a"), (make("Pod", []), "spec")):  # fmt: skip
        with pytest.raises(BadRequest, match=r"cannot unmarshal .*" + path.replace("[", r"\[").replace("]", r"\]")):
            admission().admit("Pod", "", obj, None)


def test_a_cluster_ip_is_given_once() -> None:
    store = Store()
    store.create("services", {"metadata": {"name": "x", "namespace": "shop"}, "spec": {"clusterIP": "127.9.0.7"}})
    with pytest.raises(Invalid, match="already allocated"):
        Admission(store, lambda s: "").admit(
            "Service", "", make("Service", {"clusterIP": "127.9.0.7", "ports": [{"port": 1}]}), None
        )


def test_each_kind_that_is_served_has_a_shape() -> None:
    known = shapes.shapes()
    assert {r.kind for r in load()} - {"SelfSubjectAccessReview"} <= known.keys()
    basic = {"any", "string", "time", "bool", "int", "number", "intstr", "quantity"}
    for name, shape in known.items():
        for field, kind in shape.items():
            assert kind.inner in basic or kind.inner in known, f"{name}.{field}"


BASIC: dict[str, st.SearchStrategy[Any]] = {
    "string": st.sampled_from(["", "a", "A b", "TCP", "http", "RollingUpdate", "Recreate", "delay", "all", "300ms", "10%", "None"]),
    "int": st.sampled_from([-1, 0, 1, 80, 70000]), "bool": st.booleans(), "number": st.floats(0, 1),
    "time": st.just("2026-01-01T00:00:00Z"),
    "intstr": st.sampled_from([0, 80, "25%", "http", "many", -1]), "quantity": st.sampled_from(["1", "100m", "x", 5]),
    "any": st.sampled_from([{}, [], {"a": 1}, "x"]),
}  # fmt: skip


def typed(inner: str, depth: int) -> st.SearchStrategy[Any]:
    """Values of a type, of the right form but any content; nulls anywhere."""
    if inner in BASIC:
        return BASIC[inner]
    if depth == 0:
        return st.just({})
    optional = {name: of_field(known, depth - 1) for name, known in shapes.shapes()[inner].items()}
    return st.fixed_dictionaries({}, optional=optional)


def of_field(known: shapes.Field, depth: int) -> st.SearchStrategy[Any]:
    value = st.deferred(lambda: typed(known.inner, depth))
    if known.outer == "list":
        value = st.lists(value, max_size=2)
    elif known.outer == "map":
        value = st.dictionaries(st.sampled_from(["a", "b/c", "-"]), value, max_size=2)
    return st.none() | value


FUZZED = ("Pod", "Deployment", "StatefulSet", "Service", "PodDisruptionBudget", "NetworkChaos", "EndpointSlice")


@settings(max_examples=60)
@given(st.sampled_from(FUZZED), st.data())
def test_whatever_a_client_sends_is_admitted_or_refused_and_never_breaks(kind: str, data: st.DataObject) -> None:
    shape = shapes.shapes()[kind]
    whole = {name: of_field(known, 5) for name, known in shape.items() if name != "status"}
    obj = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}, **data.draw(st.fixed_dictionaries(whole))}
    try:
        admission().admit(kind, "", obj, None)
    except ApiError:
        return
    settled = clone(obj)
    defaults.fill(kind, settled)
    assert settled == obj
