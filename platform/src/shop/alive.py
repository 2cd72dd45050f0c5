"""`python -m shop.alive`: 0 if the service of this container answers, for the image's HEALTHCHECK.

It asks where the service listens, by the same two variables; Kubernetes has probes of its own.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping

DEADLINE_S = 2.0
EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - listening everywhere includes loopback


def alive(environment: Mapping[str, str]) -> bool:
    """True if /healthz of the service answers 200 within the deadline."""
    host = environment.get("SHOP_LISTEN_HOST") or "127.0.0.1"
    port = int(environment.get("SHOP_LISTEN_PORT") or "7070")
    connection = http.client.HTTPConnection("127.0.0.1" if host in EVERYWHERE else host, port, timeout=DEADLINE_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if alive(os.environ) else 1)
