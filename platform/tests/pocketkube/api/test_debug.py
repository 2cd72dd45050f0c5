"""What only pocketkube has: the power of nodes and the restart of the API."""

from __future__ import annotations

from tests.pocketkube.api.cluster import Cluster, until


def test_power_is_switched_by_name(api: Cluster) -> None:
    answer = api.request("POST", "/debug/nodes/body2/stop")
    assert (answer.status_code, answer.json(), api.nodes.off) == (200, {"node": "body2", "power": "off"}, {"body2"})
    assert api.request("POST", "/debug/nodes/body2/start").json()["power"] == "on"
    assert api.nodes.off == set()
    assert api.request("POST", "/debug/nodes/absent/stop").status_code == 404
    assert api.request("POST", "/debug/nodes/body2/explode").status_code == 404
    assert api.request("POST", "/debug/nodes/body2/stop", authorization="").status_code == 401
    assert api.nodes.off == set()


def test_a_restart_is_answered_before_it_happens(api: Cluster) -> None:
    asked: list[tuple[float, bool]] = []
    assert api.request("POST", "/debug/api/restart?seconds=1").status_code == 404, "nobody here can"
    api.app.restart = lambda seconds, compact: asked.append((seconds, compact))
    try:
        answer = api.request("POST", "/debug/api/restart?seconds=1.5&compact=true")
        assert (answer.status_code, answer.json()) == (202, {"seconds": 1.5})
        until(lambda: asked == [(1.5, True)], "the restart")
        for wrong in ("soon", "-1", "nan", "601"):
            assert api.request("POST", f"/debug/api/restart?seconds={wrong}").status_code == 400
    finally:
        api.app.restart = None


def test_the_list_of_what_is_not_enforced_has_pod_security(api: Cluster) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.34",
              "pod-security.kubernetes.io/warn": "privileged"}  # fmt: skip
    made = api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "strict", "labels": labels}})
    assert "not enforced: metadata.labels.pod-security.kubernetes.io/enforce" in made.headers["warning"]
    told = api.request("GET", "/debug/unenforced").json()["unenforced"]
    assert {"kind": "Namespace", "field": "metadata.labels.pod-security.kubernetes.io/enforce"} in told
