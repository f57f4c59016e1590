"""The options that name a Service, and what they come to: literals, DNS, or the local headless Service."""

from __future__ import annotations

import os
from dataclasses import dataclass

import click

from fanout.cli.options import Command, option
from fanout.discovery.refresher import Resolver, resolver_for
from fanout.model import DEFAULT_PORT, Family, Service


@dataclass(frozen=True, slots=True)
class Target:
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


def target_options(command: Command) -> Command:
    """Add the options that name a Service."""
    return _add_options(command, service_required=True)


def optional_target_options(command: Command) -> Command:
    """Add the options that name a Service, which may be left out."""
    return _add_options(command, service_required=False)


def _add_options(command: Command, *, service_required: bool) -> Command:
    for decorate in reversed(
        [
            option(
                "-s",
                "--service",
                required=service_required,
                metavar="NAME",
                help="Headless Service (short name or FQDN), or a list of endpoints: 10.0.0.7,10.0.0.8:13000.",
            ),
            option(
                "-p",
                "--port",
                default=str(DEFAULT_PORT),
                show_default=True,
                metavar="PORT",
                help="UDP port, or the name of a port of the Service.",
            ),
            dns_options,
        ]
    ):
        command = decorate(command)
    return command


def dns_options(command: Command) -> Command:
    """Add the options that say how a Service's pods are found."""
    for decorate in reversed(
        [
            option(
                "--family",
                type=click.Choice(list(Family), case_sensitive=False),
                default=Family.ANY.value,
                show_default=True,
                help="Addresses to send to: any is IPv4, and IPv6 where there is none.",
            ),
            option("--nameserver", metavar="HOST[:PORT]", help="Ask this nameserver instead of those in resolv.conf."),
            option("--allow-loopback", is_flag=True, help="Believe loopback addresses in answers of DNS."),
        ]
    ):
        command = decorate(command)
    return command


def find_target(service: str, port: str, family: str, nameserver: str | None, allow_loopback: bool) -> Target:
    """Return where `service` is to be looked for; raise `InvalidService`."""
    wanted = Service(service, port, Family.parse(family))
    if wanted.literals is None and nameserver is None and "KUBERNETES_SERVICE_HOST" not in os.environ:
        from fanout.local.state import find

        local = find()
        if local is not None and service.rstrip(".") in (local.service, local.name):
            resolver = resolver_for(
                wanted, nameserver=local.nameserver, search=local.search, ndots=local.ndots, allow_loopback=True
            )
            note = f"{service} is the local headless Service (`fanout local`, nameserver {local.nameserver})"
            return Target(wanted, resolver, note)
    return Target(wanted, resolver_for(wanted, nameserver=nameserver, allow_loopback=allow_loopback))


def plural(count: int, noun: str) -> str:
    """Return `1 pod` or `2 pods`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
