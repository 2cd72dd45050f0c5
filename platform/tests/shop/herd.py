"""A parent that has the shop imported and forks services from itself: `python herd.py`, commands and answers as JSON lines.

{"start": ROLE, "environment": {...}, "log": PATH} -> {"pid": N}        {"poll": PID} -> {"code": null | N}
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import yaml

from shop import __main__ as program

IMAGES = Path(__file__).parents[3] / "gitops/apps/pocket/images.yaml"

LIBC = ctypes.CDLL(None)


def start(role: str, environment: dict[str, str], log: str) -> int:
    """Fork one service."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        LIBC.prctl(1, signal.SIGKILL)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for fd in (1, 2):
            os.dup2(out, fd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["shop", role]
        code = program.main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 71
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def main() -> None:
    """Serve commands until the input ends."""
    for module in yaml.safe_load(IMAGES.read_text())["images"]["aftershock/shop:dev"]["preload"]:
        importlib.import_module(module)
    gc.freeze()
    ended: dict[int, int] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            answer: dict[str, int | None] = {"pid": start(asked["start"], asked["environment"], asked["log"])}
        else:
            pid = asked["poll"]
            if pid not in ended:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = {"code": ended.get(pid)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
