"""Writes as upstream does them: conflicts, dry runs, deletion in steps, and field validation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pocketkube.api.cluster import Cluster, pod
from tests.pocketkube.api.test_verbs import CONTAINERS, SELECTOR, TEMPLATE

MERGE, STRATEGIC, JSON, APPLY = (f"application/{k}" for k in (
    "merge-patch+json", "strategic-merge-patch+json", "json-patch+json", "apply-patch+yaml"))  # fmt: skip
MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


def cause(answer: Any) -> tuple[int, str, str]:
    told = answer.json()
    return answer.status_code, told["reason"], (told["details"].get("causes") or [{"field": ""}])[0]["field"]


def deployment(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"selector": SELECTOR, "template": TEMPLATE, **spec}}


def test_names_conflicts_and_preconditions(api: Cluster) -> None:
    made = api.request("POST", MAPS, {"metadata": {"name": "a"}, "data": {"x": "1"}}).json()
    again = api.request("POST", MAPS, {"metadata": {"name": "a"}})
    assert (again.status_code, again.json()["message"]) == (409, 'configmaps "a" already exists')
    api.request("PATCH", f"{MAPS}/a", {"data": {"x": "2"}}, MERGE)
    assert api.request("PUT", f"{MAPS}/a", made).json()["reason"] == "Conflict"
    assert api.request("PUT", f"{MAPS}/b", made).status_code in (400, 404)
    refused = api.request("DELETE", f"{MAPS}/a", {"preconditions": {"uid": "other"}})
    assert (refused.status_code, refused.json()["reason"]) == (409, "Conflict")
    gone = api.request("DELETE", f"{MAPS}/a").json()
    assert (gone["kind"], gone["status"], gone["details"]["uid"]) == ("Status", "Success", made["metadata"]["uid"])
    missing = api.request("GET", f"{DEPLOYMENTS}/nowhere").json()
    assert (missing["message"], missing["details"]["group"]) == ('deployments.apps "nowhere" not found', "apps")
    lost = api.request("POST", "/api/v1/namespaces/lost/configmaps", {"metadata": {"name": "a"}})
    assert (lost.status_code, lost.json()["message"]) == (404, 'namespaces "lost" not found')
    other = api.request("POST", MAPS, {"metadata": {"name": "a", "namespace": "shop"}})
    assert other.status_code == 400


def test_four_kinds_of_patch(api: Cluster) -> None:
    api.request("POST", DEPLOYMENTS, deployment("patched"))
    at = f"{DEPLOYMENTS}/patched"
    env = [{"name": "X", "value": "1"}]
    change = {"spec": {"template": {"spec": {"containers": [{"name": "a", "env": env}]}}}}
    container = api.request("PATCH", at, change, STRATEGIC).json()["spec"]["template"]["spec"]["containers"][0]
    assert (container["image"], container["env"]) == ("a:1", env)
    assert api.request("PATCH", at, {"spec": {"replicas": 4}}, MERGE).json()["spec"]["replicas"] == 4
    operations = [{"op": "replace", "path": "/spec/replicas", "value": 5}]
    assert api.request("PATCH", at, operations, JSON).json()["spec"]["replicas"] == 5
    wanted = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "patched"}, "spec": {"paused": True}}
    applied = api.request("PATCH", f"{at}?fieldManager=me", wanted, APPLY).json()
    assert applied["spec"]["paused"] is True
    assert [m["manager"] for m in applied["metadata"]["managedFields"]] == ["me"]
    wanted["spec"] = {}
    assert "paused" not in api.request("PATCH", f"{at}?fieldManager=me", wanted, APPLY).json()["spec"]
    assert api.request("PATCH", at, wanted, APPLY).status_code == 422
    assert api.request("PATCH", at, {"metadata": {"resourceVersion": "1"}}, MERGE).status_code == 409
    assert api.request("PATCH", at, {"metadata": {"name": "other"}}, MERGE).status_code == 400
    assert api.request("PATCH", at, [1], MERGE).status_code == 400
    before = api.store.version
    api.request("PATCH", at, {"spec": {"replicas": 5}}, MERGE)
    assert api.store.version == before


def test_apply_creates_and_budgets_replace_their_selector(api: Cluster) -> None:
    at = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/b"
    wanted = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "spec": {"minAvailable": 1, "selector": SELECTOR},
    }
    assert api.request("PATCH", f"{at}?fieldManager=me", wanted, APPLY).status_code == 201
    change = {"spec": {"selector": {"matchLabels": {"tier": "b"}}}}
    assert api.request("PATCH", at, change, STRATEGIC).json()["spec"]["selector"] == {"matchLabels": {"tier": "b"}}
    chaos = "/apis/chaos-mesh.org/v1alpha1/namespaces/default/networkchaos/x"
    assert api.request("PATCH", chaos, {}, STRATEGIC).status_code in (404, 415)


def test_a_dry_run_stores_nothing(api: Cluster) -> None:
    version = api.store.version
    made = api.request("POST", f"{DEPLOYMENTS}?dryRun=All", deployment("dry"))
    assert (made.status_code, made.json()["spec"]["replicas"]) == (201, 1)
    assert api.request("POST", "/api/v1/namespaces/default/services?dryRun=All", {
        "metadata": {"name": "dry"}, "spec": {"ports": [{"port": 1}]}}).status_code == 201  # fmt: skip
    assert api.store.version == version
    assert api.request("DELETE", "/api/v1/namespaces/default?dryRun=All").status_code == 200
    assert api.request("GET", "/api/v1/namespaces/default").json()["status"]["phase"] == "Active"


def test_a_bound_pod_gets_its_grace_and_others_go_at_once(api: Cluster) -> None:
    for name, more in (("graceful", {}), ("forced", {}), ("done", {"phase": "Succeeded"}), ("unbound", {"node": ""})):
        api.put("pods", pod(name, **more))
    leaving = api.request("DELETE", f"{PODS}/graceful").json()
    assert leaving["metadata"]["deletionGracePeriodSeconds"] == 30
    assert api.request("DELETE", f"{PODS}/graceful").json()["metadata"] == leaving["metadata"]
    assert (
        api.request("DELETE", f"{PODS}/graceful", {"gracePeriodSeconds": 60}).json()["metadata"] == leaving["metadata"]
    )
    sooner = api.request("DELETE", f"{PODS}/graceful?gracePeriodSeconds=2").json()
    assert sooner["metadata"]["deletionGracePeriodSeconds"] == 2
    for name, query in (
        ("forced", "?gracePeriodSeconds=0"),
        ("done", ""),
        ("unbound", ""),
        ("graceful", "?gracePeriodSeconds=0"),
    ):
        assert api.request("DELETE", f"{PODS}/{name}{query}").json()["kind"] == "Pod"
        assert api.find("pods", "default", name) is None
    assert api.request("DELETE", f"{PODS}/forced").status_code == 404


@pytest.mark.parametrize(("policy", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")])
def test_an_owner_waits_for_the_garbage_collector(api: Cluster, policy: str, finalizer: str) -> None:
    api.request("POST", DEPLOYMENTS, deployment("owner"))
    held = api.request("DELETE", f"{DEPLOYMENTS}/owner", {"propagationPolicy": policy}).json()
    assert held["metadata"]["finalizers"] == [finalizer]
    assert held["metadata"]["deletionTimestamp"]
    added = api.request("PATCH", f"{DEPLOYMENTS}/owner", {"metadata": {"finalizers": [finalizer, "mine"]}}, MERGE)
    assert cause(added) == (422, "Invalid", "metadata.finalizers")
    api.request("PATCH", f"{DEPLOYMENTS}/owner", {"metadata": {"finalizers": None}}, MERGE)
    assert api.find("deployments", "default", "owner") is None


def test_a_namespace_ends_in_steps_and_takes_nothing_new(api: Cluster) -> None:
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "ending"}})
    ending = api.request("DELETE", "/api/v1/namespaces/ending").json()
    assert ending["status"]["phase"] == "Terminating"
    refused = api.request("POST", "/api/v1/namespaces/ending/configmaps", {"metadata": {"name": "a"}})
    assert (refused.status_code, refused.json()["reason"]) == (403, "Forbidden")
    api.call(lambda: api.store.mutate("namespaces", None, "ending", lambda o: o["spec"].update(finalizers=[])))
    assert api.request("GET", "/api/v1/namespaces/ending").status_code == 404


def test_unknown_fields_fail_warn_or_pass_as_asked(api: Cluster) -> None:
    def body(name: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name},
            "spec": {"containers": [{"name": "a", "image": "a:1", "imagge": "b", "ports": []}], "nodename": "x"},
        }

    strict = api.request("POST", f"{PODS}?fieldValidation=Strict", body("strict"))
    assert strict.status_code == 400
    assert 'unknown field "spec.containers[0].imagge", unknown field "spec.nodename"' in strict.json()["message"]
    warned = api.request("POST", PODS, body("warned"))
    assert warned.headers.get_list("warning") == [
        r'299 - "unknown field \"spec.containers[0].imagge\""',
        r'299 - "unknown field \"spec.nodename\""',
    ]
    assert "imagge" not in warned.json()["spec"]["containers"][0]
    assert "warning" not in api.request("POST", f"{PODS}?fieldValidation=Ignore", body("ignored")).headers
    assert api.request("POST", f"{PODS}?fieldValidation=Maybe", body("maybe")).status_code == 400


def test_what_is_not_enforced_is_told_and_kept(api: Cluster) -> None:
    limited = {
        "name": "a",
        "image": "a:1",
        "resources": {"limits": {"memory": "1Gi"}},
        "securityContext": {"readOnlyRootFilesystem": True},
    }
    body = {"metadata": {"name": "limited"}, "spec": {"containers": [limited], "securityContext": {"runAsUser": 1}}}
    told = api.request("POST", PODS, body).headers.get_list("warning")
    assert len(told) == 1
    assert "spec.containers[0].resources.limits" in told[0]
    policy = api.request(
        "POST",
        "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
        {"metadata": {"name": "a"}, "spec": {"x": 1}},
    )
    assert "NetworkPolicy is accepted, not enforced" in policy.headers["warning"]
    kept = api.request("GET", "/debug/unenforced").json()["unenforced"]
    for entry in (
        ("Pod", "spec.containers[].resources.limits"),
        ("Pod", "spec.securityContext.runAsUser"),
        ("NetworkPolicy", "spec"),
    ):
        assert {"kind": entry[0], "field": entry[1]} in kept


def test_what_cannot_be_done_is_refused_by_its_field(api: Cluster) -> None:
    refused = api.request("POST", PODS, {"metadata": {"name": "host"}, "spec": {**CONTAINERS, "hostNetwork": True}})
    assert cause(refused) == (422, "Invalid", "spec.hostNetwork")
    assert "not supported by pocketkube" in refused.json()["message"]
    assert api.find("pods", "default", "host") is None


def test_what_may_not_change_does_not(api: Cluster) -> None:
    service = api.request(
        "POST",
        "/api/v1/namespaces/default/services",
        {"metadata": {"name": "fixed"}, "spec": {"ports": [{"port": 80}]}},
    ).json()
    assert service["spec"]["clusterIP"].startswith("127.9.0.")
    at = "/api/v1/namespaces/default/services/fixed"
    assert cause(api.request("PATCH", at, {"spec": {"clusterIP": "127.9.0.99"}}, MERGE)) == (
        422,
        "Invalid",
        "spec.clusterIPs[0]",
    )
    del service["spec"]["clusterIP"], service["spec"]["clusterIPs"]
    assert api.request("PUT", at, service).json()["spec"]["clusterIP"]
    api.request("POST", DEPLOYMENTS, deployment("fixed"))
    moved = {
        "spec": {"selector": {"matchLabels": {"app": "a", "x": "y"}}, "template": {"metadata": {"labels": {"x": "y"}}}}
    }
    assert cause(api.request("PATCH", f"{DEPLOYMENTS}/fixed", moved, STRATEGIC)) == (422, "Invalid", "spec.selector")
    api.put("pods", pod("fixed"))
    assert cause(api.request("PATCH", f"{PODS}/fixed", {"spec": {"nodeName": "other"}}, MERGE)) == (
        422,
        "Invalid",
        "spec",
    )
    api.request("POST", MAPS, {"metadata": {"name": "fixed"}, "data": {"x": "1"}, "immutable": True})
    assert cause(api.request("PATCH", f"{MAPS}/fixed", {"data": {"x": "2"}}, MERGE)) == (422, "Invalid", "data")
