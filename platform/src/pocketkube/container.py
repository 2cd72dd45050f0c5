"""One container of a pod over all its runs: image, process, hooks, probes, restarts with back-off.

Messages, reasons and the timing of restarts follow the kubelet (pkg/kubelet/kuberuntime, KEP-4603 for the 10 s doubled to 300 s).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pocketkube import environment, images, probes, volumes
from pocketkube.errors import ImageUnknown
from pocketkube.logs import ContainerLog
from pocketkube.storage import Object, Store, now
from pocketkube.supervisor import Process, SpawnError, Supervisor

BACKOFF_S, BACKOFF_MOST_S = 10.0, 300.0
LOST = 255  # exit code of what was running when the power went
MISSING_S = 0.5  # between looks for a Secret that does not exist yet
PROBES = {"startup": "startupProbe", "readiness": "readinessProbe", "liveness": "livenessProbe"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Surroundings(Protocol):
    """What a container needs of its pod."""

    store: Store
    supervisor: Supervisor
    images: images.Images
    node: str
    address: str
    source: str
    volumes: dict[str, Path]

    @property
    def pod(self) -> Object:
        """The newest object."""

    @property
    def links(self) -> dict[str, str]:
        """Service variables."""

    def folder(self, container: str) -> Path:
        """Where the container's files are."""

    def event(self, reason: str, note: str, kind: str = "Normal") -> None:
        """Tell what happened."""

    def changed(self) -> None:
        """A status has changed."""

    async def disturbed(self, timeout_s: float) -> bool:
        """Wait as network faults make a probe wait; True if it fails."""


@dataclass(frozen=True)
class Prepared:
    """A container's command line and environment, mounts rewritten."""

    argv: list[str]
    env: dict[str, str]
    folder: Path


class Container:
    """Runs until told to stop, or until its restart policy says that it is over."""

    def __init__(self, spec: Object, pod: Surroundings, restart: str, *, init: bool = False) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.restarts = 0
        self.state: dict[str, Any] = {"waiting": {"reason": "PodInitializing" if init else "ContainerCreating"}}
        self.last: dict[str, Any] = {}
        self.started = False
        self.ready = False
        self.over = False
        self.process: Process | None = None
        self.log: ContainerLog | None = None
        self.prepared: Prepared | None = None
        self.execs: set[Process] = set()
        self._pod = pod
        self._restart = restart
        self._init = init
        self._identity = ""
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self._backoff_s = 0.0
        self._grace_s = float(pod.pod["spec"].get("terminationGracePeriodSeconds") or 30)

    def log_path(self, restart: int) -> Path:
        """Where the log of this run is."""
        return self._pod.folder(self.name) / f"{restart}.log"

    def status(self) -> Object:
        """As an entry of status.containerStatuses."""
        return {"name": self.name, "image": self.spec["image"], "imageID": f"pocketkube://{self.spec['image']}",
                "containerID": self._identity, "ready": self.ready, "started": self.started,
                "restartCount": self.restarts, "state": self.state, "lastState": self.last}  # fmt: skip

    async def run(self) -> int:
        """Run and run again as the policy says; the last exit code."""
        pulls_s = BACKOFF_S
        while True:
            try:
                image = self._pod.images.find(self.spec["image"])
                self.prepared = self._prepare(image)
            except ImageUnknown as error:
                await self._not_pulled(str(error), pulls_s)
                pulls_s = min(pulls_s * 2, BACKOFF_MOST_S)
                continue
            except environment.Missing as error:
                if self.state.get("waiting", {}).get("message") != str(error):
                    self._pod.event("Failed", f"Error: {error}", "Warning")
                self._wait("CreateContainerConfigError", str(error))
                await asyncio.sleep(MISSING_S)
                continue
            code = await self._once(image)
            if self._stopping or self._restart == "Never" or (self._restart == "OnFailure" and code == 0):
                self.over = True
                self._pod.changed()
                return code
            await self._back_off()
            self.restarts += 1

    async def stop(self, grace_s: float) -> None:
        """preStop, SIGTERM, and SIGKILL when the grace is over."""
        self._stopping = True
        process = self.process
        for kind in ("startup", "liveness"):
            self._end_probe(kind)
        if process is None or not process.running:
            return
        self._pod.event("Killing", f"Stopping container {self.name}")
        await self._terminate(process, grace_s)

    def kill(self) -> None:
        """SIGKILL to all that belongs to it."""
        self._stopping = True
        if self.process is not None:
            self.process.kill()

    def power_off(self) -> list[int]:
        """It has no power any more: its processes, for whoever ends them all at once."""
        self._stopping = True
        return [p.pid for p in (self.process, *self.execs) if p is not None and p.running]

    def resume(self, before: Object) -> None:
        """Its node has booted: what ran then is over, as `before` in status.containerStatuses counts it."""
        self.restarts, self.last = int(before.get("restartCount") or 0), dict(before.get("lastState") or {})
        state = before.get("state") or {}
        if "running" in state:
            begun, identity = state["running"].get("startedAt") or now(), before.get("containerID") or ""
            self.last = {"terminated": _terminated(LOST, begun, identity, "Unknown")}
        elif "terminated" in state:
            self.last = dict(state)
        if self.last and "waiting" not in state:
            self.restarts += 1

    def target(self) -> probes.Target:
        """Where its probes and hooks go."""
        ports = {p["name"]: int(p["containerPort"]) for p in self.spec.get("ports") or [] if p.get("name")}
        return probes.Target(self._pod.address, self._pod.source, ports, self.execute)

    async def execute(self, argv: list[str]) -> tuple[int, str]:
        """Run a program in the container's surroundings; exit code and the end of its output."""
        reading, writing = os.pipe()
        try:
            process = await self.spawn(argv, [-1, writing, writing])
        except SpawnError as error:
            os.close(reading)
            return 126, str(error)
        finally:
            os.close(writing)
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb")
        )
        try:
            output = await reader.read(probes.BODY_MOST)
            return await asyncio.shield(process.exited), output.decode("utf-8", "replace")
        finally:
            process.kill()
            transport.close()

    async def spawn(self, argv: list[str], streams: list[int], *, tty: bool = False) -> Process:
        """Start a further program beside the container's own; -1 is /dev/null. Raises SpawnError."""
        if self.prepared is None or self.process is None or not self.process.running:
            raise SpawnError(f"container {self.name} is not running")
        null = os.open(os.devnull, os.O_RDWR)
        try:
            process = await self._pod.supervisor.program(
                images.program(argv), self.prepared.env, self.prepared.folder, [null if s < 0 else s for s in streams],
                f"exec-{self.name}", tty=tty,
            )  # fmt: skip
        finally:
            os.close(null)
        self.execs.add(process)
        process.exited.add_done_callback(lambda _: self.execs.discard(process))
        return process

    def _prepare(self, image: images.Image) -> Prepared:
        pod, spec = self._pod, self.spec
        folder = pod.folder(self.name)
        base = {"PATH": f"{Path(sys.executable).parent}:{PATH}", "HOSTNAME": pod.pod["metadata"]["name"], "HOME": str(folder),
                "LANG": "C.UTF-8"}  # fmt: skip
        if "PYTHONPATH" in os.environ:
            base["PYTHONPATH"] = os.environ["PYTHONPATH"]
        made = base | dict(image.env) | environment.of(pod.store, pod.pod, spec, pod.links)
        mounts = volumes.mounts(spec, pod.volumes, lambda text: environment.expand(text, made))
        # What this machine gives (PATH, HOME) is real already; a volume at /tmp must not move it.
        env = {
            name: value if base.get(name) == value else volumes.rewrite(value, mounts) for name, value in made.items()
        }
        argv = image.argv(spec.get("command") or [], spec.get("args") or [])
        argv = [volumes.rewrite(environment.expand(part, made), mounts) for part in argv]
        return Prepared(argv, env, self._working_directory(folder, mounts))

    def _working_directory(self, folder: Path, mounts: list[volumes.Mount]) -> Path:
        """workingDir inside a mount, or inside the container's own folder, which stands for the image's root."""
        asked = self.spec.get("workingDir") or "/"
        inside = volumes.rewrite(asked, mounts)
        directory = Path(inside) if inside != asked else folder / os.path.normpath("/" + asked).lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    async def _once(self, image: images.Image) -> int:
        """One run from start to end; its exit code."""
        pod, prepared = self._pod, self.prepared
        assert prepared is not None
        pod.event("Pulled", f'Container image "{self.spec["image"]}" already present on machine')
        self.log = log = ContainerLog(self.log_path(self.restarts))
        begun = now()
        try:
            self.process = process = await self._spawn(image, prepared, log)
        except SpawnError as error:
            log.close()
            pod.event("Failed", f"Error: {error}", "Warning")
            self.state = {"terminated": _terminated(128, begun, self._identity, "StartError", str(error))}
            pod.changed()
            return 128
        log.started()
        self._identity = f"pocketkube://{process.pid}-{process.started}"
        pod.event("Created", f"Created container: {self.name}")
        pod.event("Started", f"Started container {self.name}")
        self.state = {"running": {"startedAt": begun}}
        self.started = "startupProbe" not in self.spec
        self.ready = self.started and "readinessProbe" not in self.spec and not self._init
        pod.changed()
        aside = asyncio.get_running_loop().create_task(self._after_start(process))
        try:
            code = await asyncio.shield(process.exited)
        except asyncio.CancelledError:  # its node has lost its power
            log.close()
            raise
        finally:
            aside.cancel()
            for kind in PROBES:
                self._end_probe(kind)
        for other in list(self.execs):
            other.kill()
        log.close()
        self.started = False
        self.ready = self._init and code == 0
        self.state = {"terminated": _terminated(code, begun, self._identity)}
        pod.changed()
        return code

    async def _spawn(self, image: images.Image, prepared: Prepared, log: ContainerLog) -> Process:
        if not prepared.argv:
            raise SpawnError(f"image {image.name} has no entrypoint and the container no command", 22)
        null = os.open(os.devnull, os.O_RDONLY)
        streams = [null, log.write_end, log.write_end]
        name = f"{self._pod.pod['metadata']['namespace']}/{self._pod.pod['metadata']['name']}/{self.name}"
        supervisor = self._pod.supervisor
        try:
            module = images.module_of(prepared.argv) if image.preload else None
            if module is not None:
                return await supervisor.module(image.name, self._pod.node, module[0], [module[0], *module[1]], prepared.env,
                                               prepared.folder, streams, name)  # fmt: skip
            return await supervisor.program(images.program(prepared.argv), prepared.env, prepared.folder, streams, name)
        finally:
            os.close(null)

    async def _after_start(self, process: Process) -> None:
        hook = (self.spec.get("lifecycle") or {}).get("postStart")
        if hook is not None:
            result = (
                await probes.check(hook, self.target(), self._grace_s) if "sleep" not in hook else await _sleep(hook)
            )
            if not result.success:
                self._pod.event("FailedPostStartHook", f"PostStartHook failed: {result.message}", "Warning")
                await self._terminate(process, self._grace_s)
                return
        self._begin_probe("readiness" if self.started else "startup")
        if self.started:
            self._begin_probe("liveness")

    def _begin_probe(self, kind: str) -> None:
        probe = self.spec.get(PROBES[kind])
        if probe is None or kind in self._probes or self._stopping:
            return
        timeout_s = float(probe.get("timeoutSeconds") or 1)
        watched = probes.watch(kind, probe, self.target(), self._told, disturbed=lambda: self._pod.disturbed(timeout_s))
        self._probes[kind] = asyncio.get_running_loop().create_task(watched)

    def _end_probe(self, kind: str) -> None:
        if (task := self._probes.pop(kind, None)) is not None:
            task.cancel()

    def _told(self, report: probes.Report) -> None:
        """A probe has something to say."""
        if report.success is None:
            self._pod.event("Unhealthy", f"{report.kind.capitalize()} probe failed: {report.failure}", "Warning")
            return
        if report.kind == "startup" and report.success:
            self.started = True
            self.ready = "readinessProbe" not in self.spec
            self._begin_probe("readiness")
            self._begin_probe("liveness")
        elif report.kind == "readiness":
            self.ready = report.success
        elif not report.success and self.process is not None and not self._stopping:
            self._pod.event("Killing", f"Container {self.name} failed {report.kind} probe, will be restarted")
            task = asyncio.get_running_loop().create_task(self._terminate(self.process, self._grace_s))
            self._probes[f"{report.kind}-kill"] = task  # kept, or it might be collected before it has run
        self._pod.changed()

    async def _terminate(self, process: Process, grace_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + grace_s
        hook = (self.spec.get("lifecycle") or {}).get("preStop")
        if hook is not None and grace_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    result = await (_sleep(hook) if "sleep" in hook else probes.check(hook, self.target(), grace_s))
                    if not result.success:
                        self._pod.event("FailedPreStopHook", f"PreStopHook failed: {result.message}", "Warning")
        process.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(process.exited)
        if process.running:
            process.kill()
            await asyncio.shield(process.exited)

    async def _not_pulled(self, message: str, backoff_s: float) -> None:
        image = self.spec["image"]
        self._pod.event("Pulling", f'Pulling image "{image}"')
        self._pod.event("Failed", message, "Warning")
        self._pod.event("Failed", "Error: ErrImagePull", "Warning")
        self._wait("ErrImagePull", message)
        await asyncio.sleep(min(1.0, backoff_s))
        self._pod.event("BackOff", f'Back-off pulling image "{image}"')
        self._pod.event("Failed", "Error: ImagePullBackOff", "Warning")
        self._wait("ImagePullBackOff", f'Back-off pulling image "{image}": {message}')
        await asyncio.sleep(backoff_s)

    async def _back_off(self) -> None:
        ended = self.state.get("terminated", {})
        self.last = {"terminated": ended} if ended else self.last
        wait_s, self._backoff_s = self._backoff_s, min(max(BACKOFF_S, self._backoff_s * 2), BACKOFF_MOST_S)
        if not wait_s:
            return  # the first restart is at once
        meta = self._pod.pod["metadata"]
        where = f"{meta['name']}_{meta['namespace']}({meta['uid']})"
        self._pod.event("BackOff", f"Back-off restarting failed container {self.name} in pod {where}", "Warning")
        self._wait("CrashLoopBackOff", f"back-off {wait_s:g}s restarting failed container={self.name} pod={where}")
        await asyncio.sleep(wait_s)

    def _wait(self, reason: str, message: str) -> None:
        self.state = {"waiting": {"reason": reason, "message": message}}
        self._pod.changed()


def _terminated(code: int, begun: str, identity: str, reason: str = "", message: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"exitCode": code, "reason": reason or ("Completed" if code == 0 else "Error"), "startedAt": begun,
                            "finishedAt": now(), "containerID": identity}  # fmt: skip
    return {**made, "message": message} if message else made


async def _sleep(hook: dict[str, Any]) -> probes.Result:
    await asyncio.sleep(float(hook["sleep"].get("seconds") or 0))
    return probes.Result(True)
