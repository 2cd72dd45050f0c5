"""Steady-state probes for Chaos Toolkit. No answer is `None` or an answer that says so, and neither is ever within a tolerance."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from aftershock.actions import Configuration, cluster_of
from aftershock.cluster import Cluster
from aftershock.errors import ClusterError, ClusterUnreachable, NotFound

__all__ = ["all_deployments_available", "deployment_ready", "service_answers"]


def service_answers(
    ns: str, service: str, port: str | int = "http", path: str = "/healthz", latency_ms_max: float = 1000.0, tries: int = 3,
    configuration: Configuration = None, secrets: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """GET `path` of a Service from outside, `tries` times; for `tolerance: 200`.

    `status` is the worst answer's HTTP status if all came within `latency_ms_max`, else a text that says what was wrong.
    """
    cluster = cluster_of(configuration, secrets)
    try:
        url = cluster.service_url(ns, service, port)
    except ClusterUnreachable:  # no way from here that carries load; the API server's own does for a look
        url = ""
    if url:
        answers = [_get(url, path, latency_ms_max) for _ in range(max(1, tries))]
    else:
        url = f"/api/v1/namespaces/{ns}/services/{service}:{port}/proxy"
        answers = [_proxied(cluster, url + path, latency_ms_max) for _ in range(max(1, tries))]
    worst = next((a for a in answers if a["status"] != 200), max(answers, key=lambda a: a["latency_ms"]))
    return {"url": url + path, "tries": len(answers), **worst}


def _get(url: str, path: str, latency_ms_max: float) -> dict[str, Any]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    begun = time.perf_counter()
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=max(0.05, latency_ms_max / 1000))
    try:
        connection.request("GET", parts.path + path, headers={"Connection": "close"})
        status: int | str = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        status = f"no answer: {error or type(error).__name__}"
    finally:
        connection.close()
    took_ms = (time.perf_counter() - begun) * 1000
    if took_ms > latency_ms_max and status == 200:
        status = f"200, but after {took_ms:.0f} ms (bound {latency_ms_max:g} ms)"
    return {"status": status, "latency_ms": round(took_ms, 3)}


def _proxied(cluster: Cluster, path: str, latency_ms_max: float) -> dict[str, Any]:
    begun = time.perf_counter()
    try:
        status: int | str = cluster.raw("GET", path, timeout_s=max(0.05, latency_ms_max / 1000))[0]
    except ClusterError as error:
        status = f"no answer: {error}"
    return {"status": status, "latency_ms": round((time.perf_counter() - begun) * 1000, 3)}


def deployment_ready(
    ns: str, name: str, min_ready: int, configuration: Configuration = None, secrets: Mapping[str, Any] | None = None
) -> bool | None:
    """Whether at least `min_ready` replicas of the newest version are ready; None if there is no such Deployment."""
    cluster = cluster_of(configuration, secrets)
    try:
        live = cluster.request("GET", f"/apis/apps/v1/namespaces/{ns}/deployments/{name}")
    except NotFound:
        return None
    return _ready(live) >= min_ready


def all_deployments_available(
    ns: str, configuration: Configuration = None, secrets: Mapping[str, Any] | None = None
) -> bool | None:
    """Whether every Deployment of a namespace has all its replicas ready; None if there is none."""
    deployments = cluster_of(configuration, secrets).list(f"/apis/apps/v1/namespaces/{ns}/deployments")
    if not deployments:
        return None
    return all(_ready(d) >= int(d["spec"].get("replicas", 1)) for d in deployments)


def _ready(live: Mapping[str, Any]) -> int:
    status = live.get("status") or {}
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return 0
    return min(int(status.get("readyReplicas", 0)), int(status.get("updatedReplicas", 0)))
