"""The loop: one queue without duplicates, retries with backoff, timers, resyncs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pocketkube.controllers.reconciler import Key, key_of
from pocketkube.storage import Event
from tests.pocketkube.controllers.world import World, live


class Recorder:
    """A controller that writes down when it was called, and does what it is told."""

    name = "recorder"

    def __init__(self, *answers: float | Exception | None) -> None:
        self.answers = list(answers)
        self.called: list[tuple[float, Key]] = []
        self.found: list[Key] = []

    def touched(self, event: Event) -> Iterable[Key]:
        if event.resource == "secrets":
            raise KeyError("unreadable")
        return [key_of(event)] if event.resource == "configmaps" else []

    def known(self) -> Iterable[Key]:
        return self.found

    def reconcile(self, key: Key) -> float | None:
        self.called.append((round(asyncio.get_running_loop().time(), 4), key))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


def configmap(w: World, name: str) -> None:
    w.create("configmaps", {"metadata": {"name": name}})


def test_many_changes_of_one_object_are_one_look() -> None:
    recorder = Recorder()

    async def test(w: World) -> None:
        configmap(w, "a")
        for n in range(10):
            w.patch("configmaps", "a", lambda o, n=n: o.update(data={"n": str(n)}))  # type: ignore[misc]
        configmap(w, "b")
        await asyncio.sleep(1)
        assert recorder.called == [(0, ("shop", "a")), (0, ("shop", "b"))]
        assert w.controllers.idle

    live(test, reconcilers=[recorder])


def test_a_failing_key_is_tried_again_ever_later_and_others_go_on() -> None:
    recorder = Recorder(*(ValueError(str(n)) for n in range(4)))

    async def test(w: World) -> None:
        configmap(w, "bad")
        await asyncio.sleep(0.5)
        configmap(w, "good")
        await asyncio.sleep(0.5)
        assert [at for at, key in recorder.called if key[1] == "bad"] == [0, 0.01, 0.03, 0.07, 0.15]
        assert ("shop", "good") in [key for _, key in recorder.called]

    live(test, errors=True, reconcilers=[recorder])


def test_backoff_has_an_upper_bound() -> None:
    recorder = Recorder(*(ValueError(str(n)) for n in range(40)))

    async def test(w: World) -> None:
        configmap(w, "bad")
        await asyncio.sleep(60)
        assert recorder.called[-1][0] - recorder.called[-2][0] == 2

    live(test, errors=True, reconcilers=[recorder], backoff_max_s=2)


def test_an_object_that_a_controller_cannot_read_fails_neither_writer_nor_loop() -> None:
    recorder = Recorder()

    async def test(w: World) -> None:
        w.create("secrets", {"metadata": {"name": "odd"}})
        configmap(w, "a")
        await asyncio.sleep(0.1)
        assert len(recorder.called) == 1

    live(test, errors=True, reconcilers=[recorder])


def test_time_alone_brings_a_key_back_and_a_change_replaces_the_timer() -> None:
    recorder = Recorder(5.0, 3.0, None)

    async def test(w: World) -> None:
        configmap(w, "a")
        await asyncio.sleep(1)
        w.patch("configmaps", "a", lambda o: o.update(data={"x": "y"}))
        await asyncio.sleep(20)
        assert [at for at, _ in recorder.called] == [0, 1, 4]

    live(test, reconcilers=[recorder])


def test_a_resync_finds_what_no_event_told() -> None:
    recorder = Recorder()

    async def test(w: World) -> None:
        await asyncio.sleep(1)
        recorder.found.append(("shop", "silent"))
        assert await w.until(lambda: recorder.called, 31) >= 28

    live(test, reconcilers=[recorder])
