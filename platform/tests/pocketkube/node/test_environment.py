"""Environment, volumes and images: what a container is given."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkube import environment, images, volumes
from pocketkube.environment import Missing
from pocketkube.errors import ImageUnknown, StartError
from pocketkube.storage import Store

POD: dict[str, Any] = {
    "metadata": {"name": "web-0", "namespace": "shop", "uid": "u1", "labels": {"app": "web", "b": "2"}, "annotations": {"x/y": "z"}},
    "spec": {"nodeName": "body"}, "status": {"podIP": "127.64.2.1", "hostIP": "127.64.0.11"},
}  # fmt: skip


def store() -> Store:
    made = Store()
    meta = {"namespace": "shop"}
    made.create("secrets", {"metadata": {"name": "s", **meta}, "data": {"key": base64.b64encode(b"secret").decode()}})
    made.create("configmaps", {"metadata": {"name": "c", **meta}, "data": {"a": "1", "b": "2"}})
    return made


def made(*env: dict[str, Any], **container: Any) -> dict[str, str]:
    return environment.of(store(), POD, {"env": list(env), **container}, {"WEB_SERVICE_HOST": "127.64.2.9"})


def test_service_variables_are_those_of_kubernetes() -> None:
    ports = [{"name": "http", "port": 7070}, {"name": "grpc-x", "port": 9, "protocol": "UDP"}]
    service = {"metadata": {"name": "my-web"}, "spec": {"ports": ports}}
    found = environment.service_variables(service, "127.1.1.1")
    assert found == {
        "MY_WEB_SERVICE_HOST": "127.1.1.1", "MY_WEB_SERVICE_PORT": "7070", "MY_WEB_SERVICE_PORT_HTTP": "7070",
        "MY_WEB_SERVICE_PORT_GRPC_X": "9", "MY_WEB_PORT": "tcp://127.1.1.1:7070",
        "MY_WEB_PORT_7070_TCP": "tcp://127.1.1.1:7070", "MY_WEB_PORT_7070_TCP_PROTO": "tcp", "MY_WEB_PORT_7070_TCP_PORT": "7070",
        "MY_WEB_PORT_7070_TCP_ADDR": "127.1.1.1", "MY_WEB_PORT_9_UDP": "udp://127.1.1.1:9", "MY_WEB_PORT_9_UDP_PROTO": "udp",
        "MY_WEB_PORT_9_UDP_PORT": "9", "MY_WEB_PORT_9_UDP_ADDR": "127.1.1.1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)-$(B)", "1-$(B)"),
        ("$$(A)", "$(A)"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("x$$y", "x$y"),
        ("$(A)$(A)", "11"),
        ("$()", "$()"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert environment.expand(text, {"A": "1"}) == expected


@given(st.text(alphabet="$()AB x", max_size=30))
def test_expansion_of_nothing_known_only_unescapes(text: str) -> None:
    assert environment.expand(text.replace("$", "$$"), {"A": "1", "B": "2"}) == text


@pytest.mark.parametrize(
    ("path", "expected"),
    [("metadata.name", "web-0"), ("metadata.namespace", "shop"), ("metadata.uid", "u1"), ("metadata.labels['app']", "web"),
     ("metadata.annotations['x/y']", "z"), ("metadata.labels['absent']", ""), ("spec.nodeName", "body"), ("status.podIP", "127.64.2.1"),
     ("status.hostIP", "127.64.0.11"), ("metadata.labels", 'app="web"\nb="2"')],
)  # fmt: skip
def test_fields_of_the_downward_api(path: str, expected: str) -> None:
    assert made({"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}})["X"] == expected


def test_references_and_their_order() -> None:
    found = made(
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}},
        {"name": "URL", "value": "http://$(WEB_SERVICE_HOST)/$(TOKEN)/$(LATER)"},
        {"name": "LATER", "value": "x"},
        {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "z", "optional": True}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        {"name": "CORES", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
        {"name": "MILLI", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
        envFrom=[{"prefix": "P_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "absent", "optional": True}}],
        resources={"limits": {"memory": "1Gi"}, "requests": {"cpu": "1500m"}},
    )
    assert found["URL"] == "http://127.64.2.9/secret/$(LATER)"
    assert (found["P_a"], found["P_b"], found["LIMIT"]) == ("1", "2", str(1 << 30))
    assert (found["CORES"], found["MILLI"]) == ("2", "1500")
    assert "GONE" not in found


@pytest.mark.parametrize(
    ("source", "message"),
    [({"secretKeyRef": {"name": "absent", "key": "k"}}, 'secret "absent" not found'),
     ({"secretKeyRef": {"name": "s", "key": "k"}}, "couldn't find key k in secret s"),
     ({"fieldRef": {"fieldPath": "spec.absent"}}, "'spec.absent' is not supported")],
)  # fmt: skip
def test_what_is_missing_is_named(source: dict[str, Any], message: str) -> None:
    with pytest.raises(Missing, match=message):
        made({"name": "X", "valueFrom": source})


def test_volumes_are_directories_and_paths_lead_there(tmp_path: Path) -> None:
    kept = store()
    claim = kept.create("persistentvolumeclaims", {"metadata": {"name": "data", "namespace": "shop"}})
    home = tmp_path / f"claims/shop-data-{claim['metadata']['uid']}"
    pod = {**POD, "spec": {"volumes": [
        {"name": "c", "configMap": {"name": "c", "defaultMode": 0o400, "items": [{"key": "a", "path": "below/a.txt"}]}},
        {"name": "p", "projected": {"sources": [{"secret": {"name": "s"}}, {"downwardAPI": {"items": [
            {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}},
        {"name": "d", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "e", "emptyDir": {}}]}}  # fmt: skip
    found = volumes.prepare(kept, pod, tmp_path / "pod", tmp_path / "claims")
    assert (found["c"] / "below/a.txt").read_text() == "1"
    assert (found["c"] / "below/a.txt").stat().st_mode & 0o777 == 0o400
    assert (found["p"] / "key").read_bytes() == b"secret"
    assert (found["p"] / "name").read_text() == "web-0"
    assert found["d"] == home
    container = {
        "volumeMounts": [{"name": "d", "mountPath": "/data"}, {"name": "e", "mountPath": "/data/tmp/", "subPath": "x"}]
    }
    mounts = volumes.mounts(container, found, lambda text: text)
    assert volumes.rewrite("/data/file", mounts) == str(home / "file")
    assert volumes.rewrite("/data/tmp/file", mounts) == str(tmp_path / "pod/e/x/file")
    assert volumes.rewrite("/database", mounts) == "/database"


@pytest.mark.parametrize(
    ("volume", "message"),
    [({"secret": {"secretName": "absent"}}, 'secret "absent" not found'),
     ({"configMap": {"name": "c", "items": [{"key": "z", "path": "z"}]}}, "has no key 'z'"),
     ({"configMap": {"name": "c", "items": [{"key": "a", "path": "../../out"}]}}, "leaves the volume"),
     ({"persistentVolumeClaim": {"claimName": "absent"}}, "not found")],
)  # fmt: skip
def test_volumes_that_cannot_be_made(volume: dict[str, Any], message: str, tmp_path: Path) -> None:
    pod = {**POD, "spec": {"volumes": [{"name": "v", **volume}]}}
    with pytest.raises(Missing, match=message):
        volumes.prepare(store(), pod, tmp_path / "pod", tmp_path / "claims")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [([], [], ["run", "default"]), ([], ["a"], ["run", "a"]), (["c"], [], ["c"]), (["c"], ["a"], ["c", "a"])],
)
def test_command_and_args_as_in_kubernetes(command: list[str], args: list[str], expected: list[str]) -> None:
    assert images.Image("x", ("run",), ("default",)).argv(command, args) == expected


def test_images_by_all_their_names(tmp_path: Path) -> None:
    file = tmp_path / "images.yaml"
    file.write_text(
        "images: {postgres:18: {entrypoint: [python, -m, x], preload: [x]}, app: {entrypoint: [run], env: {A: 1}}}"
    )
    known = images.read(file)
    for name in ("postgres:18", "docker.io/library/postgres:18", "docker.io/postgres:18", "postgres:18@sha256:0"):
        assert known.find(name).preload == ("x",)
    assert known.find("app:latest").env == {"A": "1"}
    with pytest.raises(ImageUnknown, match="no program is known"):
        known.find("postgres:17")
    assert images.module_of(["python", "-m", "x", "y"]) == ("x", ["y"])
    assert images.module_of(["python", "x.py"]) is None
    assert images.program(["python", "x"]) == [sys.executable, "x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no mapping"), ("images: []", "no mapping"), ("images: {a: {entrypont: []}}", "unknown key 'entrypont'"),
     ("images: {a: {entrypoint: x}}", "entrypoint is not a list"), ("images: {a: 1}", "is not a mapping"), ("a: [", "cannot read"),
     ("images: {a: {entrypoint: [run], preload: [x]}}", "preload needs")],
)  # fmt: skip
def test_a_wrong_image_file_says_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "images.yaml"
    file.write_text(text)
    with pytest.raises(StartError, match=message) as error:
        images.read(file)
    assert error.value.hint
