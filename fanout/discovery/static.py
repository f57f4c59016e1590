"""A literal list of endpoints instead of a Service name: needs no DNS."""

from __future__ import annotations

from fanout.discovery.core.answer import DnsAnswer
from fanout.model import Endpoint


class StaticResolver:
    """Always answers with the same endpoints."""

    def __init__(self, endpoints: tuple[Endpoint, ...]) -> None:
        self._answer = DnsAnswer(endpoints)

    def resolve(self) -> DnsAnswer:
        """Return the list."""
        return self._answer
