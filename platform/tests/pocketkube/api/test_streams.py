"""Logs, exec and proxy: bytes that come from elsewhere."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from tests.pocketkube.api.cluster import Cluster, pod, until

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture(autouse=True)
def web(api: Cluster) -> None:
    api.put("pods", pod("web"))


def test_logs_whole_in_part_and_followed(api: Cluster) -> None:
    api.nodes.lines["web"] = [b"one\n", b"two\n"]
    assert api.request("GET", f"{PODS}/web/log").text == "one\ntwo\n"
    assert api.request("GET", f"{PODS}/web/log?tailLines=1&container=main").text == "two\n"
    assert api.request("GET", f"{PODS}/web/log?limitBytes=5").text == "one\nt"
    with api._client.stream("GET", f"{PODS}/web/log?follow=true") as answer:
        assert answer.headers["content-type"] == "text/plain"
        lines = answer.iter_lines()
        assert [next(lines), next(lines)] == ["one", "two"]
        api.nodes.lines["web"].append(b"three\n")
        assert next(lines) == "three"


def test_logs_that_are_not_there_are_an_error(api: Cluster) -> None:
    api.nodes.lines.pop("web", None)
    assert api.request("GET", f"{PODS}/web/log").json()["message"] == "the log is gone"
    refused = api.request("GET", f"{PODS}/web/log?container=other")
    assert (refused.status_code, refused.json()["message"]) == (400, "container other is not valid for pod web")
    assert api.request("GET", f"{PODS}/web/log?previous=true").status_code == 400
    assert api.request("GET", f"{PODS}/web/log?tailLines=few").status_code == 400
    starting = pod("starting")
    starting["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "ErrImagePull"}}
    api.put("pods", starting)
    assert "is waiting to start: ErrImagePull" in api.request("GET", f"{PODS}/starting/log").json()["message"]


def dial(
    api: Cluster, *command: str, protocol: str = "v5.channel.k8s.io", more: str = "", name: str = "web", token: str = ""
) -> connect:
    """The connection of one exec, to be entered."""
    query = "&".join([*(f"command={quote(c)}" for c in command), "stdout=true", "stderr=true", more])
    trust = ssl.create_default_context(cafile=str(api.identity.ca))
    headers = {"authorization": f"Bearer {token or api.identity.token}"}
    return connect(f"{api.url.replace('https', 'wss')}{PODS}/{name}/exec?{query}", ssl=trust, subprotocols=[Subprotocol(protocol)],
                   additional_headers=headers)  # fmt: skip


def executed(api: Cluster, *command: str, sent: tuple[bytes | str, ...] = (), **how: str) -> dict[int, bytes]:
    """All that comes back, by channel."""

    async def run() -> dict[int, bytes]:
        channels: dict[int, bytes] = {}
        async with asyncio.timeout(10), dial(api, *command, **how) as connection:
            for message in sent:
                await connection.send(message)
            async for answer in connection:
                data = answer if isinstance(answer, bytes) else answer.encode()
                channels[data[0]] = channels.get(data[0], b"") + data[1:]
        return channels

    return asyncio.run(run())


def refused(api: Cluster, *command: str, **how: str) -> tuple[int, str]:
    """Status code and kind of the answer to an exec that is refused."""
    with pytest.raises(InvalidStatus) as told:
        executed(api, *command, **how)
    return told.value.response.status_code, json.loads(told.value.response.body or b"{}").get("kind", "")


def test_exec_keeps_streams_apart_and_tells_the_exit_code(api: Cluster) -> None:
    channels = executed(api, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (channels[1], channels[2]) == (b"out\n", b"err\n")
    status = json.loads(channels[3])
    assert (status["reason"], status["details"]["causes"]) == (
        "NonZeroExitCode",
        [{"reason": "ExitCode", "message": "3"}],
    )
    assert json.loads(executed(api, "true", protocol="v4.channel.k8s.io")[3])["status"] == "Success"


def test_exec_reads_what_the_client_sends_until_it_closes(api: Cluster) -> None:
    sent = (b"\x00hello ", "\x00world", b'\x04{"Width":80,"Height":24}', b"\x04nonsense", b"\xff\x00")
    assert executed(api, "cat", sent=sent, more="stdin=true")[1] == b"hello world"
    assert api.nodes.sessions[-1].sizes == [(80, 24)]


def test_a_client_that_leaves_ends_its_program(api: Cluster) -> None:
    before = len(api.nodes.sessions)

    async def run() -> None:
        async with asyncio.timeout(10), dial(api, "sleep", "60"):
            pass

    asyncio.run(run())
    session = until(lambda: api.nodes.sessions[before:], "the program to start")[0]
    until(lambda: session._process.returncode is not None, "the program to end")


def test_exec_is_refused_before_it_begins(api: Cluster) -> None:
    assert refused(api, "true", name="nobody") == (404, "Status")
    assert refused(api) == (400, "Status")
    assert refused(api, "true", protocol="v1.channel.k8s.io") == (400, "Status")
    assert refused(api, "true", token="wrong") == (401, "Status")
    assert api.request("POST", f"{PODS}/web/exec?command=true").status_code == 400


class Echo(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(418 if "teapot" in self.path else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Answer", "yes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def slice_of(port: int, ready: bool) -> dict[str, Any]:
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "svc-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "svc"}},
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": ready}}],
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}]}  # fmt: skip


def test_pod_proxy_passes_all_but_the_token(api: Cluster, port: int) -> None:
    api.nodes.addresses["web"] = "127.0.0.1"
    answer = api.request("GET", f"{PODS}/web:{port}/proxy/a%2Fb/c?x=1&y=%20", **{"X-Operator-Token": "t"})
    seen = answer.json()
    assert seen["path"] == "/a%2Fb/c?x=1&y=%20"
    assert seen["headers"]["x-operator-token"] == "t"
    assert "authorization" not in seen["headers"]
    assert seen["headers"]["host"] == f"127.0.0.1:{port}"
    assert answer.headers["x-answer"] == "yes"
    assert api.request("GET", f"{PODS}/web:{port}/proxy/teapot").status_code == 418
    assert api.request("GET", f"{PODS}/web:metrics/proxy/").status_code == 400
    api.nodes.addresses.pop("web")
    assert api.request("GET", f"{PODS}/web:{port}/proxy/").status_code == 503


def test_service_proxy_takes_a_ready_endpoint(api: Cluster, port: int) -> None:
    at = "/api/v1/namespaces/default/services"
    api.put(
        "services",
        {"metadata": {"name": "svc", "namespace": "default"}, "spec": {"ports": [{"name": "http", "port": 80}]}},
    )
    none = api.request("GET", f"{at}/svc:http/proxy/")
    assert (none.status_code, none.json()["message"]) == (503, 'no endpoints available for service "svc"')
    api.put("endpointslices", slice_of(port, ready=True))
    for name in ("svc", "svc:http", "http:svc:http", "svc:80"):
        assert api.request("GET", f"{at}/{name}/proxy/metrics").json()["path"] == "/metrics"
    assert api.request("GET", f"{at}/svc:other/proxy/").status_code == 503
    assert api.request("GET", f"{at}/gopher:svc:http/proxy/").status_code == 400
    api.put("endpointslices", slice_of(port, ready=False))
    assert api.request("GET", f"{at}/svc:http/proxy/").status_code == 503
    api.put("endpointslices", slice_of(1, ready=True))
    refused = api.request("GET", f"{at}/svc:http/proxy/")
    assert (refused.status_code, refused.json()["reason"]) == (503, "ServiceUnavailable")
    assert (
        refused.json()["message"] == "error trying to reach service: dial tcp 127.0.0.1:1: connect: connection refused"
    )
