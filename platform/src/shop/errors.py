"""Errors of the shop.

ShopError
├── MissingSetting      a setting without a default was not given
├── Problem             an answer that is not 2xx, as application/problem+json (RFC 9457)
└── PeerError           another service did not do what it was asked
    ├── PeerRefused     definite: the peer did not get the request
    └── PeerUnknown     indefinite: the peer may have done it
"""

from __future__ import annotations


class ShopError(Exception):
    """Base of all errors of this package."""


class MissingSetting(ShopError):
    """A setting without a default is missing; the message names it."""


class Problem(ShopError):
    """A refusal or failure that the caller is told about."""

    def __init__(self, status: int, title: str, detail: str = "", retry_after_s: int | None = None) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.retry_after_s = retry_after_s


class PeerError(ShopError):
    """Another service did not do what it was asked; `outcome` is one of error, timeout, refused."""

    def __init__(self, peer: str, outcome: str, detail: str) -> None:
        super().__init__(f"{peer}: {outcome}: {detail}")
        self.peer = peer
        self.outcome = outcome


class PeerRefused(PeerError):
    """The peer did not get the request, so nothing happened there."""


class PeerUnknown(PeerError):
    """The peer may have done what it was asked."""
