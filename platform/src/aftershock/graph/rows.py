"""From a run folder to rows of the graph: pure, in the order in which things depend on each other.

`build` reads what the folder has and leaves out what it has not; a refused run gives its Run, Experiment and Findings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from aftershock.errors import GraphError
from aftershock.folder import RunFolder
from aftershock.graph import schema

Json = Mapping[str, Any]
Value = str | int | float | bool
EVENTS_MAX = 5000  # a run has some hundreds; a broken watch must not fill the graph
TEXT_MAX = 500


@dataclass
class Rows:
    """Nodes by label and edges by (type, label, label), each row without its nulls."""

    run_id: str
    nodes: dict[str, dict[str, dict[str, Value]]] = field(default_factory=dict)  # label -> id -> properties
    edges: dict[tuple[str, str, str], dict[tuple[str, str], dict[str, Value]]] = field(default_factory=dict)

    def id(self, label: str, local: str) -> str:
        """Id of a node in the shared graph."""
        return _text(f"{self.run_id}/{label}/{local}")

    def has(self, label: str, local: str) -> bool:
        """True if the node was added."""
        return self.id(label, local) in self.nodes.get(label, {})

    def node(self, label: str, local: str, file: str, ref: str, **properties: Any) -> None:
        """Add a node; what was added first stays, and only fills what is missing."""
        table = self.nodes.setdefault(label, {})
        known = table.setdefault(self.id(label, local), {"id": self.id(label, local), "run_id": self.run_id})
        types = schema.NODES[label]
        for name, value in {"file": file, "ref": ref, "seq": len(table), **properties}.items():
            if value is not None and name not in known:
                known[name] = _typed(types, name, value)

    def edge(self, type_: str, start: tuple[str, str], end: tuple[str, str], **properties: Any) -> None:
        """Add an edge between two nodes that both exist; anything else is left out."""
        if not (self.has(*start) and self.has(*end)):
            return
        ends, types = schema.EDGES[type_]
        if (start[0], end[0]) not in ends:
            raise GraphError(f"{type_} may not join {start[0]} to {end[0]}")
        table = self.edges.setdefault((type_, start[0], end[0]), {})
        given = {name: _typed(types, name, value) for name, value in properties.items() if value is not None}
        table.setdefault((self.id(*start), self.id(*end)), {"run_id": self.run_id, **given})

    def counts(self) -> tuple[int, int]:
        """Nodes and edges."""
        return sum(map(len, self.nodes.values())), sum(map(len, self.edges.values()))

    def texts(self) -> Iterator[str]:
        """Every text that stands in a row, for leak tests."""
        rows = [row for table in self.nodes.values() for row in table.values()]
        rows += [row for edges in self.edges.values() for row in edges.values()]
        for row in rows:
            yield from (value for value in row.values() if isinstance(value, str))


def _typed(types: Mapping[str, type], name: str, value: Any) -> Value:
    kind = types[name]
    if kind is str:
        return _text(str(value)[:TEXT_MAX])
    return kind(value)  # type: ignore[no-any-return]


def _text(text: str) -> str:
    """A lone surrogate, which JSON can carry and no engine can store, becomes `?`."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def build(folder: RunFolder) -> Rows:
    """All rows of one run, the claims of its postmortem included if it has one."""
    from aftershock.graph import business, measured

    run, verdict = folder.read("run.json"), folder.read("verdict.json")
    evidence = folder.read("evidence.json") if folder.has("evidence.json") else {}
    rows = Rows(run["run_id"])
    _run(rows, run, verdict)
    _windows(rows, run)
    _topology(rows, run)
    _events(rows, folder)
    _faults(rows, run, evidence)
    measured.observe(rows, folder, run, verdict, evidence)
    _slos(rows, verdict)
    invariants = folder.read("invariants.json") if folder.has("invariants.json") else {"results": []}
    _invariants(rows, invariants)
    business.chain(rows, folder, run, verdict, evidence, invariants)
    _findings(rows, verdict)
    if folder.has("diagnosis.json"):
        _diagnosis(rows, folder.read("diagnosis.json"))
    return rows


def _run(rows: Rows, run: Json, verdict: Json) -> None:
    cluster, load = run.get("cluster") or {}, run.get("load") or {}
    started, ended = run.get("started_us"), run.get("ended_us")
    nodes = cluster.get("nodes") or []
    rows.node(
        "Run", "run", "run.json", "run_id",
        experiment=run["experiment"], title=run.get("title"), started_us=started, ended_us=ended,
        duration_s=(ended - started) / 1e6 if started and ended else None,
        seed=run.get("seed"), expect=run.get("expect"), weakness=run.get("weakness"), verdict=verdict["verdict"],
        judged_us=verdict.get("judged_at_us"), git_commit=run.get("git_commit"), cluster_kind=cluster.get("kind"),
        cluster_context=cluster.get("context"), server_version=cluster.get("server_version"),
        nodes=", ".join(nodes) or None, nodes_count=len(nodes) or None, load_tool=load.get("tool"),
        load_scenario=load.get("scenario"), load_rate_per_s=load.get("rate_per_s"),
    )  # fmt: skip
    rows.node("Experiment", run["experiment"], "experiment.yaml", "title", name=run["experiment"], title=run.get("title"),
              expect=run.get("expect"))  # fmt: skip
    rows.edge("TESTED", ("Run", "run"), ("Experiment", run["experiment"]))


def _windows(rows: Rows, run: Json) -> None:
    for name, window in (run.get("windows") or {}).items():
        if window:
            start, end = window["from_us"], window["to_us"]
            rows.node("Window", name, "run.json", f"windows.{name}", name=name, from_us=start, to_us=end,
                      length_s=(end - start) / 1e6)  # fmt: skip
            rows.edge("HAS_WINDOW", ("Run", "run"), ("Window", name), time_us=start)


def _topology(rows: Rows, run: Json) -> None:
    for node in (run.get("cluster") or {}).get("nodes") or []:
        rows.node("Node", node, "run.json", "cluster.nodes", name=node)
    topology = run.get("topology") or {}
    for pod in topology.get("pods") or []:
        _pod(
            rows,
            pod["name"],
            pod.get("uid"),
            pod.get("service"),
            pod.get("node"),
            "run.json",
            "topology.pods",
            pod.get("ip"),
        )
    for caller, callee in topology.get("calls") or []:
        for name in (caller, callee):
            rows.node("Service", name, "run.json", "topology.calls", name=name)


def _pod(rows: Rows, name: str, uid: Any, service: Any, node: Any, file: str, ref: str, ip: Any = None) -> None:
    rows.node("Pod", name, file, ref, name=name, uid=uid, service=service, node=node, ip=ip)
    if service:
        rows.node("Service", service, file, ref, name=service)
        rows.edge("INSTANCE_OF", ("Pod", name), ("Service", service))
    if node:
        rows.node("Node", node, file, ref, name=node)
        rows.edge("RUNS_ON", ("Pod", name), ("Node", node))


def _events(rows: Rows, folder: RunFolder) -> None:
    if not folder.has("events.jsonl"):
        return
    for count, event in enumerate(folder.lines("events.jsonl")):
        if count == EVENTS_MAX:
            break
        kind, name, service = event.get("kind"), event.get("name"), event.get("service")
        detail = event.get("detail")
        rows.node("Event", event["id"], "events.jsonl", event["id"], time_us=event["time_us"], source=event.get("source"),
                  type=event.get("type"), kind=kind, namespace=event.get("namespace"), name=name, reason=event.get("reason"),
                  text=json.dumps(detail, ensure_ascii=False, sort_keys=True) if detail else None)  # fmt: skip
        about = ("Event", event["id"])
        if kind == "Pod" and name:
            _pod(rows, name, event.get("uid"), service, event.get("node"), "events.jsonl", event["id"])
            rows.edge("ABOUT", about, ("Pod", name), time_us=event["time_us"])
        elif kind == "Node" and name:
            rows.node("Node", name, "events.jsonl", event["id"], name=name)
            rows.edge("ABOUT", about, ("Node", name), time_us=event["time_us"])
        elif service and kind in ("EndpointSlice", "Deployment", "Event"):
            rows.node("Service", service, "events.jsonl", event["id"], name=service)
            rows.edge("ABOUT", about, ("Service", service), time_us=event["time_us"])


def _faults(rows: Rows, run: Json, evidence: Json) -> None:
    for fault in evidence.get("faults") or []:
        fid, steps, targets = fault["id"], fault.get("steps") or {}, fault.get("targets") or []
        rows.node("Fault", fid, "evidence.json", fid, name=fid, activity=fault.get("activity"), action=fault.get("action"),
                  targets_count=len(targets), refused=fault.get("refused"))  # fmt: skip
        requested, observed = steps.get("requested") or {}, steps.get("observed") or {}
        rows.edge("INJECTED", ("Run", "run"), ("Fault", fid), time_us=requested.get("time_us"))
        for number, target in enumerate(targets, 1):
            local = f"{fid}.target.{number}"
            rows.node("Target", local, "evidence.json", local, fault=fid,
                      **{name: target.get(name) for name in ("kind", "namespace", "name", "uid", "node", "service")})  # fmt: skip
            proof = " ".join(observed.get("events") or [])
            rows.edge("HIT", ("Fault", fid), ("Target", local), time_us=observed.get("time_us"), evidence=proof or None)
            if target.get("kind") == "Pod":
                _pod(
                    rows,
                    target["name"],
                    target.get("uid"),
                    target.get("service"),
                    target.get("node"),
                    "evidence.json",
                    local,
                )
            if target.get("kind") in ("Pod", "Node", "Service"):
                rows.edge("IS", ("Target", local), (target["kind"], target["name"]))
        for step, seen in steps.items():
            for event in (seen or {}).get("events") or []:
                rows.edge("PROVED_BY", ("Fault", fid), ("Event", event), step=step, time_us=(seen or {}).get("time_us"))


def _slos(rows: Rows, verdict: Json) -> None:
    for slo in verdict.get("slos") or []:
        held = {True: "yes", False: "no", None: "unknown"}[slo.get("held")]
        rows.node("Slo", slo["id"], "verdict.json", slo["id"], name=slo["id"], journey=slo["journey"], indicator=slo["indicator"],
                  bound=slo["bound"], unit=unit_of(slo["indicator"]), window=slo["window"], measured=slo.get("measured"),
                  samples=slo.get("samples"), held=held)  # fmt: skip
        rows.edge("HAS_SLO", ("Run", "run"), ("Slo", slo["id"]))
        rows.edge("MEASURED_IN", ("Slo", slo["id"]), ("Window", slo["window"]))


def unit_of(indicator: str) -> str:
    """Unit of an SLO's indicator."""
    return {"success_ratio": "ratio", "outage_s_max": "s"}.get(indicator, "ms")


def _invariants(rows: Rows, invariants: Json) -> None:
    for result in invariants["results"]:
        rows.node("Invariant", result["name"], "invariants.json", result["name"], name=result["name"], outcome=result["outcome"],
                  checked=result.get("checked"), violations=len(result.get("violations") or []), summary=result.get("summary"))  # fmt: skip
        rows.edge("CHECKED", ("Run", "run"), ("Invariant", result["name"]), time_us=invariants.get("checked_at_us"))


def _findings(rows: Rows, verdict: Json) -> None:
    for finding in verdict.get("findings") or []:
        fid = finding["id"]
        rows.node(
            "Finding",
            fid,
            "verdict.json",
            fid,
            name=fid,
            **{k: finding.get(k) for k in ("rule", "outcome", "summary", "measured", "bound", "unit", "window")},
            advice=finding.get("hint"),
        )
        rows.edge("FOUND", ("Run", "run"), ("Finding", fid), time_us=verdict.get("judged_at_us"))
        for proof in finding.get("evidence") or []:
            for label, local in (("Event", proof), ("Slo", proof), ("Fault", proof.split(".")[0])):
                rows.edge("PROVED_BY", ("Finding", fid), (label, local), step=proof)


def _diagnosis(rows: Rows, diagnosis: Json) -> None:
    for rank, hypothesis in enumerate(diagnosis.get("ranked") or [], 1):
        local = str(rank)
        rows.node("Hypothesis", local, "diagnosis.json", f"ranked.{rank}", rank=rank, entity=hypothesis["entity"],
                  indicator=hypothesis.get("indicator"), score=hypothesis.get("score"),
                  path=" > ".join(hypothesis.get("path") or []) or None)  # fmt: skip
        rows.edge("SUSPECTS", ("Run", "run"), ("Hypothesis", local), rank=rank)
        rows.edge("BLAMES", ("Hypothesis", local), _entity(rows, hypothesis["entity"]))
    suspected = [hypothesis.get("path") or [] for hypothesis in diagnosis.get("ranked") or []][:1]
    steps = [(cause, effect) for path in suspected for effect, cause in pairwise(path)][
        ::-1
    ]  # from the cause to the customer
    edges = diagnosis.get("edges") or []
    for rank, edge in enumerate(sorted(edges, key=lambda e: _place(steps, (e["cause"], e["effect"]))), 1):
        tests = {name: bool(edge.get(name)) for name in ("structure", "deviation", "order")}
        failed = [name for name, passed in tests.items() if not passed]
        accepted = edge.get("outcome") == "accepted" and not failed
        why = edge.get("why") or ""
        if edge.get("outcome") == "accepted" and failed:
            why = f"claimed as accepted, but not tested true: {', '.join(failed)}. {why}".strip()
        rows.edge("CAUSED" if accepted else "REJECTED", _entity(rows, edge["cause"]), _entity(rows, edge["effect"]), why=why, rank=rank,
                  evidence="diagnosis.json#edges")  # fmt: skip


def _place(steps: Sequence[tuple[str, str]], edge: tuple[str, str]) -> int:
    return steps.index(edge) if edge in steps else len(steps)


def _entity(rows: Rows, name: str) -> tuple[str, str]:
    for label in ("Service", "Pod", "Node"):
        if rows.has(label, name):
            return label, name
    rows.node("Service", name, "diagnosis.json", "ranked", name=name)
    return "Service", name


def claims(rows: Rows, postmortem: Json, facts: Sequence[Json]) -> None:
    """Add the sentences of a postmortem and what they cite; they are no ground for any fact."""
    refs = {fact["id"]: (fact["provenance"]["file"], fact["provenance"]["ref"]) for fact in facts}
    places = {(row["file"], row["ref"]): (label, str(row["id"]).split("/", 2)[2])
              for label in schema.CITED for row in rows.nodes.get(label, {}).values()}  # fmt: skip
    for language, text in sorted(postmortem["language"].items()):
        sentences = [(s["id"], sentence) for s in text["sections"] for sentence in s["sentences"]]
        for number, (section, sentence) in enumerate(sentences, 1):
            local = f"{language}.{number}"
            rows.node("Claim", local, "postmortem.json", local, language=language, section=section, text=sentence["text"],
                      facts=" ".join(sentence["facts"]), origin=sentence["origin"])  # fmt: skip
            rows.edge("CLAIMS", ("Run", "run"), ("Claim", local))
            for fact in sentence["facts"]:
                place = places.get(refs.get(fact, ("", "")))
                if place:
                    rows.edge("CITES", ("Claim", local), place, fact=fact)
