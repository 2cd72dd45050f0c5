"""Addresses of one cluster, all in 127.A.0.0/16.

127.A.0.1 is the API, 127.A.0.10 and up the nodes, 127.A.1.1 to .254 the Services' cluster IPs. Pod p is 127.A.p.1, and 127.A.p.2 and up
are the Services as this pod alone sees them, so that the proxy knows by the address who calls whom.
"""

from __future__ import annotations

import random
import socket
from collections import deque

from pocketkube.errors import StartError

API_PORTS = (6443, 16443)  # the second where something listens on 0.0.0.0:6443
FIRST, LAST = 64, 254
PODS = range(2, 255)
PER_POD = 253


def claim(seed: str) -> tuple[int, socket.socket]:
    """A free A and the bound socket of its API. Raises StartError.

    The bind is atomic over all users of the machine; the order of tries comes from the seed, so that clusters keep out of each other's way.
    """
    order = list(range(FIRST, LAST + 1))
    random.Random(seed).shuffle(order)
    for port in API_PORTS:
        for a in order:
            bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.bind((f"127.{a}.0.1", port))
                bound.listen(256)  # without it the kernel lets two sockets with SO_REUSEADDR have the address
            except OSError:
                bound.close()
                continue
            return a, bound
    raise StartError("no free cluster address in 127.64.0.0 to 127.254.0.0", "`pocketkube list` shows your clusters")


class Addresses:
    """Hands out pod numbers, and each pod's addresses for Services."""

    def __init__(self, a: int) -> None:
        self._a = a
        self._free = deque(PODS)  # the longest unused first, so that an address rarely means somebody else at once
        self._pods: dict[str, int] = {}
        self._services: dict[str, dict[str, int]] = {}

    @property
    def api(self) -> str:
        """Where the API is."""
        return f"127.{self._a}.0.1"

    def node(self, index: int) -> str:
        """Address of the node of this index."""
        return f"127.{self._a}.0.{10 + index}"

    def pod(self, uid: str) -> str | None:
        """The pod's address, given on the first call; None if all are taken."""
        if uid not in self._pods:
            if not self._free:
                return None
            self._pods[uid] = self._free.popleft()
            self._services[uid] = {}
        return f"127.{self._a}.{self._pods[uid]}.1"

    def known(self) -> list[str]:
        """Pods that have addresses."""
        return list(self._pods)

    def service(self, pod: str, service: str) -> str | None:
        """The address of a Service as this pod sees it, given on the first call; None if the pod has none left."""
        given = self._services.get(pod)
        if given is None:
            return None
        if service not in given:
            taken = set(given.values())
            free = next((n for n in range(2, 2 + PER_POD) if n not in taken), None)
            if free is None:
                return None
            given[service] = free
        return f"127.{self._a}.{self._pods[pod]}.{given[service]}"

    def release(self, pod: str) -> None:
        """The pod is gone."""
        number = self._pods.pop(pod, None)
        self._services.pop(pod, None)
        if number is not None:
            self._free.append(number)

    def cluster_ip(self, taken: set[str]) -> str | None:
        """A free cluster IP; None if all are taken."""
        return next((ip for n in range(1, 255) if (ip := f"127.{self._a}.1.{n}") not in taken), None)
