"""What is to be offered, and the schedule of arrivals that follows from it. Pure, standard library only."""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from aftershock.errors import BadInput, Refused

TIMEOUT_S = 2.0  # a customer waits this long for an answer to one request
ON_TIME_S = 0.1  # an arrival that starts later than this after its time was late
LINGER_S = 10.0  # journeys under way when the schedule ends may take this much longer
ARRIVALS_MAX = 2_000_000
SUFFIX = {"k6": ".js", "locust": ".py"}


@dataclass(frozen=True)
class LoadPlan:
    """`rate_per_s` iterations a second for `total_s` seconds; `run` makes keys and trace ids of two runs differ."""

    tool: Literal["k6", "locust"]
    scenario: Path
    target_url: str
    rate_per_s: float
    total_s: float
    seed: int
    timeout_s: float = TIMEOUT_S
    vus: int | None = None  # k6 only; None: enough for a shop that answers nothing in time
    run: str = field(default_factory=lambda: secrets.token_hex(6))

    @property
    def scheduled(self) -> int:
        """How many arrivals the schedule has: those at 0, 1/rate, 2/rate ... before `total_s`."""
        return math.ceil(self.rate_per_s * self.total_s - 1e-9)

    @property
    def journeys_at_once(self) -> int:
        """Journeys under way if three requests of each are only just answered in time, and a margin."""
        return self.vus or math.ceil(self.rate_per_s * 3 * self.timeout_s * 1.1) + 10


def check(plan: LoadPlan) -> None:
    """Refuse a plan that offers nothing or aims nowhere, before anything is started.

    Raises Refused for a load of nothing, BadInput for a scenario or an address that cannot be used.
    """
    if not (math.isfinite(plan.rate_per_s) and math.isfinite(plan.total_s)):
        raise BadInput(f"rate {plan.rate_per_s:g}/s over {plan.total_s:g} s is no load")
    if plan.rate_per_s <= 0 or plan.total_s <= 0 or plan.scheduled < 1:
        raise Refused(f"no load to offer: {plan.rate_per_s:g} arrivals/s over {plan.total_s:g} s",
                      hint="give extensions.aftershock.load.rate_per_s and the windows values above zero")  # fmt: skip
    if plan.scheduled > ARRIVALS_MAX:
        raise BadInput(f"{plan.scheduled} arrivals are more than {ARRIVALS_MAX}", hint="lower the rate or the windows")
    if plan.tool not in SUFFIX:
        raise BadInput(f"{plan.tool} is no load tool", hint=f"one of {', '.join(SUFFIX)}")
    if plan.scenario.suffix != SUFFIX[plan.tool]:
        raise BadInput(f"{plan.scenario}: a scenario of {plan.tool} is a {SUFFIX[plan.tool]} file")
    if not plan.scenario.is_file():
        raise BadInput(f"{plan.scenario}: no such scenario", hint="paths are relative to the working directory")
    try:
        parts = urlsplit(plan.target_url)
        aimed = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        aimed = False
    if not aimed:
        raise BadInput(f"{plan.target_url!r} is no address to send load to", hint="http://HOST:PORT")


def environment(plan: LoadPlan, inherited: Mapping[str, str]) -> dict[str, str]:
    """What a scenario is told. Settings of the tools' own that lie about in the environment must not change the load."""
    kept = {k: v for k, v in inherited.items() if not k.startswith(("K6_", "LOCUST_", "AFTERSHOCK_"))}
    return kept | {
        "AFTERSHOCK_TARGET_URL": plan.target_url.rstrip("/"),
        "AFTERSHOCK_RATE": repr(float(plan.rate_per_s)),
        "AFTERSHOCK_DURATION_S": repr(float(plan.total_s)),
        "AFTERSHOCK_ARRIVALS": str(plan.scheduled),
        "AFTERSHOCK_SEED": str(plan.seed),
        "AFTERSHOCK_RUN": plan.run,
        "AFTERSHOCK_TIMEOUT_S": repr(float(plan.timeout_s)),
        "AFTERSHOCK_LINGER_S": repr(LINGER_S),
        "AFTERSHOCK_VUS": str(plan.journeys_at_once),
    }


def arrivals(rate_per_s: float, count: int, seed: int) -> list[float]:
    """Seconds after the start of each arrival: one at a random moment of each 1/rate, so that their number is exact."""
    rng = random.Random(seed)
    return [(n + rng.random()) / rate_per_s for n in range(count)]
