"""The forking parent: a small process without threads or event loop that starts every program of the cluster.

`python -m pocketkube.preload SOCKET DAEMON` is the root. Asked to, it forks further parents that import modules first, and those fork the
pods of one image, which then share their memory. Each process is forked twice, so that it becomes a child of the daemon (a child
subreaper): a parent's death does not end its pods, the daemon's death ends them all (PR_SET_PDEATHSIG). What those had started themselves
the root ends then, by the mark in their environment.

One request and one answer at a time, as JSON over a SOCK_SEQPACKET socket, descriptors beside it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import sys
import termios
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pocketkube import processes

LARGEST = 180_000  # bytes of a request; the kernel's default send buffer holds one
ADOPTED_S = SWEEP_S = 5.0
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
_libc = ctypes.CDLL(None, use_errno=True)

Request = dict[str, Any]


def end_with(parent: int) -> None:
    """Ask the kernel for SIGKILL when `parent` (the process, while its main thread lives) ends; exits if it already has."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Serve as the root parent until the daemon closes the socket or dies, then end what it has left."""
    channel, daemon = int(sys.argv[1]), int(sys.argv[2])
    serve(socket.socket(fileno=channel), daemon)
    mark = processes.mark_of(os.getpid())
    deadline = time.monotonic() + SWEEP_S
    while mark and (left := processes.marked(Path(mark[0]))) and time.monotonic() < deadline:
        processes.end(left)
        time.sleep(0.01)


def serve(channel: socket.socket, daemon: int) -> None:
    """Answer requests until the socket ends. Never returns in a child."""
    gc.collect()
    gc.freeze()
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(channel, LARGEST + 1000, 8)
        except ConnectionError:
            return
        if not data:
            return
        request = json.loads(data)
        try:
            answer: Request = {"pid": _start(request, descriptors, channel, daemon)}
        except OSError as error:
            answer = {"error": error.strerror or str(error), "errno": error.errno}
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(json.dumps(answer).encode())


def _start(request: Request, descriptors: list[int], channel: socket.socket, daemon: int) -> int:
    """Fork twice; the pid once the grandchild belongs to the daemon and has done what can fail. Raises OSError."""
    told, tell = os.pipe()
    middle = os.fork()
    if middle == 0:
        status = 1
        try:
            own = os.getpid()
            child = os.fork()
            if child == 0:
                os.close(told)
                os.close(channel.detach())  # detached: a later collection must not close a number that is reused
                _become(request, descriptors, own, daemon, tell)
            os.write(tell, b"%d\n" % child)
            status = 0
        finally:
            os._exit(status)
    os.close(tell)
    os.waitpid(middle, 0)
    with os.fdopen(told, "rb") as reader:
        lines = reader.read().split(b"\n")
    numbers = [int(line) for line in lines if line and not line.startswith(b"!")]
    for line in lines:
        if line.startswith(b"!"):
            number = int(line[1:])
            raise OSError(number, os.strerror(number))
    if not numbers:
        raise OSError(0, "the process ended before it began")
    return numbers[0]


def _become(request: Request, descriptors: list[int], middle: int, daemon: int, tell: int) -> NoReturn:
    """In the grandchild: belong to the daemon, then be what was asked for."""
    status = 1
    try:
        deadline = time.monotonic() + ADOPTED_S
        while os.getppid() == middle and time.monotonic() < deadline:
            time.sleep(0.0002)
        end_with(daemon)
        os.setsid()
        _libc.prctl(PR_SET_NAME, request["name"].encode()[:15], 0, 0, 0)
        if request["do"] == "parent":
            os.close(tell)
            _preload(request["modules"])
            serve(socket.socket(fileno=descriptors[0]), daemon)
            os._exit(0)
        if request.get("tty"):
            fcntl.ioctl(descriptors[0], termios.TIOCSCTTY, 0)
        for target, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, target)
        for descriptor in descriptors:
            if descriptor > 2:
                os.close(descriptor)
        os.chdir(request["cwd"])
        if request["do"] == "exec":
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.execve(request["program"], request["argv"], request["env"])
        os.close(tell)
        status = _run(request)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(tell, b"!%d\n" % (error.errno or 5))
        status = 127
    finally:
        os._exit(status)


def _preload(modules: list[str]) -> None:
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:  # the pod that needs it will say so in its own log
            traceback.print_exc()
    if len(os.listdir("/proc/self/task")) != 1:
        print(f"preload of {modules} started a thread: forks of it would be unsafe", file=sys.stderr)
        os._exit(1)


def _run(request: Request) -> int:
    """Run a module as `python -m` does, in this process; its exit status."""
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = list(request["argv"])
    sys.path[0:1] = [request["cwd"]]
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", line_buffering=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace",
                                  line_buffering=True)  # fmt: skip
    gc.enable()
    status = 0
    try:
        sys.modules.pop(f"{request['module']}.__main__", None)  # it was preloaded for its imports
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            status = int(end.code or 0)
        else:
            print(end.code, file=sys.stderr)
            status = 1
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
        status = 1
    finish: Callable[[], None] = getattr(threading, "_shutdown", lambda: None)
    finish()  # joins threads as the interpreter's own end does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return status & 0xFF


if __name__ == "__main__":
    main()
