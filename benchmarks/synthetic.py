"""Runs that look like real ones, made from one run by a seed: other times, pods, orders, verdicts and sizes. Run n is always the same."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from conclude import run_ids

from aftershock.graph.rows import Rows

EXPERIMENTS = (
    "payments-pod-kill", "orders-pod-kill", "body2-drain", "body2-drain-blocked", "node-loss", "postgres-kill", "rolling-update",
    "bad-image", "scale-out", "payments-latency", "payments-loss", "control",
)  # fmt: skip
VERDICTS = ("PASS",) * 6 + ("FAIL",) * 3 + ("INCONCLUSIVE",)
ORDERS = (2, 8, 20, 60)  # in the graph: those that failed, were slow or were touched
BUSINESS = ("Order", "Payment", "Shipment")
NAMED = ("Pod", *BUSINESS)


class Synthetic:
    """The pattern of all runs, cut once."""

    def __init__(self, rows: Rows, seed: int, count: int) -> None:
        self.ids = run_ids(count)
        self._seed = seed
        self._cut = len(rows.run_id) + 1
        started = int(next(iter(rows.nodes["Run"].values()))["started_us"])
        self._started_us = started
        self._names = {label: [self._local(key) for key in rows.nodes.get(label, {})] for label in NAMED}
        self._order_of = {f"Order/{name}": f"Order/{name}" for name in self._names["Order"]}
        for type_, label in (("PAID_BY", "Payment"), ("SHIPPED_BY", "Shipment")):
            for start, end in rows.edges.get((type_, "Order", label), {}):
                self._order_of[end[self._cut :]] = start[self._cut :]
        tokens = {name for names in self._names.values() for name in names}
        # (table, key or ends, row, names of the properties in which a pod or an order is named)
        self._shared: list[tuple[Any, Any, dict[str, Any], tuple[str, ...]]] = []
        self._by_order: dict[str, list[tuple[Any, Any, dict[str, Any], tuple[str, ...]]]] = {}
        for table, held in (*rows.nodes.items(), *rows.edges.items()):
            for key, row in held.items():
                ends = [end[self._cut :] for end in ((key,) if isinstance(key, str) else key)]
                naming = tuple(
                    name for name, value in row.items()
                    if name not in ("id", "run_id") and isinstance(value, str) and any(token in value for token in tokens)
                )  # fmt: skip
                order = next((self._order_of[end] for end in ends if end in self._order_of), None)
                part = self._shared if order is None else self._by_order.setdefault(order, [])
                part.append((table, tuple(ends), row, naming))

    def _local(self, key: str) -> str:
        return key[self._cut :].split("/", 1)[1]

    def run(self, number: int) -> Rows:
        """Run `number`."""
        chance = Random(f"{self._seed}/{number}")
        rows = Rows(self.ids[number])
        later_us = number * 60_000_000 + chance.randrange(1_000_000)
        pods = {name: f"{name[:-5]}{chance.getrandbits(20):05x}" for name in self._names["Pod"]}
        self._add(rows, self._shared, pods, later_us)
        orders = list(self._by_order)
        for _ in range(chance.choice(ORDERS) if orders else 0):
            order = chance.choice(orders)
            fresh = {
                key.split("/", 1)[1]: f"{chance.getrandbits(64):016x}"
                for key, of in self._order_of.items()
                if of == order
            }
            self._add(rows, self._by_order[order], {**pods, **fresh}, later_us)
        run = next(iter(rows.nodes["Run"].values()))
        run["verdict"] = chance.choice(VERDICTS)
        run["experiment"] = chance.choice(EXPERIMENTS)
        return rows

    def some(self, start: int, end: int) -> Iterator[Rows]:
        """Runs `start` to `end`, made one by one."""
        return (self.run(number) for number in range(start, end))

    def _add(
        self,
        rows: Rows,
        part: list[tuple[Any, Any, dict[str, Any], tuple[str, ...]]],
        names: dict[str, str],
        later_us: int,
    ) -> None:
        run_id = rows.run_id

        def named(text: str) -> str:
            for old, new in names.items():
                if old in text:
                    text = text.replace(old, new)
            return text

        for table, ends, row, naming in part:
            keys = tuple(f"{run_id}/{named(end)}" if end.startswith(NAMED) else f"{run_id}/{end}" for end in ends)
            made = {name: value + later_us if name.endswith("_us") else value for name, value in row.items()}
            made["run_id"] = run_id
            for name in naming:
                made[name] = named(made[name])
            if isinstance(table, str):
                made["id"] = keys[0]
                rows.nodes.setdefault(table, {})[keys[0]] = made
            else:
                rows.edges.setdefault(table, {})[keys] = made  # type: ignore[index]
