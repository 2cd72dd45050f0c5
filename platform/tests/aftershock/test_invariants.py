"""Business rules: a correct shop never fails, and each single corruption is found by the rule that is meant for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftershock import folder, invariants
from aftershock.invariants import Answer

SKUS = ("sku-001", "sku-002", "sku-003")
Line = dict[str, Any]


@dataclass
class History:
    """What a shop did and what its customers heard."""

    answers: list[Answer] = field(default_factory=list)
    orders: dict[str, Line] = field(default_factory=dict)
    payments: list[Line] = field(default_factory=list)
    shipments: list[Line] = field(default_factory=list)
    stock: dict[str, Line] = field(
        default_factory=lambda: {s: {"kind": "stock", "sku": s, "initial": 1000, "available": 1000} for s in SKUS}
    )
    end: list[Line] = field(default_factory=lambda: [{"kind": "end", "next": None, "as_of_us": 9}])

    def lines(self) -> list[Line]:
        """As the ledger gives them."""
        return [*self.orders.values(), *self.payments, *self.shipments, *self.stock.values(), *self.end]

    def place(self, n: int, state: str, reason: str | None, heard: bool, sku: str, quantity: int) -> None:
        """One order with all that a correct shop does for its state."""
        id_, key, total = f"o{n}", f"key-{n:05d}", 100 * quantity
        items = [{"sku": sku, "quantity": quantity}]
        self.orders[id_] = {
            "kind": "order", "id": id_, "idempotency_key": key, "state": state, "reason": reason, "customer": "c",
            "total_cents": total, "items": items, "created_us": n, "updated_us": n, "trace_id": None,
        }  # fmt: skip
        if state != "cancelled":
            self.stock[sku]["available"] -= quantity
        if state in ("paid", "shipped") or reason == "payment_unknown":
            self.pay(id_, total)
        if reason == "abandoned":
            self.pay(id_, total, "refunded")
        if state == "shipped":
            self.ship(id_)
        acknowledged = heard and state in ("paid", "shipped")
        self.answers.append(Answer(id_, key, 201) if acknowledged else Answer(None, key, 503 if n % 2 else None))

    def pay(self, order_id: str, cents: int, state: str = "charged") -> None:
        """One payment."""
        self.payments.append({"kind": "payment", "id": f"p{len(self.payments)}", "order_id": order_id, "state": state,
                              "amount_cents": cents, "idempotency_key": order_id, "created_us": 1})  # fmt: skip

    def ship(self, order_id: str) -> None:
        """One shipment."""
        line = {
            "kind": "shipment",
            "id": f"s{len(self.shipments)}",
            "order_id": order_id,
            "state": "shipped",
            "created_us": 1,
        }
        self.shipments.append(line)  # fmt: skip

    def check(self, settled: bool = True, **options: Any) -> dict[str, Line]:
        """Results by rule; what is returned always satisfies the schema."""
        made = invariants.check(self.answers, self.lines(), settled, 5, **options)
        folder.validate("invariants", made, "invariants.json")
        return {r["name"]: r for r in made["results"]}

    def outcomes(self, settled: bool = True, **options: Any) -> dict[str, str]:
        """Outcome by rule."""
        return {name: r["outcome"] for name, r in self.check(settled, **options).items()}


ENDS = st.sampled_from([("shipped", None)] * 4 + [("pending", "payment_unknown"), ("pending", "payment_unavailable"),
                       ("cancelled", "declined"), ("cancelled", "out_of_stock"), ("cancelled", "abandoned")])  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A correct shop's history after it has settled, with at least two acknowledged and shipped orders and a cancelled one."""
    made = History()
    ends = [("shipped", None), ("shipped", None), ("cancelled", "declined"), *draw(st.lists(ENDS, max_size=12))]
    for n, (state, reason) in enumerate(ends):
        made.place(n, state, reason, n < 2 or draw(st.booleans()), draw(st.sampled_from(SKUS)), draw(st.integers(1, 5)))
    for line in draw(st.lists(st.sampled_from(made.answers), max_size=3)):
        made.answers.append(line)  # the same answer twice: a customer asked again with the same key
    return made


@given(histories())
def test_a_correct_history_never_fails(history: History) -> None:
    assert set(history.outcomes().values()) == {"PASS"}


@given(histories(), st.booleans())
def test_a_correct_history_that_is_still_moving_never_fails(history: History, whole: bool) -> None:
    history.place(90, "paid", None, True, "sku-001", 1)
    assert "FAIL" not in history.outcomes(settled=False, whole=whole).values()


def lose(h: History) -> None:
    """An acknowledged order is gone, with all that belonged to it."""
    gone = h.orders.pop("o0")
    h.payments = [p for p in h.payments if p["order_id"] != "o0"]
    h.shipments = [s for s in h.shipments if s["order_id"] != "o0"]
    h.stock[gone["items"][0]["sku"]]["available"] += gone["items"][0]["quantity"]


def cancel(h: History) -> None:
    """An acknowledged order is cancelled, cleanly."""
    order = h.orders["o0"]
    order.update(state="cancelled", reason="abandoned")
    h.stock[order["items"][0]["sku"]]["available"] += order["items"][0]["quantity"]
    h.shipments = [s for s in h.shipments if s["order_id"] != "o0"]
    next(p for p in h.payments if p["order_id"] == "o0")["state"] = "refunded"


def rekey(h: History) -> None:
    """The order is there, but under another customer's key."""
    h.orders["o0"]["idempotency_key"] = "key-other"


def pend_without_reason(h: History) -> None:
    h.orders["o0"].update(state="pending", reason=None)
    h.shipments = [s for s in h.shipments if s["order_id"] != "o0"]


def double(h: History) -> None:
    """One key made two orders, each complete."""
    h.place(91, "shipped", None, False, "sku-001", 1)
    h.orders["o91"]["idempotency_key"] = h.orders["o0"]["idempotency_key"]


def answer_twice(h: History) -> None:
    """One key was answered with two orders that both exist under keys of their own."""
    h.answers.append(Answer("o1", h.orders["o0"]["idempotency_key"], 201))


def charge_twice(h: History) -> None:
    h.pay("o0", h.orders["o0"]["total_cents"])


def ship_twice(h: History) -> None:
    h.ship("o0")


def oversell(h: History) -> None:
    h.place(92, "shipped", None, False, "sku-001", 1001)


def leak_stock(h: History) -> None:
    h.stock["sku-002"]["available"] -= 1


def conjure_stock(h: History) -> None:
    h.stock["sku-002"]["available"] += 1


def charge_nobody(h: History) -> None:
    h.pay("nobody", 100)


def ship_nobody(h: History) -> None:
    h.ship("nobody")


def forget_parcel(h: History) -> None:
    h.orders["o0"]["state"] = "paid"
    h.shipments = [s for s in h.shipments if s["order_id"] != "o0"]


def lose_parcel(h: History) -> None:
    h.shipments = [s for s in h.shipments if s["order_id"] != "o0"]


def ship_unpaid(h: History) -> None:
    h.payments = [p for p in h.payments if p["order_id"] != "o0"]


def refund_shipped(h: History) -> None:
    next(p for p in h.payments if p["order_id"] == "o0")["state"] = "refunded"


def keep_money(h: History) -> None:
    h.pay("o2", h.orders["o2"]["total_cents"])


def ship_cancelled(h: History) -> None:
    h.ship("o2")


def overcharge(h: History) -> None:
    next(p for p in h.payments if p["order_id"] == "o0")["amount_cents"] += 1


CORRUPTIONS: list[tuple[Callable[[History], None], str, bool]] = [  # what, the rule that finds it, even before the shop has settled
    (lose, "no_lost_order", True), (cancel, "no_lost_order", True), (rekey, "no_lost_order", True),
    (pend_without_reason, "no_lost_order", True),
    (double, "no_doubled_order", True), (answer_twice, "no_doubled_order", True), (charge_twice, "no_doubled_order", True),
    (ship_twice, "no_doubled_order", True),
    (oversell, "stock_never_negative", True), (leak_stock, "stock_never_negative", False), (conjure_stock, "stock_never_negative", False),
    (charge_nobody, "paid_iff_shipped", False), (ship_nobody, "paid_iff_shipped", False), (forget_parcel, "paid_iff_shipped", False),
    (lose_parcel, "paid_iff_shipped", False), (ship_unpaid, "paid_iff_shipped", False), (refund_shipped, "paid_iff_shipped", False),
    (keep_money, "paid_iff_shipped", False), (ship_cancelled, "paid_iff_shipped", True), (overcharge, "paid_iff_shipped", True),
]  # fmt: skip


@pytest.mark.parametrize(("corrupt", "rule", "final"), CORRUPTIONS, ids=[c[0].__name__ for c in CORRUPTIONS])
@settings(max_examples=25)
@given(history=histories(), seed=st.integers(0, 99))
def test_each_corruption_is_found(
    corrupt: Callable[[History], None], rule: str, final: bool, history: History, seed: int
) -> None:
    corrupt(history)
    random.Random(seed).shuffle(history.payments)
    random.Random(seed).shuffle(history.shipments)
    result = history.check()[rule]
    assert result["outcome"] == "FAIL"
    assert result["violations"]
    assert all(v["what"] for v in result["violations"])
    assert history.outcomes(settled=False)[rule] == ("FAIL" if final else "INCONCLUSIVE")


def test_a_violation_names_order_and_key() -> None:
    history = History()
    history.place(0, "shipped", None, True, "sku-001", 1)
    charge_twice(history)
    assert history.check()["no_doubled_order"]["violations"] == [
        {"order_id": "o0", "idempotency_key": "key-00000", "what": "charged 2 times"}
    ]


@given(histories())
def test_a_ledger_that_was_not_read_to_its_end_proves_nothing(history: History) -> None:
    charge_twice(history)
    lose(history)
    for end in ([], [{"kind": "end", "next": "order:1:o1", "as_of_us": 9}]):
        history.end = end
        assert set(history.outcomes().values()) == {"INCONCLUSIVE"}
    made = invariants.check(history.answers, None, True, 5)
    assert {(r["outcome"], r["checked"]) for r in made["results"]} == {("INCONCLUSIVE", 0)}


def test_pages_are_joined_and_a_record_on_two_of_them_counts_once() -> None:
    history = History()
    history.place(0, "shipped", None, True, "sku-001", 1)
    lines = history.lines()
    earlier = {**lines[0], "state": "pending", "reason": "created"}
    paged = [earlier, {"kind": "end", "next": "order:0:o0", "as_of_us": 1}, *lines]
    assert {r["outcome"] for r in invariants.check(history.answers, paged, True, 5)["results"]} == {"PASS"}


@given(histories())
def test_without_an_acknowledged_order_nothing_was_tested(history: History) -> None:
    history.answers = [Answer(None, a.idempotency_key, 503) for a in history.answers]
    results = history.check().values()
    assert {(r["outcome"], r["checked"]) for r in results} == {("INCONCLUSIVE", 0)}
    history.answers = []
    assert set(history.outcomes().values()) == {"INCONCLUSIVE"}


def test_an_empty_shop_is_inconclusive_not_a_pass() -> None:
    history = History(answers=[])
    assert set(history.outcomes().values()) == {"INCONCLUSIVE"}
    history.answers = [Answer("o1", "key-00001", 201)]
    history.stock.clear()
    assert history.outcomes()["stock_never_negative"] == "INCONCLUSIVE"


def test_a_ledger_since_a_time_does_not_hold_earlier_sales_against_the_stock() -> None:
    history = History()
    history.place(0, "shipped", None, True, "sku-001", 1)
    history.stock["sku-001"]["available"] -= 50
    assert history.outcomes(whole=False)["stock_never_negative"] == "PASS"
    assert history.outcomes(whole=True)["stock_never_negative"] == "FAIL"
    history.stock["sku-001"]["available"] = 1000
    assert history.outcomes(whole=False)["stock_never_negative"] == "FAIL"


def test_answers_that_are_no_acknowledgement() -> None:
    for answer in (Answer("o", "k", 503), Answer("o", "k", None), Answer(None, "k", 201)):
        assert not answer.acknowledged


def test_open_orders_say_whether_the_shop_has_settled() -> None:
    history = History()
    history.place(0, "shipped", None, True, "sku-001", 1)
    assert invariants.open_orders(history.lines()) == []
    history.place(1, "paid", None, True, "sku-001", 1)
    history.place(2, "pending", "created", True, "sku-001", 1)
    history.place(3, "cancelled", "declined", True, "sku-001", 1)
    assert invariants.open_orders(history.lines()) == ["o1", "o2"]
