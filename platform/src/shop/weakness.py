"""Named weaknesses, all off by default; a weak twin switches exactly one on to prove that an experiment can fail."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shop.errors import MissingSetting


@dataclass(frozen=True)
class Weakness:
    """One way in which a real shop is often wrong; `in_code` is False where the manifest alone makes it."""

    name: str
    breaks: str
    in_code: bool = True


TABLE = {
    w.name: w
    for w in (
        Weakness("no-retries", "a call that meets a dying pod is given up at once, so customers see its death"),
        Weakness("no-timeout", "a call waits for ever, so a slow payment service stalls every checkout"),
        Weakness("impatient", "a call is given up after 0.2 s, so a slow peer is as bad as a dead one"),
        Weakness("no-idempotency-key", "each try of a charge is a new charge, so a lost answer is paid twice"),
        Weakness("charge-before-commit", "the charge precedes the order, so a crash between them takes money for nothing"),
        Weakness("readiness-lies", "pods say ready without their database, so traffic goes where it cannot be served"),
        Weakness("stock-two-steps", "stock is checked, then decremented, so two customers buy the last piece"),
        Weakness("lost-outbox", "shipping is asked for without an outbox, so a crash after payment loses the parcel"),
        Weakness("no-graceful-shutdown", "a pod that is told to end drops the requests that it has accepted"),
        Weakness("payments-single-replica", "one payments pod, replaced by one that is let in late: its death is an outage", in_code=False),
        Weakness("payments-on-one-node", "all of payments on one node without a budget, so its drain is an outage", in_code=False),
        Weakness("no-database-budget", "a database tied to its node without a budget, so a drain takes it away", in_code=False),
        Weakness("all-at-once", "all old pods of orders go before a new one is let in, so each release is an outage", in_code=False),
        Weakness("database-without-volume", "the database's data goes with its pod, so a restart forgets every order", in_code=False),
        Weakness("autoscaler-capped", "storefront may not have more than two pods, so a crowd finds no more of them", in_code=False),
        Weakness("no-pdb", "no disruption budgets, so a drain may take every replica at once", in_code=False),
    )
}  # fmt: skip


def parse(names: str) -> frozenset[str]:
    """Comma-separated names to a set. Raises MissingSetting for a name that is not in the table."""
    chosen = frozenset(filter(None, (n.strip() for n in names.split(","))))
    unknown = sorted(chosen - in_code(TABLE.values()))
    if unknown:
        raise MissingSetting(f"SHOP_WEAKNESSES: {', '.join(unknown)} is not one of {', '.join(sorted(TABLE))}")
    return chosen


def in_code(table: Iterable[Weakness]) -> frozenset[str]:
    """The names that the code understands."""
    return frozenset(w.name for w in table if w.in_code)
