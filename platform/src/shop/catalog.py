"""catalog: products, their prices and what is left of them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from shop.errors import Problem
from shop.model import Sku
from shop.service import Service, span_of

COLUMNS = "SELECT p.sku, p.name, p.price_cents, s.available FROM product p JOIN stock s USING (sku)"


def routes(service: Service) -> APIRouter:
    """The routes of this role."""
    router = APIRouter()

    @router.get("/products")
    async def products(request: Request, skus: str | None = None) -> Response:
        async with service.db.connection("SELECT", span_of(request)) as connection:
            if skus is None:
                rows = await (await connection.execute(f"{COLUMNS} ORDER BY sku")).fetchall()
            else:
                wanted = [s for s in skus.split(",")[:50] if "\x00" not in s]
                rows = await (await connection.execute(f"{COLUMNS} WHERE sku = ANY(%s)", (wanted,))).fetchall()
        return JSONResponse(
            {"products": [_product(row) for row in rows]}
        )  # a dict would be walked through for its types first

    @router.get("/products/{sku}", response_model=None)
    async def product(request: Request, sku: Sku) -> dict[str, Any]:
        async with service.db.connection("SELECT", span_of(request)) as connection:
            row = await (await connection.execute(f"{COLUMNS} WHERE sku = %s", (sku,))).fetchone()
        if row is None:
            raise Problem(404, "no such product", sku)
        return _product(row)

    return router


def _product(row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(("sku", "name", "price_cents", "available"), row, strict=True))
