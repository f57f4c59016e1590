"""The Service that a command is about, and the way to its pods: literals, DNS, or the local headless Service."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from fanout.cli.options import TargetOptions
from fanout.cli.output import plural
from fanout.discovery.core.endpoints import CONFIRM_AFTER
from fanout.discovery.refresher import Resolver, resolver_for
from fanout.model import Family, Service

if TYPE_CHECKING:
    from fanout.discovery.core.answer import DnsAnswer
    from fanout.local.state import LocalService


class Target(NamedTuple):
    """A Service and the way to its pods."""

    service: Service
    resolver: Resolver
    note: str = ""
    """What the user should know of how the pods are found."""

    @property
    def is_literal(self) -> bool:
        """Whether the endpoints were named one by one."""
        return self.service.literals is not None

    def pods(self, count: int) -> str:
        """Return `1 pod`, `2 pods`, or `2 endpoints` where they were named one by one."""
        return plural(count, "endpoint" if self.is_literal else "pod")

    def whom(self, pods: int) -> str:
        """Return `2 pods of NAME`, or `2 endpoints` where they were named one by one."""
        return self.pods(pods) + ("" if self.is_literal else f" of {self.service.name}")

    def resolve(self) -> DnsAnswer:
        """Return an answer of DNS as every sender believes it: an empty one after one confirmation."""
        answer = self.resolver.resolve()
        if not answer.endpoints and not answer.refused:
            time.sleep(CONFIRM_AFTER)
            answer = self.resolver.resolve()
        return answer


def find_target(options: TargetOptions) -> Target:
    """Return where the Service is to be looked for; raise `InvalidService`."""
    wanted = Service(options.service, options.port, Family.parse(options.family))
    local = None if wanted.literals is not None else find_local_service(options.nameserver, [options.service])
    if local is None:
        resolver = resolver_for(wanted, nameserver=options.nameserver, allow_loopback=options.allow_loopback)
        return Target(wanted, resolver)
    resolver = resolver_for(
        wanted, nameserver=local.nameserver, search=local.search, ndots=local.ndots, allow_loopback=True
    )
    note = f"{options.service} is the local headless Service (`fanout local`, nameserver {local.nameserver})"
    return Target(wanted, resolver, note)


def find_local_service(nameserver: str | None, services: list[str]) -> LocalService | None:
    """Return the local headless Service, where it runs and these are all names of it.

    Not in a cluster, nor where a nameserver was named: those have Services of their own.
    """
    if nameserver is not None or "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    from fanout.local.state import find

    local = find()
    return local if local and all(service.rstrip(".") in (local.service, local.name) for service in services) else None
