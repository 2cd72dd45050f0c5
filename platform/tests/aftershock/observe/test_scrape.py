"""Scrapes: pods that do not answer are told from zeros, and a silent API server from silent pods."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock.errors import ObserverError
from aftershock.folder import RunFolder
from aftershock.observe import scrape
from aftershock.observe.scrape import Scraper

from .api import PODS, Api, connected, pod, running

TEXT = b'# HELP orders_total x\norders_total{state="paid"} 3\nother_total 9\n'


@pytest.fixture
def api() -> Iterator[Api]:
    with running() as server:
        yield server


@pytest.fixture
def scraper(api: Api, tmp_path: Path) -> Iterator[Scraper]:
    with connected(api, tmp_path) as cluster:
        made = Scraper(cluster, RunFolder(tmp_path), ["shop"], period_s=0.02)
        yield made
        made.stop()


def proxied(api: Api, name: str, answer: Callable[[dict[str, Any]], Any]) -> None:
    api.put(PODS, pod(name))
    api.routes["GET", f"{PODS}/{name}:7070/proxy/metrics"] = answer


def until(what: Callable[[], bool], deadline_s: float = 5.0) -> None:
    ends = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < ends, "not seen in time"
        time.sleep(0.01)


def rows(folder: Path) -> list[dict[str, Any]]:
    return list(RunFolder(folder).table("metrics.parquet").to_pylist())


def test_answers_become_rows_and_silence_becomes_up_zero(
    api: Api, scraper: Scraper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape, "TIMEOUT_S", 0.1)

    def slow(_: dict[str, Any]) -> Any:
        time.sleep(0.3)
        return 200, TEXT

    proxied(api, "good", lambda _: (200, TEXT))
    proxied(api, "dead", lambda _: (502, b"no route"))
    proxied(api, "slow", slow)
    proxied(api, "odd", lambda _: (200, b"orders_total{ 1\n"))
    api.put(PODS, pod("waiting", phase="Pending"))
    api.put(PODS, {**pod("postgres-0"), "spec": {"containers": [{"name": "p", "ports": []}]}})
    scraper.start()
    until(lambda: scraper._rows >= 10)
    report = scraper.stop()
    found = rows(tmp_path)
    assert report.records == len(found)
    up = {(r["pod"], r["value"], json.loads(r["labels"]).get("reason", "")[:10]) for r in found if r["name"] == "up"}
    assert up == {("good", 1.0, ""), ("dead", 0.0, "status 502"), ("slow", 0.0, "timeout"), ("odd", 0.0, "unreadable")}
    orders = [r for r in found if r["name"] == "orders_total"]
    assert {(r["pod"], r["service"], r["node"], r["labels"], r["value"]) for r in orders} == {
        ("good", "payments", "body", '{"state": "paid"}', 3.0)
    }
    assert not any(r["name"] == "other_total" for r in found)


def test_an_api_server_that_is_away_says_nothing_about_pods(
    api: Api, scraper: Scraper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape, "LATE_S", 0.3)
    proxied(api, "good", lambda _: (200, TEXT))
    scraper.start()
    until(lambda: scraper._rows >= 2)
    api.down()
    until(lambda: scraper._error is not None)
    time.sleep(0.4)  # longer than LATE_S
    api.up()
    before = scraper._rows
    until(lambda: scraper._rows > before)
    report = scraper.stop()
    assert len(report.gaps) == 1
    assert "no connection" in report.gaps[0].reason
    assert all(r["value"] == 1.0 for r in rows(tmp_path) if r["name"] == "up")


def test_silence_until_the_end_is_a_gap(api: Api, scraper: Scraper, monkeypatch: pytest.MonkeyPatch) -> None:
    scraper.start()
    api.down()
    until(lambda: scraper._error is not None)
    monkeypatch.setattr(scrape, "LATE_S", 0.0)
    assert scraper.stop().gaps
    api.up()


def test_what_may_not_be_listed_stops_the_start(api: Api, scraper: Scraper) -> None:
    api.routes["GET", PODS] = lambda _: (403, {"code": 403, "message": "pods is forbidden"})
    with pytest.raises(ObserverError, match="pods is forbidden"):
        scraper.start()
