"""The undo journal: what must be done to take a fault back, on disk before the fault.

SQLite, WAL, synchronous=FULL: an entry that `record` returned for survives `kill -9` and a power cut. An entry is done only once the
cluster was *seen* to be as before; whoever undoes (the run, its watchdog, `aftershock undo`) does the same thing and may do it twice.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from aftershock import power
from aftershock.errors import AftershockError, ClusterError, ClusterUnreachable, Forbidden, NotFound, Refused

if TYPE_CHECKING:
    from aftershock.cluster import Cluster
    from aftershock.settings import Settings

Json = Mapping[str, Any]
State = Literal["pending", "done", "failed"]
MERGE_PATCH = "application/merge-patch+json"
ENTRY_DEADLINE_S = 30.0
ROLLOUT_S = 60.0
BOOT_S = 120.0
AWAY = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
_NODE_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_POLL_S = 0.05
_REQUEST_S = 5.0

_TABLE = """CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, cluster TEXT NOT NULL, context TEXT NOT NULL, action TEXT NOT NULL,
  inverse TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('pending', 'done', 'failed')),
  created_us INTEGER NOT NULL, changed_us INTEGER, error TEXT)"""
_COLUMNS = "id, run, cluster, context, action, inverse, state, created_us, changed_us, error"


@dataclass(frozen=True)
class Inverse:
    """One request that takes a fault back, and how to see that it did.

    `check` is `{"absent": true}`, `{"present": true}`, `{"node_ready": true}` or `{"fields": [[[key, ...], value], ...]}` on what GET
    `check_path` answers; a key that is missing equals null, false and an empty value. With `"rolled_out": true` its pods must have
    followed, too. A `command` is no request: `body` is a program with its arguments.
    """

    kind: str  # remove | restore | recreate | command | none
    method: str
    path: str
    body: Any
    content_type: str
    check_path: str
    check: Json
    what: str = ""  # for people: `uncordon node body2`
    takes_s: float = 0.0  # what it may take to be seen, where that is longer than others get


@dataclass(frozen=True)
class Entry:
    """One line of the journal; times in microseconds."""

    id: int
    run: str
    cluster: str
    context: str
    action: str
    inverse: Inverse
    state: State
    created_us: int
    changed_us: int | None
    error: str | None

    def evidence(self) -> dict[str, Any]:
        """As in `evidence.json`."""
        return {
            "id": self.id,
            "action": self.action,
            "state": self.state,
            "time_us": self.changed_us,
            "error": self.error,
        }


@dataclass(frozen=True)
class Undone:
    """What became of one entry."""

    entry: Entry
    state: State
    time_us: int
    error: str | None = None

    def document(self) -> dict[str, Any]:
        """For `--json` and the table of `aftershock undo`."""
        return {"id": self.entry.id, "run": self.entry.run, "action": self.entry.action, "what": self.entry.inverse.what,
                "state": self.state, "time_us": self.time_us, "error": self.error}  # fmt: skip


def removal(path: str, what: str) -> Inverse:
    """Delete an object that a fault makes; seen when it is gone (finalizers included)."""
    return Inverse("remove", "DELETE", path, None, "application/json", path, {"absent": True}, what)


def restoration(path: str, live: Json, patch: Json, what: str, *, rolled_out: bool = False) -> Inverse:
    """Give back to `live` exactly the values that `patch` (a merge or strategic merge patch) is about to change; lists go back whole."""
    body = _before(live, patch)
    check: dict[str, Any] = {"fields": [[list(keys), value] for keys, value in _leaves(body)]}
    if rolled_out:
        check["rolled_out"] = True
    return Inverse("restore", "PATCH", path, body, MERGE_PATCH, path, check, what, ROLLOUT_S if rolled_out else 0.0)


def power_on(words: Sequence[str], node: str) -> Inverse:
    """Give a node its power back by a program; seen when the node is Ready."""
    return Inverse(
        "command",
        "",
        "",
        list(words),
        "",
        f"/api/v1/nodes/{node}",
        {"node_ready": True},
        f"power on node {node}",
        BOOT_S,
    )


def recreation(collection: str, live: Json, what: str) -> Inverse:
    """Create an object again as it was; a Service keeps its address."""
    saved = {key: value for key, value in live.items() if key != "status"}
    saved["metadata"] = {
        key: value
        for key, value in live["metadata"].items()
        if key not in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink",
                       "deletionTimestamp", "deletionGracePeriodSeconds")
    }  # fmt: skip
    path = f"{collection}/{live['metadata']['name']}"
    return Inverse("recreate", "POST", collection, saved, "application/json", path, {"present": True}, what)


def nothing(what: str) -> Inverse:
    """For a fault that needs no undo, such as a killed pod whose controller replaces it; recorded as done."""
    return Inverse("none", "", "", None, "", "", {}, what)


def _before(live: Any, patch: Any) -> Any:
    if isinstance(patch, Mapping) and isinstance(live, Mapping):
        return {key: _before(live[key], value) if key in live else None for key, value in patch.items()}
    return live


def _leaves(value: Any, at: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, below in value.items() for leaf in _leaves(below, (*at, key))]
    return [(at, value)]


class UndoJournal:
    """The journal of one state folder; safe to use from several processes and threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)  # an inverse may hold a saved object
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(_TABLE)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The journal of this user."""
        return cls(settings.state_folder / "undo.sqlite")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the journal stays."""
        self._db.close()

    def record(self, run_id: str, cluster_fingerprint: str, action: str, inverse: Inverse, context: str = "") -> int:
        """Write an entry to disk and return its id; only then may the fault be injected."""
        now = _now_us()
        settled = inverse.kind == "none"
        row = (run_id, cluster_fingerprint, context, action, json.dumps(asdict(inverse)), "done" if settled else "pending",
               now, now if settled else None)  # fmt: skip
        with self._lock:
            cursor = self._db.execute(
                "INSERT INTO entries (run, cluster, context, action, inverse, state, created_us, changed_us)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row,
            )  # fmt: skip
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def mark(self, entry_id: int, state: State, error: str | None = None, seen: State | None = None) -> int:
        """Write what became of an entry; returns the time of it.

        A failure is not written over what somebody else has `done` since it was `seen` in another state.
        """
        now = _now_us()
        with self._lock:
            self._db.execute(
                "UPDATE entries SET state = ?1, error = ?2, changed_us = ?3"
                " WHERE id = ?4 AND (?1 = 'done' OR state != 'done' OR ?5 IS NULL OR ?5 = 'done')",
                (state, error, now, entry_id, seen),
            )
        return now

    def pending(self, fingerprint: str | None = None, run_id: str | None = None) -> list[Entry]:
        """Entries that are not known to be undone, newest first (the order in which they must be undone)."""
        return self._read(
            "state != 'done' AND (?1 IS NULL OR cluster = ?1) AND (?2 IS NULL OR run = ?2) ORDER BY id DESC",
            (fingerprint, run_id),
        )

    def of_run(self, run_id: str) -> list[Entry]:
        """All entries of a run, oldest first."""
        return self._read("run = ?1 ORDER BY id", (run_id,))

    def undone_yet_there(self, cluster: Cluster, run_id: str) -> list[Entry]:
        """Entries of a run that are marked done although the cluster is not as before (any more), newest first."""
        done = [e for e in self.of_run(run_id) if e.state == "done" and e.inverse.kind != "none"]
        return [e for e in reversed(done) if _unmet_or_unsure(cluster, e.inverse)]

    def evidence(self, run_id: str) -> dict[str, Any]:
        """`evidence.json`.undo of a run."""
        entries = self.of_run(run_id)
        return {"pending": sum(e.state != "done" for e in entries), "entries": [e.evidence() for e in entries]}

    def _read(self, where: str, values: Sequence[Any]) -> list[Entry]:
        with self._lock:
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM entries WHERE {where}", values).fetchall()
        return [
            Entry(i, run, at, via, did, Inverse(**json.loads(inverse)), *rest)
            for i, run, at, via, did, inverse, *rest in rows
        ]

    def undo(
        self, cluster: Cluster, entries: Sequence[Entry], deadline_s: float | None = None,
        progress: Callable[[str], object] | None = None, silent_s: float | None = None,
    ) -> list[Undone]:  # fmt: skip
        """Undo entries, last in first out, and mark each done once the cluster was seen to be as before.

        `deadline_s` is per entry (default: what each may take), `silent_s` how long an API server that does not answer is waited
        for, over all of them. A failed entry does not keep the others from being undone. Raises Refused for one of another cluster.
        """
        results = []
        silent = Patience(deadline_s or ENTRY_DEADLINE_S if silent_s is None else silent_s)
        for entry in sorted(entries, key=lambda e: e.id, reverse=True):
            if entry.cluster != cluster.identity.fingerprint:
                raise Refused(
                    f"{entry.action} of {entry.run} was made on another cluster than {cluster.identity.context} is now"
                )
            if progress:
                progress(entry.inverse.what or entry.action)
            given_s = max(ENTRY_DEADLINE_S, entry.inverse.takes_s) if deadline_s is None else deadline_s
            error = apply(cluster, entry.inverse, given_s, silent)
            state: State = "failed" if error else "done"
            results.append(Undone(entry, state, self.mark(entry.id, state, error, entry.state), error))
        return results


class Patience:
    """How long an API server that does not answer is waited for, in all; an answer of any kind begins it anew."""

    def __init__(self, silent_s: float) -> None:
        self.silent_s = silent_s
        self._since: float | None = None

    def over(self, error: Exception | None, asked: float) -> bool:
        """Take note of what became of a request of the moment `asked` (monotonic); True once there was no answer for too long."""
        if not isinstance(error, ClusterUnreachable):
            self._since = None
            return False
        self._since = asked if self._since is None else self._since
        return time.monotonic() - self._since >= self.silent_s

    @property
    def request_s(self) -> float:
        """Deadline of one request."""
        return min(_REQUEST_S, max(0.5, self.silent_s))


def apply(
    cluster: Cluster, inverse: Inverse, deadline_s: float = ENTRY_DEADLINE_S, silent: Patience | None = None
) -> str | None:
    """Send an inverse and wait until it is seen to have worked; None, or why not. Idempotent.

    The request is sent even where all looks as before: the fault it answers may still have been under way.
    """
    if inverse.kind == "none":
        return None
    silent = silent or Patience(deadline_s)
    what, ends = inverse.what or inverse.path, time.monotonic() + deadline_s
    trouble: AftershockError | None
    heard: tuple[Any, ...] | None = None
    while True:
        asked = time.monotonic()
        try:
            if inverse.kind == "command":
                heard = heard or _signs_of_life(cluster, inverse, silent.request_s)
            _send(cluster, inverse, silent.request_s)
            silent.over(None, asked)
            break
        except ClusterError as error:
            trouble = error
            if error.status is not None and 400 <= error.status < 500 and error.status not in (408, 409, 429):
                return f"{what}: {error}"
        except AftershockError as error:  # of a program: it may go better in a moment
            trouble = error
        if silent.over(trouble, asked):
            return f"{what}: the API server does not answer: {trouble}"
        if time.monotonic() > ends:
            return f"{what}: not accepted within {deadline_s:g} s, last: {trouble}"
        time.sleep(_POLL_S * 2)
    while True:
        asked, trouble = time.monotonic(), None
        try:
            missing = unmet(cluster, inverse, silent.request_s)
            if missing is None and any(heard or ()) and _signs_of_life(cluster, inverse, silent.request_s) == heard:
                missing = (
                    "nothing was heard of it since"  # a node that was cut says that it is Ready until it is given up
                )
        except AftershockError as error:
            trouble, missing = error, str(error)
        if missing is None:
            return None
        if silent.over(trouble, asked):
            return f"{what}: the API server does not answer: {missing}"
        if time.monotonic() > ends:
            return f"{what}: not seen to have worked within {deadline_s:g} s: {missing}"
        time.sleep(_POLL_S)


def _signs_of_life(cluster: Cluster, inverse: Inverse, timeout_s: float) -> tuple[Any, ...]:
    """When a node was last heard of: its status and, where they may be read, its lease, which it renews all the time."""
    node = cluster.request("GET", inverse.check_path, timeout_s=timeout_s)
    ready = [c for c in (node.get("status") or {}).get("conditions") or [] if c.get("type") == "Ready"]
    try:
        lease = cluster.request("GET", f"{_NODE_LEASES}/{node['metadata']['name']}", timeout_s=timeout_s)
    except (Forbidden, NotFound):
        lease = {}
    return *(c.get("lastHeartbeatTime") for c in ready), (lease.get("spec") or {}).get("renewTime")


def _send(cluster: Cluster, inverse: Inverse, timeout_s: float) -> None:
    if inverse.kind == "command":
        power.run(inverse.body)
        return
    try:
        cluster.request(
            inverse.method, inverse.path, body=inverse.body, content_type=inverse.content_type, timeout_s=timeout_s
        )
    except NotFound:
        if inverse.kind != "remove":
            raise
    except ClusterError as error:
        if not (inverse.kind == "recreate" and error.status == 409 and unmet(cluster, inverse) is None):
            raise


def unmet(cluster: Cluster, inverse: Inverse, timeout_s: float = _REQUEST_S) -> str | None:
    """What is not yet as before the fault; None if all is."""
    try:
        live = cluster.request("GET", inverse.check_path, timeout_s=timeout_s)
    except NotFound:
        return None if "absent" in inverse.check else f"{inverse.check_path} does not exist"
    if "absent" in inverse.check:
        return f"{inverse.check_path} still exists"
    if live.get("metadata", {}).get("deletionTimestamp"):
        return f"{inverse.check_path} is being deleted"
    if "node_ready" in inverse.check and (why := _not_ready(live)):
        return f"{live['metadata']['name']}: {why}"
    for keys, wanted in inverse.check.get("fields", []):
        have: Any = live
        for key in keys:
            have = have.get(key) if isinstance(have, Mapping) else None
        if have != wanted and (have or wanted):
            return f"{'.'.join(keys)} is {have!r:.200}, was {wanted!r:.200}"
    return behind(live) if inverse.check.get("rolled_out") else None


def _not_ready(node: Json) -> str | None:
    """Why a node is not back: not Ready, or pods are still being sent away from it."""
    status = {c.get("type"): c.get("status") for c in (node.get("status") or {}).get("conditions") or []}
    if status.get("Ready") != "True":
        return f"Ready is {status.get('Ready', 'not known')}"
    taints = [str(t.get("key")) for t in (node.get("spec") or {}).get("taints") or []]
    return next((f"taint {key}" for key in taints if key in AWAY), None)


def behind(live: Json) -> str | None:
    """What a Deployment or StatefulSet still has to do until all its pods are of its newest version and ready; None if nothing."""
    status, wanted = live.get("status") or {}, int(live["spec"].get("replicas", 1))
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return "the change has not been looked at"
    counts = {key: int(status.get(key) or 0) for key in ("replicas", "updatedReplicas", "readyReplicas")}
    if set(counts.values()) != {wanted}:
        return f"{', '.join(f'{key} {count}' for key, count in counts.items())} of {wanted}"
    return None


def _unmet_or_unsure(cluster: Cluster, inverse: Inverse) -> bool:
    try:
        return unmet(cluster, inverse) is not None
    except Forbidden:  # whoever may not look could not undo it either
        return False
    except AftershockError:
        return True


def _now_us() -> int:
    return time.time_ns() // 1000
