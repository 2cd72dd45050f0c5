"""The ledger: whole or an error, and never empty for want of an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock.errors import ClusterError
from aftershock.folder import RunFolder
from aftershock.observe import ledger as ledgers
from aftershock.observe.ledger import Ledger, open_orders

from .api import Api, connected, running, secret

PATH = "/api/v1/namespaces/shop/services/orders:http/proxy/ledger"


def order(name: str, state: str) -> dict[str, Any]:
    return {"kind": "order", "id": name, "idempotency_key": f"key-{name}", "state": state, "reason": None, "customer": "c",
            "total_cents": 1, "items": [], "created_us": 5, "updated_us": 6, "trace_id": None}  # fmt: skip


def page(*lines: dict[str, Any], following: str | None = None) -> bytes:
    end = {"kind": "end", "next": following, "as_of_us": 9}
    return b"".join(json.dumps(line).encode() + b"\n" for line in (*lines, end))


@pytest.fixture
def api() -> Iterator[Api]:
    with running() as server:
        server.put("/api/v1/namespaces/shop/secrets", secret("operator", token="open sesame"))
        yield server


@pytest.fixture
def ledger(api: Api, tmp_path: Path) -> Iterator[Ledger]:
    with connected(api, tmp_path) as cluster:
        yield Ledger(cluster)


def test_pages_are_read_with_the_operators_token(api: Api, ledger: Ledger) -> None:
    pages = {None: page(order("a", "shipped"), following="c1"), "c1": page(order("b", "cancelled"))}
    api.routes["GET", PATH] = lambda seen: (200, pages[seen["query"].get("cursor")])
    lines = ledger.read(since_us=4)
    assert [line["kind"] for line in lines] == ["order", "end", "order", "end"]
    assert api.requests[-1]["headers"]["x-operator-token"] == "open sesame"
    assert api.requests[-1]["query"]["since_us"] == "4"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((503, b"no endpoints"), "answered 503"),
        ((401, b"{}"), "answered 401"),
        ((200, b""), "ends too early"),
        ((200, page(order("a", "paid")).rsplit(b"\n", 2)[0] + b"\n"), "ends too early"),
        ((200, page(order("a", "paid"))[:-9]), "no JSON"),
        ((200, page({"kind": "riddle"})), "no known kind"),
        ((200, page({"kind": "order"})), "no known kind"),
        ((200, page(following="same")), "repeats a page"),
    ],
)
def test_anything_less_than_whole_is_an_error(api: Api, ledger: Ledger, answer: Any, says: str) -> None:
    api.routes["GET", PATH] = lambda _: answer
    with pytest.raises(ClusterError, match=says):
        ledger.read(0)


def test_settles_when_no_order_is_open(
    api: Api, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "POLL_S", 0.01)
    answers = iter([page(order("a", "paid")), page(order("a", "pending"))])
    api.routes["GET", PATH] = lambda _: (200, next(answers, page(order("a", "shipped"))))
    result = ledger.collect(RunFolder(tmp_path), 0, 5.0)
    assert (result.settled, result.error) == (True, None)
    assert [line["kind"] for line in RunFolder(tmp_path).lines("ledger.ndjson")] == ["order", "end"]


def test_open_at_the_deadline_is_not_settled(api: Api, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "POLL_S", 0.01)
    api.routes["GET", PATH] = lambda _: (200, page(order("a", "pending")))
    lines, settled, error = ledger.settle(0, 0.1)
    assert lines is not None
    assert (open_orders(lines), settled, error) == (["a"], False, None)


def test_no_answer_is_no_ledger(api: Api, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "POLL_S", 0.01)
    api.routes["GET", PATH] = lambda _: (503, b"no endpoints")
    lines, settled, error = ledger.collect(RunFolder(tmp_path), 0, 0.1)
    assert (lines, settled) == (None, False)
    assert "503" in str(error)
    assert not RunFolder(tmp_path).has("ledger.ndjson")


def test_an_empty_ledger_is_an_answer(api: Api, ledger: Ledger) -> None:
    api.routes["GET", PATH] = lambda _: (200, page())
    lines, settled, error = ledger.settle(0, 1.0)
    assert lines is not None
    assert (len(lines), settled, error) == (1, True, None)


def test_a_later_silence_leaves_the_last_reading_and_its_error(
    api: Api, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "POLL_S", 0.01)
    answers = iter([(200, page(order("a", "paid")))])
    api.routes["GET", PATH] = lambda _: next(answers, (503, b"gone"))
    lines, settled, error = ledger.settle(0, 0.1)
    assert lines is not None
    assert (settled, "503" in str(error)) == (False, True)


@pytest.mark.parametrize(("status", "asked_again"), [(401, False), (403, False), (503, True)])
def test_credentials_that_are_refused_are_not_waited_for(
    api: Api, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, status: int, asked_again: bool
) -> None:
    """A service that is away for a while may come back; a right that was taken will not while the run lasts."""
    monkeypatch.setattr(ledgers, "POLL_S", 0.01)
    monkeypatch.setattr(ledgers, "SILENT_S", 0.02)
    answers = iter([(status, b"no")] * 20)
    api.routes["GET", PATH] = lambda _: next(answers, (200, page(order("a", "shipped"))))
    lines, settled, error = ledger.settle(0, 20.0)
    assert settled is asked_again
    assert (lines is not None) is asked_again
    assert (str(status) in str(error)) is not asked_again


def test_without_the_secret_the_reason_is_told(api: Api, ledger: Ledger) -> None:
    api.put("/api/v1/namespaces/shop/secrets", secret("operator", other="x"))
    assert "no readable key token" in str(ledger.settle(0, 0.05).error)


def test_a_ledger_that_breaks_its_contract_is_no_ledger(api: Api, ledger: Ledger, tmp_path: Path) -> None:
    broken = {**order("a", "shipped"), "total_cents": "much"}
    api.routes["GET", PATH] = lambda _: (200, page(broken))
    lines, settled, error = ledger.collect(RunFolder(tmp_path), 0, 1.0)
    assert (lines, settled) == (None, False)
    assert "breaks its contract" in str(error)
