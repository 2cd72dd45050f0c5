"""A run is on the server whole and once, whoever writes at the same time and whatever happens to the connection meanwhile."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aftershock import cli, conclude, facts, graph
from aftershock.errors import BadInput, GraphError, GraphUnreachable
from aftershock.graph import catalogue, sync
from aftershock.graph.address import Login
from aftershock.graph.digest import digest
from aftershock.graph.neo4j import Neo4j, wanted
from aftershock.graph.rows import Rows
from aftershock.progress import silent
from aftershock.settings import settings
from tests.aftershock import runs
from tests.aftershock.graph import server
from tests.aftershock.graph.server import DEADLINE_S, Armour, Place, Wire

on_server = pytest.mark.servers


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with server.place() as corner:
        yield corner


@pytest.fixture(scope="module")
def held(place: Place, tmp_path_factory: pytest.TempPathFactory) -> list[Rows]:
    """Runs of every kind, on the server and for the embedded graph."""
    reports = tmp_path_factory.mktemp("reports")
    folders = [place.write(reports, change) for change in (None, runs.passed, runs.inconclusive, runs.refused)]
    rows = [place.golden(), *(graph.rows_of(folder) for folder in folders)]
    place.graph.write_runs(rows)
    return rows


@pytest.fixture(scope="module")
def embedded(held: list[Rows], tmp_path_factory: pytest.TempPathFactory) -> Iterator[graph.Graph]:
    with graph.open(tmp_path_factory.mktemp("embedded") / "graph.lbug") as store:
        store.write_runs(held)
        yield store


def login() -> Login:
    return Login.of(settings())


# ---- the same answers


def questions(rows: Rows) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every named query with everything that can be asked of a run."""
    nodes = {label: list(table.values()) for label, table in rows.nodes.items()}
    values: dict[str, list[Any]] = {
        "kind": sorted({o["kind"] for o in nodes.get("Observation", [])}),
        "order_id": [o["name"] for o in nodes.get("Order", [])] + ["none"],
        "language": ["en", "ko"],
    }
    times = sorted(int(e["time_us"]) for e in nodes.get("Event", []))
    fixed = {"run": rows.run_id, "limit": 50, "skip": 0}
    for name in catalogue.names():
        body = catalogue.text(name)
        if "$run" not in body:
            continue
        given = {key: value for key, value in fixed.items() if f"${key}" in body}
        several = [key for key in values if f"${key}" in body]
        if several:
            yield from ((name, {**given, several[0]: value}) for value in values[several[0]])
        elif "$from_us" in body:
            middle = times[len(times) // 2] if times else 0
            for begin, end in ((0, 2**60), (0, middle), (middle, 2**60)):
                yield name, {**given, "from_us": begin, "to_us": end}
        else:
            yield name, given


@on_server
@pytest.mark.parametrize("number", range(5), ids=("golden", "failed", "passed", "inconclusive", "refused"))
def test_every_named_query_answers_the_same_row_for_row(
    number: int, held: list[Rows], embedded: graph.Graph, place: Place
) -> None:
    asked: dict[str, int] = {}
    for name, given in questions(held[number]):
        answer = place.graph.query(name, **given)
        assert answer == embedded.query(name, **given), (name, given)
        asked[name] = asked.get(name, 0) + len(answer)
    assert set(asked) == set(catalogue.names()) - {"history"}
    if number == 0:
        assert [name for name, rows in asked.items() if not rows] == []  # each was compared over something


@on_server
def test_the_history_is_the_same(held: list[Rows], embedded: graph.Graph, place: Place) -> None:
    ours = {rows.run_id for rows in held}
    on_server = [row for row in place.graph.query("history", skip=0, limit=100_000) if row["run"] in ours]
    assert on_server == embedded.query("history", skip=0, limit=100_000)
    assert len(on_server) == 5
    assert len(place.graph.query("history", skip=1, limit=2)) == 2


@on_server
def test_facts_and_rows_are_the_same(held: list[Rows], embedded: graph.Graph, place: Place) -> None:
    for rows in held:
        assert facts.facts(place.graph, rows.run_id) == facts.of_rows(rows)
        for store in (place.graph, embedded):
            (back,) = store.rows([rows.run_id])
            assert digest(back) == digest(rows)
        assert place.graph.digests()[rows.run_id] == digest(rows)
        assert place.count(rows.run_id) == rows.counts()
    assert set(place.graph.runs()) >= set(embedded.runs())


def test_the_digest_sees_every_change(tmp_path: Path) -> None:
    rows = graph.build(runs.write(tmp_path))
    known = digest(rows)
    assert digest(server.renamed(rows, rows.run_id)) == known
    assert digest(server.renamed(rows, "20260301T120000Z-ffffff")) != known
    changed = server.renamed(rows, rows.run_id)
    kind = next(iter(changed.edges))
    changed.edges[kind].popitem()
    assert digest(changed) != known
    changed = server.renamed(rows, rows.run_id)
    next(iter(changed.nodes["Pod"].values()))["ip"] = "127.0.0.9"
    assert digest(changed) != known


# ---- constraints, writing once


@on_server
def test_constraints_and_indexes_are_made_once(place: Place) -> None:
    def found() -> dict[str, int]:
        place.graph.ask("CALL db.awaitIndexes(60)", {})
        rows = place.graph.ask(
            "SHOW INDEXES YIELD name, id, state WHERE name STARTS WITH 'aftershock_' RETURN name, id, state", {}
        )
        assert {row["state"] for row in rows} == {"ONLINE"}
        return {row["name"]: row["id"] for row in rows}

    before = found()
    assert set(before) >= set(wanted())
    graph.open(place.url, DEADLINE_S).close()
    assert found() == before
    unique = place.graph.ask("SHOW CONSTRAINTS YIELD name WHERE name STARTS WITH 'aftershock_' RETURN name", {})
    assert {row["name"] for row in unique} >= {name for name in wanted() if name.endswith("_id")}


@on_server
def test_many_that_open_a_server_at_once_make_what_is_missing_once(place: Place) -> None:
    """`IF NOT EXISTS` looks before the others have committed."""
    missing = sorted(name for name, statement in wanted().items() if "()-[e:" in statement)

    def present() -> list[str]:
        found = place.graph.ask(
            "SHOW INDEXES YIELD name WHERE name IN $names RETURN name ORDER BY name", {"names": missing}
        )
        return [row["name"] for row in found]

    for _ in range(3):
        with place.graph._session() as session:
            for name in missing:
                session.run(f"DROP INDEX {name}").consume()
        assert present() == []
        with ThreadPoolExecutor(8) as pool:
            for store in pool.map(lambda _: graph.open(place.url, DEADLINE_S), range(8)):
                store.close()
        assert present() == missing


@on_server
def test_replaying_a_run_changes_nothing_and_a_shorter_one_leaves_no_rest(place: Place, tmp_path: Path) -> None:
    rows = place.golden()
    for _ in range(2):
        place.graph.write_run(rows)
        assert place.count(rows.run_id) == rows.counts()
    short = server.renamed(graph.rows_of(runs.write(tmp_path, runs.refused)), rows.run_id)
    place.graph.write_runs([rows, short])  # the later one counts
    assert place.count(rows.run_id) == short.counts()
    place.graph.remove_run(rows.run_id)
    assert place.count(rows.run_id) == (0, 0)
    assert rows.run_id not in place.graph.runs()


@on_server
def test_a_transaction_that_fails_leaves_the_old_run(place: Place) -> None:
    rows = place.golden()
    place.graph.write_run(rows)
    broken = server.renamed(rows, rows.run_id)
    broken.nodes["Non`sense"] = {"a": {"id": "a", "run_id": rows.run_id}}
    with pytest.raises(GraphError):
        place.graph.write_run(broken)
    (back,) = place.graph.rows([rows.run_id])
    assert digest(back) == digest(rows)


@on_server
def test_a_number_that_the_server_cannot_hold(place: Place) -> None:
    rows = place.golden()
    rows.nodes["Run"][rows.id("Run", "run")]["seed"] = 2**70
    with pytest.raises(GraphError, match="out of range"):
        place.graph.write_run(rows)
    assert place.count(rows.run_id) == (0, 0)


@on_server
def test_reading_writes_nothing(place: Place) -> None:
    with graph.open(place.url, DEADLINE_S, read_only=True) as reader:
        with pytest.raises(GraphError, match="open for reading"):
            reader.remove_run("x")
        assert isinstance(reader, Neo4j)
        with pytest.raises(GraphError):
            reader.ask("CREATE (n:Run {id: 'x'}) RETURN n", {})


@on_server
def test_the_routing_scheme_works_too(held: list[Rows], place: Place) -> None:
    scheme, _, host = place.url.partition("://")
    other = f"{'bolt' if scheme.startswith('neo4j') else 'neo4j'}{scheme.removeprefix('neo4j').removeprefix('bolt')}://{host}"
    with graph.open(other, DEADLINE_S) as store:
        assert store.query("run", run=held[0].run_id) == place.graph.query("run", run=held[0].run_id)


WRITER = """
import sys
from aftershock import graph
from tests.aftershock.graph import server
url, shared, *own = sys.argv[1:]
golden = graph.rows_of(graph.RunFolder.open(server.GOLDEN))
with graph.open(url, 60.0) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for run in own:
        store.write_run(server.renamed(golden, run))
        store.write_run(server.renamed(golden, shared))
"""


@on_server
def test_eight_writers_at_once_lose_and_double_nothing(place: Place) -> None:
    """Each has runs of its own, and all of them write one more run again and again."""
    shared, own = place.run_id(), [[place.run_id() for _ in range(2)] for _ in range(8)]
    root = Path(__file__).parents[3]
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, place.url, shared, *ids], cwd=root, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for ids in own]  # fmt: skip
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers:
            _, said = writer.communicate(timeout=240)
            assert writer.returncode == 0, said
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    rows = place.golden()
    for run in (shared, *(run for ids in own for run in ids)):
        assert place.count(run) == rows.counts()
        (back,) = place.graph.rows([run])
        assert digest(back) == digest(server.renamed(rows, run)) == place.graph.digests()[run]


# ---- connections that break


@pytest.fixture(scope="module")
def length(place: Place) -> tuple[int, int]:
    """Bytes to the server until it is open, and until a run is written."""
    rows = place.golden()
    place.graph.write_run(rows)  # as the cut writes do: onto a run that is there
    with Wire(place.url) as wire, Neo4j(wire.url, login(), DEADLINE_S, read_only=False) as store:
        opened = wire.sent
        store.write_run(rows)
        return opened, wire.sent


@on_server
@pytest.mark.parametrize(("part", "how"), [(0.05, "cut"), (0.5, "cut"), (0.97, "cut"), (1.0, "deaf")])
def test_a_cut_connection_is_replayed_whole(part: float, how: str, place: Place, length: tuple[int, int]) -> None:
    """`deaf` at the very end: the server has committed, and nobody learns it."""
    rows = place.golden()
    place.graph.write_run(server.renamed(place.golden(), rows.run_id))
    opened, written = length
    with Wire(place.url, opened + round((written - opened) * part), how) as wire:
        with Neo4j(wire.url, login(), DEADLINE_S, read_only=False) as store:
            store.write_run(rows)
        assert wire.struck.is_set()
        assert wire.connections >= 2
    (back,) = place.graph.rows([rows.run_id])
    assert digest(back) == digest(rows)
    assert place.count(rows.run_id) == rows.counts()


@on_server
@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_a_connection_that_stays_away_leaves_the_old_run_whole(how: str, place: Place, length: tuple[int, int]) -> None:
    old = place.golden()
    place.graph.write_run(old)
    new = server.renamed(old, old.run_id)
    new.nodes["Run"][new.id("Run", "run")]["verdict"] = "FAIL"
    opened, written = length
    with Wire(place.url, opened + (written - opened) // 2, how, for_good=True) as wire:
        begun = time.monotonic()
        with Neo4j(wire.url, login(), 2.0, read_only=False) as store:
            with pytest.raises(GraphUnreachable) as caught:
                store.write_run(new)
            if how == "freeze":  # it is not asked again
                with pytest.raises(GraphUnreachable):
                    store.query("run", run=old.run_id)
        assert time.monotonic() - begun < 30
        assert caught.value.hint
    (back,) = place.graph.rows([old.run_id])
    assert digest(back) == digest(old)
    assert place.count(old.run_id) == old.counts()


@on_server
def test_a_server_that_is_gone_after_the_run_costs_only_the_graph(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place.golden_folder(tmp_path)
    with Wire(place.url) as wire:
        graph.open(wire.url, DEADLINE_S).close()  # as before the experiment
    with pytest.raises(GraphError, match="is complete, but the graph was not written") as caught:
        conclude.conclude(folder, wire.url, "none", silent)
    assert all(folder.has(name) for name in ("verdict.json", "postmortem.md", "report.html", "junit.xml"))
    assert caught.value.hint == f"`aftershock graph sync --from {folder.path} --graph {wire.url}` writes it there later"
    assert cli.main(["graph", "sync", "--from", str(folder.path), "--graph", place.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new"] == 1
    assert place.count(folder.path.name) == graph.rows_of(folder).counts()
    assert cli.main(["verify", str(folder.path), "--graph", place.url, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["claims"] == said["supported"] > 10


@on_server
def test_sync_from_folders_and_from_the_embedded_graph(place: Place, tmp_path: Path) -> None:
    folders = [place.write(tmp_path, change) for change in (None, runs.passed, runs.refused)]
    assert graph.rebuild(tmp_path) == (3, [])

    def synced(path: Path, **more: bool) -> dict[str, int]:
        source = sync.source(path)
        try:
            return sync.counted(sync.sync(source, place.graph, silent, **more))
        finally:
            source.close()

    assert synced(tmp_path) == {"new": 3, "unchanged": 0, "replaced": 0, "failed": 0}
    assert synced(graph.default_path(tmp_path)) == {"new": 0, "unchanged": 3, "replaced": 0, "failed": 0}
    place.graph.remove_run(folders[0].path.name)
    assert synced(graph.default_path(tmp_path)) == {"new": 1, "unchanged": 2, "replaced": 0, "failed": 0}
    assert synced(tmp_path, again=True) == {"new": 0, "unchanged": 0, "replaced": 3, "failed": 0}
    for folder in folders:
        assert place.count(folder.path.name) == graph.rows_of(folder).counts()


# ---- servers that do not serve


def test_nobody_there_is_said_before_anything_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    experiment = Path(__file__).parents[4] / "experiments" / "payments-pod-kill.yaml"
    begun = time.monotonic()
    code = cli.main(
        ["run", str(experiment), "--graph", f"bolt://127.0.0.1:{port}", "--reports", str(tmp_path / "reports")]
    )
    said = capsys.readouterr().err
    assert code == 2
    assert "cannot be reached" in said
    assert "hint:" in said
    assert not (tmp_path / "reports").exists()
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x00"])
def test_one_that_says_nothing_or_something_else_is_given_up(says: bytes) -> None:
    ended = threading.Event()
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                while not ended.is_set():
                    client, _ = listener.accept()
                    accepted.append(client)
                    client.sendall(says)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        begun = time.monotonic()
        try:
            with pytest.raises(GraphError) as caught:
                Neo4j(f"bolt://127.0.0.1:{listener.getsockname()[1]}", Login("neo4j", "s3cr3t"), 0.5, read_only=False)
            assert time.monotonic() - begun < 10
            assert caught.value.hint
            assert "s3cr3t" not in str(caught.value)
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for client in accepted:
                client.close()


@on_server
def test_a_wrong_password_is_said_and_not_shown(place: Place) -> None:
    for wrong, text in (
        (replace(login(), password="wr0ng"), "refuses the password of user"),
        (Login(None, None), "wants a user"),
    ):
        with pytest.raises(GraphError, match=text) as caught:
            Neo4j(place.url, wrong, DEADLINE_S, read_only=True)
        assert "NEO4J_PASSWORD" in str(caught.value.hint)
        assert "wr0ng" not in f"{caught.value} {caught.value.hint}"


@on_server
def test_a_database_that_is_not_there(place: Place) -> None:
    with pytest.raises(GraphError, match="no database"):
        Neo4j(place.url, replace(login(), database="nowhere"), DEADLINE_S, read_only=False)


@on_server
def test_encryption_where_there_is_none(place: Place) -> None:
    if "+s" in place.url:
        pytest.fail("this server speaks TLS: give the tests one on bolt:// or neo4j://", pytrace=False)
    with pytest.raises(GraphUnreachable):
        Neo4j(place.url.replace("://", "+s://"), login(), DEADLINE_S, read_only=True)


@on_server
def test_encryption_with_and_without_a_certificate_that_somebody_vouches_for(
    place: Place, held: list[Rows], tmp_path: Path
) -> None:
    run = held[0].run_id
    with Armour(place.url, tmp_path) as armour:
        with graph.open(f"bolt+ssc://{armour.host}", DEADLINE_S, read_only=True) as store:
            assert store.query("run", run=run) == place.graph.query("run", run=run)
        with pytest.raises(GraphUnreachable):
            graph.open(f"bolt+s://{armour.host}", DEADLINE_S)
    assert armour.refused


def test_errors_are_of_one_kind() -> None:
    with pytest.raises(BadInput, match="no URL"):
        graph.open("http://127.0.0.1:7474")
    assert issubclass(GraphUnreachable, GraphError)
