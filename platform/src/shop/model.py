"""Bodies of the shop's HTTP API; whatever does not fit is refused before anything is touched."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Sku = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]
Customer = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
Quantity = Annotated[int, Field(ge=1, le=1000, strict=True)]


class Body(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Item(Body):
    """One line of a cart."""

    sku: Sku
    quantity: Quantity


class NewCart(Body):
    """POST /carts."""

    items: Annotated[list[Item], Field(min_length=1, max_length=50)]


class NewQuantity(Body):
    """PUT /carts/{id}/items/{sku}; zero removes the line."""

    quantity: Annotated[int, Field(ge=0, le=1000, strict=True)]


class Checkout(Body):
    """POST /checkout."""

    cart_id: UUID
    customer: Customer


class Charge(Body):
    """POST /charges on payments."""

    order_id: UUID
    amount_cents: Annotated[int, Field(ge=0, le=10**12, strict=True)]
    idempotency_key: Key


class Shipment(Body):
    """POST /shipments on shipping."""

    order_id: UUID


class Payment(BaseModel):
    """Answer of payments."""

    id: str
    order_id: str
    state: Literal["charged", "refunded", "declined"]
