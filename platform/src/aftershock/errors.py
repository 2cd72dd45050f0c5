"""Errors of aftershock, as a tree:

AftershockError             has a message for people and a `hint` that says what to do next
├── BadInput                an argument or a file is wrong; nothing was started (exit 254)
│   └── BadExperiment       an experiment file is wrong, with file and line
├── Refused                 aftershock will not fire: leash, budget, leftovers, no target (exit 2, with a stored verdict)
├── ClusterError            the cluster did not do or answer what was asked
│   ├── ClusterUnreachable  no API server there
│   ├── NotFound            the object does not exist
│   └── Forbidden           the credentials do not allow it
├── LoadError               a load generator could not be started or read
├── ObserverError           an observer could not be started
├── DeadlineExceeded        a wait ended; the message says what was awaited and what was seen last
├── FolderError             a run folder lacks a file, or a file breaks its schema
├── GraphError              the graph could not be opened, locked, written or read
│   └── GraphUnreachable    the graph's server does not answer
└── ModelError              a language model could not be loaded or did not answer in time
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class AftershockError(Exception):
    """An error with a hint for the person who reads it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class BadInput(AftershockError):
    """An argument or a file is wrong; nothing was started."""


class BadExperiment(BadInput):
    """An experiment file is wrong; the message names file and line."""


class Refused(AftershockError):
    """aftershock will not fire."""


class ClusterError(AftershockError):
    """The cluster did not do or answer what was asked; with the HTTP status, reason and Status body where one came.

    `definite` is False where the request may have been carried out all the same.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, status: int | None = None, reason: str | None = None,
        body: Mapping[str, Any] | None = None, definite: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(message, hint=hint)
        self.status, self.reason, self.body, self.definite = status, reason, dict(body or {}), definite


class ClusterUnreachable(ClusterError):
    """No API server answers."""


class NotFound(ClusterError):
    """The object does not exist."""


class Forbidden(ClusterError):
    """The credentials do not allow the request."""


class LoadError(AftershockError):
    """A load generator could not be started or read."""


class ObserverError(AftershockError):
    """An observer could not be started."""


class DeadlineExceeded(AftershockError):
    """A wait ended without what was awaited."""


class FolderError(AftershockError):
    """A run folder lacks a file, or a file breaks its schema."""


class GraphError(AftershockError):
    """The graph could not be opened, locked, written or read."""


class GraphUnreachable(GraphError):
    """The graph's server does not answer."""


class ModelError(AftershockError):
    """A language model could not be loaded or did not answer in time."""
