"""The graph holds exactly what the run folder says, once, and lets one writer in at a time."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock import graph
from aftershock.errors import BadInput, GraphError
from aftershock.folder import RunFolder
from aftershock.graph import catalogue, schema, views
from aftershock.graph.digest import digest
from aftershock.graph.lock import WriterLock
from aftershock.graph.rows import Rows
from aftershock.graph.shelf import Shelf
from tests.aftershock import runs
from tests.aftershock.graph import server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return runs.write(tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def rows(folder: RunFolder) -> Rows:
    return graph.build(folder)


OTHER = "20260301T130000Z-ffffff"
ENGINES = ("ladybug", pytest.param("neo4j", marks=pytest.mark.servers))


@pytest.fixture(scope="module", params=ENGINES)
def stored(request: pytest.FixtureRequest, rows: Rows) -> Iterator[graph.Graph]:
    """The run in a graph, on each engine."""
    if request.param == "ladybug":
        with graph.in_memory(rows) as held:
            yield held
        return
    with server.place() as corner:
        corner.ids.append(rows.run_id)
        corner.graph.write_run(rows)
        yield corner.graph


@pytest.fixture(params=ENGINES)
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[graph.Graph]:
    """A graph that is written, on each engine; runs of the given ids are gone afterwards."""
    if request.param == "ladybug":
        with graph.open(tmp_path / "graph.lbug") as held:
            yield held
        return
    with server.place() as corner:
        corner.ids += [runs.RUN_ID, OTHER]
        yield corner.graph


def test_ids_carry_the_run(rows: Rows) -> None:
    ids = [key for table in rows.nodes.values() for key in table]
    assert len(ids) == len(set(ids))
    assert all(key.startswith(f"{runs.RUN_ID}/") for key in ids)


def test_everything_is_written_and_read_back(stored: graph.Graph) -> None:
    run = stored.query("run", run=runs.RUN_ID)[0]
    assert (run["verdict"], run["nodes_count"], run["load_rate_per_s"], run["duration_s"]) == ("FAIL", 4, 40.0, 24.0)
    counted = {row["metric"]: row["value"] for row in stored.query("observations", run=runs.RUN_ID, kind="orders")}
    assert counted == {
        "total": 440,
        "failed": 8,
        "slow": 0,
        "touched": 27,
        "state.pending": 1,
        "state.shipped": 439,
        "left_out": 0,
    }
    fault = {
        row["metric"]: row["value"]
        for row in stored.query("observations", run=runs.RUN_ID, kind="window")
        if row["subject"] == "journey.checkout.fault"
    }
    assert fault["journeys"] == 160
    assert fault["failed"] == 8
    assert fault["success_ratio"] == 0.95
    assert fault["outage_s_max"] == pytest.approx(0.05)


def test_the_business_chain(stored: graph.Graph) -> None:
    lost, paid = (stored.query("order_chain", run=runs.RUN_ID, order_id=f"order-{n:04d}")[0] for n in (160, 165))
    assert (lost["state"], lost["failed"], lost["payment"]) == ("pending", True, None)
    assert (paid["state"], paid["failed"], paid["payment_state"], paid["shipment_state"]) == (
        "shipped",
        True,
        "charged",
        "shipped",
    )
    assert not stored.query(
        "order_chain", run=runs.RUN_ID, order_id="order-0001"
    )  # neither failed nor slow nor touched
    touched = stored.query("touched", run=runs.RUN_ID)
    assert len(touched) == 27
    assert touched[0]["order_id"] == "order-0160"  # it never reached the pod: its caller says so


def test_causes_need_all_three_tests(tmp_path: Path) -> None:
    def untested(files: runs.Json) -> None:
        files["diagnosis.json"]["edges"][1] |= {"order": None}

    with graph.in_memory(graph.build(runs.write(tmp_path, untested))) as held:
        assert [(r["cause"], r["effect"]) for r in held.query("causes", run=runs.RUN_ID)] == [("payments", "orders")]
        rejected = {r["cause"]: r["why"] for r in held.query("rejected", run=runs.RUN_ID)}
    assert rejected["shipping"] == "shipping did not deviate"
    assert "order" in rejected["orders"]


def test_orders_are_bounded_and_what_is_left_out_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aftershock.graph.business.ORDERS_MAX", 5)
    rows = graph.build(runs.write(tmp_path))
    assert len(rows.nodes["Order"]) == 5
    assert all(row["failed"] for row in rows.nodes["Order"].values())
    assert rows.nodes["Observation"][rows.id("Observation", "orders.left_out")]["value"] == 8 + 21 - 5


def test_replaying_a_run_changes_nothing_and_leaves_other_runs_alone(tmp_path: Path, anywhere: graph.Graph) -> None:
    first = runs.write(tmp_path)
    second = runs.write(tmp_path, runs.refused, run_id=OTHER)

    def history() -> set[str]:
        """A server may hold other people's runs too."""
        return {row["run"] for row in anywhere.query("history", skip=0, limit=100_000)} & {runs.RUN_ID, OTHER}

    for folder in (first, second, first):
        graph.ingest(anywhere, folder)
    assert history() == {runs.RUN_ID, OTHER} <= set(anywhere.runs())
    assert len(anywhere.query("touched", run=runs.RUN_ID)) == 27
    anywhere.remove_run(runs.RUN_ID)
    assert history() == {OTHER}
    assert not anywhere.query("touched", run=runs.RUN_ID)
    assert not anywhere.query("run", run=runs.RUN_ID)


def test_a_transaction_that_fails_leaves_the_old_run(anywhere: graph.Graph, rows: Rows) -> None:
    anywhere.write_run(rows)
    broken = Rows(rows.run_id)
    broken.node("Run", "run", "run.json", "run_id", experiment="x")
    broken.nodes["Non`sense"] = {"a": {"id": "a", "run_id": rows.run_id}}
    with pytest.raises(GraphError):
        anywhere.write_run(broken)
    assert anywhere.query("run", run=rows.run_id)[0]["experiment"] == "payments-pod-kill"


def test_a_graph_gives_back_the_rows_that_were_written(anywhere: graph.Graph, rows: Rows) -> None:
    anywhere.write_runs([rows])
    (back,) = anywhere.rows([rows.run_id, OTHER])
    assert back.nodes == rows.nodes
    assert back.edges == {kind: edges for kind, edges in rows.edges.items() if edges}
    assert digest(back) == digest(rows)


def test_failed_orders_are_counted_as_plain_counting_does(tmp_path: Path, anywhere: graph.Graph) -> None:
    """Ladybug lets edges through a WHERE on a boolean for which it is false: the query must not depend on that."""
    rows = graph.build(RunFolder.open(server.GOLDEN))
    rows = server.renamed(rows, OTHER)
    anywhere.write_run(rows)
    service = dict(tuple(rows.edges["INSTANCE_OF", "Pod", "Service"]))
    failed: dict[str, set[str]] = {}
    for (order, pod), edge in rows.edges["HANDLED_BY", "Order", "Pod"].items():
        if edge["error"] and rows.nodes["Order"][order]["failed"]:
            failed.setdefault(str(rows.nodes["Service"][service[pod]]["name"]), set()).add(order)
    counted = {row["service"]: row["orders"] for row in anywhere.query("affected", run=OTHER)}
    assert counted == {name: len(orders) for name, orders in failed.items()} != {}


def test_rebuilding_from_the_folders(tmp_path: Path) -> None:
    runs.write(tmp_path)
    bad = runs.write(tmp_path, runs.refused, run_id="20260301T130000Z-ffffff")
    (bad.path / "verdict.json").write_text("{}")
    path = graph.default_path(tmp_path)
    path.write_bytes(b"this is no graph")
    with pytest.raises(GraphError) as caught:
        graph.open(path)
    assert caught.value.hint
    assert "rebuild" in caught.value.hint
    count, skipped = graph.rebuild(tmp_path)
    assert count == 1
    assert len(skipped) == 1
    assert "verdict.json" in skipped[0]
    with graph.open(path, read_only=True) as held:
        assert len(held.query("history", skip=0, limit=10)) == 1
        with pytest.raises(GraphError, match="open for reading"):
            held.remove_run("x")
    assert sorted(p.name for p in tmp_path.glob("graph*")) == ["graph.lbug", "graph.lbug.lock", "graph.lbug.wal"]


def test_full_files_are_put_away_and_still_answer(tmp_path: Path) -> None:
    path = tmp_path / "graph.lbug"
    ids = [f"20260301T1{n}0000Z-00000{n}" for n in range(5)]
    folders = [runs.write(tmp_path, runs.refused, run_id=run) for run in ids[:4]]
    folders.append(runs.write(tmp_path, runs.passed, run_id=ids[4]))
    for folder in folders:
        with Shelf(path, 5, read_only=False, runs_a_file=2) as held:
            graph.ingest(held, folder)
    assert sorted(p.name for p in (tmp_path / "graph.lbug.full").iterdir()) == [
        "00001.lbug", "00001.runs", "00002.lbug", "00002.runs"]  # fmt: skip

    def history(skip: int = 0, limit: int = 10) -> list[str]:
        with graph.open(path, read_only=True) as reader:
            return [row["run"] for row in reader.query("history", skip=skip, limit=limit)]

    assert sorted(history()) == ids
    assert len(history(1, 2)) == 2
    with Shelf(path, 5, read_only=False, runs_a_file=2) as held:
        assert held.query("run", run=ids[0])[0]["verdict"] == "INCONCLUSIVE"
        assert held.query("run", run=ids[4])[0]["verdict"] == "PASS"
        assert held.query("run", run="20260301T190000Z-000009") == []
        changed = graph.build(folders[0])
        changed.nodes["Run"][changed.id("Run", "run")]["verdict"] = "FAIL"
        held.write_run(changed)  # replayed: the newest counts
        assert held.query("run", run=ids[0])[0]["verdict"] == "FAIL"
    assert sorted(history()) == ids
    with Shelf(path, 5, read_only=False) as held:
        held.remove_run(ids[0])
        held.remove_run(ids[3])
        assert held.query("run", run=ids[3]) == []
    assert sorted(history()) == [ids[1], ids[2], ids[4]]
    assert graph.rebuild(tmp_path) == (5, [])
    assert sorted(history()) == ids


def test_a_run_costs_little_on_disk(tmp_path: Path, rows: Rows) -> None:
    for n in range(7):
        run = f"20260301T120000Z-00000{n}"
        copy = Rows(run)
        text = {runs.RUN_ID: run}

        def renamed(row: dict[str, Any], text: dict[str, str] = text) -> dict[str, Any]:
            return {
                k: v.replace(runs.RUN_ID, text[runs.RUN_ID]) if k in ("id", "run_id") else v for k, v in row.items()
            }

        copy.nodes = {label: {k.replace(runs.RUN_ID, run): renamed(row) for k, row in table.items()}
                      for label, table in rows.nodes.items()}  # fmt: skip
        copy.edges = {kind: {(a.replace(runs.RUN_ID, run), b.replace(runs.RUN_ID, run)): renamed(row)
                             for (a, b), row in edges.items()} for kind, edges in rows.edges.items()}  # fmt: skip
        with Shelf(tmp_path / "graph.lbug", 5, read_only=False, runs_a_file=6) as held:
            held.write_run(copy)
            assert len(held.query("touched", run=run)) == 27
    assert sum(p.stat().st_size for p in tmp_path.rglob("*")) < 7_000_000  # engine's own way: 90 MB


def test_one_writer_at_a_time_and_the_error_names_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "graph.lbug"
    code = (
        "import sys; from pathlib import Path; from aftershock.graph.lock import WriterLock; "
        f"held = WriterLock(Path({str(path)!r}), 5); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        begun = time.monotonic()
        with pytest.raises(GraphError, match=rf"being written by process {child.pid} since"):
            graph.open(path, 0.1)
        assert time.monotonic() - begun < 2
    finally:
        child.kill()
        child.communicate()
    WriterLock(path, 5).release()  # the kernel freed it


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="no graph yet"):
        graph.open(tmp_path / "none.lbug", read_only=True)
    with pytest.raises(BadInput, match="no URL of a graph server"):
        graph.open("http://127.0.0.1")
    with pytest.raises(GraphError, match="no query named"):
        catalogue.text("../secrets")


def test_a_graph_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph.open(tmp_path / "graph.lbug").close()
    monkeypatch.setattr("aftershock.graph.ladybug.schema_digest", lambda: "another")
    with pytest.raises(GraphError, match="another version"):
        graph.open(tmp_path / "graph.lbug")
    WriterLock(tmp_path / "graph.lbug", 0).release()


# What ladybug does not run or Neo4j runs otherwise, and what would write.
FORBIDDEN = re.compile(
    r"\b(CREATE|MERGE|SET|DELETE|REMOVE|CALL|FOREACH|LOAD)\b|\b(shortestPath|type|nodes)\(|\[\s*\w+\s+IN\b|MATCH\s*\([^)]*\)\s*,"
    r"|\bWHERE\b[^\n]*= (true|false)|\bIN \$",  # ladybug picks wrong rows
    re.I,
)


@pytest.mark.parametrize("name", catalogue.names())
def test_each_query_says_what_it_answers_reads_only_and_runs(name: str, stored: graph.Graph) -> None:
    text = catalogue.text(name)
    assert text.startswith("// ")
    assert catalogue.answers(name).rstrip(")").endswith(("?", "view"))
    body = "\n".join(line for line in text.split("\n") if not line.startswith("//"))
    assert not FORBIDDEN.search(body)
    for word in re.findall(r"\(\w*:`?(\w+)", body):
        assert word in schema.NODES
    given = {"run": runs.RUN_ID, "kind": "orders", "order_id": "order-0160", "skip": 0, "limit": 5, "language": "en", "from_us": 0,
             "to_us": 2**60}  # fmt: skip
    used = {key: value for key, value in given.items() if f"${key}" in body}
    found = stored.query(name, **used)
    assert found or name == "claims"


# ---- views

SECRETS = ("payments-pod-kill", "kill-one-payments-pod", "pod-kill", "Checkout survives", "f1", "INJECTED", "Runner")


def test_the_blind_view_tells_nothing_of_the_fault(rows: Rows) -> None:
    seen = views.blind(rows)
    assert set(seen.nodes) <= set(views.BLIND_NODES)
    texts = list(seen.texts())
    assert texts
    for secret in SECRETS:
        assert not [text for text in texts if secret in text]
    assert {row["reason"] for row in seen.nodes["Event"].values()} == {
        "Killing",
        "Started",
    }  # what the cluster says of itself
    assert len(seen.nodes["Order"]) == 8  # those that were only touched would tell where the fault hit
    assert len(seen.nodes["Payment"]) == len(seen.nodes["Shipment"]) == 7  # one of them was never paid
    with graph.in_memory(rows, "blind") as held:
        for query in ("faults", "touched", "findings", "windows", "evidence", "hypotheses"):
            assert held.query(query, run=runs.RUN_ID) == []
        assert held.query("order_chain", run=runs.RUN_ID, order_id="order-0160")
        assert held.query("events_around", run=runs.RUN_ID, from_us=0, to_us=2**60, limit=10)


def test_the_truth_view_has_what_the_blind_one_hides(rows: Rows) -> None:
    texts = "\n".join(rows.texts())
    assert all(secret in texts for secret in SECRETS)


@given(
    st.sampled_from(("reason", "name", "namespace")),
    st.sampled_from(("kill-one-payments-pod", "x pod-kill y")),
    st.sampled_from(("Pod", "NetworkChaos", "Runner")),
)
def test_a_text_that_names_the_fault_never_passes(where: str, text: str, kind: str) -> None:
    rows = Rows("r")
    rows.node("Fault", "f1", "e", "f1", name="f1", activity="kill-one-payments-pod", action="pod-kill")
    rows.node("Event", "ev-1", "e", "ev-1", **{"kind": kind, "source": "watch", "type": "NORMAL", where: text})
    assert not views.blind(rows).nodes["Event"]


def test_every_blind_property_exists() -> None:
    for label, names in views.BLIND_NODES.items():
        assert set(names) <= set(schema.NODES[label])
    for edge, names in views.BLIND_EDGES.items():
        assert set(names) <= set(schema.EDGES[edge][1])


def test_an_edge_between_the_wrong_labels_is_refused() -> None:
    rows = Rows("r")
    rows.node("Run", "run", "", "")
    rows.node("Pod", "p", "", "")
    with pytest.raises(GraphError, match="may not join"):
        rows.edge("TESTED", ("Run", "run"), ("Pod", "p"))


def test_reading_a_run_needs_no_driver(folder: RunFolder) -> None:
    code = "import sys, aftershock.graph; assert 'ladybug' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
