"""storefront: the public API; it holds nothing and passes on."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from shop.errors import PeerError, Problem
from shop.model import Checkout, Key, NewCart, NewQuantity, Sku
from shop.service import Service, span_of

ANSWER_S = 1.9  # customers give up after two seconds


def routes(service: Service) -> APIRouter:
    """The routes of this role."""
    router = APIRouter()

    async def passed(request: Request, peer: str, path: str, body: Any = None, key: str | None = None) -> Response:
        try:
            answer = await service.peers.call(
                peer, request.method, path, body=body, headers={"Idempotency-Key": key} if key else None,
                parent=span_of(request), timeout_s=ANSWER_S, deadline_s=ANSWER_S, retry_status=peer != "orders", parse=False,
            )  # fmt: skip
        except PeerError as error:
            raise Problem(503, f"{peer} away", str(error), retry_after_s=1) from None
        problem = answer.status >= 400
        headers = {"Retry-After": "1"} if answer.status == 503 else None
        kind = "application/problem+json" if problem else "application/json"
        return Response(answer.content, answer.status, headers, media_type=kind)

    @router.get("/products")
    async def products(request: Request) -> Response:
        return await passed(request, "catalog", "/products")

    @router.get("/products/{sku}")
    async def product(request: Request, sku: Sku) -> Response:
        return await passed(request, "catalog", f"/products/{quote(sku)}")

    @router.post("/carts")
    async def new_cart(request: Request, new: NewCart) -> Response:
        return await passed(request, "cart", "/carts", new.model_dump())

    @router.get("/carts/{cart_id}")
    async def cart(request: Request, cart_id: UUID) -> Response:
        return await passed(request, "cart", f"/carts/{cart_id}")

    @router.put("/carts/{cart_id}/items/{sku}")
    async def change(request: Request, cart_id: UUID, sku: Sku, new: NewQuantity) -> Response:
        return await passed(request, "cart", f"/carts/{cart_id}/items/{quote(sku)}", new.model_dump())

    @router.post("/checkout")
    async def checkout(request: Request, asked: Checkout, idempotency_key: Annotated[Key, Header()]) -> Response:
        return await passed(request, "orders", "/checkout", asked.model_dump(mode="json"), idempotency_key)

    @router.get("/orders/{order_id}")
    async def order(request: Request, order_id: UUID) -> Response:
        return await passed(request, "orders", f"/orders/{order_id}")

    return router
