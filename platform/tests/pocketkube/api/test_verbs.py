"""Each verb of the table is served over HTTP, and what is not in the table is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from pocketkube.api.resources import Resource, load
from tests.pocketkube.api.cluster import Cluster, pod

CONTAINERS = {"containers": [{"name": "a", "image": "a:1"}]}
TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": CONTAINERS}
SELECTOR = {"matchLabels": {"app": "a"}}
BODIES: dict[str, dict[str, Any]] = {
    "Pod": {"spec": CONTAINERS},
    "Service": {"spec": {"ports": [{"port": 80}]}},
    "Deployment": {"spec": {"selector": SELECTOR, "template": TEMPLATE}},
    "ReplicaSet": {"spec": {"selector": SELECTOR, "template": TEMPLATE}},
    "StatefulSet": {"spec": {"selector": SELECTOR, "template": TEMPLATE}},
    "PersistentVolumeClaim": {
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    },
    "HorizontalPodAutoscaler": {"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "a"}, "maxReplicas": 2}},
    "EndpointSlice": {"addressType": "IPv4", "endpoints": []},
    "NetworkChaos": {
        "spec": {"action": "delay", "mode": "all", "selector": {"namespaces": ["default"]}, "delay": {"latency": "1ms"}}
    },
    "Event": {"regarding": {"name": "a"}, "involvedObject": {"name": "a"}},
}
STORED = [r for r in load() if r.plural != "selfsubjectaccessreviews" and r.group != "metrics.k8s.io"]


def base(resource: Resource) -> str:
    root = f"/apis/{resource.api_version}" if resource.group else "/api/v1"
    return f"{root}/namespaces/default/{resource.plural}" if resource.namespaced else f"{root}/{resource.plural}"


def body(resource: Resource, name: str) -> dict[str, Any]:
    made = BODIES.get(resource.kind, {})
    if resource.kind == "Event":
        made = {"regarding" if resource.group else "involvedObject": {"name": "a"}}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, **made}


@pytest.mark.parametrize("resource", STORED, ids=lambda r: r.qualified)
def test_each_verb_of_the_table(api: Cluster, resource: Resource) -> None:
    at, done = base(resource), set()
    made = api.request("POST", at, body(resource, "verbs"))
    assert made.status_code == 201, made.text
    done.add("create")
    got = api.request("GET", f"{at}/verbs").json()
    assert (got["kind"], got["apiVersion"], got["metadata"]["name"]) == (resource.kind, resource.api_version, "verbs")
    done.add("get")
    listed = api.request("GET", at).json()
    assert listed["kind"] == f"{resource.kind}List"
    assert "verbs" in [o["metadata"]["name"] for o in listed["items"]]
    done.add("list")
    got["metadata"]["labels"] = {"put": "yes"}
    assert api.request("PUT", f"{at}/verbs", got).json()["metadata"]["labels"]["put"] == "yes"
    done.add("update")
    patched = api.request(
        "PATCH", f"{at}/verbs", {"metadata": {"labels": {"a": "b"}}}, "application/merge-patch+json"
    ).json()
    assert patched["metadata"]["labels"]["a"] == "b"
    done.add("patch")
    with api.watch(f"{at}?watch=1&resourceVersion={listed['metadata']['resourceVersion']}&timeoutSeconds=5") as events:
        assert next(events)["object"]["metadata"]["labels"]["put"] == "yes"
        assert next(events)["object"]["metadata"]["labels"]["a"] == "b"
    done.add("watch")
    for sub, verbs in resource.subresources.items():
        assert sub in ("status", "scale", "log", "exec", "eviction", "proxy")  # these have tests of their own
        if sub == "status":
            assert set(verbs) == {"get", "patch", "update"}
            assert api.request("GET", f"{at}/verbs/status").status_code == 200
            told = api.request(
                "PATCH", f"{at}/verbs/status", {"status": {"note": "x"}}, "application/merge-patch+json"
            ).json()
            assert told["status"]["note"] == "x"
            told["status"]["note"] = "y"
            told.setdefault("spec", {})["ignored"] = True
            told = api.request("PUT", f"{at}/verbs/status", told).json()
            assert told["status"]["note"] == "y"
            assert "ignored" not in told.get("spec", {})
    table = api.request("GET", at, accept="application/json;as=Table;v=v1;g=meta.k8s.io,application/json").json()
    assert {len(row["cells"]) for row in table["rows"]} == {len(table["columnDefinitions"])}
    assert api.request("DELETE", f"{at}/verbs").status_code == 200
    done.add("delete")
    assert done == set(resource.verbs)


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("GET", "/apis/apps/v1/daemonsets", "daemonsets"),
        ("POST", "/apis/batch/v1/namespaces/default/jobs", "jobs"),
        ("POST", "/apis/networking.k8s.io/v1/namespaces/default/ingresses", "ingresses"),
        ("DELETE", "/api/v1/namespaces/default/pods", "deletecollection pods"),
        ("POST", "/api/v1/namespaces/default/pods/a/portforward", "create pods/portforward"),
        ("POST", "/api/v1/namespaces/default/pods/a/proxy/x", "create pods/proxy"),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "list selfsubjectaccessreviews"),
        ("PATCH", "/api/v1/namespaces/default/pods/a/ephemeralcontainers", "patch pods/ephemeralcontainers"),
        ("GET", "/apis/apps/v1beta1/deployments", "deployments of apps/v1beta1"),
    ],
)
def test_what_is_not_in_the_table_is_refused_by_name(api: Cluster, method: str, path: str, named: str) -> None:
    answer = api.request(method, path, {} if method != "GET" else None)
    assert (answer.status_code, answer.json()["reason"]) == (501, "NotImplemented")
    assert named in answer.json()["message"]


def test_a_path_that_is_nothing_is_not_found(api: Cluster) -> None:
    assert api.request("GET", "/nothing").status_code == 404


def test_only_the_bearer_of_the_token_is_served(api: Cluster) -> None:
    refused = api.request("GET", "/api/v1/pods", authorization="Bearer wrong")
    assert (refused.status_code, refused.json()["reason"]) == (401, "Unauthorized")
    assert api.request("GET", "/readyz", authorization="").text == "ok"


def test_scale_of_each_workload(api: Cluster) -> None:
    for resource in (r for r in STORED if "scale" in r.subresources):
        at = f"{base(resource)}/scaled"
        api.request("POST", base(resource), body(resource, "scaled"))
        scale = api.request("GET", f"{at}/scale").json()
        assert (scale["kind"], scale["spec"]["replicas"], scale["status"]["selector"]) == ("Scale", 1, "app=a")
        scale["spec"]["replicas"] = 3
        assert api.request("PUT", f"{at}/scale", scale).json()["spec"]["replicas"] == 3
        assert api.request("PUT", f"{at}/scale", scale).status_code == 409
        patched = api.request("PATCH", f"{at}/scale", {"spec": {"replicas": 5}}, "application/merge-patch+json").json()
        assert patched["spec"]["replicas"] == 5
        assert api.request("GET", at).json()["spec"]["replicas"] == 5
        refused = api.request("PATCH", f"{at}/scale", {"spec": {"replicas": -1}}, "application/merge-patch+json")
        assert (refused.status_code, refused.json()["details"]["causes"][0]["field"]) == (422, "spec.replicas")


@pytest.mark.parametrize(
    ("attributes", "allowed"),
    [
        ({"verb": "create", "resource": "pods", "subresource": "eviction"}, True),
        ({"verb": "patch", "group": "apps", "resource": "deployments", "namespace": "shop"}, True),
        ({"verb": "*", "resource": "*", "group": "*"}, True),
        ({"verb": "create", "group": "chaos-mesh.org", "resource": "networkchaos"}, True),
        ({"verb": "create", "group": "apps", "resource": "daemonsets"}, False),
        ({"verb": "deletecollection", "resource": "pods"}, False),
        ({"verb": "create", "resource": "pods", "subresource": "portforward"}, False),
        ({"verb": "get", "resource": "deployments"}, False),
    ],
)
def test_access_reviews(api: Cluster, attributes: dict[str, str], allowed: bool) -> None:
    answer = api.request(
        "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"spec": {"resourceAttributes": attributes}}
    )
    assert answer.status_code == 201
    assert answer.json()["status"]["allowed"] is allowed
    assert allowed or "pocketkube does not" in answer.json()["status"]["reason"]


def test_an_event_is_seen_in_both_groups(api: Cluster) -> None:
    about = api.put("pods", pod("told"))
    api.call(lambda: api.store.record_event(about, "Killing", "Stopping container main"))
    (new,) = api.request("GET", "/apis/events.k8s.io/v1/events?fieldSelector=regarding.name=told").json()["items"]
    (old,) = api.request("GET", "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=told").json()[
        "items"
    ]
    assert (new["note"], new["regarding"]["name"], new["deprecatedCount"]) == ("Stopping container main", "told", 1)
    assert (old["message"], old["involvedObject"]["uid"], old["count"]) == (new["note"], about["metadata"]["uid"], 1)
    assert old["metadata"] == new["metadata"]


def test_discovery_names_what_the_table_has(api: Cluster) -> None:
    named: set[tuple[str, str]] = set()
    for path in ("/api", "/apis"):
        accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
        answer = api.request("GET", path, accept=accept)
        assert answer.headers["content-type"].endswith("as=APIGroupDiscoveryList")
        for group in answer.json()["items"]:
            for version in group["versions"]:
                named |= {(group["metadata"]["name"], r["resource"]) for r in version["resources"]}
    assert named == {(r.group, r.plural) for r in load()}
    assert [v["version"] for g in api.request("GET", "/apis").json()["groups"] for v in g["versions"]]
    listed = api.request("GET", "/apis/apps/v1").json()["resources"]
    scale = next(r for r in listed if r["name"] == "deployments/scale")
    assert (scale["group"], scale["kind"]) == ("autoscaling", "Scale")
    assert api.request("GET", "/version").json()["gitVersion"].startswith("v1.34.0+pocketkube")


def test_a_body_that_is_too_large_or_broken_is_refused(api: Cluster) -> None:
    at = "/api/v1/namespaces/default/configmaps"
    assert api.request("POST", at, {"data": {"x": "y" * 3_200_000}}).status_code == 413
    assert api.request("POST", at, None).status_code == 422
    assert api.request("POST", at, [1]).status_code == 400
    assert api.request("POST", at, {"kind": "Pod"}).status_code == 400
    assert api.request("POST", at, {}, "application/cbor").status_code == 415
    assert api.request("PATCH", f"{at}/x", {}, "text/plain").status_code in (404, 415)
