"""The grammar of a postmortem: kinds of sentences, each with the facts that it needs and how each is shown.

A slot is `name=subject/predicate:format`; the name may be left out where it is the predicate, the format says which field of the fact
is shown, and `@` before the subject shows the subject itself. A subject with `*` is bound once per sentence, so that a sentence never
mixes two objectives, journeys, faults or findings. `when` are further facts that must hold for the sentence to be true; they are cited too.
`unless` are facts whose presence makes it untrue. Writer and verifier both get their sentences from `plan`: there is no other way to
make a claim.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from aftershock.facts import Fact

SECTIONS = ("summary", "impact", "timeline", "cause", "held", "broken", "recovery", "unknown", "actions")


@dataclass(frozen=True)
class Slot:
    """A placeholder: which fact fills it, by which field, in which format."""

    name: str
    subject: str
    predicate: str
    field: str  # object | value | time | subject
    format: str  # quote | term | count | measure | clock | day | number


@dataclass(frozen=True)
class Guard:
    """A fact that must be there (or must not), with a condition on it."""

    subject: str
    predicate: str
    operator: str  # "" | = | > | >= | novalue
    operands: tuple[str, ...]

    def holds(self, fact: Fact) -> bool:
        """True if the fact meets the condition."""
        if self.operator == "=":
            return bool({fact.object, _plain(fact.value)} & set(self.operands))
        if self.operator == "novalue":
            return fact.value is None
        if self.operator == ">":
            return fact.value is not None and fact.value > float(self.operands[0])
        return True


@dataclass(frozen=True)
class Kind:
    """One kind of sentence."""

    name: str
    section: str
    slots: tuple[Slot, ...]
    when: tuple[Guard, ...]
    unless: tuple[Guard, ...]
    limit: int
    rewritable: bool


@dataclass(frozen=True)
class Bound:
    """A sentence that the facts support: a kind and its facts, not yet worded."""

    kind: Kind
    values: Mapping[str, tuple[Fact, Slot]]
    facts: tuple[Fact, ...]

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """What makes it the same sentence in every wording and language."""
        return self.kind.name, tuple(fact.id for fact in self.facts)


def _plain(value: float | int | None) -> str:
    return "" if value is None else f"{value:g}"


_FIELDS = {"count": "value", "measure": "value", "number": "value", "plain": "value", "clock": "time", "day": "time"}


def _slot(text: str) -> Slot:
    match = re.fullmatch(r"(?:(\w+)=)?(@?)([^/]+)/([^/]+):(\w+)", text)
    assert match is not None, text
    name, of_subject, subject, predicate, format_ = match.groups()
    field = "subject" if of_subject else _FIELDS.get(format_, "object")
    return Slot(name or predicate, subject, predicate, field, format_)


def _guard(text: str) -> Guard:
    match = re.fullmatch(r"([^/]+)/([^=>!]+?)(?:(=|>)(.+)|(!novalue))?", text)
    assert match is not None, text
    subject, predicate, operator, operands, novalue = match.groups()
    return Guard(subject, predicate, "novalue" if novalue else operator or "", tuple((operands or "").split("|")))


def _kind(name: str, slots: str = "", when: str = "", unless: str = "", limit: int = 8) -> Kind:
    made = tuple(_slot(text) for text in slots.split())
    free = any(slot.format == "quote" for slot in made)
    return Kind(name, name.split(".")[0], made, tuple(_guard(g) for g in when.split()), tuple(_guard(g) for g in unless.split()),
                limit, not free)  # fmt: skip


_SLO = ("slo.*/journey:term slo.*/indicator:term slo.*/window:window "
        "slo.*/bound:measure slo.*/measured:measure slo.*/samples:count")  # fmt: skip
_FINDING = "fi-*/rule:rule fi-*/summary:quote"

KINDS: Sequence[Kind] = (
    # summary
    _kind("summary.verdict", "run/title:quote run/verdict:term"),
    _kind("summary.refused", _FINDING, when="fi-*/outcome=INCONCLUSIVE fi-*/rule=refused|preflight"),
    _kind("summary.fault", "f*/action:action count=f*/targets_count:count", when="run/expect=fault|refused"),
    _kind("summary.control", when="run/expect=none", unless="f*/action"),
    _kind("summary.refusal", "f*/action:action reason=f*/refused:quote", when="run/expect=refused"),
    _kind("summary.weakness", "run/weakness:quote"),
    _kind("summary.twin", when="run/weakness run/verdict=FAIL"),
    _kind("summary.twin_missed", "run/verdict:term", when="run/weakness run/verdict=PASS|INCONCLUSIVE"),
    _kind("summary.cluster", "cluster/kind:term cluster/version:quote cluster/nodes:count names=cluster/nodes:quote"),
    _kind("summary.load", "load/tool:quote load/rate:number on_time=load/started_on_time:count load/scheduled:count",
          when="load/offered=yes"),
    # impact
    _kind("impact.customers", "customers/failed:count customers/journeys:count", when="customers/failed>0"),
    _kind("impact.failed",
          "journey.*/failed:count journey.*/journeys:count ratio=journey.*/success_ratio:measure "
          "window=journey.*/failed:window journey=journey.*/journeys:term", when="journey.*/failed>0", limit=12),
    _kind("impact.outage", "outage=journey.*/outage_s_max:measure window=journey.*/failed:window journey=journey.*/journeys:term",
          when="journey.*/outage_s_max>0", limit=12),
    _kind("impact.clean", "journey.*.fault/journeys:count journey=journey.*.fault/journeys:term", when="journey.*.fault/failed=0"),
    _kind("impact.latency", "before=journey.*.baseline/latency_ms_p95:measure during=journey.*.fault/latency_ms_p95:measure "
          "after=journey.*.recovery/latency_ms_p95:measure journey=journey.*.fault/journeys:term"),
    _kind("impact.orders_failed", "orders/failed:count orders/total:count", when="orders/failed>0"),
    _kind("impact.orders_clean", "orders/total:count", when="orders/failed=0"),
    _kind("impact.orders_slow", "orders/slow:count", when="orders/slow>0"),
    _kind("impact.orders_touched", "orders/touched:count", when="orders/touched>0"),
    _kind("impact.orders_pending", "pending=orders/state.pending:count", when="orders/state.pending>0"),
    _kind("impact.affected", "service=affected.*/failed_orders:quote count=affected.*/failed_orders:count", limit=3),
    _kind("impact.unmeasured", when="file.samples.parquet/missing"),
    # timeline
    _kind("timeline.window", "clock=window.*/begins:clock window=@window.*/begins:window window.*/length:measure"),
    _kind("timeline.requested", "clock=f*/requested:clock f*/action:action"),
    _kind("timeline.accepted", "clock=f*/accepted:clock f*/action:action after=f*/accepted:measure source=f*/accepted:source"),
    _kind("timeline.observed", "clock=f*/observed:clock f*/action:action after=f*/observed:measure source=f*/observed:source"),
    _kind("timeline.undone", "clock=f*/undone:clock f*/action:action after=f*/undone:measure"),
    _kind("timeline.recovered", "clock=f*/recovered:clock f*/action:action after=f*/recovered:measure source=f*/recovered:source"),
    _kind("timeline.onset", "clock=diagnosis/onset:clock"),
    _kind("timeline.judged", "clock=run/verdict:clock run/verdict:term"),
    _kind("timeline.started", "day=run/started:day"),
    # cause
    _kind("cause.node", "f*/action:action f*.target.*/name:quote", when="f*.target.*/kind=Node", limit=5),
    _kind("cause.target", "f*/action:action f*.target.*/kind:term f*.target.*/name:quote f*.target.*/node:quote",
          unless="f*.target.*/kind=Node", limit=12),
    _kind("cause.top", "hypothesis.1/entity:quote hypothesis.1/indicator:term hypothesis.1/score:number",
          when="diagnosis/verdict=root_cause"),
    _kind("cause.path", "hypothesis.1/path:path", when="diagnosis/verdict=root_cause"),
    _kind("cause.match", "diagnosis/truth:quote", when="diagnosis/truth=1"),
    _kind("cause.mismatch", "diagnosis/truth:quote rank=diagnosis/truth:count", when="diagnosis/truth>1"),
    _kind("cause.missed", "diagnosis/truth:quote", when="diagnosis/truth!novalue"),
    _kind("cause.edge", "caused.*/cause:quote caused.*/effect:quote", limit=5),
    _kind("cause.rejected", "rejected.*/cause:quote rejected.*/effect:quote", limit=3),
    _kind("cause.none", when="diagnosis/verdict=no_root_cause"),
    _kind("cause.undecided", when="diagnosis/verdict=inconclusive"),
    _kind("cause.undiagnosed", when="file.diagnosis.json/missing"),
    # held
    _kind("held.slo", _SLO, when="slo.*/held=yes", limit=20),
    _kind("held.invariant", "invariant.*/name:term invariant.*/checked:count",
          when="invariant.*/outcome=PASS invariant.*/violations=0", limit=20),
    _kind("held.before", when="steady/before=yes"),
    _kind("held.after", when="steady/after=yes"),
    _kind("held.undo", when="undo/pending=0 undo/failed=0"),
    # broken
    _kind("broken.slo", f"{_SLO} missed=slo.*/missed_by:measure", when="slo.*/held=no", limit=20),
    _kind("broken.invariant", "invariant.*/name:term invariant.*/violations:count invariant.*/checked:count",
          when="invariant.*/outcome=FAIL", limit=20),
    _kind("broken.finding", _FINDING, when="fi-*/outcome=FAIL", unless="fi-*/rule=slo|invariants", limit=30),
    _kind("broken.after", when="steady/after=no"),
    _kind("broken.nothing", when="run/verdict=PASS"),
    _kind("broken.unproven", when="run/verdict=INCONCLUSIVE"),
    # recovery
    _kind("recovery.took", "took=recovery/recovered:measure recovery/deadline:measure"),
    _kind("recovery.never", "recovery/deadline:measure",
          unless="recovery/recovered file.evidence.json/missing file.samples.parquet/missing"),
    _kind("recovery.undone", "undo/done:count", when="undo/done>0"),
    _kind("recovery.pending", "undo/pending:count", when="undo/pending>0"),
    _kind("recovery.undo_failed", "undo/failed:count", when="undo/failed>0"),
    _kind("recovery.nothing", when="file.evidence.json/missing fi-*/rule=refused|preflight", limit=1),
    _kind("recovery.unrecorded", when="file.evidence.json/missing", unless="fi-*/rule=refused|preflight"),
    # unknown
    _kind("unknown.finding", _FINDING, when="fi-*/outcome=INCONCLUSIVE", limit=30),
    _kind("unknown.step", "f*/action:action step=f*/[!u]*.missing:step", unless="f*/refused", limit=10),
    _kind("unknown.undone", "f*/action:action", when="f*/undone.missing", unless="f*/refused f*/recovered"),
    _kind("unknown.gap", "observer=@observer.*/gap:quote observer.*/gap:measure reason=observer.*/gap:quote", limit=10),
    _kind("unknown.slo", "slo.*/journey:term slo.*/indicator:term slo.*/window:window slo.*/samples:count",
          when="slo.*/held=unknown", limit=20),
    _kind("unknown.invariant", "invariant.*/name:term", when="invariant.*/outcome=INCONCLUSIVE", limit=20),
    _kind("unknown.before", when="steady/before=no|unknown"),
    _kind("unknown.after", when="steady/after=unknown"),
    _kind("unknown.load", when="load/offered=no"),
    _kind("unknown.load_error", "load/error:quote"),
    _kind("unknown.late", "on_time=load/started_on_time:count load/scheduled:count load/dropped:count", when="load/dropped>0"),
    _kind("unknown.activity", "activity=@activity.*/failed:quote error=activity.*/failed:quote", limit=5),
    _kind("unknown.evidence", when="file.evidence.json/missing"),
    _kind("unknown.file", "file=file.*/missing:quote", unless="file.evidence.json/missing", limit=10),
    _kind("unknown.left_out", "count=orders/left_out:count", when="orders/left_out>0"),
    _kind("unknown.unenforced", "count=unenforced/total:count field=unenforced.1/field:quote"),
    # actions
    _kind("actions.advice", "fi-*/rule:rule fi-*/advice:quote", when="fi-*/outcome=FAIL|INCONCLUSIVE", limit=20),
    _kind("actions.look", "hypothesis.1/entity:quote", when="run/verdict=FAIL diagnosis/verdict=root_cause",
          unless="run/weakness"),
    _kind("actions.rerun", "run/seed:plain", when="run/verdict=FAIL", unless="run/weakness"),
    _kind("actions.twin", when="run/weakness run/verdict=FAIL"),
    _kind("actions.repeat", when="run/verdict=INCONCLUSIVE"),
    _kind("actions.none", when="run/verdict=PASS"),
)  # fmt: skip


class Ledger:
    """Facts by subject and predicate."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self.facts = tuple(facts)
        self._at: dict[tuple[str, str], Fact] = {}
        for fact in facts:
            self._at.setdefault((fact.subject, fact.predicate), fact)

    def subjects(self, pattern: str, predicate: str) -> Iterator[Fact]:
        """Facts whose subject and predicate match, in order."""
        if not any(c in pattern + predicate for c in "*"):
            fact = self._at.get((pattern, predicate))
            return iter(() if fact is None else (fact,))
        matches, wild = _pattern(pattern).fullmatch, "*" in predicate
        return (
            f
            for (s, p), f in self._at.items()
            if (fnmatch.fnmatchcase(p, predicate) if wild else p == predicate) and matches(s)
        )


@lru_cache(maxsize=1024)
def _pattern(pattern: str) -> re.Pattern[str]:
    """`*` stands for a number or a name; faults are `f` and a number, so that `f*` is no finding and no file."""
    return re.compile(re.sub(r"^f\.\+", "f[0-9]+", re.escape(pattern).replace(r"\*", ".+")))


def plan(facts: Sequence[Fact]) -> list[Bound]:
    """Every sentence that the facts support, in the order of the sections; the timeline by time."""
    ledger = Ledger(facts)
    planned: list[Bound] = []
    for section in SECTIONS:
        bound = [b for kind in KINDS if kind.section == section for b in _bind(kind, ledger)]
        if section == "timeline":
            bound.sort(key=lambda b: min(f.time_us for f in b.facts if f.time_us is not None))
        planned += bound
    return planned


def _bind(kind: Kind, ledger: Ledger) -> list[Bound]:
    found: list[Bound] = []
    for binding in _bindings(kind, ledger):
        if len(found) == kind.limit:
            break
        if any(
            guard.holds(f)
            for guard in kind.unless
            for f in ledger.subjects(_at(guard.subject, binding), guard.predicate)
        ):
            continue
        values: dict[str, tuple[Fact, Slot]] = {}
        facts: dict[str, Fact] = {}
        for slot in kind.slots:
            fact = next(ledger.subjects(_at(slot.subject, binding), _at(slot.predicate, binding)), None)
            if fact is None or _content(fact, slot.field) is None:
                break
            values[slot.name] = (fact, slot)
            facts[fact.id] = fact
        else:
            proofs = [
                next((f for f in ledger.subjects(_at(g.subject, binding), g.predicate) if g.holds(f)), None)
                for g in kind.when
            ]
            if all(proof is not None for proof in proofs):
                facts |= {proof.id: proof for proof in proofs if proof is not None}
                if facts:
                    found.append(Bound(kind, values, tuple(facts.values())))
    return found


def _bindings(kind: Kind, ledger: Ledger) -> Iterator[Mapping[str, str]]:
    """What each pattern of the kind stands for; a target brings its fault along."""
    places = [(s.subject, s.predicate) for s in kind.slots] + [(g.subject, g.predicate) for g in kind.when]
    patterns = dict.fromkeys(subject for subject, _ in places if "*" in subject)
    wild = next((predicate for _, predicate in places if "*" in predicate), None)
    if not patterns:
        yield {}
        return
    widest = max(patterns, key=lambda p: (p.count("*"), len(p)))
    seen: set[tuple[str, str]] = set()
    predicates = [predicate for subject, predicate in places if subject == widest]
    chosen = wild if wild is not None else predicates[0]
    for fact in ledger.subjects(widest, chosen):
        key = (fact.subject, fact.predicate if wild else "")
        if key in seen:
            continue
        seen.add(key)
        binding = {widest: fact.subject} | ({wild: fact.predicate} if wild else {})
        head, _, tail = widest.partition("*")
        for other in patterns:  # `journey.*.baseline` is of the same journey as `journey.*.fault`
            if other != widest and tail and "*" not in tail and other.startswith(head + "*"):
                binding[other] = other.replace("*", fact.subject[len(head) : len(fact.subject) - len(tail)])
        if widest.startswith("f*."):
            binding["f*"] = fact.subject.split(".")[0]
        yield binding


def _at(pattern: str, binding: Mapping[str, str]) -> str:
    return binding.get(pattern, pattern)


def _content(fact: Fact, field: str) -> str | float | int | None:
    return {"object": fact.object, "value": fact.value, "time": fact.time_us, "subject": fact.subject}[field]
