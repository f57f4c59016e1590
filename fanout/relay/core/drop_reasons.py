"""Why a relay did not forward a datagram. Pure."""

from __future__ import annotations

from enum import StrEnum


class RelayDrop(StrEnum):
    """Why a datagram that arrived was not forwarded; the only source of such labels in logs, tables and metrics."""

    SOURCE_NOT_ALLOWED = "source_not_allowed"
    OVER_LIMIT = "over_limit"
    """Its source sends more than the ingress takes of one source."""
    OWN = "own"
    """The relay itself had sent it."""
    LOOP = "loop"
    """It was forwarded a moment ago, and came back from another source."""
    NOT_BROADCAST = "not_broadcast"
    """It came to an address of this host, at an ingress for broadcast."""
    NO_ENDPOINTS = "no_endpoints"
    """The Service has no pod that it could go to."""
    KERNEL_BUFFER = "kernel_buffer"
    """The receive buffer was full; a run that the kernel had merged counts as one."""
