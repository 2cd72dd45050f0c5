"""How services are reached, and how long the way there takes: from this machine, and between services as their spans tell it."""

from __future__ import annotations

import http.client
import socket
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from aftershock.errors import ClusterError, ClusterUnreachable, Forbidden
from aftershock.slo import Interval

if TYPE_CHECKING:
    from aftershock.cluster import Cluster

PROBE_S = 1.0
HOP_COLUMNS = ("span_id", "parent_span_id", "service", "kind", "peer", "start_us", "duration_us")
Columns = Mapping[str, Sequence[Any]]


class Table(Protocol):
    """The part of a `pyarrow.Table` that is used here."""

    def to_pydict(self) -> dict[str, list[Any]]:
        """Columns as lists."""


@dataclass(frozen=True)
class Hop:
    """Calls from one service to another, and the time that each spent between them."""

    ms: tuple[float, ...]  # per answered call that both sides recorded, sorted
    unmatched: int  # calls without a server span: they never arrived, or the callee could not tell

    @property
    def ms_p50(self) -> float | None:
        """Median; None if nothing was matched."""
        return statistics.median(self.ms) if self.ms else None


def hop_latency_ms(traces: Table | Columns, caller: str, callee: str, interval: Interval | None = None) -> Hop:
    """Time on the way there and back: each CLIENT span of `caller` less the SERVER span that answers it.

    `interval` chooses by the start of the call. Needs the columns HOP_COLUMNS. Connecting, queueing before the callee's first line of
    code and reading the answer are part of it, so compare it with the same hop in another window.
    """
    columns = traces if isinstance(traces, Mapping) else traces.to_pydict()
    rows = list(zip(*(columns[name] for name in HOP_COLUMNS), strict=True))
    served = {parent: duration for _, parent, service, kind, _, _, duration in rows
              if kind == "SERVER" and service == callee and parent}  # fmt: skip
    times, unmatched = [], 0
    for span, _, service, kind, peer, start_us, duration_us in rows:
        if (
            kind != "CLIENT"
            or service != caller
            or peer != callee
            or not (interval is None or interval.holds(start_us))
        ):
            continue
        if span in served:
            times.append(max(0.0, (duration_us - served[span]) / 1000))
        else:
            unmatched += 1
    return Hop(tuple(sorted(times)), unmatched)


@dataclass(frozen=True)
class Reached:
    """Timings of small requests from this machine; `errors` are those that brought no answer."""

    ms: tuple[float, ...]
    errors: tuple[str, ...]


def measure_latency(
    cluster: Cluster, namespace: str, service: str, port: str | int = "http", *, path: str = "/healthz", tries: int = 5,
    timeout_s: float = 2.0,
) -> Reached:  # fmt: skip
    """Time `tries` requests to a Service from this machine, each on a new connection. Raises ClusterError if it has no address.

    It sees a fault only if that acts on traffic from outside the cluster; between services use `hop_latency_ms`.
    """
    url = urlsplit(service_url(cluster, namespace, service, port))
    assert url.hostname, "service_url gives a host"
    return timed(url.hostname, url.port or 80, path, tries, timeout_s)


def timed(host: str, port: int, path: str, tries: int, timeout_s: float) -> Reached:
    """Time `tries` GETs, each on a new connection."""
    times, errors = [], []
    for _ in range(tries):
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        begun = time.perf_counter()
        try:
            connection.request("GET", path)
            connection.getresponse().read()
            times.append((time.perf_counter() - begun) * 1000)
        except (OSError, http.client.HTTPException) as error:
            errors.append(f"{type(error).__name__}: {error}")
        finally:
            connection.close()
    return Reached(tuple(sorted(times)), tuple(errors))


@dataclass(frozen=True)
class Way:
    """How a Service is reached; `honest` is False where the way itself may be what is slow or breaks."""

    url: str
    kind: str  # cluster-ip | load-balancer | node-port | ingress | port-forward | inside
    text: str
    honest: bool = True


def service_url(cluster: Cluster, namespace: str, service: str, port: str | int) -> str:
    """Where this machine reaches a Service. Raises NotFound, ClusterError with a hint if there is no way that carries load honestly."""
    return way_to(cluster, namespace, service, port).url


def way_to(cluster: Cluster, namespace: str, service: str, port: str | int) -> Way:
    """How this machine reaches a Service, tried out: its own address on pocketkube, else a load balancer, NodePort or ingress.

    Raises NotFound, ClusterUnreachable if there is none of these (a port-forward may be left), ClusterError.
    """
    found, entry = described(cluster, namespace, service, port)
    address = str(found["spec"].get("clusterIP") or "")
    if cluster.identity.kind == "pocket":
        if address in ("", "None"):
            raise ClusterError(f"Service {namespace}/{service} has no address", hint="give it a clusterIP")
        return Way(f"http://{_host(address)}:{entry['port']}", "cluster-ip", "the Service's own address")
    tried = []
    for kind, host, number in _ways(cluster, found, entry):
        if _answers(host, number):
            return Way(f"http://{_host(host)}:{number}", kind, f"{_KINDS[kind]} {host}:{number}")
        tried.append(f"{host}:{number}")
    why = f"tried: {', '.join(tried)}" if tried else "no load balancer, NodePort or Ingress leads to it"
    raise ClusterUnreachable(
        f"Service {namespace}/{service} cannot be reached from here ({why})",
        hint="make it a NodePort or LoadBalancer Service, or run the load inside: --load-on cluster",
    )


_KINDS = {"load-balancer": "load balancer", "node-port": "NodePort", "ingress": "Ingress"}


def described(
    cluster: Cluster, namespace: str, service: str, port: str | int
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """A Service and its port, by name or number. Raises NotFound, ClusterError."""
    found = cluster.request("GET", f"/api/v1/namespaces/{namespace}/services/{service}")
    ports = found["spec"].get("ports") or []
    entry = next((p for p in ports if port in (p.get("name"), p["port"])), None)
    if entry is None:
        names = ", ".join(str(p.get("name") or p["port"]) for p in ports)
        raise ClusterError(f"Service {namespace}/{service} has no port {port}", hint=f"its ports: {names}")
    return found, entry


def _ways(cluster: Cluster, service: Mapping[str, Any], port: Mapping[str, Any]) -> Iterable[tuple[str, str, int]]:
    meta = service["metadata"]
    for ingress in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []:
        yield "load-balancer", str(ingress.get("ip") or ingress.get("hostname")), int(port["port"])
    if port.get("nodePort"):
        hosts = [urlsplit(cluster.server).hostname or ""]  # where nodes are forwarded to, if they are
        try:
            nodes = cluster.list("/api/v1/nodes")
        except ClusterError:
            nodes = []
        wanted = ("ExternalIP", "InternalIP")
        addresses = [a for node in nodes for a in (node.get("status") or {}).get("addresses") or []]
        hosts += [a["address"] for kind in wanted for a in addresses if a.get("type") == kind]
        for host in dict.fromkeys(hosts):
            yield "node-port", host, int(port["nodePort"])
    if cluster.served("networking.k8s.io/v1", "Ingress") is None:
        return
    try:
        ingresses = cluster.list(f"/apis/networking.k8s.io/v1/namespaces/{meta['namespace']}/ingresses")
    except Forbidden:
        return
    for ingress in ingresses:
        balancers = ((ingress.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        entrances = [str(b.get("ip") or b.get("hostname")) for b in balancers]
        for rule in (ingress.get("spec") or {}).get("rules") or []:
            for way in (rule.get("http") or {}).get("paths") or []:
                backend = (way.get("backend") or {}).get("service") or {}
                if backend.get("name") == meta["name"] and way.get("path", "/") == "/":
                    # A rule for a host wants to be asked by that name; one without takes every name.
                    for host in [str(rule["host"])] if rule.get("host") else entrances:
                        yield "ingress", host, 80


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PROBE_S).close()
    except OSError:
        return False
    return True


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
