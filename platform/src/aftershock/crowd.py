"""A crowd beside the measured customers, so that an autoscaler has something to do; used as `module: aftershock.actions`.

It is a k6 of its own, a child of the run: it ends after its time, and with the run however that ends.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from aftershock import processes
from aftershock.cluster import Cluster
from aftershock.errors import BadInput, LoadError
from aftershock.load.engines import k6_binary

RATE_MAX = 5_000
_STARTED_S = 1.0  # a k6 that cannot work says so at once


def send(
    cluster: Cluster, ns: str, service: str, port: str, path: str, rate_per_s: float, seconds: float
) -> dict[str, Any]:
    """Let `rate_per_s` requests a second for `path` come to a Service for `seconds`, and return once they have begun.

    Raises BadInput, ClusterError if the Service cannot be reached, LoadError if the generator does not start.
    """
    if not 0 < rate_per_s <= RATE_MAX or not 0 < seconds <= 3600:
        raise BadInput(f"rate_per_s takes more than 0 and at most {RATE_MAX}, seconds at most 3600")
    url = cluster.service_url(ns, service, port) + path
    words = processes.scratch() / f"crowd-{time.monotonic_ns()}.log"
    script = Path(__file__).with_name("crowd.js")
    command = [
        str(k6_binary()), "run", "--quiet", "--no-color", "--no-summary", "--no-usage-report", "--no-thresholds", "--address", "",
        "--log-format", "raw", "--log-output", f"file={words},level=error", str(script),
    ]  # fmt: skip
    env = {**os.environ, "CROWD_URL": url, "CROWD_RATE": f"{rate_per_s:g}", "CROWD_SECONDS": f"{seconds:g}"}
    child = processes.spawn(command, name="crowd", scratch=processes.scratch(), env=env)
    try:
        code: int | None = child.wait(_STARTED_S)
    except subprocess.TimeoutExpired:
        code = None
    if code is not None:
        processes.end(child, 0)
        said = words.read_text(errors="replace").strip()[-300:] if words.is_file() else ""
        raise LoadError(f"the crowd's generator ended with {code}: {said or 'without a word'}")
    threading.Thread(
        target=child.wait, name="crowd", daemon=True
    ).start()  # it ends by itself, and somebody has to notice
    return {"url": url, "rate_per_s": rate_per_s, "seconds": seconds}
