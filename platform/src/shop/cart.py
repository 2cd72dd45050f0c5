"""cart: what a customer means to buy, priced when it was put in."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

from fastapi import APIRouter, Request
from psycopg.types.json import Jsonb

from shop.errors import PeerError, Problem
from shop.model import NewCart, NewQuantity, Sku
from shop.service import Service, now_us, span_of

KEPT_US = 3600 * 1_000_000


def routes(service: Service) -> APIRouter:
    """The routes of this role."""
    router = APIRouter()

    async def priced(request: Request, quantities: dict[str, int]) -> tuple[list[dict[str, Any]], int]:
        path = f"/products?skus={quote(','.join(quantities))}"
        try:
            answer = await service.peers.call("catalog", "GET", path, parent=span_of(request))
        except PeerError as error:
            raise Problem(503, "catalog away", str(error), retry_after_s=1) from None
        if answer.status != 200:
            raise Problem(503, "catalog failed", str(answer.status), retry_after_s=1)
        prices = {p["sku"]: p["price_cents"] for p in answer.body["products"]}
        unknown = sorted(set(quantities) - set(prices))
        if unknown:
            raise Problem(404, "no such product", ", ".join(unknown))
        items = [{"sku": s, "quantity": q, "price_cents": prices[s]} for s, q in sorted(quantities.items())]
        return items, sum(i["quantity"] * i["price_cents"] for i in items)

    @router.post("/carts", status_code=201, response_model=None)
    async def create(request: Request, new: NewCart) -> dict[str, Any]:
        quantities: dict[str, int] = {}
        for item in new.items:
            quantities[item.sku] = quantities.get(item.sku, 0) + item.quantity
        items, total = await priced(request, quantities)
        cart_id = uuid4()
        async with service.db.connection("INSERT", span_of(request)) as connection:
            await connection.execute(
                "INSERT INTO cart VALUES (%s, %s, %s, %s)", (cart_id, Jsonb(items), total, now_us())
            )
        return _cart(cart_id, items, total)

    @router.get("/carts/{cart_id}", response_model=None)
    async def read(request: Request, cart_id: UUID) -> dict[str, Any]:
        async with service.db.connection("SELECT", span_of(request)) as connection:
            row = await (
                await connection.execute("SELECT items, total_cents FROM cart WHERE id = %s", (cart_id,))
            ).fetchone()
        if row is None:
            raise Problem(404, "no such cart", str(cart_id))
        return _cart(cart_id, *row)

    @router.put("/carts/{cart_id}/items/{sku}", response_model=None)
    async def change(request: Request, cart_id: UUID, sku: Sku, new: NewQuantity) -> dict[str, Any]:
        price = (await priced(request, {sku: 1}))[0][0]["price_cents"]
        async with service.db.connection("UPDATE", span_of(request)) as connection, connection.transaction():
            row = await (
                await connection.execute("SELECT items FROM cart WHERE id = %s FOR UPDATE", (cart_id,))
            ).fetchone()
            if row is None:
                raise Problem(404, "no such cart", str(cart_id))
            items = [i for i in row[0] if i["sku"] != sku]
            if new.quantity:
                items.append({"sku": sku, "quantity": new.quantity, "price_cents": price})
            if not items or len(items) > 50:
                raise Problem(409, "a cart has 1 to 50 lines", str(cart_id))
            items.sort(key=lambda i: str(i["sku"]))
            total = sum(i["quantity"] * i["price_cents"] for i in items)
            await connection.execute(
                "UPDATE cart SET items = %s, total_cents = %s WHERE id = %s", (Jsonb(items), total, cart_id)
            )
        return _cart(cart_id, items, total)

    return router


def _cart(cart_id: UUID, items: list[dict[str, Any]], total_cents: int) -> dict[str, Any]:
    return {"cart_id": str(cart_id), "items": items, "total_cents": total_cents}
