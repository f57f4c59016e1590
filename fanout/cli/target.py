"""The options that name a Service, and the way to its pods: literals, DNS, or the local headless Service."""

from __future__ import annotations

import os
import time
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fanout.cli.options import Command, OptionDecorator, gathered, group, option
from fanout.cli.output import note, plural
from fanout.discovery.core.endpoints import CONFIRM_AFTER
from fanout.discovery.refresher import Resolver, resolver_for
from fanout.model import DEFAULT_PORT, Family, Service

if TYPE_CHECKING:
    from fanout.discovery.core.answer import DnsAnswer
    from fanout.local.state import LocalService


class TargetOptions(NamedTuple):
    """A Service, and how its pods are found."""

    service: str
    port: str = str(DEFAULT_PORT)
    family: str = Family.ANY.value
    nameserver: str | None = None
    allow_loopback: bool = False


class Target(NamedTuple):
    """A Service and the way to its pods."""

    service: Service
    resolver: Resolver

    @property
    def is_literal(self) -> bool:
        """Whether the Service is a literal list of endpoints."""
        return self.service.literals is not None

    def pods(self, count: int) -> str:
        """Return `1 pod`, `2 pods`, or `2 endpoints` of a literal list."""
        return plural(count, "endpoint" if self.is_literal else "pod")

    def whom(self, pods: int) -> str:
        """Return `2 pods of NAME`, or `2 endpoints` of a literal list."""
        return self.pods(pods) + ("" if self.is_literal else f" of {self.service.name}")

    def resolve(self) -> DnsAnswer:
        """Return an answer of DNS as every sender believes it: an empty one after one confirmation."""
        answer = self.resolver.resolve()
        if not answer.endpoints and not answer.refused:
            time.sleep(CONFIRM_AFTER)
            answer = self.resolver.resolve()
        return answer


dns_options: OptionDecorator = group(
    option(
        "--family",
        type=click.Choice(list(Family), case_sensitive=False),
        default=Family.ANY.value,
        help="Addresses to send to: any is IPv4, or IPv6 where there are no IPv4 addresses.",
    ),
    option("--nameserver", metavar="HOST[:PORT]", help="Ask this nameserver instead of those in resolv.conf."),
    option("--allow-loopback", is_flag=True, help="Accept loopback addresses in answers of DNS."),
)


def _target_options(*, required: bool) -> OptionDecorator:
    return group(
        option(
            "-s",
            "--service",
            required=required,
            metavar="NAME",
            help="Headless Service (short name or FQDN), or a list of endpoints: 10.0.0.7,10.0.0.8:13000.",
        ),
        option(
            "-p",
            "--port",
            default=str(DEFAULT_PORT),
            metavar="PORT",
            help="UDP port, or the name of a port of the Service.",
        ),
        dns_options,
    )


def _none_without_service(command: Command) -> Command:
    @wraps(command)
    def check(target: TargetOptions, **values: Any) -> Any:
        return command(target=target if target.service is not None else None, **values)

    return check  # type: ignore[return-value]


target_options: OptionDecorator = group(gathered(TargetOptions, "target"), _target_options(required=True))
optional_target_options: OptionDecorator = group(
    gathered(TargetOptions, "target"), _none_without_service, _target_options(required=False)
)
"""The same where a Service may be left out: the argument `target` is None then."""


def find_target(options: TargetOptions, *, quiet: bool = False) -> Target:
    """Return the Service and its resolver; note that it is the local one, unless `quiet`. Raises `InvalidService`."""
    wanted = Service(options.service, options.port, Family.parse(options.family))
    local = None if wanted.literals is not None else find_local_service(options.nameserver, [options.service])
    if local is None:
        resolver = resolver_for(wanted, nameserver=options.nameserver, allow_loopback=options.allow_loopback)
    else:
        resolver = resolver_for(
            wanted, nameserver=local.nameserver, search=local.search, ndots=local.ndots, allow_loopback=True
        )
        if not quiet:
            note(f"{options.service} is the local headless Service (`fanout local`, nameserver {local.nameserver})")
    return Target(wanted, resolver)


def find_local_service(nameserver: str | None, services: list[str]) -> LocalService | None:
    """Return the local headless Service, if it runs and all of `services` are its names.

    Return None in a cluster and where a nameserver was given: those have their own Services.
    """
    if nameserver is not None or "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    from fanout.local.state import find

    local = find()
    return local if local and all(service.rstrip(".") in (local.service, local.name) for service in services) else None
