"""The cluster: whose it is, how it is asked, and what is said when it does not answer."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from aftershock import kubeconfig
from aftershock.cluster import Cluster
from aftershock.errors import BadInput, ClusterError, ClusterUnreachable, Forbidden, NotFound
from aftershock.settings import Settings, read

from .observe.api import PODS, Api, connected, pod, running, settings_for
from .observe.authority import authority


@pytest.fixture
def api() -> Iterator[Api]:
    with running() as server:
        yield server


@pytest.fixture
def cluster(api: Api, tmp_path: Path) -> Iterator[Cluster]:
    with connected(api, tmp_path) as made:
        yield made


def status(code: int, reason: str, message: str = "because") -> tuple[int, dict[str, Any]]:
    return code, {"kind": "Status", "code": code, "reason": reason, "message": message}


def test_identity_is_asked_once_and_the_token_is_sent(api: Api, cluster: Cluster) -> None:
    api.put("/api/v1/nodes", {"metadata": {"name": "late"}})
    identity = cluster.identity
    assert (identity.kind, identity.context, identity.server_version, identity.own) == (
        "kubernetes",
        "test",
        api.version,
        False,
    )
    assert identity.nodes == ()
    assert api.requests[0]["headers"]["authorization"] == "Bearer secret-token"
    assert identity.fingerprint == hashlib.sha256(cluster.server.encode()).hexdigest()


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (status(404, "NotFound"), NotFound, "404 because"),
        (status(403, "Forbidden"), Forbidden, "403 because"),
        (status(401, "Unauthorized"), Forbidden, "401 because"),
        (status(429, "TooManyRequests", "disruption budget"), ClusterError, "429 disruption budget"),
        (status(501, "NotImplemented"), ClusterError, "501 because"),
        ((500, b"<html>"), ClusterError, "500 <html>"),
        ((200, b"<html>"), ClusterError, "no JSON"),
        ((302, b""), ClusterError, "302"),
    ],
)
def test_every_refusal_has_its_kind_status_and_words(
    api: Api, cluster: Cluster, answer: Any, kind: type[ClusterError], says: str
) -> None:
    api.routes["DELETE", "/x"] = lambda _: answer
    with pytest.raises(kind, match=says) as caught:
        cluster.request("DELETE", "/x")
    if answer[0] != 200:
        assert caught.value.status == answer[0]
    assert caught.value.definite == (answer[0] != 500)


def test_only_safe_requests_are_tried_again(api: Api, cluster: Cluster) -> None:
    tries = {"GET": 0, "POST": 0}

    def busy(seen: dict[str, Any]) -> Any:
        tries[seen["method"]] += 1
        return status(503, "ServiceUnavailable") if tries[seen["method"]] < 3 else (200, {"ok": True})

    api.routes["GET", "/x"] = api.routes["POST", "/x"] = busy
    assert cluster.request("GET", "/x") == {"ok": True}
    with pytest.raises(ClusterError) as caught:
        cluster.request("POST", "/x", body={})
    assert tries == {"GET": 3, "POST": 1}
    assert not caught.value.definite


def test_retry_after_that_does_not_fit_the_deadline_is_not_waited_for(api: Api, cluster: Cluster) -> None:
    api.routes["GET", "/x"] = lambda _: (*status(429, "TooManyRequests"), {"Retry-After": "60"})
    begun = time.monotonic()
    with pytest.raises(ClusterError, match="429"):
        cluster.request("GET", "/x", timeout_s=2)
    assert time.monotonic() - begun < 1


def test_silence_ends_at_the_deadline_and_says_whether_it_may_have_happened(api: Api, cluster: Cluster) -> None:
    api.stopped.set()
    begun = time.monotonic()
    with pytest.raises(ClusterUnreachable, match="no answer in time") as read_error:
        cluster.request("GET", "/x", timeout_s=0.2)
    with pytest.raises(ClusterUnreachable, match="may have been done") as write_error:
        cluster.request("PATCH", "/x", body={}, timeout_s=0.2)
    assert time.monotonic() - begun < 2
    assert (read_error.value.definite, write_error.value.definite) == (True, False)


def test_no_server_is_unreachable_and_certain(api: Api, cluster: Cluster) -> None:
    api.down()
    with pytest.raises(ClusterUnreachable, match="no connection") as caught:
        cluster.request("POST", "/x", body={})
    assert caught.value.definite
    api.up()


def test_raw_gives_errors_as_they_come(api: Api, cluster: Cluster) -> None:
    api.routes["GET", "/x"] = lambda _: (502, b"bad gateway")
    assert cluster.raw("GET", "/x") == (502, b"bad gateway")


def test_lists_are_paged(api: Api, cluster: Cluster) -> None:
    def page(seen: dict[str, Any]) -> Any:
        first = "continue" not in seen["query"]
        return 200, {"metadata": {"resourceVersion": "7", "continue": "more" if first else ""},
                     "items": [{"metadata": {"name": "a" if first else "b"}}]}  # fmt: skip

    api.routes["GET", "/things"] = page
    items, version = cluster.list_at("/things", "app=x")
    assert [i["metadata"]["name"] for i in items] == ["a", "b"]
    assert version == "7"
    assert api.requests[-1]["query"]["labelSelector"] == "app=x"


def test_watch_streams_and_is_ended_by_another_thread(api: Api, cluster: Cluster) -> None:
    with cluster.watch(PODS, "0", 30) as watch:
        api.put(PODS, pod("a"))
        assert next(watch)["object"]["metadata"]["name"] == "a"
        threading.Timer(0.05, watch.close).start()
        begun = time.monotonic()
        assert list(watch) == []
        assert time.monotonic() - begun < 5


def test_watch_tells_an_expired_version_and_a_dead_server(api: Api, cluster: Cluster) -> None:
    api.put(PODS, pod("a"))
    api.forget()
    with cluster.watch(PODS, "0", 30) as watch, pytest.raises(ClusterError) as caught:
        next(watch)
    assert caught.value.status == 410
    api.routes["GET", "/denied"] = lambda _: status(403, "Forbidden")
    with pytest.raises(Forbidden):
        cluster.watch("/denied", "0", 30)
    api.down()
    with pytest.raises(ClusterUnreachable):
        cluster.watch(PODS, "0", 30)
    api.up()


def test_apply_finds_the_path_by_discovery_and_delete_tolerates_absence(api: Api, cluster: Cluster) -> None:
    path = "/apis/apps/v1/namespaces/shop/deployments/orders"
    api.routes["PATCH", path] = lambda seen: (200, json.loads(seen["body"]))
    obj = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "orders", "namespace": "shop"}}
    assert cluster.apply([obj], "me") == [obj]
    sent = api.requests[-1]
    assert sent["query"] == {"fieldManager": "me", "force": "true"}
    assert sent["headers"]["content-type"] == "application/apply-patch+yaml"
    asked = len(api.requests)
    assert cluster.object_path(obj) == path
    assert len(api.requests) == asked, "discovery is asked once"
    assert cluster.delete(obj) is False
    assert (
        cluster.object_path({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "body"}}) == "/api/v1/nodes/body"
    )
    with pytest.raises(ClusterError, match="does not serve chaos-mesh"):
        cluster.object_path(
            {"apiVersion": "chaos-mesh.org/v1alpha1", "kind": "NetworkChaos", "metadata": {"name": "x"}}
        )


@pytest.mark.parametrize(("told", "allowed"), [({"allowed": True}, True), ({"allowed": False}, False), ({}, False)])
def test_allowed_needs_a_clear_yes(api: Api, cluster: Cluster, told: dict[str, Any], allowed: bool) -> None:
    api.routes["POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = lambda _: (201, {"status": told})
    assert cluster.allowed("create", "", "pods", "shop", "eviction") is allowed
    asked = json.loads(api.requests[-1]["body"])["spec"]["resourceAttributes"]
    assert asked == {"verb": "create", "resource": "pods", "namespace": "shop", "subresource": "eviction"}


def test_unenforced_is_empty_where_nobody_tells(api: Api, cluster: Cluster) -> None:
    assert cluster.unenforced() == []
    api.routes["GET", "/debug/unenforced"] = lambda _: (
        200,
        {"unenforced": [{"kind": "Pod", "field": "spec.dnsConfig"}]},
    )
    assert cluster.unenforced() == ["Pod spec.dnsConfig"]


@pytest.mark.parametrize("user", [{"token": "t"}, {"username": "u", "password": "p"}], ids=["a token", "the client"])
def test_a_proxy_of_the_environment_is_not_asked_for_loopback(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: dict[str, str]
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    cluster = Cluster.connect("test", settings_for(api, tmp_path, **user))
    assert cluster.identity.context == "test"
    assert api.requests[-1]["headers"]["authorization"] in ("Bearer t", "Basic dTpw")
    cluster.close()


def test_an_unknown_context_names_those_there_are(api: Api, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no context 'prod'") as caught:
        Cluster.connect("prod", settings_for(api, tmp_path))
    assert "test" in str(caught.value.hint)


def test_a_plugin_gives_the_token_and_a_failing_one_is_told(api: Api, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "fresh"},
    }
    plugin.write_text(f"#!/bin/sh\necho '{json.dumps(credential)}'\n")
    plugin.chmod(0o700)
    entry = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "interactiveMode": "Never"}
    cluster = Cluster.connect("test", settings_for(api, tmp_path, exec=entry))
    assert api.requests[-1]["headers"]["authorization"] == "Bearer fresh"
    cluster.close()


# Whose cluster it is


def pocket(folder: Path, name: str, pem: bytes, server: str, **cluster: Any) -> Path:
    """A folder as pocketkube leaves it."""
    home = folder / "state" / "pocketkube" / name
    home.mkdir(parents=True, exist_ok=True)
    (home / "ca.pem").write_bytes(pem)
    entry = {"server": server, "certificate-authority-data": base64.b64encode(pem).decode(), **cluster}
    context = f"pocketkube-{name}"
    (home / "kubeconfig").write_text(yaml.safe_dump({
        "current-context": context, "clusters": [{"name": context, "cluster": entry}],
        "users": [{"name": context, "user": {"token": "t"}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
    }))  # fmt: skip
    return home


def settings_in(folder: Path, **environment: str) -> Settings:
    return read({"XDG_STATE_HOME": str(folder / "state"), "HOME": str(folder), **environment})


@pytest.mark.parametrize(
    ("server", "change", "own"),
    [
        ("https://127.9.0.1:6443", {}, True),
        ("http://127.9.0.1:6443", {}, False),
        ("https://127.9.0.1:6443", {"insecure-skip-tls-verify": True}, False),
        ("https://127.9.0.1:6443", {"certificate-authority-data": ""}, False),
        ("https://127.9.0.1:6443", {"certificate-authority-data": "two"}, False),
    ],
)
def test_own_only_if_the_server_must_prove_it(tmp_path: Path, server: str, change: dict[str, Any], own: bool) -> None:
    pem, other = authority("mine"), authority("other")
    if change.get("certificate-authority-data") == "two":
        change = {"certificate-authority-data": base64.b64encode(pem + other).decode()}
    pocket(tmp_path, "a", pem, server, **change)
    settings = settings_in(tmp_path)
    assert kubeconfig.of_pocket("a", settings).own(settings) is own


def test_a_strangers_authority_is_not_own(tmp_path: Path) -> None:
    home = pocket(tmp_path, "a", authority("mine"), "https://127.9.0.1:6443")
    settings = settings_in(tmp_path)
    access = kubeconfig.of_pocket("a", settings)
    assert access.own(settings)
    der = x509.load_pem_x509_certificate((home / "ca.pem").read_bytes()).public_bytes(serialization.Encoding.DER)
    assert access.fingerprint == hashlib.sha256(der).hexdigest()
    (home / "ca.pem").write_bytes(authority("other"))
    assert not access.own(settings)
    (home / "ca.pem").unlink()
    assert not access.own(settings)


def test_pocket_without_a_cluster_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ClusterUnreachable) as caught:
        Cluster.connect("pocket", settings_in(tmp_path))
    assert caught.value.hint == "pocketkube up"
    with pytest.raises(ClusterUnreachable) as caught:
        Cluster.connect("pocket", settings_in(tmp_path, AFTERSHOCK_POCKET="x"))
    assert caught.value.hint == "pocketkube up --name x"
    for name in ("../x", "A", "", "a/b"):
        with pytest.raises(BadInput):
            Cluster.connect(f"pocket:{name}", settings_in(tmp_path))


def test_pocket_is_the_only_one_that_answers(api: Api, tmp_path: Path) -> None:
    api.version = "v1.34.0+pocketkube"
    pem = authority("mine")
    pocket(tmp_path, "dead", pem, "https://127.0.0.1:1")
    pocket(tmp_path, "alive", pem, f"http://127.0.0.1:{api.port}")
    settings = settings_in(tmp_path)
    cluster = Cluster.connect("pocket", settings)
    assert (cluster.identity.context, cluster.identity.kind, cluster.identity.own) == (
        "pocketkube-alive",
        "pocket",
        False,
    )
    cluster.close()
    pocket(tmp_path, "second", pem, f"http://127.0.0.1:{api.port}")
    with pytest.raises(BadInput, match="several pocketkube clusters run: alive, second"):
        Cluster.connect("pocket", settings)
    cluster = Cluster.connect("pocket", settings_in(tmp_path, AFTERSHOCK_POCKET="second"))
    assert cluster.identity.context == "pocketkube-second"
    cluster.close()


def test_a_child_gets_one_context_that_needs_no_other_file(api: Api, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(authority("mine"))
    settings = settings_for(api, tmp_path)
    path = Path(str(settings.kubeconfig))
    document = yaml.safe_load(path.read_text())
    document["clusters"][0]["cluster"]["certificate-authority"] = "ca.crt"
    document["clusters"].append({"name": "other", "cluster": {"server": "https://elsewhere"}})
    document["users"].append({"name": "other", "user": {"token": "not for children"}})
    document["contexts"].append({"name": "other", "context": {"cluster": "other", "user": "other"}})
    path.write_text(yaml.safe_dump(document))
    cluster = Cluster.connect("test", settings)
    folder = tmp_path / "child"
    folder.mkdir()
    copy = cluster.kubeconfig_for_child(folder)
    cluster.close()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert copy.stat().st_uid == os.getuid()
    assert "not for children" not in copy.read_text()
    assert "ca.crt" not in copy.read_text()
    again = Cluster.connect("test", Settings(tmp_path, str(copy), None, True))
    assert again.identity.context == "test"
    again.close()


BY = pytest.mark.parametrize("more", [{}, {"disable-compression": True}], ids=["a token alone", "the client"])


@BY
def test_tls_is_verified_against_the_contexts_own_authority(tmp_path: Path, more: dict[str, Any]) -> None:
    """A server with a certificate of another authority is refused before anything is sent to it."""
    from .observe.authority import serving

    good, bad = authority("mine"), authority("other")
    with serving("mine") as port:
        pocket(tmp_path, "good", good, f"https://127.0.0.1:{port}", **more)
        pocket(tmp_path, "bad", bad, f"https://127.0.0.1:{port}", **more)
        settings = settings_in(tmp_path)
        cluster = Cluster.connect("pocket:good", settings)
        assert cluster.identity.own
        cluster.close()
        with pytest.raises(ClusterUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            Cluster.connect("pocket:bad", settings)


@BY
def test_a_malformed_authority_is_bad_input(tmp_path: Path, more: dict[str, Any]) -> None:
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    pocket(tmp_path, "a", broken.encode(), "https://127.0.0.1:1", **more)
    with pytest.raises(BadInput, match="certificates cannot be used"):
        Cluster.connect("pocket:a", settings_in(tmp_path))
    assert ssl.PEM_cert_to_DER_cert(broken)
