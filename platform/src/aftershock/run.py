"""One run of one experiment, from the file to the report; read this first.

read experiment -> preflight -> (made ready, in a series) -> (weak twin) -> observers -> load, warm up -> steady state before -> undo
entry, inject -> observe -> undo -> observe recovery -> steady state after -> stop load -> ledger and invariants -> store raw -> judge
-> diagnose blind -> graph -> postmortem, verified -> report. What happens from "judge" on is a function of the run folder alone
(`conclude`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aftershock import activities, conclude, graph, models, permissions, preflight, processes
from aftershock.between import Between
from aftershock.cluster import Cluster
from aftershock.errors import AftershockError, GraphError, Refused
from aftershock.experiment import Experiment
from aftershock.folder import RunFolder, new_run_id
from aftershock.progress import Teller
from aftershock.session import Session, Stopped
from aftershock.settings import Settings
from aftershock.undo import UndoJournal


@dataclass(frozen=True)
class Options:
    """How an experiment is run; `on` names the cluster."""

    on: str
    reports: Path
    unleash: bool
    weak: bool
    graph: str
    model: str
    load_on: str | None = None  # runner or cluster; None leaves it to the experiment
    between: Between | None = None  # what knows of the runs before, where this is one of a series


def run(experiment: Experiment, options: Options, settings: Settings, tell: Teller) -> RunFolder:
    """Run one experiment and return its folder, which has a verdict whatever happened.

    Raises BadExperiment, GraphError and ClusterError before anything was begun, and KeyboardInterrupt on Ctrl-C, after undoing
    and storing.
    """
    activities.validate(experiment)
    tell("looking at the cluster", 0.0)
    processes.sweep()
    graph.open(options.graph).close()  # one that cannot be written is better known before the experiment than after it
    models.look(options.model, tell)
    cluster = Cluster.connect(options.on, settings)
    folder = RunFolder.create(options.reports.resolve(), experiment.name, new_run_id())
    with Session(experiment, cluster, folder, settings, tell, weak=options.weak,
                 load_on=options.load_on or experiment.load.runs_on) as session:  # fmt: skip
        try:
            if _begun(session, options):
                session.settle()
                session.store()
        except KeyboardInterrupt:
            session.abandon("interrupted by the user")
            raise
    try:
        conclude.conclude(folder, options.graph, options.model, tell)
    except GraphError as error:  # the run is stored whole, and the verdict does not hang on the graph
        tell.say(f"warning: {error}\nhint: {error.hint}")
    return folder


def _begun(session: Session, options: Options) -> bool:
    """The steps around the fault; False if the run must not begin, True even if it stopped early."""
    try:
        session.preflight(options.unleash, options.between)
        session.weaken()
        session.observe()
        session.offer_load()
        session.steady("before")
        session.inject()
        session.undo()
        session.steady("after")
    except Refused as refusal:
        session.refuse(refusal)
        return False
    except Stopped as stopped:
        session.note(stopped)
    except AftershockError as error:  # a step that could not be done: what was seen so far is judged
        if session.plan is None:
            session.refuse(Refused(f"preflight could not be completed: {error}", hint=error.hint))
            return False
        session.note(Stopped(str(error), error.hint))
    return True


def check(experiment: Experiment, on: str, unleash: bool, settings: Settings) -> preflight.Check:
    """What exactly would be hit, whether it may be, and whether it can be undone; changes nothing."""
    cluster = Cluster.connect(on, settings)
    inside = experiment.load.runs_on == "cluster"
    also = list(permissions.of_load(cluster, experiment.blast_radius.namespaces)) if inside else []
    with UndoJournal.of(settings) as journal:
        return preflight.check(experiment, cluster, journal, unleash=unleash, also=also)
