"""The steps of one run and what they hold: cluster, folder, observers, load, undo journal.

`run.py` calls the steps in order. Whatever happens in between, leaving the `with` undoes every fault, ends every child and lets the
cluster go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal

from aftershock import evidence, faults, invariants, judge, lease, manifest, permissions, preflight, processes, weakness
from aftershock import load as loads
from aftershock.activities import ActivityRun, Chaos
from aftershock.between import Between
from aftershock.cluster import Cluster
from aftershock.errors import AftershockError, ClusterError, LoadError, Refused
from aftershock.events import EventLog, now_us
from aftershock.experiment import Experiment
from aftershock.folder import RunFolder
from aftershock.load import offer
from aftershock.load.remote import RemoteLoad
from aftershock.observe import clock, observer, topology
from aftershock.observe.collector import Collector
from aftershock.observe.hops import Hops
from aftershock.observe.ledger import Ledger
from aftershock.observe.observer import Observer, ObserverReport
from aftershock.observe.remote import RemoteReceiver
from aftershock.observe.scrape import Scraper
from aftershock.observe.watch import Watcher
from aftershock.progress import Teller
from aftershock.settings import Settings
from aftershock.undo import ENTRY_DEADLINE_S, Entry, Inverse, UndoJournal, Undone
from aftershock.verdict import Finding, Outcome
from aftershock.watchdog import Watchdog

WINDOWS = ("warm_up", "baseline", "fault", "recovery")
LOAD_BEGINS_S = 20.0
LOAD_ENDS_S = 15.0
SETTLE_S = 10.0
PROBE_S = 5.0
SERVED_MIN = 0.9  # share of the baseline's journeys that must succeed where no objective says it
ROLLBACK_S = 20.0
BRIEFLY_S = 3.0  # once the schedule is over, an API server that does not answer is not waited for any longer: the watchdog does that
TICK_S = 0.05
NO_LOAD: dict[str, Any] = {
    "offered": False, "scheduled": 0, "started_on_time": 0, "late_max_us": None, "dropped": 0, "exit_code": None,
    "error": "the run stopped before the load began",
}  # fmt: skip


class Stopped(Exception):
    """The run cannot go on to a verdict about the fault; what was seen so far is stored and judged."""

    def __init__(self, why: str, hint: str | None = None) -> None:
        super().__init__(why)
        self.hint = hint


class Session:
    """One run under way; a context manager."""

    def __init__(
        self, experiment: Experiment, cluster: Cluster, folder: RunFolder, settings: Settings, tell: Teller, *, weak: bool,
        load_on: str,
    ) -> None:  # fmt: skip
        self.experiment, self.cluster, self.folder, self.settings, self.tell = (
            experiment,
            cluster,
            folder,
            settings,
            tell,
        )
        self.run_id = folder.path.name
        self.started_us = now_us()
        self.weakness = experiment.weak_twin.weakness if weak and experiment.weak_twin else None
        self.windows: dict[str, dict[str, int]] = {}
        self.reports: list[ObserverReport] = []
        self.steady_seen: dict[str, tuple[bool | None, str]] = {}
        self.load_facts: dict[str, Any] = dict(NO_LOAD)
        self.plan: preflight.Plan | None = None
        self.stopped: Stopped | None = None
        self._stack = ExitStack()
        self._observers: list[Observer] = []
        self._collector: Collector | None = None
        self._load: loads.RunningLoad | RemoteLoad | None = None
        self._load_on, self._offered = load_on, offer.Offered()
        self._known: dict[str, Any] = {}
        self._undone_us: int | None = None

    def __enter__(self) -> Session:
        processes.begin(self.run_id)
        self._stack.callback(processes.finish)
        self.folder.write_text("experiment.yaml", self.experiment.source)
        self._write_manifest()
        self.scratch = processes.scratch()
        self.journal = self._stack.enter_context(UndoJournal.of(self.settings))
        self.log = EventLog(self.folder.path / "events.jsonl")
        self._stack.callback(self.log.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Undo whatever is pending, then end everything, newest first."""
        try:
            if self._pending():
                self.tell("undoing", None)
                self._take_back(self._pending(), BRIEFLY_S)
        finally:
            self._stack.close()

    def _permissions(self) -> Iterator[faults.Need]:
        """What this run must be allowed and others need not."""
        if self.weakness is not None:
            yield from permissions.of_weakness(self.cluster, self.experiment, self.weakness)
        if self._load_on == "cluster":
            yield from permissions.of_load(self.cluster, self.experiment.blast_radius.namespaces)

    # The steps, in order

    def preflight(self, unleash: bool, between: Between | None = None) -> None:
        """See that the fault may be injected and can be undone, and take the namespace's lease. Raises Refused.

        In a series the cluster is then made ready for this experiment, before its targets count.
        """
        self.tell("preflight", 0.0)
        self.chaos = Chaos(self.experiment, self.cluster, self.scratch, self.run_id)
        self.plan = preflight.preflight(
            self.experiment, self.cluster, self.journal, unleash=unleash, run_id=self.run_id,
            targets_later=self.weakness is not None or between is not None, also=self._permissions(),
        )  # fmt: skip
        self._stack.callback(self._quietly, self._let_go)
        self._lease = lease.Renewal(self.cluster, self.plan.namespaces, self.run_id)
        self._stack.callback(self._lease.stop)
        self.watchdog = Watchdog.launch(
            self.run_id, self.cluster, self.settings, self.experiment.blast_radius.namespaces
        )
        self._stack.callback(self.watchdog.stop)
        if between is not None:
            between.prepare(self.cluster, self.plan, self.tell)
            if self.weakness is None:
                self.plan = preflight.replan(self.plan, self.cluster, self.run_id)

    def weaken(self) -> None:
        """Switch the weakness of the weak twin on, if this run is one, and wait until the shop runs with it."""
        if self.weakness is None:
            return
        assert self.plan is not None, "preflight comes first"
        self.tell(f"switching {self.weakness} on", None)
        self.watchdog.ready()
        weakness.apply(
            self.cluster, self.journal, self.run_id, self.experiment, self.weakness, lambda text: self.tell(text, None)
        )
        self.plan = preflight.replan(self.plan, self.cluster, self.run_id)  # other pods are there now

    def observe(self) -> None:
        """Start every observer; from here on a time in which one cannot see is a gap."""
        self.tell("starting observers", None)
        namespaces = self.experiment.blast_radius.namespaces
        remote = None
        if self.cluster.identity.kind != "pocket":
            image = self.settings.runner_image
            remote = RemoteReceiver(self.cluster, namespaces[0], self.run_id, image, self._nodes_to_avoid())
        self._collector = collector = Collector(self.cluster, self.folder, namespaces, self.scratch, remote=remote)
        self._record("collector", collector.inverses())
        self._observers = [
            Watcher(self.cluster, self.log, namespaces),
            collector,
            Scraper(self.cluster, self.folder, namespaces),
        ]
        with ThreadPoolExecutor(1) as beside:  # a receiver in the cluster takes its time to start
            known = beside.submit(self._look_around, namespaces)
            for each in self._observers:
                self._stack.callback(each.stop)
                each.start()
        self._known = known.result()

    def _look_around(self, namespaces: Sequence[str]) -> dict[str, Any]:
        """What the cluster is before anything is done to it."""
        return {
            "images": manifest.images(self.cluster, namespaces), "clock": clock.measure(self.cluster).as_run(),
            "topology": {"calls": [], "pods": topology.pods(self.cluster, namespaces)}, "unenforced": self.cluster.unenforced(),
        }  # fmt: skip

    def offer_load(self) -> None:
        """Start the generator; its first arrival fixes the windows. Waits for the warm-up to end."""
        asked = self.experiment.load
        namespace = self.experiment.blast_radius.namespaces[0]
        try:
            self.tell(f"starting {asked.tool}", None)
            if self._load_on == "cluster":
                self._load = self._inside(namespace)
            else:
                self._offered = offer.way(self.cluster, namespace, asked, self.scratch, self._stack)
                self._load = loads.start(self._load_plan(self._offered.url), self.folder, self.scratch)
                self._stack.callback(self._load.stop)
            begun_us = self._load.begun_us(LOAD_BEGINS_S)
        except (ClusterError, LoadError, AftershockError) as error:
            if isinstance(error, Refused):
                raise
            raise Stopped(f"no load: {error}", error.hint) from None
        at = begun_us
        for name in WINDOWS:
            length = round(getattr(asked, f"{name}_s") * 1e6)
            self.windows[name] = {"from_us": at, "to_us": at + length}
            at += length
        self._write_manifest()
        self._wait_until(self.windows["warm_up"]["to_us"], "warming up")

    def _load_plan(self, url: str) -> loads.LoadPlan:
        asked = self.experiment.load
        return loads.LoadPlan(asked.tool, asked.scenario, url, asked.rate_per_s, asked.total_s, self.experiment.seed)

    def _inside(self, namespace: str) -> RemoteLoad:
        """The load in the cluster, started; what removes it is in the journal first."""
        asked = self.experiment.load
        self._offered = offer.inside(namespace, asked)
        self.watchdog.ready()
        load = RemoteLoad(self.cluster, namespace, self._load_plan(self._offered.url), asked.service, asked.port, self.run_id,
                                self.settings.runner_image, avoid=self._nodes_to_avoid())  # fmt: skip
        self._record("load", load.inverses())
        self._stack.callback(load.stop)
        load.start(self.folder, lambda text: self.tell(text, None))
        return load

    def _nodes_to_avoid(self) -> list[str]:
        """Nodes that are about to be broken: what measures must not be on them."""
        assert self.plan is not None, "preflight comes first"
        return sorted({t.name for fault in self.plan.faults for t in fault.aim.targets if t.kind == "Node"})

    def _record(self, action: str, inverses: Sequence[Inverse]) -> None:
        identity = self.cluster.identity
        for inverse in inverses:
            self.journal.record(self.run_id, identity.fingerprint, action, inverse, identity.context)

    def steady(self, phase: Literal["before", "after"]) -> None:
        """Run the steady-state probes. Raises Stopped if they do not hold before the fault: nothing could be blamed on it."""
        if phase == "after" and not self.cluster.answers():
            self.steady_seen[phase] = (None, "not looked at, since the API server does not answer")
            return
        ended, failed = self._load.served if self._load else (0, 0)
        for probe in self.experiment.hypothesis:
            self.chaos.execute(probe, phase, PROBE_S)
        met, why = self.chaos.steady(phase)
        if phase == "after" and met is False and not any(r.succeeded and not r.tolerance_met for r in self._after()):
            met = None  # what could not be asked is not known to be wrong
        if phase == "before" and met:
            self._wait_until(self.windows["fault"]["from_us"], "baseline")
            met, why = self._customers_served(ended, failed, why)
        self.steady_seen[phase] = (met, why)
        if phase == "before" and not met:
            raise Stopped(f"the steady state did not hold before the fault: {why}")

    def inject(self) -> None:
        """Write each action's inverse to disk, then inject; wait for the end of the fault window."""
        self.watchdog.ready()
        assert self.plan is not None, "preflight comes first"
        try:
            self.plan = preflight.replan(self.plan, self.cluster, self.run_id)  # a pod may have been replaced since
        except Refused as refusal:
            raise Stopped(f"the targets are no longer what preflight saw: {refusal}", refusal.hint) from None
        planned = {fault.activity.name: fault for fault in self.plan.faults}
        ends_us = self.windows["fault"]["to_us"]
        for activity in self.experiment.method:
            self.tell(activity.name, self._done())
            if activity.kind == "action":
                fault = planned[activity.name]
                faults.arm(fault, self.cluster, self.journal, self.run_id)
                self.log.add(source="runner", type="INJECTED", kind="Runner", name=activity.name, reason=fault.action)
            left_s = (ends_us - now_us()) / 1e6
            self.chaos.execute(activity, "method", max(1.0, left_s))
        self._wait_until(ends_us, "fault")

    def undo(self) -> None:
        """Undo every fault, play the file's rollbacks, and wait for the end of the recovery window."""
        self.tell("undoing", self._done())
        self._undone_us = now_us()
        left_s = max(0.0, (self.windows["recovery"]["to_us"] - now_us()) / 1e6)
        # What is not back by then has missed the recovery anyway, and a run must end.
        deadline_s = max(ENTRY_DEADLINE_S, left_s + self.experiment.recovery_deadline_s)
        results = self._take_back(self._pending_faults(), left_s + BRIEFLY_S, deadline_s)
        for activity in self.experiment.rollbacks:
            self.chaos.execute(activity, "rollback", ROLLBACK_S)
        for result in results:
            self.log.add(source="runner", type="UNDONE", kind="Runner", time_us=result.time_us, name=result.entry.action,
                         reason=result.state, detail={"what": result.entry.inverse.what, "error": result.error})  # fmt: skip
        self._wait_until(self.windows["recovery"]["to_us"], "recovery")

    def note(self, stopped: Stopped) -> None:
        """Remember why the run stopped early, and stop the load: there is nothing more to learn."""
        self.tell(f"stopped early: {stopped}", None)
        self.stopped = self.stopped or stopped
        self._take_back(self._pending_faults(), BRIEFLY_S)
        if self._load is not None:
            self._load.stop()
        elif not self.load_facts["offered"]:
            self.load_facts["error"] = str(stopped)

    def settle(self) -> None:
        """Stop the load, let the shop finish what it accepted, and check the invariants from its ledger."""
        if self._load is not None:
            self.tell("last answers", self._done())
            self.load_facts = self._load.finish(LOAD_ENDS_S)
        self.tell("letting orders settle", None)
        self._check_invariants(SETTLE_S if self.cluster.answers(1.0) else 0.0)  # if not, all that follows hurries
        self.reports += observer.stop(self._observers)

    def store(self) -> None:
        """Write everything raw; the verdict follows from these files alone."""
        self._take_back(self._pending(), BRIEFLY_S)
        remote = self._load if isinstance(self._load, RemoteLoad) else None
        collector = [] if self._collector is None else self._collector.clocks
        self._offered, self._known["clocks"] = offer.compared(
            self.folder, self.windows, self._offered, remote, collector
        )
        self._hops = Hops(self.folder)
        if "topology" in self._known:
            self._known["topology"]["calls"] = [list(pair) for pair in self._hops.calls]
        ended_us = now_us()
        document = self._evidence(ended_us)
        self.folder.write("evidence.json", document)
        self.folder.write("journal.json", self.chaos.journal(self.started_us, ended_us))
        self._write_manifest(ended_us)
        self.log.close()

    def refuse(self, refusal: Refused) -> None:
        """Store the verdict of a run that must not begin."""
        unnamed = (Finding("preflight", Outcome.INCONCLUSIVE, str(refusal), (), refusal.hint),)
        self._conclude_early(getattr(refusal, "findings", unnamed))

    def abandon(self, why: str) -> None:
        """Undo, and store the verdict of a run that somebody ended."""
        self._take_back(self._pending_faults(), BRIEFLY_S)
        self._conclude_early([Finding("activities", Outcome.INCONCLUSIVE, why, (), "run it again, to its end")])

    def _conclude_early(self, findings: Sequence[Finding]) -> None:
        self._write_manifest(now_us())
        judge.refuse(self.folder, findings, self.experiment)

    # What the steps share

    def _customers_served(self, ended: int, failed: int, why: str) -> tuple[bool, str]:
        """Whether the baseline's customers were served as the objectives ask; probes alone may look past a broken shop."""
        assert self._load is not None
        ended, failed = self._load.served[0] - ended, self._load.served[1] - failed
        wanted = max((s.bound for s in self.experiment.slos if s.indicator == "success_ratio"), default=SERVED_MIN)
        if not ended:
            return False, "not one journey ended in the baseline"
        if 1 - failed / ended < wanted:
            return False, f"{failed} of {ended} journeys failed in the baseline"
        return True, why

    def _evidence(self, ended_us: int) -> dict[str, Any]:
        assert self.plan is not None, "only a run that passed preflight is stored"
        entries = self.journal.of_run(self.run_id)
        chains = evidence.chains(
            self.plan.faults, self.chaos.runs, self.log.all(), self.windows, entries,
            undone_us=self._undone_us, ended_us=ended_us, hop=self._hops, calls=self._hops.calls,
        )  # fmt: skip
        return evidence.build(
            chains,
            self.chaos.runs,
            entries,
            observers=self.reports,
            steady=self.steady_seen,
            load=self.load_facts,
            stopped={"why": str(self.stopped), "hint": self.stopped.hint} if self.stopped else None,
        )

    def _after(self) -> list[ActivityRun]:
        return [r for r in self.chaos.runs if r.phase == "after"]

    def _pending(self) -> list[Entry]:
        return self.journal.pending(self.cluster.identity.fingerprint, self.run_id)

    def _pending_faults(self) -> list[Entry]:
        return [e for e in self._pending() if e.action not in ("collector", "load", "weakness")]

    def _take_back(self, entries: Sequence[Entry], silent_s: float, deadline_s: float | None = None) -> list[Undone]:
        """Undo entries; for those that failed before a short try is enough, since the watchdog and `aftershock undo` come after it."""
        first, again = ([e for e in entries if e.state == state] for state in ("pending", "failed"))
        done = self.journal.undo(self.cluster, first, deadline_s, silent_s=silent_s)
        if again and self.cluster.answers(1.0):
            done += self.journal.undo(self.cluster, again, BRIEFLY_S, silent_s=silent_s)
        return done

    def _let_go(self) -> None:
        """Let the leases go, unless something is not undone: then the watchdog keeps them while it tries, and marks them."""
        if self.plan is not None and not self._pending():
            preflight.release(self.plan, self.cluster, self.run_id)

    def _check_invariants(self, settle_s: float) -> None:
        wanted = self.experiment.invariants
        if not wanted or not self.folder.has("samples.parquet"):
            return
        ledger = Ledger(self.cluster, self.experiment.blast_radius.namespaces[0])
        found = ledger.collect(self.folder, self.started_us, settle_s)
        columns = ("order_id", "idempotency_key", "status")
        table = self.folder.table("samples.parquet", columns).to_pydict()
        answers = [invariants.Answer(*row) for row in zip(*(table[c] for c in columns), strict=True)]
        # An order that is still open when the time to finish it is over counts as it stands.
        checked = invariants.check(answers, found.lines, found.error is None, now_us(), whole=False)
        checked["results"] = [r for r in checked["results"] if r["name"] in wanted]
        self.folder.write("invariants.json", checked)

    def _wait_until(self, time_us: int, text: str) -> None:
        """Wait for a moment of the schedule; raises Stopped at once if the generator dies meanwhile."""
        while (left := (time_us - now_us()) / 1e6) > 0:
            if self._load is not None and (trouble := self._load.failed()):
                raise Stopped(f"the load generator failed: {trouble}")
            if self._lease.lost:
                raise Stopped(
                    f"another run took the lease: {self._lease.lost}", "two faults at once prove nothing; run it again"
                )
            self.tell(text, self._done())
            time.sleep(min(TICK_S, left))

    def _done(self) -> float | None:
        if not self.windows:
            return None
        begin, end = self.windows["warm_up"]["from_us"], self.windows["recovery"]["to_us"]
        return max(0.0, min(1.0, (now_us() - begin) / (end - begin)))

    def _write_manifest(self, ended_us: int | None = None) -> None:
        self.folder.write("run.json", manifest.of(
            self.experiment, self.run_id, self.started_us, ended_us=ended_us, weakness=self.weakness, cluster=self.cluster,
            target_url=self._offered.url or None, load=self._offered.described, windows=self.windows, more=self._known))  # fmt: skip

    def _quietly(self, do: Callable[..., Any], *arguments: Any) -> None:
        try:
            do(*arguments)
        except ClusterError as error:
            self.tell(f"not cleaned up: {error}", None)
