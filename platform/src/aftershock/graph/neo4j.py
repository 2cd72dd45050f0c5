"""The graph on a server: Neo4j 5 through its official driver. The only module that imports it, and only when a server is opened.

Runs share no node, so any number of writers works side by side; two that write the same run take turns at its Run node. Each run is
written in one transaction, and a transaction whose end nobody learned is played again, whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from aftershock import __version__
from aftershock.errors import GraphError, GraphUnreachable
from aftershock.graph import catalogue, reads, schema, writes
from aftershock.graph.address import Login
from aftershock.graph.digest import digest
from aftershock.graph.patience import Patience, Silence
from aftershock.graph.rows import Rows

if TYPE_CHECKING:
    from neo4j import Driver, Session, Transaction

T = TypeVar("T")
ROWS_A_TRANSACTION = 20_000  # of runs that come many at a time; one run alone is never divided
STATEMENT_TIMES = (
    3  # a statement may take this many times the deadline: the first ones of a server that has just started are slow
)
TRANSACTION_S = 120.0  # the server ends what a writer that vanished left open, and frees its locks
WAIT_S = 0.05  # before a transaction is played again; doubled each time, to a second
INDEXED_EDGES = ("CAUSED", "REJECTED")  # queries begin at these
_NEW = "new_"  # a mark on a Run node within the transaction that made it


def wanted() -> dict[str, str]:
    """Name of each constraint and index, and what makes it."""
    made = {
        "aftershock_meta_id": "CREATE CONSTRAINT aftershock_meta_id IF NOT EXISTS FOR (n:Meta) REQUIRE n.id IS UNIQUE"
    }
    for label in schema.NODES:
        name = f"aftershock_{label.lower()}"
        made[f"{name}_id"] = f"CREATE CONSTRAINT {name}_id IF NOT EXISTS FOR (n:`{label}`) REQUIRE n.id IS UNIQUE"
        made[f"{name}_run"] = f"CREATE INDEX {name}_run IF NOT EXISTS FOR (n:`{label}`) ON (n.run_id)"
    for type_ in INDEXED_EDGES:
        name = f"aftershock_{type_.lower()}_run"
        made[name] = f"CREATE INDEX {name} IF NOT EXISTS FOR ()-[e:{type_}]-() ON (e.run_id)"
    return made


class Neo4j:
    """A graph on a Neo4j server; see `graph.Graph`. `url` is one that `address.checked` has let through."""

    def __init__(self, url: str, login: Login, deadline_s: float, *, read_only: bool) -> None:
        import neo4j

        logging.getLogger("neo4j").addHandler(logging.NullHandler())  # what it would print comes as an error too
        self.name, self._login, self._deadline_s, self._read_only = url, login, deadline_s, read_only
        auth = None if login.user is None else neo4j.basic_auth(login.user, login.password or "")
        with _explained(url, login):
            self._driver: Driver = neo4j.GraphDatabase.driver(
                url, auth=auth, connection_timeout=deadline_s, connection_acquisition_timeout=deadline_s,
                connection_write_timeout=deadline_s, max_transaction_retry_time=0, max_connection_pool_size=4,
                notifications_min_severity="OFF", telemetry_disabled=True, user_agent=f"aftershock/{__version__}",
            )  # fmt: skip
        self._patience = Patience(self._driver.close)
        self._closed = False
        try:
            self._do(self._driver.verify_connectivity, self._deadline_s, again=False)
            if not read_only:
                self._do(self._prepare)
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        """Make what constraints and indexes are missing, and write: a server that cannot is better known now."""
        with self._session() as session:
            found = session.run(
                "SHOW INDEXES YIELD name WHERE name STARTS WITH 'aftershock_' RETURN collect(name) AS names"
            )
            held = set(found.single(strict=True)["names"])
            self._patience.pulse()
            missing = [statement for name, statement in wanted().items() if name not in held]
            if missing:
                with session.begin_transaction() as transaction:
                    for statement in missing:
                        self._run(transaction, statement, {})
                    transaction.commit()
            session.run("MERGE (m:Meta {id: 'aftershock'}) SET m.opened_us = timestamp() * 1000, m.opened_by = $version",
                        version=__version__).consume()  # fmt: skip

    def write_run(self, rows: Rows) -> None:
        """Put a run in place of what the graph held of it, in one transaction."""
        self._write([rows])

    def write_runs(self, runs: Iterable[Rows]) -> None:
        """Put runs in place of what the graph held of them, some whole runs in each transaction."""
        for batch in writes.batches(runs, ROWS_A_TRANSACTION):
            self._write(list(batch.values()))

    def remove_run(self, run_id: str) -> None:
        """Take a run away, in one transaction."""
        self._transaction(lambda _: writes.deletions(run_id))

    def _write(self, runs: Sequence[Rows]) -> None:
        # In one order for all writers, so that none holds what another waits for.
        marks = [
            {"id": rows.id("Run", "run"), "run": rows.run_id} for rows in sorted(runs, key=lambda rows: rows.run_id)
        ]
        marked = {"rows": marks}
        digests = [{"id": rows.id("Run", "run"), "digest": digest(rows)} for rows in runs]

        def statements(transaction: Transaction) -> Iterator[tuple[str, Mapping[str, Any]]]:
            # MERGE on a unique id locks it until the transaction ends, whether the run was there or not.
            answer = self._run(
                transaction,
                f"UNWIND $rows AS r MERGE (n:Run {{id: r.id}}) ON CREATE SET n.{_NEW} = true RETURN r.run AS run, n.{_NEW} AS fresh",
                marked,
            )
            yield f"UNWIND $rows AS r MATCH (n:Run {{id: r.id}}) WHERE n.{_NEW} DELETE n", marked
            yield from writes.statements(runs, [row["run"] for row in answer if not row["fresh"]])
            yield "UNWIND $rows AS r MATCH (n:Run {id: r.id}) SET n.digest = r.digest", {"rows": digests}

        self._transaction(statements)

    def _transaction(self, statements: Callable[[Transaction], Iterable[tuple[str, Mapping[str, Any]]]]) -> None:
        if self._read_only:
            raise GraphError(f"{self.name} is open for reading", hint="open it with read_only=False")

        def work() -> None:
            with self._session() as session, session.begin_transaction(timeout=TRANSACTION_S) as transaction:
                for cypher, parameters in statements(transaction):
                    self._run(transaction, cypher, parameters)
                transaction.commit()

        self._do(work)

    def _run(self, transaction: Transaction, cypher: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = transaction.run(cypher, dict(parameters)).data()
        self._patience.pulse()
        return found

    def query(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of a named query."""
        return self.ask(catalogue.text(name), parameters)

    def ask(self, cypher: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Rows of a query, which the server does not let write."""

        def work() -> list[dict[str, Any]]:
            with self._session(reads=True) as session:
                return session.run(cypher, dict(parameters)).data()

        return self._do(work)

    def runs(self) -> list[str]:
        """Ids of the runs on the server."""
        return list(self.digests())

    def digests(self) -> dict[str, str]:
        """What `digest` said of each run when it was written; empty for one that somebody else wrote."""
        found = self.ask(
            "MATCH (r:Run) WHERE r.run_id IS NOT NULL RETURN r.run_id AS run, coalesce(r.digest, '') AS digest", {}
        )
        return {row["run"]: row["digest"] for row in found}

    def rows(self, runs: Sequence[str]) -> Iterator[Rows]:
        """The rows of runs."""
        return reads.read(runs, self.ask)

    def _session(self, *, reads: bool = False) -> Session:
        import neo4j

        mode = neo4j.READ_ACCESS if reads else neo4j.WRITE_ACCESS
        return self._driver.session(database=self._login.database, default_access_mode=mode)

    def _do(self, work: Callable[[], T], silent_s: float | None = None, *, again: bool = True) -> T:
        """Do the work, again from its beginning while what stopped it may pass, for as long as the deadline allows."""
        silent_s = self._deadline_s * STATEMENT_TIMES if silent_s is None else silent_s
        if self._patience.gone.is_set():
            raise GraphUnreachable(f"{self.name} has not answered before", hint=_LOOK)
        with _explained(self.name, self._login):
            return self._patience.do(lambda: self._again(work) if again else work(), silent_s)

    def _again(self, work: Callable[[], T]) -> T:
        from neo4j.exceptions import DriverError, Neo4jError

        until, wait_s = time.monotonic() + self._deadline_s, WAIT_S
        while True:
            try:
                return work()
            except (DriverError, Neo4jError) as error:
                if not _may_pass(error) or self._patience.gone.is_set() or time.monotonic() + wait_s >= until:
                    raise
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, 1.0)
            self._patience.pulse()

    def close(self) -> None:
        """Close all connections; a second call does nothing."""
        if not self._closed and not self._patience.gone.is_set():  # else the thread that still waits closes them
            self._driver.close()
        self._closed = True

    def __enter__(self) -> Neo4j:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _may_pass(error: Exception) -> bool:
    """Whether the same work may succeed if it is done again: all of it is idempotent, so a commit without an answer counts too."""
    from neo4j.exceptions import ConstraintError, DriverError, IncompleteCommit, Neo4jError

    if isinstance(error, IncompleteCommit | ConstraintError):  # of two that wrote the same run, one finds it there now
        return True
    if isinstance(error, Neo4jError) and "AlreadyExists" in (
        error.code or ""
    ):  # IF NOT EXISTS looks before others have committed
        return True
    return isinstance(error, DriverError | Neo4jError) and error.is_retryable()


_LOOK = "look whether it runs, and whether scheme, host and port are right (+s or +ssc where it speaks TLS)"


class _explained:
    """Turns the driver's errors into GraphErrors that say what to do."""

    def __init__(self, name: str, login: Login) -> None:
        self._name, self._login = name, login

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from neo4j.exceptions import DriverError, Neo4jError

        if isinstance(error, Silence):
            raise GraphUnreachable(f"{self._name} does not answer: {error}", hint=_LOOK) from None
        if isinstance(error, DriverError | Neo4jError):
            raise self._told(error) from None
        if isinstance(error, OSError):  # no such host, certificates that cannot be read
            raise GraphUnreachable(f"{self._name}: {_line(error)}", hint=_LOOK) from None
        if isinstance(error, ValueError | OverflowError):  # a value that does not go over the wire
            raise GraphError(
                f"{self._name} cannot take it: {_line(error)}", hint="whole numbers have 64 bits at most"
            ) from None

    def _told(self, error: Exception) -> GraphError:
        from neo4j import exceptions as e

        name, text, code = self._name, _line(error), getattr(error, "code", None) or ""
        if isinstance(error, e.AuthError):
            who = f"user {self._login.user}" if self._login.user else "an unknown user"
            if "RateLimit" in code:
                return GraphError(
                    f"{name} refuses {who} for a while after wrong passwords", hint="wait some seconds, then try again"
                )
            return GraphError(f"{name} refuses the password of {who}" if self._login.user else f"{name} wants a user and a password",
                              hint="set NEO4J_USER, and NEO4J_PASSWORD or NEO4J_PASSWORD_FILE")  # fmt: skip
        if "CredentialsExpired" in code:
            return GraphError(f"{name}: the password of user {self._login.user} must be changed first",
                              hint="change it in Neo4j Browser or by cypher-shell: ALTER CURRENT USER SET PASSWORD")  # fmt: skip
        if isinstance(error, e.Forbidden) or "ReadOnly" in code or "AccessMode" in code:
            return GraphError(
                f"{name} does not let user {self._login.user} write: {text}", hint="give the user the right to write"
            )
        if "DatabaseNotFound" in code:
            return GraphError(f"{name} has no database {self._login.database}", hint="name one by NEO4J_DATABASE")
        if isinstance(error, e.ServiceUnavailable | e.SessionExpired | e.ConnectionPoolError):
            return GraphUnreachable(f"{name} cannot be reached: {text}", hint=_LOOK)
        if isinstance(error, e.TransientError | e.DatabaseError):
            return GraphError(f"{name} could not do it: {text}",
                              hint="look at the server's log, disk and memory; then ask again")  # fmt: skip
        return GraphError(f"{name}: {text}", hint="this server may hold something else, or be no Neo4j 5")


def _line(error: Exception) -> str:
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:300]
