"""Before anything is touched: whether this run may fire, at whom exactly, how far it may go and how it is taken back.

Nothing here changes the cluster, except that a real run takes a lease so that no second one starts beside it. If we cannot tell, we do not
fire. Every refusal is a finding; all of them are told at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aftershock import activities, faults, lease, permissions
from aftershock.errors import AftershockError, BadInput, ClusterError, ClusterUnreachable, NotFound, Refused
from aftershock.experiment import Experiment
from aftershock.faults import Kind, Need, Planned
from aftershock.targets import Target
from aftershock.verdict import Finding, Outcome

if TYPE_CHECKING:
    from aftershock.cluster import Cluster, ClusterIdentity
    from aftershock.undo import UndoJournal

LABEL = ("aftershock.dev/chaos", "allowed")
_SHOWN = 12


class RunRefused(Refused):
    """The run was refused; `findings` say why, each with a hint."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(f.summary for f in findings), hint=next((f.hint for f in findings if f.hint), None))
        self.findings = tuple(findings)


@dataclass(frozen=True)
class Plan:
    """What a run is about to do."""

    experiment: Experiment
    identity: ClusterIdentity
    faults: tuple[Planned, ...]
    notes: tuple[str, ...] = ()

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Namespaces that the run may touch, and whose lease it holds."""
        return self.experiment.blast_radius.namespaces


@dataclass(frozen=True)
class Check:
    """A plan together with what speaks against it."""

    plan: Plan
    refusals: tuple[Finding, ...] = field(default_factory=tuple)

    @property
    def may_fire(self) -> bool:
        """True if nothing speaks against it."""
        return not self.refusals

    def describe(self) -> str:
        """For people."""
        return "\n".join(_described(self))

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "experiment": self.plan.experiment.name, "may_fire": self.may_fire,
            "cluster": {"kind": self.plan.identity.kind, "context": self.plan.identity.context, "own": self.plan.identity.own},
            "faults": [
                {"id": f.id, "activity": f.activity.name, "action": f.action, "count": f.aim.count, "pods": f.aim.pods,
                 "nodes": f.aim.nodes, "undo": f.undo, "inverse": [i.what for i in f.inverses],
                 "targets": [asdict(t) for t in f.aim.targets]} for f in self.plan.faults
            ],
            "refusals": [{"rule": f.rule, "summary": f.summary, "hint": f.hint} for f in self.refusals],
            "notes": list(self.plan.notes),
        }  # fmt: skip


class Hand(Protocol):
    """Who may fire (after Netflix chaosmonkey's `term`): the leash is another object with the same method, not an `if` on the way."""

    def refusal(self) -> Finding | None:
        """None if it may fire."""


@dataclass(frozen=True)
class Free:
    """Off the leash: asked for by name, or on a pocketkube cluster that this user started."""

    def refusal(self) -> Finding | None:
        """None."""
        return None


@dataclass(frozen=True)
class Leashed:
    """On the leash: looks, and does not bite."""

    context: str

    def refusal(self) -> Finding | None:
        """Why not."""
        return _no("preflight", f"leashed: {self.context} is not a pocketkube cluster that you started",
                   "look with `aftershock check`, then run again with --unleash")  # fmt: skip


def hand(identity: ClusterIdentity, unleash: bool) -> Hand:
    """The hand for a cluster; one that we cannot tell to be ours is not ours."""
    return Free() if unleash or (identity.kind == "pocket" and identity.own is True) else Leashed(identity.context)


def preflight(
    experiment: Experiment, cluster: Cluster, journal: UndoJournal, *, unleash: bool, run_id: str = "",
    targets_later: bool = False, also: Iterable[Need] = (),
) -> Plan:  # fmt: skip
    """The plan of a run that may fire; takes the leases of its namespaces if `run_id` names it (let them go with `release`).

    `targets_later` is for a weak twin, whose weakness moves pods: what speaks against its targets counts only when `replan` looks again.
    `also` are permissions that this run needs and others do not.
    Raises RunRefused with the findings of a stored verdict, BadExperiment, ClusterUnreachable.
    """
    taken: list[str] = []
    try:
        if run_id:
            for namespace in experiment.blast_radius.namespaces:
                if (found := _take(cluster, namespace, run_id)) is not None:
                    raise RunRefused([found])
                taken.append(namespace)
        checked = check(experiment, cluster, journal, unleash=unleash, run_id=run_id, also=also)
        if refusals := [f for f in checked.refusals if not (targets_later and f.rule == "targets")]:
            raise RunRefused(refusals)
    except BaseException:
        for namespace in taken:
            lease.release(cluster, namespace, run_id)
        raise
    return checked.plan


def release(plan: Plan, cluster: Cluster, run_id: str) -> None:
    """Let the leases of a run go. Raises ClusterError."""
    for namespace in plan.namespaces:
        lease.release(cluster, namespace, run_id)


def replan(plan: Plan, cluster: Cluster, run_id: str) -> Plan:
    """The same plan with today's targets, after something (a weak twin) changed the cluster. Raises RunRefused."""
    planned, refusals = _faults(plan.experiment, cluster, run_id)
    if found := [*refusals, *_budget(plan.experiment, planned)]:
        raise RunRefused(found)
    return Plan(plan.experiment, plan.identity, tuple(planned), plan.notes)


def check(
    experiment: Experiment, cluster: Cluster, journal: UndoJournal, *, unleash: bool, run_id: str = "",
    also: Iterable[Need] = (),
) -> Check:  # fmt: skip
    """Everything that preflight would find; changes nothing. Raises BadExperiment, ClusterUnreachable."""
    activities.validate(experiment)
    identity = cluster.identity
    refusals: list[Finding] = []
    if (found := hand(identity, unleash).refusal()) is not None:
        refusals.append(found)
    refusals += _leftovers(cluster, journal, run_id)
    refusals += _namespaces(experiment, cluster, run_id)
    refusals += _load(experiment)
    planned, more = _faults(experiment, cluster, run_id or "check")
    refusals += [*more, *_budget(experiment, planned), *_permissions(experiment, cluster, planned, also)]
    return Check(
        Plan(experiment, identity, tuple(planned), tuple(_notes(experiment, cluster, planned))), tuple(refusals)
    )


def _no(rule: str, summary: str, hint: str | None = None) -> Finding:
    return Finding(rule, Outcome.INCONCLUSIVE, summary, (), hint)


def _take(cluster: Cluster, namespace: str, run_id: str) -> Finding | None:
    try:
        lease.take(cluster, namespace, run_id)
    except Refused as refused:
        return _no("preflight", str(refused), refused.hint)
    except NotFound:
        return _no(
            "preflight", f"there is no namespace {namespace}", "deploy first, or correct blast_radius.namespaces"
        )
    except ClusterUnreachable:
        raise
    except ClusterError as error:
        return _no("preflight", f"cannot take the lease of namespace {namespace}: {error}", error.hint)
    return None


def _leftovers(cluster: Cluster, journal: UndoJournal, run_id: str) -> list[Finding]:
    left = [e for e in journal.pending(cluster.identity.fingerprint) if e.run != run_id]
    if not left:
        return []
    names = ", ".join(f"{e.action} of {e.run}" for e in left[:3])
    return [_no("undo", f"{len(left)} fault(s) of an earlier run are not undone: {names}", "aftershock undo")]


def _namespaces(experiment: Experiment, cluster: Cluster, run_id: str) -> Iterator[Finding]:
    for namespace in experiment.blast_radius.namespaces:
        try:
            found = cluster.request("GET", f"/api/v1/namespaces/{namespace}")
        except NotFound:
            yield _no(
                "preflight", f"there is no namespace {namespace}", "deploy first, or correct blast_radius.namespaces"
            )
            continue
        except ClusterUnreachable:
            raise
        except ClusterError as error:
            yield _no("preflight", f"cannot tell whether namespace {namespace} allows chaos: {error}", error.hint)
            continue
        key, value = LABEL
        if (found["metadata"].get("labels") or {}).get(key) != value:
            yield _no("preflight", f"namespace {namespace} does not carry the label {key}={value}",
                      f"its owner says yes by `kubectl label namespace {namespace} {key}={value}`")  # fmt: skip
        if run_id:
            continue
        try:
            holder = lease.holder(cluster, namespace)
        except ClusterUnreachable:
            raise
        except ClusterError as error:
            yield _no(
                "preflight", f"cannot tell whether another run works in namespace {namespace}: {error}", error.hint
            )
            continue
        if holder:
            yield _no("preflight", f"another run works in namespace {namespace}: {holder}", "wait for it to end")


def _load(experiment: Experiment) -> list[Finding]:
    if experiment.load.rate_per_s > 0:
        return []
    return [_no("load", "no load would be offered: rate_per_s is 0", "without customers nobody can be seen to suffer")]


def _faults(experiment: Experiment, cluster: Cluster, run_id: str) -> tuple[list[Planned], list[Finding]]:
    configuration, secrets = activities.configure(experiment, run_id=run_id)
    planned: list[Planned] = []
    refusals: list[Finding] = []
    for number, action in enumerate(experiment.actions, 1):
        activity = activities.resolve(action, configuration, secrets)
        kind = faults.kind_of(activity)
        if kind is not None and not _served(cluster, kind.api, kind.plural):
            refusals.append(_no("preflight", f"{kind.action}: fault not available on this cluster: it does not serve {kind.plural}",
                                "install Chaos Mesh there, or use pocketkube"))  # fmt: skip
            continue
        if kind is not None and (lacking := kind.lacks(cluster, activity.arguments)):
            refusals.append(_no("preflight", f"{kind.action}: fault not available on this cluster: {lacking}",
                                "docs/clusters.md says how; a node that could not be powered on again is not powered off"))  # fmt: skip
            continue
        try:
            fault = faults.plan(activity, cluster, f"f{number}", run_id, rollbacks=bool(experiment.rollbacks))
        except ClusterUnreachable:
            raise
        except (ClusterError, BadInput) as error:
            refusals.append(_no("targets", f"{activity.name}: cannot tell whom it would hit: {error}",
                                error.hint or "check the arguments of the action"))  # fmt: skip
            continue
        planned.append(fault)
        refusals += _of_fault(fault, kind)
    return planned, refusals


def _of_fault(fault: Planned, kind: Kind | None) -> Iterator[Finding]:
    given = ", ".join(f"{key}={value}" for key, value in fault.activity.arguments.items())
    if not fault.aim.targets:
        text = "matches nothing" if kind else "names no target that can be looked up"
        emptied = "no such pod is on that node; nothing moves back by itself: kubectl rollout restart deployment spreads it anew"
        hint = emptied if kind and kind.empties else "check namespace and selector"
        yield _no("targets", f"{fault.activity.name}: {fault.action} {text} ({given})",
                  hint if kind else "give it ns and label_selector, or node_name")  # fmt: skip
    elif fault.aim.count == 0:
        yield _no("targets", f"{fault.activity.name}: {fault.action} would hit none of {len(fault.aim.targets)} ({given})",
                  "check qty, count and mode")  # fmt: skip
    elif fault.aim.moot:
        yield _no(
            "targets",
            f"{fault.activity.name}: {fault.aim.moot}",
            "wait until the autoscaler has taken back what nobody needs",
        )
    if fault.undo == "impossible":
        yield _no("undo", f"{fault.activity.name}: cannot undo {fault.activity.target}", "add a rollback to the file")


def _served(cluster: Cluster, api: str, plural: str) -> bool:
    if not api:
        return True
    try:
        told = cluster.request("GET", api)
    except NotFound:
        return False
    return any(r.get("name") == plural for r in told.get("resources") or [])


def _budget(experiment: Experiment, planned: Sequence[Planned]) -> Iterator[Finding]:
    radius = experiment.blast_radius
    hint = "aim better, or widen blast_radius if you mean it"
    for what, asked, most in (
        ("pods", sum(f.aim.pods for f in planned), radius.pods_max),
        ("nodes", sum(f.aim.nodes for f in planned), radius.nodes_max),
    ):
        if asked > most:
            yield _no("preflight", f"blast radius: {asked} {what} would be hit, at most {most} may be", hint)
    touched = {name for f in planned for name in f.aim.namespaces}
    if outside := sorted(touched - set(radius.namespaces)):
        yield _no("preflight", f"blast radius: namespaces {', '.join(outside)} would be hit and are not in it", hint)
    if experiment.load.fault_s > radius.seconds_max:
        yield _no(
            "preflight",
            f"blast radius: the fault lasts {experiment.load.fault_s:g} s, at most {radius.seconds_max:g} s",
            hint,
        )


def _permissions(
    experiment: Experiment, cluster: Cluster, planned: Sequence[Planned], also: Iterable[Need]
) -> Iterator[Finding]:
    missing = []
    for need in dict.fromkeys([*_needs(experiment, cluster, planned), *also]):
        try:
            allowed = cluster.allowed(need.verb, need.group, need.resource, need.namespace, need.subresource, need.name)
        except ClusterUnreachable:
            raise
        except ClusterError as error:
            yield _no("preflight", f"cannot tell whether these credentials may {need}: {error}", error.hint)
            return
        if not allowed:
            missing.append(str(need))
    if missing:
        yield _no("preflight", f"these credentials may not {'; '.join(missing)}",
                  "a fault that could be injected but not undone is not injected; grant both")  # fmt: skip


def _needs(experiment: Experiment, cluster: Cluster, planned: Sequence[Planned]) -> Iterable[Need]:
    yield from permissions.of_run(cluster, experiment.blast_radius.namespaces)
    for fault in planned:
        kind = faults.kind_of(fault.activity)
        yield from kind.needs(fault.activity.arguments) if kind else ()
        for inverse in fault.inverses:
            yield from faults.need_of(inverse)


def _notes(experiment: Experiment, cluster: Cluster, planned: Sequence[Planned]) -> Iterator[str]:
    for fault in planned:
        if fault.undo == "rollbacks":
            yield f"{fault.id}: only the file's own rollbacks can undo this; a killed run leaves it in place"
    service, namespace = experiment.load.service, experiment.blast_radius.namespaces[0]
    try:
        slices = cluster.list(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
                              label_selector=f"kubernetes.io/service-name={service}")  # fmt: skip
        ready = sum(
            (e.get("conditions") or {}).get("ready") is not False for s in slices for e in s.get("endpoints") or []
        )
    except AftershockError as error:
        yield f"endpoints of {namespace}/{service} cannot be read: {error}"
        return
    if not ready:
        yield f"Service {namespace}/{service}, where the load goes, has no ready endpoint"


def _described(checked: Check) -> Iterator[str]:
    plan, radius = checked.plan, checked.plan.experiment.blast_radius
    own = "yours" if plan.identity.own else "not known to be yours"
    yield f"{plan.experiment.name}: {plan.experiment.title}"
    yield f"  on {plan.identity.context} ({plan.identity.kind} {plan.identity.server_version}, {own}): " + (
        "may fire" if checked.may_fire else "will not fire")  # fmt: skip
    for fault in plan.faults:
        of = f" of {len(fault.aim.targets)}" if fault.aim.count < len(fault.aim.targets) else ""
        yield f"  {fault.id} {fault.activity.name}: {fault.action}, {fault.aim.count}{of} target(s)"
        for target in fault.aim.targets[:_SHOWN]:
            yield f"     {_shown(target)}"
        if len(fault.aim.targets) > _SHOWN:
            yield f"     and {len(fault.aim.targets) - _SHOWN} more"
        how = "; ".join(i.what for i in fault.inverses) or "by the file's rollbacks"
        yield f"     undo: {how}"
    if not plan.faults and plan.experiment.expect == "none":
        yield "  a control run: nothing is injected"
    yield (f"  budget: pods {sum(f.aim.pods for f in plan.faults)} of {radius.pods_max}, nodes"
           f" {sum(f.aim.nodes for f in plan.faults)} of {radius.nodes_max}, {plan.experiment.load.fault_s:g} s of"
           f" {radius.seconds_max:g} s, namespaces {', '.join(radius.namespaces)}")  # fmt: skip
    for note in plan.notes:
        yield f"  note: {note}"
    for finding in checked.refusals:
        yield f"  refused ({finding.rule}): {finding.summary}"
        if finding.hint:
            yield f"     hint: {finding.hint}"


def _shown(target: Target) -> str:
    where = f"{target.namespace}/" if target.namespace else ""
    node = f" on {target.node}" if target.node and target.kind == "Pod" else ""
    return f"{target.kind} {where}{target.name}{node}{f' ({target.uid})' if target.uid else ''}"
