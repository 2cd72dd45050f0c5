"""The power of nodes: one program cuts it and gives it back, called as `PROGRAM off NODE` and `PROGRAM on NODE`.

A user names the program in $AFTERSHOCK_NODE_POWER (a script around ssh, a cloud's command line, a power strip); a pocketkube cluster has
its own. No shell is in between, and what the program needs to know (keys, accounts) is its own affair.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aftershock import processes
from aftershock.errors import AftershockError, BadInput, DeadlineExceeded

if TYPE_CHECKING:
    from aftershock.cluster import Cluster

Verb = Literal["off", "on"]
VARIABLE = "AFTERSHOCK_NODE_POWER"
COMMAND_S = 60.0
POCKET = "pocketkube-"  # what pocketkube calls its contexts
_SAID_MAX = 500


def command(cluster: Cluster, verb: Verb, node: str) -> list[str]:
    """What to start to cut (`off`) or give back (`on`) a node's power. Raises BadInput if there is no way that is known to work."""
    given = cluster.settings.node_power
    if given:
        words = shlex.split(given)
        program = shutil.which(words[0]) if words else None
        if program is None:
            raise BadInput(f"{VARIABLE} names {given!r}, which is no program", hint="chmod +x, or give its whole path")
        return [str(Path(program).resolve()), *words[1:], verb, node]  # also found later, and from another folder
    context = cluster.identity.context
    if cluster.identity.kind == "pocket" and context.startswith(POCKET):
        pocket = {"off": "stop", "on": "start"}[verb]
        return [sys.executable, "-m", "pocketkube.cli", "node", pocket, node, "--name", context.removeprefix(POCKET)]
    raise BadInput("nobody knows how to power a node of this cluster off, and on again",
                   hint=f"set {VARIABLE} to a program that is called as `PROGRAM off NODE` and `PROGRAM on NODE`")  # fmt: skip


def run(words: Sequence[str], deadline_s: float = COMMAND_S) -> str:
    """Run such a program and return its last words; it dies with us. Raises AftershockError, DeadlineExceeded."""
    what = f"`{' '.join(words[-2:])}` of {words[0]}"
    try:
        child = processes.spawn(
            words, name="power", scratch=processes.scratch(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise AftershockError(f"{words[0]} cannot be started: {error}") from None
    try:
        output, _ = child.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(f"{what} did not end within {deadline_s:g} s") from None
    finally:
        code = processes.end(child, 0.5)
    said = output.decode(errors="replace").strip()[-_SAID_MAX:]
    if code:
        raise AftershockError(f"{what} ended with {code}: {said or 'without a word'}")
    return said
