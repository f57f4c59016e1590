"""`fanout relay ssdp`: media server pods, found and played from the LAN."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from typing import Any

import click

from fanout.cli.options import FiniteRange, admin_port_option, log_options, option
from fanout.cli.relay import admin_host_option
from fanout.cli.target import dns_options

# As in fanout.ssdp.relay, which takes long to import.
_HTTP_PORTS = "28200-28231"
_DESCRIPTION = "8200/rootDesc.xml"
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")
_PORTS_MOST = 1024
_EXTRA = ("aiohttp", "defusedxml")
_INSTALL = "pip install 'fanout[dlna]'"


def _port(text: str) -> int:
    """Return the number of a port; raise ValueError where it is none."""
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) <= 65_535:
        raise ValueError
    return int(text)


def _ports(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, int]:
    """Return the first and the last of `28200-28231`, or of one port."""
    first_text, dash, last_text = text.strip().partition("-")
    try:
        first, last = _port(first_text), _port(last_text if dash else first_text)
    except ValueError:
        sentence = f"{text!r} is no range of ports from 1 to 65535: write {_HTTP_PORTS}, or one port."
        raise click.BadParameter(sentence, context, parameter) from None
    if last < first:
        raise click.BadParameter(f"{text!r} is upside down: write {last}-{first}.", context, parameter)
    if last - first >= _PORTS_MOST:
        sentence = f"{text!r} is {last - first + 1:,} ports: {_PORTS_MOST:,} are the most."
        raise click.BadParameter(sentence, context, parameter)
    return first, last


def _descriptions(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """Return what was given; nothing for an empty text, which the environment may hold as well."""
    if context.get_parameter_source("descriptions") is click.core.ParameterSource.DEFAULT:
        return () if os.environ.get("FANOUT_DESCRIPTION") == "" else tuple(given)
    said = tuple(dict.fromkeys(each for each in given if each))
    if said and "" in given:
        raise click.BadParameter("an empty one is for none at all: leave it out.", context, parameter)
    for each in said:
        port, slash, path = each.partition("/")
        try:
            _port(port)
        except ValueError:
            slash = ""
        if not slash:
            raise click.BadParameter(f"{each!r} is no PORT/PATH: write {_DESCRIPTION}.", context, parameter)
        if not re.fullmatch('[!-"$-~]*', path):
            raise click.BadParameter(f"{each!r} has a path that no URL has: write %20 for a space.", context, parameter)
    return said


def _networks(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    from fanout.errors import InvalidInput
    from fanout.relay.ingress import parse_network

    try:
        return tuple(dict.fromkeys(str(parse_network(each)) for each in given))
    except InvalidInput as error:
        raise click.BadParameter(f"{error}.", context, parameter) from None


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
    default=_HTTP_PORTS,
    show_default=True,
    metavar="FIRST-LAST",
    callback=_ports,
    help="TCP ports that lead to devices: each has one for itself, the same after its pod has restarted.",
)
@option(
    "--description",
    "descriptions",
    multiple=True,
    default=(_DESCRIPTION,),
    show_default=True,
    metavar="PORT/PATH",
    callback=_descriptions,
    help="Where pods have a device description, which is read to answer for those that hear no search: minidlna takes "
    "searches to a group alone, which no pod network carries. Repeat it for more; '' for none.",
)
@option(
    "--allow-source",
    multiple=True,
    default=_PRIVATE,
    metavar="CIDR",
    callback=_networks,
    help="Answer and serve only clients of this network, or address; repeat it for more. "
    f"[default: private and link-local networks: {', '.join(_PRIVATE)}]",
)
@dns_options
@option(
    "--interface-timeout",
    type=FiniteRange(0, 86_400),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long at the start for an interface that appears late.",
)
@admin_host_option
@admin_port_option
@log_options
def ssdp(**settings: Any) -> None:
    """Media server pods (DLNA, UPnP), found and played from the LAN.

    A search (SSDP) that comes by --interface is asked of every pod of a headless Service, and each answer goes to the
    client that searched. What the pods have is announced on the LAN, and revoked when they leave, and on SIGTERM. The
    pods' URLs lead to --http-ports of this host, which carry what is browsed and played to the right pod.

    The relay needs the LAN's own interface (hostNetwork) with UDP port 1900 and --http-ports. The pods need nothing.
    `fanout ssdp search` shows what the LAN finds.

    \b
    fanout relay ssdp -s media --interface eth0
    fanout relay ssdp -s media --interface eth0 --description 8200/rootDesc.xml --description 8895/rootDesc.xml
    fanout relay ssdp -s jellyfin --interface eth0 --description '' --allow-source 192.168.1.0/24
    """
    # The kernel drops a signal to PID 1 that has no handler yet, but keeps a blocked one until the app takes it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        from fanout_relay.ssdp import SsdpSettings, run
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise click.ClickException(f"the relay for SSDP needs the {error.name} package: {_INSTALL}") from None
    run(SsdpSettings(**settings))
