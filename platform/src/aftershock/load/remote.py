"""A load inside the cluster: k6 as a Job, Locust as a master and workers; samples come home through the API server, every byte of them.

The pods keep what they measured until it was fetched, so an API server that is away for a while costs nothing. What the generator says it
made must be what arrived, and its clock must be known; otherwise it was no load that proves anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aftershock.errors import ClusterError, ClusterUnreachable, DeadlineExceeded, FolderError, LoadError, NotFound
from aftershock.load import plan, scenario
from aftershock.load.plan import LoadPlan
from aftershock.load.tally import Row, Tally
from aftershock.outpost import objects, post
from aftershock.outpost.objects import Crew, Object
from aftershock.outpost.post import Post
from aftershock.undo import Inverse

if TYPE_CHECKING:
    from aftershock.cluster import Cluster
    from aftershock.folder import RunFolder, TableWriter

WORKERS = 2
READY_S = 40.0
POLL_S = 0.2
SILENT_S = 15.0  # a pod that does not answer for this long, while the API server does, has fallen out
UNSURE_US_MAX = 50_000  # how well the generator's clock must be known: half of what "on time" means
FETCHED_S = 5.0
LINE_BYTES_MAX = 1 << 16


@dataclass
class Stream:
    """What came of one pod so far."""

    post: Post
    offset: int = 0
    lines: int = 0
    rest: bytes = b""
    ended: Mapping[str, Any] | None = None
    heard: float = field(default_factory=time.monotonic)

    @property
    def whole(self) -> bool:
        """Everything has come, to the end."""
        return self.ended is not None and self.offset == self.ended["bytes"]


class RemoteLoad:
    """One load in the cluster. `inverses` go into the journal, then `start`, then `finish` or `stop`, as with `RunningLoad`."""

    def __init__(
        self, cluster: Cluster, namespace: str, asked: LoadPlan, service: str, port: str | int, run_id: str, image: str, *,
        avoid: Sequence[str] = (), workers: int = WORKERS,
    ) -> None:  # fmt: skip
        self._cluster, self._plan = cluster, asked
        plan.check(asked)
        self._files = scenario.files(asked.scenario)
        self._jobs = cluster.served("batch/v1", "Job") is not None
        name = f"aftershock-load-{run_id[-6:]}"
        env = plan.environment(replace(asked, target_url=inner_url(service, port)), {}) | {
            "AFTERSHOCK_TOOL": asked.tool, "AFTERSHOCK_SCENARIO": f"{objects.SCENARIOS}/{asked.scenario.name}",
        }  # fmt: skip
        alone = Crew(name, namespace, run_id, "load", "alone", image, env=env, files=name, avoid=tuple(avoid))
        self._config = objects.config_map(alone, name, self._files)
        self._crews = (
            [alone] if asked.tool == "k6" else [
                replace(alone, name=f"{name}-master", role="master",
                        env=env | {"AFTERSHOCK_CREW": f"master:{workers}", "AFTERSHOCK_MASTER": f"$(POD_IP):{objects.CREW_PORT}"}),
                replace(alone, name=f"{name}-worker", role="worker", count=workers, env=env | {"AFTERSHOCK_CREW": "worker"}),
            ]
        )  # fmt: skip
        self._streams: list[Stream] = []
        self._tally = Tally(asked.scheduled)
        self._writer: TableWriter | None = None
        self._begun, self._over, self._leave = threading.Event(), threading.Event(), threading.Event()
        self._trouble: str | None = None
        self._facts: dict[str, Any] | None = None
        self._reader = threading.Thread(target=self._read, name="samples", daemon=True)

    def inverses(self) -> list[Inverse]:
        """For the undo journal, before `start`: what removes everything that `start` makes."""
        made = [self._config, *(obj for crew in self._crews for obj in objects.workload(crew, self._jobs))]
        return [objects.removal(obj) for obj in made]

    def start(self, folder: RunFolder, tell: Callable[[str], object]) -> None:
        """Make the pods, wait for them, compare clocks, and let them begin. Raises LoadError, ClusterError, DeadlineExceeded."""
        self._writer = folder.writer("samples.parquet")
        self._make(self._config)
        for number, crew in enumerate(self._crews):
            if crew.role == "worker":
                crew = self._crews[number] = replace(crew, env={**crew.env, "AFTERSHOCK_MASTER": self._master()})
            for obj in objects.workload(crew, self._jobs):
                self._make(obj)
            tell(f"waiting for {crew.count} pod{'s' if crew.count > 1 else ''} of {self._plan.tool}")
            self._streams += [Stream(post) for post in post.posted(self._cluster, crew, READY_S)]
        for stream in self._streams:
            stream.post.compare()
            if trouble := stream.post.clock.trouble(UNSURE_US_MAX):
                raise LoadError(
                    f"pod {stream.post.name}: {trouble}", hint="is the API server or the machine overloaded?"
                )
        self._reader.start()
        for stream in self._streams:
            stream.post.ask("begin")

    @property
    def started(self) -> int:
        """Arrivals that have begun so far."""
        return self._tally.begun

    @property
    def served(self) -> tuple[int, int]:
        """Journeys that have ended so far, and how many of them failed; as far as it has come home."""
        return self._tally.ended, self._tally.failed

    @property
    def clocks(self) -> list[dict[str, Any]]:
        """Each pod's clock, for run.json."""
        return [s.post.clock.as_run(f"pod {s.post.name}", s.post.node) for s in self._streams]

    @property
    def described(self) -> dict[str, Any]:
        """Where it runs, for run.json."""
        return {"on": "cluster", "as": "Job" if self._jobs else "Pod", "files": sorted(self._files),
                "pods": [{"name": s.post.name, "node": s.post.node} for s in self._streams]}  # fmt: skip

    def begun_us(self, deadline_s: float) -> int:
        """Wait for the first arrival; the schedule's beginning by our clock. Raises LoadError, DeadlineExceeded."""
        ends = time.monotonic() + deadline_s
        while not self._begun.wait(0.05):
            if why := self.failed():
                raise LoadError(why)
            if time.monotonic() > ends:
                raise DeadlineExceeded(f"no arrival within {deadline_s:g} s from {self._plan.tool} in the cluster")
        assert self._tally.schedule_start_us is not None
        return self._tally.schedule_start_us

    def failed(self) -> str | None:
        """Why this load is worth nothing any more, if it is known already."""
        if self._trouble:
            return self._trouble
        for stream in self._streams:
            ended = stream.ended
            if ended is not None and (ended["error"] or ended["exit_code"]):
                return (f"{self._plan.tool} in pod {stream.post.name} ended with {ended['exit_code']} after {self._tally.begun} of"
                        f" {self._plan.scheduled} arrivals: {ended['error'] or ended['said']}")  # fmt: skip
        return None

    def finish(self, deadline_s: float) -> dict[str, Any]:
        """Wait for the journeys under way and everything measured; `evidence.json.load`."""
        if self._facts is None:
            whole = self._over.wait(deadline_s) if self._reader.is_alive() else True
            late = [s.post.name for s in self._streams if not s.whole]
            self._facts = self._close(
                None if whole or not late else f"samples of {', '.join(late)} had not come after {deadline_s:g} s"
            )
        return self._facts

    def stop(self) -> dict[str, Any]:
        """End it now; what has come is kept. Idempotent, also after `finish`."""
        if self._facts is None:
            self._facts = self._close(None if self._over.is_set() else "stopped before the schedule's end")
        return self._facts

    def _close(self, error: str | None) -> dict[str, Any]:
        error = self.failed() or error
        self._leave.set()
        if self._reader.is_alive():
            self._reader.join(FETCHED_S)
        self._remove()
        error = error or self._missing()
        made = [s.ended["made"] for s in self._streams if s.ended and s.ended["made"]]
        if self._writer is not None:
            try:
                self._writer.append(list(self._tally.unfinished(time.time_ns() // 1000)))
                self._writer.close()
            except FolderError as broken:
                error = error or str(broken)
        codes = [s.ended["exit_code"] for s in self._streams if s.ended]
        code = next((c for c in codes if c), 0) if len(codes) == len(self._streams) and codes else None
        return self._tally.facts(code, error) | {
            "made": made[0]["requests"] if made else None,
            "arrived": self._tally.samples,
        }

    def _missing(self) -> str | None:
        """What the generators say they made, less what has come."""
        for stream in self._streams:
            if trouble := stream.post.clock.trouble(UNSURE_US_MAX):
                return f"times of pod {stream.post.name} cannot be brought onto this machine's clock: {trouble}"
            ended = stream.ended
            if ended is None or not stream.whole or stream.lines != ended["lines"]:
                of = f" of {ended['lines']}" if ended else ""
                return f"samples were lost: {stream.lines}{of} lines of pod {stream.post.name} have come"
        counts = [s.ended["made"] for s in self._streams if s.ended and s.ended["made"]]
        if self._streams and not counts:
            return f"{self._plan.tool} did not say how many requests it made"
        made, came, under_way = sum(c["requests"] for c in counts), self._tally.samples, len(self._tally.under_way)
        if not made - under_way <= came <= made:
            return f"{self._plan.tool} says that it made {made} requests, {came} samples have come"
        return None

    def _make(self, obj: Object) -> None:
        collection = objects.path(obj).rpartition("/")[0]
        try:
            self._cluster.request("POST", collection, body=obj)
        except ClusterError as error:
            raise LoadError(
                f"{obj['kind']} {obj['metadata']['name']} cannot be made: {error}", hint=error.hint
            ) from None

    def _master(self) -> str:
        name = self._streams[0].post.name
        pod = self._cluster.request("GET", f"/api/v1/namespaces/{self._config['metadata']['namespace']}/pods/{name}")
        return f"{pod['status']['podIP']}:{objects.CREW_PORT}"

    def _remove(self) -> None:
        """Ask for the end of the pods; that they have ended is seen by the journal."""
        for inverse in self.inverses():
            try:
                self._cluster.request(inverse.method, inverse.path, body=inverse.body, timeout_s=2.0)
            except NotFound:
                continue
            except ClusterError:
                return  # the journal has it

    def _read(self) -> None:
        try:
            while not self._leave.is_set() and [s for s in self._streams if not self._fetched(s)]:
                self._leave.wait(POLL_S)
        except (ValueError, FolderError) as error:
            self._trouble = f"samples: {error}"
        self._over.set()

    def _fetched(self, stream: Stream) -> bool:
        """Fetch what a pod has; True once all of it has come, or nothing will come any more."""
        if stream.whole:
            return True
        try:
            while not stream.whole:
                piece = stream.post.fetch(stream.offset)
                stream.heard = time.monotonic()
                self._take(stream, piece.data)
                stream.ended = piece.ended
                if not piece.data:
                    break
            if stream.whole:
                stream.post.fetch(stream.offset)  # tells the pod that it may go
        except ClusterUnreachable:
            stream.heard = max(
                stream.heard, time.monotonic() - SILENT_S / 2
            )  # nobody can know; once it is back there is time to answer
        except ClusterError as error:
            if not stream.whole and (why := self._fallen(stream, error)):
                self._trouble = self._trouble or why
                return True
        return stream.whole

    def _fallen(self, stream: Stream, error: ClusterError) -> str | None:
        try:
            why = stream.post.gone()
        except ClusterUnreachable:
            return None
        except ClusterError as refused:
            why = str(refused)
        if why is None and time.monotonic() - stream.heard > SILENT_S:
            why = f"pod {stream.post.name} has not answered for {SILENT_S:g} s: {error}"
        return why and f"{why}; {stream.lines} lines of it had come"

    def _take(self, stream: Stream, data: bytes) -> None:
        stream.offset += len(data)
        *lines, stream.rest = (stream.rest + data).split(b"\n")
        if len(stream.rest) > LINE_BYTES_MAX:
            raise ValueError(f"a line of more than {LINE_BYTES_MAX} bytes")
        rows: list[Row] = []
        for line in lines:
            stream.lines += line.startswith(b'["')
            if (row := self._tally.feed(line, stream.post.clock.offset_us)) is not None:
                rows.append(row)
        assert self._writer is not None
        self._writer.append(rows)
        if self._tally.begun:
            self._begun.set()


def inner_url(service: str, port: str | int) -> str:
    """A Service's address inside the cluster, by the environment that every pod gets: the same everywhere, without DNS."""
    name = service.upper().replace("-", "_")
    suffix = f"_{port.upper().replace('-', '_')}" if isinstance(port, str) else ""
    return f"http://$({name}_SERVICE_HOST):$({name}_SERVICE_PORT{suffix})"
