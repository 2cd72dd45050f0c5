"""A Chaos Toolkit control, for people who keep `chaos run`: the undo journal, its watchdog and the evidence of aftershock.

    controls:
    - name: aftershock
      provider: {type: python, module: aftershock.control, arguments: {namespaces: [shop]}}

Every action's inverse is written before the action; what is still in place at the end is undone, also after `kill -9`. Events, chains and
Chaos Toolkit's own journal go to `reports/<title>/<run>/`. There is no verdict: without load nobody can say what customers saw.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aftershock import activities, evidence, faults, lease, processes, settings
from aftershock.actions import RUN_ID, cluster_of
from aftershock.activities import ActivityRun, Phase
from aftershock.errors import AftershockError
from aftershock.events import EventLog, now_us
from aftershock.faults import Planned
from aftershock.folder import RunFolder, new_run_id
from aftershock.observe.observer import ObserverReport
from aftershock.observe.watch import Watcher
from aftershock.undo import UndoJournal
from aftershock.watchdog import Watchdog

NO_LOAD = {"offered": False, "scheduled": 0, "started_on_time": 0, "late_max_us": None, "dropped": 0, "exit_code": None,
           "error": "chaos run offers no load"}  # fmt: skip

Json = dict[str, Any]
_LOGGER = logging.getLogger("chaostoolkit")


class Keeper:
    """What one `chaos run` leaves: entries in the journal, events, chains."""

    def __init__(self, experiment: Mapping[str, Any], configuration: Mapping[str, Any], secrets: Mapping[str, Any],
                 namespaces: Sequence[str], reports: Path) -> None:  # fmt: skip
        self.configuration, self.secrets, self.namespaces = configuration, secrets, tuple(namespaces)
        self.rollbacks = bool(experiment.get("rollbacks"))
        self.run_id, self.phase = new_run_id(), "before"
        self.planned: list[Planned] = []
        self.runs: list[ActivityRun] = []
        self._stack = ExitStack()
        try:
            self._begin(
                re.sub(r"[^a-z0-9]+", "-", str(experiment.get("title")).lower()).strip("-")[:80] or "chaos", reports
            )
        except BaseException:
            self._stack.close()
            raise

    def _begin(self, name: str, reports: Path) -> None:
        configured = settings.settings()
        processes.sweep()
        processes.begin(self.run_id)
        self._stack.callback(processes.finish)
        os.environ[RUN_ID] = self.run_id
        self._stack.callback(os.environ.pop, RUN_ID, None)
        self.cluster = cluster_of(self.configuration, next(iter(self.secrets.values()), None))
        self.journal = self._stack.enter_context(UndoJournal.of(configured))
        if left := self.journal.pending(self.cluster.identity.fingerprint):
            raise AftershockError(f"{len(left)} fault(s) of an earlier run are not undone", hint="aftershock undo")
        for namespace in self.namespaces:
            lease.take(self.cluster, namespace, self.run_id)
            self._stack.callback(lease.release, self.cluster, namespace, self.run_id)
        self._stack.callback(lease.Renewal(self.cluster, self.namespaces, self.run_id).stop)
        self.watchdog = Watchdog.start(self.run_id, self.cluster, configured, self.namespaces)
        self._stack.callback(self.watchdog.stop)
        self.folder = RunFolder.create(reports.resolve(), name, self.run_id)
        self.log = EventLog(self.folder.path / "events.jsonl")
        self._stack.callback(self.log.close)
        self.watcher = Watcher(self.cluster, self.log, self.namespaces)
        self._stack.callback(self.watcher.stop)
        self.watcher.start()

    def before(self, raw: Json) -> None:
        """Write what takes an action back, before it. Raises AftershockError if nothing does."""
        if raw.get("type") != "action" or self.phase != "method":
            return
        activity = activities.resolve(activities.activity_of(raw), self.configuration, self.secrets)
        fault = faults.plan(activity, self.cluster, f"f{len(self.planned) + 1}", self.run_id, rollbacks=self.rollbacks)
        if fault.undo == "impossible":
            raise AftershockError(f"{activity.name}: cannot undo {activity.target}", hint="add a rollback to the file")
        faults.arm(fault, self.cluster, self.journal, self.run_id)
        self.planned.append(fault)
        self.log.add(source="runner", type="INJECTED", kind="Runner", name=activity.name, reason=fault.action)

    def after(self, raw: Json) -> None:
        """Keep what became of an activity."""
        phases: dict[str, Phase] = {"before": "before", "method": "method", "rollback": "rollback", "after": "after"}
        self.runs.append(activities.run_of(raw, phases[self.phase]))

    def finish(self, journal: Json | None) -> None:
        """Undo what is still in place, and store what was seen."""
        fingerprint = self.cluster.identity.fingerprint
        undone_us = now_us()
        try:
            for undone in self.journal.undo(self.cluster, self.journal.pending(fingerprint, self.run_id)):
                self.log.add(
                    source="runner", type="UNDONE", kind="Runner", name=undone.entry.action, reason=undone.state
                )
            self._settle()
            report: ObserverReport = self.watcher.stop()
            entries = self.journal.of_run(self.run_id)
            chains = evidence.chains(
                self.planned, self.runs, self.log.all(), {}, entries, undone_us=undone_us, ended_us=report.to_us
            )
            steady = {phase: activities.steady(self.runs, phase) for phase in ("before", "after")}
            document = evidence.build(chains, self.runs, entries, observers=[report], steady=steady, load=NO_LOAD)
            self.folder.write("evidence.json", document)
            if journal is not None:
                self.folder.write("journal.json", activities.plain(journal, activities.DOCUMENT_CHARS_MAX))
        finally:
            self._stack.close()

    def _settle(self) -> None:
        """Give replacements of killed pods a moment to be seen Ready; what is not seen by then stays unproven."""
        kinds = {"pod-kill", "node-drain"} & {f.action for f in self.planned}
        if kinds:
            since = now_us()
            self.log.wait_for(lambda e: e.time_us >= since and e.kind == "Pod" and bool(e.detail.get("ready")), 3.0)


_keeper: Keeper | None = None


def before_experiment_control(
    context: Json, configuration: Mapping[str, Any] | None = None, secrets: Mapping[str, Any] | None = None,
    namespaces: Sequence[str] = (), reports: str = "reports", **_: Any,
) -> None:  # fmt: skip
    """Start the journal, the watchdog and the watch; without them the experiment does not begin."""
    global _keeper
    if not namespaces:
        raise activities.interruption("aftershock.control needs the argument namespaces: a list of those to watch")
    try:
        _keeper = Keeper(context, configuration or {}, secrets or {}, namespaces, Path(reports))
    except Exception as error:  # whatever it is, Chaos Toolkit would swallow it and go on without us
        raise _stop(error) from error


def before_method_control(context: Json, **_: Any) -> None:
    """The faults begin."""
    _enter("method")


def after_method_control(context: Json, **_: Any) -> None:
    """The faults are in place."""
    _enter("after")


def before_rollback_control(context: Json, **_: Any) -> None:
    """The file's own rollbacks begin."""
    _enter("rollback")


def before_activity_control(context: Json, **_: Any) -> None:
    """Write an action's inverse to disk before it; an action that nothing takes back stops the experiment."""
    if _keeper is None:
        return
    try:
        _keeper.before(context)
    except Exception as error:  # Chaos Toolkit would swallow it, and go on to inject what nothing can undo
        raise _stop(error) from error


def after_activity_control(context: Json, state: Any = None, **_: Any) -> None:
    """Keep what became of it."""
    if _keeper is not None and isinstance(state, dict):
        _keeper.after(state)


def after_experiment_control(context: Json, state: Any = None, **_: Any) -> None:
    """Undo what is left and store the evidence."""
    global _keeper
    if _keeper is None:
        return
    keeper, _keeper = _keeper, None
    try:
        keeper.finish(state if isinstance(state, dict) else None)
    except Exception as error:  # as above: say it, since nobody else will
        _LOGGER.error(f"aftershock: {error}", exc_info=True)


def _enter(phase: str) -> None:
    if _keeper is not None:
        _keeper.phase = phase


def _stop(error: Exception) -> Exception:
    hint = getattr(error, "hint", None)
    return activities.interruption(f"aftershock: {error}{f' (hint: {hint})' if hint else ''}")
