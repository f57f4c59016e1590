"""`fanout relay ssdp`: media server pods, found and played from the LAN."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import click

from fanout.acl import parse_network
from fanout.cli.interrupt import hold_signals
from fanout.cli.options import admin_host_option, admin_port_option, interface_timeout_option, log_options, option
from fanout.cli.target import dns_options
from fanout.errors import InvalidInput
from fanout.ssdp.core.settings import DESCRIPTIONS, HTTP_PORTS, PRIVATE, DescriptionPlace, parse_ports

_EXTRA = ("aiohttp", "defusedxml")


def _check(context: click.Context, parameter: click.Parameter, parse: Callable[[str], object], *texts: str) -> None:
    """Raise `click.BadParameter`, which names the option, where one of these cannot be parsed."""
    try:
        for text in texts:
            parse(text)
    except InvalidInput as error:
        raise click.BadParameter(f"{error}.", context, parameter) from None


def _ports(context: click.Context, parameter: click.Parameter, text: str) -> str:
    _check(context, parameter, parse_ports, text)
    return text


def _descriptions(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """Return what was given; nothing for an empty text, which the environment may hold as well."""
    source = context.get_parameter_source("descriptions")
    if source is click.core.ParameterSource.DEFAULT and os.environ.get("FANOUT_DESCRIPTION") == "":
        return ()
    said = tuple(dict.fromkeys(each for each in given if each))
    if said and "" in given:
        raise click.BadParameter("'' means none at all: leave it out.", context, parameter)
    _check(context, parameter, DescriptionPlace.parse, *said)
    return said


def _networks(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    _check(context, parameter, parse_network, *given)
    if not given:  # the environment holds blanks: that must not mean everybody
        raise click.BadParameter("must name a network.", context, parameter)
    return tuple(given)


@click.command()
@option(
    "-s",
    "--service",
    required=True,
    metavar="NAME",
    help="Headless Service of the media servers (short name or FQDN), or a list of addresses: 10.0.0.7,10.0.0.8.",
)
@option("--interface", required=True, metavar="NAME", help="The LAN's interface: eth0.")
@option(
    "--http-ports",
    default=HTTP_PORTS,
    metavar="FIRST-LAST",
    callback=_ports,
    help="TCP ports that lead to devices: each device has its own, the same after its pod has restarted.",
)
@option(
    "--description",
    "descriptions",
    multiple=True,
    default=DESCRIPTIONS,
    metavar="PORT/PATH",
    callback=_descriptions,
    help="Where pods have a device description, from which the relay answers for pods that receive no search: minidlna "
    "takes searches to a group only, which no pod network carries. Repeatable; '' for none.",
)
@option(
    "--allow-source",
    multiple=True,
    default=PRIVATE,
    show_default=False,
    metavar="CIDR",
    callback=_networks,
    help="Answer and serve only clients of this network or address; repeatable. "
    f"[default: private and link-local networks: {', '.join(PRIVATE)}]",
)
@dns_options
@interface_timeout_option
@admin_host_option
@admin_port_option
@log_options
def ssdp(**settings: Any) -> None:
    """Media server pods (DLNA, UPnP), found and played from the LAN.

    A search (SSDP) that comes by --interface goes to every pod of a headless Service, and each answer to the client
    that searched. The pods' devices are announced on the LAN, and revoked when they leave, and on SIGTERM. The pods'
    URLs lead to --http-ports of this host, which carry what is browsed and played to the right pod.

    The relay needs the LAN's own interface (hostNetwork) with UDP port 1900 and --http-ports. The pods need nothing.
    `fanout ssdp search` shows what the LAN finds.

    \b
    fanout relay ssdp -s media --interface eth0
    fanout relay ssdp -s media --interface eth0 --description 8200/rootDesc.xml --description 8895/rootDesc.xml
    fanout relay ssdp -s gerbera --interface eth0 --description '' --allow-source 192.168.1.0/24
    """
    if settings["admin_port"] in parse_ports(settings["http_ports"]):
        raise click.UsageError(f"--admin-port must not be one of --http-ports; got {settings['admin_port']}")
    hold_signals()
    try:
        from fanout.daemon.relay.ssdp_program import SsdpSettings, run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        raise click.ClickException(f"the relay for SSDP needs the {package} package: pip install {package}") from None
    run(SsdpSettings(**settings))
