"""Business rules over one run: what customers were promised (acknowledged checkouts) against what the shop has (its ledger).

Pure: takes acknowledgements and ledger lines, gives the content of `invariants.json`. Every acknowledged order exists once, is paid once,
and ships once or is pending with a reason; stock is never below zero. A violation that time may still mend (paid, not yet shipped)
counts only once the ledger has settled; one that it cannot (two charges) counts at once. What could not be seen is INCONCLUSIVE.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMES = ("no_lost_order", "no_doubled_order", "stock_never_negative", "paid_iff_shipped")
LISTED_MAX = 1000  # violations listed per rule; the summary has their full number

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """A checkout as a customer saw it; `status` None where no answer came."""

    order_id: str | None
    idempotency_key: str | None
    status: int | None

    @property
    def acknowledged(self) -> bool:
        """True if the customer was told that the order stands."""
        return self.order_id is not None and self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True)
class Violation:
    """One broken promise; `final` is False where the shop may still mend it."""

    order_id: str | None
    idempotency_key: str | None
    what: str
    final: bool = True


class Ledger:
    """Ledger lines by kind; a record that two pages both have counts once, in its later form."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.orders: dict[str, Line] = {}
        self.stock: dict[str, Line] = {}
        self.complete = False
        payments: dict[str, Line] = {}
        shipments: dict[str, Line] = {}
        by_kind = {"order": self.orders, "payment": payments, "shipment": shipments}
        for line in lines:
            kind = line["kind"]
            self.complete = kind == "end" and line["next"] is None
            if kind == "stock":
                self.stock[line["sku"]] = line
            elif kind in by_kind:
                by_kind[kind][line["id"]] = line
        self.payments: dict[str, list[Line]] = defaultdict(list)
        self.shipments: dict[str, list[Line]] = defaultdict(list)
        for payment in payments.values():
            self.payments[payment["order_id"]].append(payment)
        for shipment in shipments.values():
            self.shipments[shipment["order_id"]].append(shipment)

    def charged(self, order_id: str) -> list[Line]:
        """The order's payments that took money and did not give it back."""
        return [p for p in self.payments.get(order_id, ()) if p["state"] == "charged"]

    def open_orders(self) -> list[str]:
        """Orders that the shop still has to finish: pending, or paid and not shipped."""
        return [id_ for id_, order in self.orders.items() if order["state"] in ("pending", "paid")]


def open_orders(lines: Iterable[Line]) -> list[str]:
    """Ids of orders that the shop still has to finish; none means that the ledger has settled."""
    return Ledger(lines).open_orders()


def check(
    answers: Iterable[Answer], lines: Iterable[Line] | None, settled: bool, checked_at_us: int, *, whole: bool = True
) -> dict[str, Any]:
    """Check all rules; the content of `invariants.json`.

    `lines` is every page of the ledger in order, None if it could not be read. `settled` says that no order was open any more, or
    that the time in which the shop has to finish them is over. `whole` is False for a ledger that begins at `since_us`: stock taken by
    earlier orders is then not held against it.
    """
    acknowledged = list(dict.fromkeys(a for a in answers if a.acknowledged))
    ledger = Ledger(lines or ())
    why: str | None
    if lines is None or not ledger.complete:
        why = (
            "the ledger could not be read" if lines is None else "the ledger is incomplete: its last line is not an end"
        )
        results = [_result(name, 0, (), settled, why) for name in NAMES]
    else:
        found: dict[str, Sequence[Violation]] = {
            "no_lost_order": _lost(acknowledged, ledger),
            "no_doubled_order": _doubled(acknowledged, ledger),
            "stock_never_negative": _stock(ledger, whole),
            "paid_iff_shipped": _unbalanced(ledger),
        }
        checked = {
            "no_lost_order": len(acknowledged), "no_doubled_order": len(ledger.orders),
            "stock_never_negative": len(ledger.stock), "paid_iff_shipped": len(ledger.orders),
        }  # fmt: skip
        why = None if acknowledged else "no order was acknowledged, so nothing was tested"
        results = [_result(name, checked[name] if acknowledged else 0, found[name], settled, why) for name in NAMES]
    return {"checked_at_us": checked_at_us, "settled": settled, "results": results}


def _result(
    name: str, checked: int, violations: Sequence[Violation], settled: bool, unseen: str | None
) -> dict[str, Any]:
    counted = [v for v in violations if v.final or settled]
    if counted:
        outcome, summary = "FAIL", f"{len(counted)} violation(s), {checked} checked; the first: {counted[0].what}"
    elif unseen is not None:
        outcome, summary = "INCONCLUSIVE", unseen
    elif not settled:
        outcome, summary = "INCONCLUSIVE", "the shop had not settled, so its orders may still change"
    elif not checked:
        outcome, summary = "INCONCLUSIVE", "the ledger has nothing to check"
    else:
        outcome, summary = "PASS", f"holds for all {checked} checked"
    return {
        "name": name, "outcome": outcome, "checked": max(checked, len(counted)) if counted else checked,
        "violations": [{"order_id": v.order_id, "idempotency_key": v.idempotency_key, "what": v.what} for v in counted[:LISTED_MAX]],
        "summary": summary,
    }  # fmt: skip


def _lost(acknowledged: Sequence[Answer], ledger: Ledger) -> list[Violation]:
    """Every acknowledged order exists under its key, and stands."""
    found = []
    for answer in acknowledged:
        assert answer.order_id is not None
        order = ledger.orders.get(answer.order_id)
        what = None
        if order is None:
            what = "acknowledged, but not in the ledger"
        elif answer.idempotency_key is not None and order["idempotency_key"] != answer.idempotency_key:
            what = f"acknowledged, but the ledger has it under the key {order['idempotency_key']}"
        elif order["state"] == "cancelled":
            what = f"acknowledged, then cancelled: {order['reason']}"
        elif order["state"] == "pending" and not order["reason"]:
            what = "acknowledged, but pending without a reason"
        if what:
            found.append(Violation(answer.order_id, answer.idempotency_key, what))
    return found


def _doubled(acknowledged: Sequence[Answer], ledger: Ledger) -> list[Violation]:
    """One key is one order, one order is one charge and one parcel."""
    found = []
    by_key: dict[str, set[str]] = defaultdict(set)
    for id_, order in ledger.orders.items():
        by_key[order["idempotency_key"]].add(id_)
    for answer in acknowledged:
        if answer.idempotency_key is not None and answer.order_id is not None:
            by_key[answer.idempotency_key].add(answer.order_id)
    for key, ids in by_key.items():
        if len(ids) > 1:
            found += [Violation(id_, key, f"one of {len(ids)} orders for one key") for id_ in sorted(ids)]
    keys: dict[str, set[str]] = defaultdict(set)
    for answer in acknowledged:
        if answer.idempotency_key is not None and answer.order_id is not None:
            keys[answer.order_id].add(answer.idempotency_key)
    found += [Violation(id_, min(k), f"one order for {len(k)} keys") for id_, k in keys.items() if len(k) > 1]
    for id_ in ledger.payments:
        if (charges := len(ledger.charged(id_))) > 1:
            found.append(Violation(id_, _key(ledger, id_), f"charged {charges} times"))
    for id_, parcels in ledger.shipments.items():
        if len(parcels) > 1:
            found.append(Violation(id_, _key(ledger, id_), f"shipped {len(parcels)} times"))
    return found


def _stock(ledger: Ledger, whole: bool) -> list[Violation]:
    """Nothing is sold that is not there, and what is gone was sold: initial - available = sum over orders that stand."""
    sold: dict[str, int] = defaultdict(int)
    for order in ledger.orders.values():
        if order["state"] != "cancelled":
            for item in order["items"]:
                sold[item["sku"]] += item["quantity"]
    found = []
    for sku, line in ledger.stock.items():
        taken = line["initial"] - line["available"]
        if line["available"] < 0:
            found.append(Violation(None, None, f"{sku}: {line['available']} left, less than nothing"))
        if taken < sold[sku] or (whole and taken != sold[sku]):
            # A pending order may be under way between two pages of the ledger, which are read at different times.
            found.append(
                Violation(None, None, f"{sku}: {taken} taken from stock, {sold[sku]} in orders that stand", final=False)
            )
    found += [Violation(None, None, f"{sku}: sold, but has no stock") for sku in sold if sku not in ledger.stock]
    return found


def _unbalanced(ledger: Ledger) -> list[Violation]:
    """Money was taken for exactly the orders that stand, of exactly their total, and exactly those ship."""
    found = []
    for id_, order in ledger.orders.items():
        state, charges, parcels = order["state"], ledger.charged(id_), ledger.shipments.get(id_, [])
        for what, final in _faults(order, charges, parcels):
            found.append(Violation(id_, order["idempotency_key"], what, final))
        if state in ("paid", "shipped") and charges and any(p["amount_cents"] != order["total_cents"] for p in charges):
            amounts = ", ".join(str(p["amount_cents"]) for p in charges)
            found.append(
                Violation(
                    id_, order["idempotency_key"], f"charged {amounts} for a total of {order['total_cents']} cents"
                )
            )
    # An order that is made after its charge may be on a page that was read before it.
    found += [
        Violation(id_, payments[0]["idempotency_key"], "paid, but there is no such order", final=False)
        for id_, payments in ledger.payments.items() if id_ not in ledger.orders and ledger.charged(id_)
    ]  # fmt: skip
    found += [
        Violation(id_, None, "shipped, but there is no such order", final=False)
        for id_ in ledger.shipments if id_ not in ledger.orders
    ]  # fmt: skip
    return found


def _faults(order: Line, charges: Sequence[Line], parcels: Sequence[Line]) -> list[tuple[str, bool]]:
    """What is wrong with one order, and whether it will stay so."""
    match order["state"]:
        case "shipped" if not charges:
            return [("shipped, but not paid", False)]
        case "shipped" if not parcels:
            return [("said to be shipped, but there is no shipment", False)]
        case "paid" if not charges:
            return [("said to be paid, but there is no charge", False)]
        case "paid" if not parcels:
            return [("paid, but never shipped", False)]
        case "cancelled":
            wrong = [("cancelled, but the money was kept", False)] if charges else []
            return wrong + ([("cancelled, but shipped", True)] if parcels else [])
        case "pending" if parcels:
            return [("shipped while pending", False)]
        case "pending" if not order["reason"]:
            return [("pending without a reason", False)]
    return []


def _key(ledger: Ledger, order_id: str) -> str | None:
    order = ledger.orders.get(order_id)
    return str(order["idempotency_key"]) if order else None
