"""Credentials that run out while somebody works: fresh ones are found by themselves, or it is said that there are none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock.cluster import Cluster
from aftershock.credentials import TokenFile
from aftershock.errors import BadInput, Forbidden

from .observe.api import Api, running, settings_for


@pytest.fixture
def api() -> Iterator[Api]:
    with running() as server:
        yield server


def only(api: Api, token: str) -> list[dict[str, Any]]:
    """Let `/x` believe one token only; returns the requests that it believed."""
    believed: list[dict[str, Any]] = []

    def answer(seen: dict[str, Any]) -> Any:
        if seen["headers"].get("authorization") != f"Bearer {token}":
            return 401, {"code": 401, "reason": "Unauthorized", "message": "token expired"}
        believed.append(seen)
        return 201, {"ok": True}

    api.routes["POST", "/x"] = api.routes["GET", "/x"] = answer
    return believed


def rewrite(path: Path, token: str) -> None:
    """As a kubelet or an agent does: a new file under the old name."""
    fresh = path.with_suffix(".new")
    fresh.write_text(f"{token}\n")
    fresh.replace(path)


def test_a_token_file_that_is_rewritten_is_read_again(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old\n")
    cluster = Cluster.connect("test", settings_for(api, tmp_path, tokenFile=str(path)))
    believed = only(api, "new")
    with pytest.raises(Forbidden, match="401 token expired") as refused:
        cluster.request("POST", "/x", body={"n": 1})
    assert "aftershock undo" in str(refused.value.hint)
    rewrite(path, "new")
    assert cluster.request("POST", "/x", body={"n": 2}) == {"ok": True}
    assert [json.loads(seen["body"]) for seen in believed] == [{"n": 2}]
    path.unlink()
    assert cluster.request("GET", "/x") == {"ok": True}, "while there is no file the last token serves"
    cluster.close()


def test_a_token_that_was_rewritten_between_two_looks_costs_one_more_request(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    before = path.stat()
    cluster = Cluster.connect("test", settings_for(api, tmp_path, tokenFile=str(path)))
    believed = only(api, "new")
    with path.open("r+") as file:  # in place, as long as before, and within a tick of the clock
        file.write("new")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    asked = len(api.requests)
    assert cluster.request("POST", "/x", body={}) == {"ok": True}
    assert (len(api.requests) - asked, len(believed)) == (2, 1)
    cluster.close()


def test_a_file_goes_before_a_token(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("from-file")
    both = settings_for(api, tmp_path, tokenFile="token", token="fixed")
    cluster = Cluster.connect("test", both)
    assert api.requests[-1]["headers"]["authorization"] == "Bearer from-file"
    cluster.close()


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_file_without_a_token_is_told_at_once(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match="no token"):
        TokenFile(path)


def test_a_plugin_is_asked_again_when_its_answer_is_not_believed(api: Api, tmp_path: Path) -> None:
    plugin, said = tmp_path / "plugin", tmp_path / "said"
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "TOKEN"},
    }
    text = json.dumps(credential).replace("TOKEN", "'$(cat " + str(said) + ")'")
    plugin.write_text(f"#!/bin/sh\necho '{text}'\n")
    plugin.chmod(0o700)
    said.write_text("old")
    entry = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "interactiveMode": "Never"}
    cluster = Cluster.connect("test", settings_for(api, tmp_path, exec=entry))
    believed = only(api, "new")
    said.write_text("new")
    assert cluster.request("POST", "/x", body={}) == {"ok": True}
    assert len(believed) == 1
    only(api, "newest")
    with pytest.raises(Forbidden, match="401"):
        cluster.request("POST", "/x", body={})
    cluster.close()


def test_a_watch_takes_fresh_credentials_too(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    cluster = Cluster.connect("test", settings_for(api, tmp_path, tokenFile=str(path)))
    only(api, "new")
    asked = api.routes["GET", "/x"]
    line = json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}).encode() + b"\n"
    api.routes["GET", "/x"] = lambda seen: asked(seen) if asked(seen)[0] == 401 else (200, line)
    with pytest.raises(Forbidden, match="401"):
        cluster.watch("/x", "0", 1)
    rewrite(path, "new")
    with cluster.watch("/x", "0", 1) as watch:
        assert next(watch)["type"] == "BOOKMARK"
    cluster.close()
