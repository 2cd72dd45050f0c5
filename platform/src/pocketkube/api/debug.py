"""What only pocketkube has: what is not enforced, the power of its nodes, and the end and return of its API.

GET /debug/unenforced; POST /debug/nodes/NAME/stop and .../start; POST /debug/api/restart?seconds=S&compact=true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from pocketkube.admission import Admission
from pocketkube.api.runtime import Runtime
from pocketkube.api.wire import Answer, reply
from pocketkube.errors import BadRequest, NotFound

PREFIX = "/debug/"
DOWN_S_MAX = 600.0
AWAY_S = 0.05  # so that the answer is out before the connection ends
Restart = Callable[[float, bool], None]  # seconds without an API, and whether the history of watches is forgotten


async def answer(
    admission: Admission, runtime: Runtime, restart: Restart | None, method: str, path: str, query: Mapping[str, str]
) -> Answer:  # fmt: skip
    """One request below /debug/. Raises NotFound, BadRequest."""
    match [method, *path.removeprefix(PREFIX).split("/")]:
        case ["GET", "unenforced"]:
            return reply({"unenforced": admission.unenforced})
        case ["POST", "nodes", name, ("stop" | "start") as what]:
            await runtime.power(name, what == "start")
            return reply({"node": name, "power": "on" if what == "start" else "off"})
        case ["POST", "api", "restart"] if restart is not None:
            down_s = _seconds(query.get("seconds") or "0")
            asyncio.get_running_loop().call_later(AWAY_S, restart, down_s, query.get("compact") == "true")
            return reply({"seconds": down_s}, 202)
    raise NotFound(f"the server could not find the requested resource: {method} {path}")


def _seconds(text: str) -> float:
    try:
        down_s = float(text)
    except ValueError:
        raise BadRequest(f"seconds: {text!r} is not a number") from None
    if not 0 <= down_s <= DOWN_S_MAX:
        raise BadRequest(f"seconds: {text} is not between 0 and {DOWN_S_MAX:g}")
    return down_s
