"""Keeps a Service's pods up to date in a background thread, for both `Sender` and `AsyncSender`.

DNS has its own thread under asyncio, too: parsing 4,000 records takes a third of a second, which would block the
event loop.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from fanout.discovery.core.answer import DnsAnswer, Refusal, why_no_endpoints
from fanout.discovery.core.endpoints import Change, EndpointSet, Known
from fanout.errors import FanoutError, NoEndpoints, ResolverUnavailable
from fanout.model import Endpoint, Service

log: logging.Logger = logging.getLogger("fanout")


class Resolver(Protocol):
    """Resolves the pods of a Service: `DnsResolver`, `StaticResolver`, or a test's own."""

    def resolve(self) -> DnsAnswer:
        """Query now, and block until there is an answer; raise `ResolverUnavailable` without a usable one."""
        ...


class StaticResolver:
    """Answers with a literal list of endpoints, which needs no DNS."""

    def __init__(self, endpoints: tuple[Endpoint, ...]) -> None:
        self._answer = DnsAnswer(endpoints)

    def resolve(self) -> DnsAnswer:
        """Return the list."""
        return self._answer


def resolver_for(
    service: Service,
    *,
    nameserver: str | None = None,
    search: Sequence[str] | None = None,
    ndots: int | None = None,
    allow_loopback: bool = False,
) -> Resolver:
    """Return the resolver of `service`: its literal list, or DNS. Raises `InvalidService`."""
    if service.literals is not None:
        return StaticResolver(service.literals)
    # dnspython takes longer to import than everything else together: imported only when needed.
    from fanout.discovery.dns import DnsResolver

    return DnsResolver(service, nameserver=nameserver, search=search, ndots=ndots, allow_loopback=allow_loopback)


class Refresher:
    """Resolves in a thread and publishes `known`; logs each pod that joined or left, once.

    Reading `known` never blocks. `stop` returns at once: a query in progress ends by itself within the resolver's
    lifetime.
    """

    def __init__(self, resolver: Resolver, name: str) -> None:
        self.known: Known = Known()
        self._name = name
        self._resolver = resolver
        self._set = EndpointSet()
        self._decided = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"fanout-refresh-{name}", daemon=True)

    @property
    def waiting(self) -> str | None:
        """A sentence saying that DNS has not answered yet, and why; None once it has."""
        known = self.known
        if known.answered_at is not None:
            return None
        return f"Service {self._name!r} is not resolved yet" + (f": {known.failure}" if known.failure else "")

    def start(self) -> None:
        """Start resolving; call it at most once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop resolving."""
        self._stopped.set()
        self._decided.set()

    def endpoints(self) -> Known:
        """Return the known pods, at least one; wait only for the first result.

        Raises `NoEndpoints` or `ResolverUnavailable`.
        """
        if not self.known.endpoints:
            self._decided.wait()
        known = self.known
        if known.endpoints:
            return known
        if known.settled:
            raise NoEndpoints(f"Service {self._name!r} has no endpoints: {why_no_endpoints(known.refused)}")
        state = "its sender was closed" if self._stopped.is_set() else "a first empty answer is being confirmed"
        raise ResolverUnavailable(known.failure or f"Service {self._name!r} is not resolved: {state}")

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._resolve()
            wakeup = self._set.next_wakeup
            if wakeup is None or self._stopped.wait(max(0.0, wakeup - time.monotonic())):
                break

    def _resolve(self) -> None:
        before = self.known
        try:
            answer = self._resolver.resolve()
        except Exception as error:
            # A resolver's bug must not end the refreshing: keep the last known pods, and log it.
            reason = str(error) if isinstance(error, FanoutError) else f"{type(error).__name__}: {error}"
            self._set.failed(reason, time.monotonic(), random.random())
            self.known = self._set.known
            self._log_failure(reason, is_first=before.failure is None)
        else:
            change = self._set.answered(answer, time.monotonic(), random.random())
            self._log_refused(self._set.known.refused - before.refused)
            self.known = self._set.known
            if before.failure is not None and before.answered_at is not None:
                log.info(
                    "resolver_recovered: %(service)s answers again after %(age).1f s",
                    {"service": self._name, "age": before.age(time.monotonic())},
                )
            self._log_change(change)
        if self.known.settled or self.known.failure is not None:
            self._decided.set()

    def _log_failure(self, reason: str, *, is_first: bool) -> None:
        age = self.known.age(time.monotonic())
        if age is None:
            # The sender raises an exception.
            log.info("resolver_failed: %(reason)s", {"reason": reason, "service": self._name})
            return
        log.log(
            logging.WARNING if is_first else logging.DEBUG,
            "resolver_failed: keeping %(endpoints)d known pods of %(service)s, answered %(age).1f s ago: %(reason)s",
            {"endpoints": len(self.known.endpoints), "service": self._name, "age": age, "reason": reason},
        )

    def _log_refused(self, refused: frozenset[Refusal]) -> None:
        for address, reason in sorted(refused):
            log.warning(
                "address_refused: %(address)s in the answer for %(service)s: %(reason)s",
                {"address": address, "service": self._name, "reason": reason},
            )

    def _log_change(self, change: Change) -> None:
        for event, endpoints in (("pod_joined", change.joined), ("pod_left", change.left)):
            for endpoint in endpoints:
                log.info(event + ": %(endpoint)s of %(service)s", {"endpoint": str(endpoint), "service": self._name})
