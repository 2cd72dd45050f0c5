"""The Locust child: one new user for each arrival of a seeded schedule, whatever became of those before.

Run as `python -m aftershock.load.customers SCENARIO LOG` with the environment of `plan.environment`. The only module that imports
Locust. Locust's own runner is a closed loop (a user that waits starts nothing), so of Locust we use users, tasks, client and events.
Inside a cluster AFTERSHOCK_CREW makes it the master (`master:WORKERS`) or a `worker` of the master at AFTERSHOCK_MASTER.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import locust
from locust.contrib import fasthttp
from locust.env import Environment
from locust.exception import CatchResponseError
from locust.util.load_locustfile import load_locustfile

import gevent  # isort: skip  (Locust patches the standard library first)
from gevent.pool import Group  # isort: skip
from geventhttpclient.response import HTTPConnectionClosed  # isort: skip

from aftershock.load import crew, plan
from aftershock.load.tally import UNRESOLVED

OFFSET_US = time.time_ns() // 1000 - time.monotonic_ns() // 1000


class BadScenario(Exception):
    """The scenario cannot be run; the message says why."""


def now_us() -> int:
    """Wall clock in microseconds that runs as the monotonic one does."""
    return OFFSET_US + time.monotonic_ns() // 1000


def send(*line: Any) -> None:
    """One line to aftershock."""
    os.write(1, json.dumps(line, separators=(",", ":")).encode() + b"\n")


class Visit:
    """One arrival: which journey it is, and when it was meant to begin."""

    def __init__(self, iteration: int, journey: str, intended_us: int, rng: random.Random) -> None:
        self.iteration, self.journey, self.intended_us, self.rng = iteration, journey, intended_us, rng


class Session(fasthttp.FastHttpSession):  # type: ignore[misc]
    """Locust's client with a limit on the whole request, a traceparent, and a sample for each request."""

    visit: Visit | None = None

    def request(self, method: str, url: str, name: str | None = None, **options: Any) -> Any:
        """As in Locust; the sample is sent by `on_request`, so that `catch_response` has its say."""
        if self.visit is None:  # outside of a journey, e.g. in on_start of some other user
            return super().request(method, url, name, **options)
        trace = f"{self.visit.rng.getrandbits(128):032x}"
        headers = {"traceparent": f"00-{trace}-{trace[8:24]}-01", **(options.pop("headers", None) or {})}
        key = next((v for k, v in headers.items() if k.lower() == "idempotency-key"), None)
        call = {"visit": self.visit, "trace": trace, "key": key, "start_us": now_us()}
        context = {**(options.pop("context", None) or {}), "aftershock": call}
        with gevent.Timeout(TIMEOUT_S, TimeoutError("timed out")):
            return super().request(method, url, name, headers=headers, context=context, **options)


def on_request(name: str, response_time: float, response: Any, exception: BaseException | None, context: dict[str, Any],
               **_: Any) -> None:  # fmt: skip
    """Locust's request event to a sample."""
    call = context.get("aftershock")
    if call is None:
        return
    visit, start_us, latency_us = call["visit"], call["start_us"], round(response_time * 1000)
    status, error = _outcome(response, exception, latency_us)
    order_id = _order_id(response) if call["key"] and error is None and status is not None and status < 400 else None
    send("s", visit.iteration, visit.journey, name, visit.intended_us, start_us, start_us + latency_us, latency_us, status,
         error, order_id, call["key"], call["trace"])  # fmt: skip


def _outcome(response: Any, exception: BaseException | None, latency_us: int) -> tuple[int | None, str | None]:
    """Status and error of an answer; the client takes a body that was cut off, by time or by the other side, for a whole one."""
    status = getattr(response, "status_code", 0) or None
    if isinstance(exception, CatchResponseError):
        return status, f"rejected: {exception}"
    if latency_us >= TIMEOUT_S * 1e6:
        return None, "timeout"
    if status is None:
        return None, _named(exception)
    length = response.headers.get("content-length")
    whole = response.headers.get("content-encoding") or length is None or int(length) == len(response.content or b"")
    return (status, None) if whole else (None, "connection_reset")


def _named(exception: BaseException | None) -> str:
    """What went wrong, as the shop's spans name it; geventhttpclient wraps the cause once or twice."""
    while isinstance(cause := getattr(exception, "original", None), BaseException):
        exception = cause
    if isinstance(exception, (TimeoutError, gevent.Timeout)):
        return "timeout"
    if isinstance(exception, ConnectionRefusedError):
        return "connection_refused"
    if isinstance(exception, (ConnectionResetError, BrokenPipeError, HTTPConnectionClosed)):
        return "connection_reset"
    return UNRESOLVED if isinstance(exception, socket.gaierror) else f"{type(exception).__name__}: {exception}"


def _order_id(response: Any) -> str | None:
    try:
        value = json.loads(response.text or "null")
    except ValueError:
        return None
    found = value.get("order_id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


class Crowd:
    """The users of one scenario, and the schedule by which they come."""

    def __init__(self, scenario: Path, host: str, seed: int) -> None:
        classes = list(load_locustfile(str(scenario))[0].values())
        for user_class in classes:
            if not issubclass(user_class, fasthttp.FastHttpUser):
                raise BadScenario(f"{user_class.__name__}: users must derive from FastHttpUser")
            if not user_class.tasks or any(isinstance(t, type) for t in user_class.tasks):
                raise BadScenario(f"{user_class.__name__}: tasks must be methods with @task")
            user_class.host = host
            user_class.concurrency = 1  # a customer does one thing at a time
            user_class.connection_timeout = user_class.network_timeout = TIMEOUT_S
        if not classes:
            raise BadScenario("no user class in this file")
        self._classes = classes
        self._seed = seed
        self.environment = Environment(user_classes=classes, events=locust.events, host=host)
        locust.events.request.add_listener(on_request)
        locust.events.test_start.fire(environment=self.environment)

    def run(self, offsets_s: list[float], linger_s: float, index: int = 0, of: int = 1, in_s: float = 0.0) -> None:
        """Start each arrival at its time, from `in_s` on and every `of`-th only, then give those under way `linger_s` to end."""
        group = Group()
        start_us = now_us() + round(in_s * 1e6)
        for iteration, offset_s in list(enumerate(offsets_s))[index::of]:
            intended_us = start_us + round(offset_s * 1e6)
            wait_us = intended_us - now_us()
            if wait_us > 0:
                gevent.sleep(wait_us / 1e6)
            group.spawn(self._arrive, iteration, start_us, intended_us)
        group.join(timeout=linger_s)

    def _arrive(self, iteration: int, schedule_start_us: int, intended_us: int) -> None:
        send("b", iteration, schedule_start_us, intended_us, now_us())
        rng = random.Random(f"{self._seed}/{iteration}")
        user_class = rng.choices(self._classes, [c.weight for c in self._classes])[0]
        task = rng.choice(user_class.tasks)
        user = user_class(self.environment)
        user.client.visit = Visit(iteration, task.__name__, intended_us, random.Random(f"{RUN}/{iteration}"))
        error = None
        try:
            user.on_start()
            task(user)
            user.on_stop()
        except Exception as broken:  # the scenario's own failure must not end the others
            error = f"{type(broken).__name__}: {broken}"
            traceback.print_exc()
        finally:
            user.client.client.close()
        send("e", iteration, error)


def main(scenario: str, words: str) -> int:
    """Run a scenario on its schedule; 0, or 1 with the reason as the last line of `words`."""
    log = Path(words).open("w", buffering=1)  # noqa: SIM115  (open for the life of the process)
    sys.stderr = log
    random.seed(int(os.environ["AFTERSHOCK_SEED"]))
    fasthttp.FastHttpSession = Session
    try:
        crowd = Crowd(Path(scenario), os.environ["AFTERSHOCK_TARGET_URL"], int(os.environ["AFTERSHOCK_SEED"]))
    except Exception as error:
        traceback.print_exc()
        print(f"{scenario}: {error}", file=log)
        return 1
    offsets_s = plan.arrivals(float(os.environ["AFTERSHOCK_RATE"]), int(os.environ["AFTERSHOCK_ARRIVALS"]),
                              int(os.environ["AFTERSHOCK_SEED"]))  # fmt: skip
    try:
        _run(crowd, offsets_s, float(os.environ["AFTERSHOCK_LINGER_S"]), Path(words).with_suffix(".json"))
    except crew.Scattered as error:
        print(error, file=log)
        return 1
    return 0


def _run(crowd: Crowd, offsets_s: list[float], linger_s: float, counts: Path) -> None:
    """Alone, or as a master or worker. Raises crew.Scattered."""
    part, _, workers = os.environ.get("AFTERSHOCK_CREW", "alone").partition(":")
    if part == "alone":
        crowd.run(offsets_s, linger_s)
        return
    host, _, port = os.environ["AFTERSHOCK_MASTER"].rpartition(":")
    if part == "master":
        work_s = float(os.environ["AFTERSHOCK_DURATION_S"]) + linger_s + crew.BEGIN_IN_S + TIMEOUT_S
        crew.lead(crowd.environment, host, int(port), int(workers), work_s, gevent.sleep, counts)
        return
    crew.follow(crowd.environment, host, int(port), gevent.sleep,
                lambda index, of, in_s: crowd.run(offsets_s, linger_s, index, of, in_s))  # fmt: skip


if __name__ == "__main__":
    TIMEOUT_S = float(os.environ["AFTERSHOCK_TIMEOUT_S"])
    RUN = os.environ["AFTERSHOCK_RUN"]
    sys.exit(main(*sys.argv[1:]))
