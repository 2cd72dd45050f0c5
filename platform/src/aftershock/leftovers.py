"""`aftershock undo`: what runs left in a cluster and nobody has taken back yet, a killed run's or one whose undo failed."""

from __future__ import annotations

import re
from typing import Any

from aftershock import lease, processes, watchdog
from aftershock.cluster import Cluster
from aftershock.settings import Settings
from aftershock.undo import Entry, State, UndoJournal, Undone


def undo(on: str, settings: Settings, *, wait_s: float | None = None, forget: bool = False) -> list[dict[str, Any]]:
    """Take back every fault of this cluster that is still in the journal; each answer tells what became of it.

    Faults of another cluster, which the same context named then, are never undone here: they are told or, with `forget`, for a cluster
    that is no more, marked as gone with it.
    """
    processes.sweep()
    cluster = Cluster.connect(on, settings)
    identity = cluster.identity
    with UndoJournal.of(settings) as journal:
        done = journal.undo(cluster, journal.pending(identity.fingerprint), wait_s)
        strangers = [
            e for e in journal.pending() if e.context == identity.context and e.cluster != identity.fingerprint
        ]
        if runs := {r.entry.run for r in done} - {e.run for e in journal.pending(identity.fingerprint)}:
            touched = (re.search("/namespaces/([^/]+)/", e.inverse.path) for run in runs for e in journal.of_run(run))
            lease.forget(cluster, runs, {cluster.namespace, *(found.group(1) for found in touched if found)})
        return [r.document() for r in [*done, *(_elsewhere(journal, e, settings, forget) for e in strangers)]]


def _elsewhere(journal: UndoJournal, entry: Entry, settings: Settings, forget: bool) -> Undone:
    gone = forget or watchdog.is_gone(entry.context, entry.cluster, settings)
    state: State = "done" if gone else "failed"
    why = "gone with its cluster" if gone else (
        f"made on another cluster, which {entry.context} named then; let it name that one again or, if that is no more,"
        " `aftershock undo --forget`")  # fmt: skip
    return Undone(entry, state, journal.mark(entry.id, state, why), why)
