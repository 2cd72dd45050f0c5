"""A process that outlives its run by as long as it takes to undo what the run left.

It waits for end-of-file on a pipe whose other end only the run holds, so it learns of its death in any way (`kill -9`, out of memory) at
once; then it undoes what the journal has pending of this run. A run that undid everything itself leaves nothing to do. It is a session of
its own, ignores Ctrl-C, has loaded all it needs beforehand, and holds its own copy of the credentials (mode 0600), deleted at its end.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aftershock import processes, settings
from aftershock.errors import AftershockError, ClusterError, ClusterUnreachable, DeadlineExceeded

if TYPE_CHECKING:
    from aftershock.cluster import Cluster
    from aftershock.settings import Settings
    from aftershock.undo import Entry, UndoJournal

READY = b"ready\n"
POCKET = "pocketkube-"  # what pocketkube calls its contexts
READY_S = 20.0
UNDO_S = 60.0  # after this it gives up; what is left stays in the journal for `aftershock undo`
AWAY_S = 900.0  # so long it waits for an API server that does not answer, before that counts
LOOK_S = 0.5  # how often it asks one
ENTRY_S = 3.0  # for one entry, before the next one is tried; then again from the first
SETTLE_S = 0.4  # a request of the dead run may still have been under way: look again
STOP_S = 5.0
LET_GO_S = 15.0  # so long it tries to let go of the leases
LOGS_MAX = 20


class Watchdog:
    """The run's side: `start` it before the first entry is written, `stop` it after the last was undone."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.folder = process, folder
        self._ready = False

    @classmethod
    def start(cls, run_id: str, cluster: Cluster, settings: Settings, namespaces: Sequence[str] = ()) -> Watchdog:
        """Start a watchdog and wait until it is able to undo; `namespaces` are those whose lease it lets go.

        Raises DeadlineExceeded.
        """
        begun = cls.launch(run_id, cluster, settings, namespaces)
        begun.ready()
        return begun

    @classmethod
    def launch(cls, run_id: str, cluster: Cluster, settings: Settings, namespaces: Sequence[str] = ()) -> Watchdog:
        """Start a watchdog without waiting; call `ready` before the first fault."""
        root = settings.state_folder / "watchdog"
        folder = root / run_id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        cluster.kubeconfig_for_child(folder)
        argv: list[str | Path] = [sys.executable, "-m", "aftershock.watchdog", "--run", run_id, "--context", cluster.identity.context,
                "--fingerprint", cluster.identity.fingerprint, "--folder", folder, *namespaces]  # fmt: skip
        env = {**os.environ, "XDG_STATE_HOME": str(settings.state_home), "KUBECONFIG": str(folder / "kubeconfig")}
        _thin_out(root)
        with (root / f"{run_id}.log").open("ab") as log:
            process = processes.spawn(argv, name="watchdog", scratch=folder, env=env, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=log, outlives=True)  # fmt: skip
        return cls(process, folder)

    def ready(self, deadline_s: float = READY_S) -> None:
        """Wait until it has loaded everything and reached the cluster; at once if it said so before.

        Raises DeadlineExceeded with its last words.
        """
        if self._ready:
            return
        assert self.process.stdout is not None
        seen, ends = b"", time.monotonic() + deadline_s
        while READY not in seen:
            left = ends - time.monotonic()
            readable = select.select([self.process.stdout], [], [], max(0.0, left))[0]
            chunk = os.read(self.process.stdout.fileno(), 100) if readable else b""
            if not chunk:
                self.stop()
                log = self.folder.with_suffix(".log")
                said = log.read_text(errors="replace").strip().splitlines()[-3:] if log.is_file() else []
                raise DeadlineExceeded(f"the watchdog is not ready: {' / '.join(said) or f'silent for {deadline_s:g} s'}",
                                       hint="without it a killed run would leave its fault in the cluster")  # fmt: skip
            seen += chunk
        self._ready = True

    def stop(self) -> None:
        """Let it go; it undoes what is still pending, if anything is. Idempotent."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(STOP_S if self.process.poll() is None else 0)
        except subprocess.TimeoutExpired:
            return  # it is undoing: that is what it is for
        processes.end(self.process, 0.1)


def _thin_out(root: Path) -> None:
    logs = sorted(root.glob("*.log"), key=lambda p: p.stat().st_mtime)
    for old in logs[:-LOGS_MAX]:
        old.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m aftershock.watchdog`, with a pipe as standard input."""
    parser = argparse.ArgumentParser(description="Undo what a run left when it ends.")
    for name in ("--run", "--context", "--fingerprint"):
        parser.add_argument(name, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("namespaces", nargs="*")
    chosen = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    try:
        return _watch(chosen.run, chosen.context, chosen.fingerprint, chosen.namespaces)
    finally:
        shutil.rmtree(chosen.folder, ignore_errors=True)


def _watch(run_id: str, context: str, fingerprint: str, namespaces: Sequence[str]) -> int:
    from aftershock import lease  # what is needed is loaded before `ready`: the undo itself has two seconds
    from aftershock.cluster import Cluster
    from aftershock.undo import UndoJournal

    configured = settings.settings()
    cluster = Cluster.connect(context, configured)
    if cluster.identity.fingerprint != fingerprint:
        raise AftershockError(f"context {context} is another cluster now")
    with UndoJournal.of(configured) as journal:
        journal.pending(fingerprint, run_id)
        os.write(1, READY)
        while os.read(0, 1024):
            pass
        left = journal.pending(fingerprint, run_id)
        if left:
            _say(f"run {run_id} ended with {len(left)} fault(s) in place")
            renewal = lease.Renewal(
                cluster, namespaces, run_id
            )  # nobody may start while this run's faults are in place
            away_ends, ends = time.monotonic() + AWAY_S, time.monotonic() + UNDO_S
            while left and time.monotonic() < ends:
                for entry in left:
                    if is_gone(context, fingerprint, configured):
                        return _forget(journal, journal.pending(fingerprint, run_id))
                    _undo(journal, cluster, [entry])
                while not (there := cluster.answers()) and time.monotonic() < away_ends:
                    if is_gone(context, fingerprint, configured):
                        return _forget(journal, journal.pending(fingerprint, run_id))
                    ends = time.monotonic() + UNDO_S
                    time.sleep(LOOK_S)
                time.sleep(SETTLE_S if there else 0.0)
                left = journal.pending(fingerprint, run_id)
            renewal.stop()
            _undo(journal, cluster, journal.undone_yet_there(cluster, run_id))
            left = journal.pending(fingerprint, run_id)
            if left:
                _say(f"{len(left)} fault(s) stay in the journal: put right what kept them, then `aftershock undo`")
        _let_go(cluster, namespaces, run_id, left)
    cluster.close()
    return 1 if left else 0


def _let_go(cluster: Cluster, namespaces: Sequence[str], run_id: str, left: Sequence[Entry]) -> None:
    """The leases of the run: gone, or marked with what is not undone, so that no other machine starts over it."""
    from aftershock import lease

    ends = time.monotonic() + LET_GO_S
    for namespace in namespaces:
        while True:
            try:
                lease.release(
                    cluster, namespace, run_id, "; ".join(entry.inverse.what or entry.action for entry in left)
                )
                break
            except ClusterError as error:  # after that it ends by itself, since nobody renews it
                if time.monotonic() > ends:
                    _say(f"the lease in {namespace} is not let go: {error}")
                    break
            time.sleep(LOOK_S)


def is_gone(context: str, fingerprint: str, configured: Settings) -> bool:
    """Whether a local cluster was ended, and its faults with it; of any other cluster nobody can know."""
    from aftershock import kubeconfig

    if not context.startswith(POCKET):
        return False
    try:
        return kubeconfig.of_pocket(context.removeprefix(POCKET), configured).fingerprint != fingerprint
    except ClusterUnreachable:
        return True


def _forget(journal: UndoJournal, left: Sequence[Entry]) -> int:
    for entry in left:
        journal.mark(entry.id, "done", "its cluster was ended")
    _say(f"{len(left)} fault(s) went with their cluster")
    return 0


def _undo(journal: UndoJournal, cluster: Cluster, entries: Sequence[Entry]) -> None:
    for undone in journal.undo(cluster, entries, deadline_s=ENTRY_S):
        _say(f"{undone.state}: {undone.entry.action}: {undone.entry.inverse.what} {undone.error or ''}")


def _say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AftershockError as error:
        _say(f"error: {error}")
        sys.exit(2)
