"""`fanout ssdp`: UPnP and DLNA devices on the LAN, as a television sees them."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from fanout.cli.options import is_given, option, output_option, seconds_option
from fanout.cli.output import EXIT_NO_ENDPOINTS, EXIT_OK, aligned, console, errors_as_json, note, plural, print_json
from fanout.errors import FanoutError
from fanout.options import printable

if TYPE_CHECKING:
    from fanout.ssdp.control_point import Found

_SECONDS_MAX = 120
_COLUMNS = ("NAME", "LOCATION", "TYPE", "FROM")
_COLUMNS_LEAST = 2
"""The others are left out on a narrow terminal."""
_CELL_MAX = 40


@click.group()
def ssdp() -> None:
    """Look for UPnP and DLNA devices on the LAN.

    \b
    fanout ssdp search
    fanout ssdp search --st urn:schemas-upnp-org:device:MediaServer:1 -o json
    """


@ssdp.command(short_help="List the devices that answer a search.")
@option("--st", "target", default="ssdp:all", metavar="ST", help="What to look for.")
@option("--interface", metavar="NAME", help="Search on this interface.  [default: on all that are up]")
@option(
    "--host",
    metavar="ADDRESS",
    envvar="FANOUT_SSDP_HOST",  # FANOUT_HOST is where a receiver listens
    help="Search this host only, by unicast: a relay, for instance.",
)
@seconds_option("--timeout", 3.0, "Wait this long for answers.", most=_SECONDS_MAX, least=1)
@output_option
def search(target: str, interface: str | None, host: str | None, timeout: float, output: str) -> int:
    """List the devices that answer a search (M-SEARCH), with the name and the LOCATION of each.

    ST is ssdp:all, upnp:rootdevice, uuid:... or a device's or service's type, urn:... It needs the packages of the
    extra `dlna`. Exit codes: 0 devices found, 1 error, 2 usage, 3 no device answered.
    """
    with errors_as_json(output, target=target):
        if is_given("interface"):
            if is_given("host"):
                raise click.UsageError(
                    "give one of --interface and --host: a host is asked on the way that leads to it"
                )
            host = None  # of the environment
        try:
            from fanout.ssdp.control_point import search as look
            from fanout.ssdp.control_point import ways
        except ModuleNotFoundError as error:
            package = (error.name or "aiohttp").partition(".")[0]
            raise FanoutError(f"this needs the package {package}: pip install {package}") from None
        import asyncio

        way = ways(interface) if host is None else host
        where = way if isinstance(way, str) else " and ".join(way)
        with _waiting(f"searching {'at' if host else 'on'} {where} for {timeout:g} s"):
            found = asyncio.run(look(way, target, timeout))
    if output == "json":
        print_json({"target": target, "devices": [_as_json(device) for device in found]})
    elif found:
        _show(found)
    if found:
        click.secho(f"{plural(len(found), 'device')} found", fg="green", err=True)
        return EXIT_OK
    note(
        f"no device answered {'at' if host else 'on'} {where} within {timeout:g} s: is there one, and does no firewall "
        "drop UDP from its port 1900?"
    )
    return EXIT_NO_ENDPOINTS


def _waiting(text: str) -> contextlib.AbstractContextManager[object]:
    """Return a context that shows this on a terminal while it is entered."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    terminal = console(err=True)
    return contextlib.nullcontext() if terminal.is_dumb_terminal else terminal.status(text)


def _show(found: list[Found]) -> None:
    rows = [_cells(device) for device in found]
    if not sys.stdout.isatty():
        # The name is last: it alone has spaces, where programs split.
        for line in aligned([(*others, name) for name, *others in (_COLUMNS, *rows)]):
            click.echo(line)
        return
    from rich import box
    from rich.table import Table

    terminal = console(err=False)
    shown = _fitting(rows, terminal.width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in shown:
        # A LOCATION cut short is of no use.
        is_whole = _COLUMNS[column] == "LOCATION"
        table.add_column(
            _COLUMNS[column],
            no_wrap=not is_whole,
            overflow="fold" if is_whole else "ellipsis",
            max_width=None if is_whole else _CELL_MAX,
        )
    for row, device in zip(rows, found, strict=True):
        table.add_row(*(row[column] for column in shown), style=None if device.friendly_name is not None else "yellow")
    terminal.print(table)


def _fitting(rows: list[tuple[str, str, str, str]], width: int) -> list[int]:
    """Return the columns that fit the terminal."""
    shown = list(range(len(_COLUMNS)))
    needed = [2 + max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    while len(shown) > _COLUMNS_LEAST and sum(needed[column] for column in shown) > width:
        shown.pop()
    return shown


def _cells(device: Found) -> tuple[str, str, str, str]:
    kind = device.device_type.partition(":device:")[2] or device.device_type
    name = "(its description cannot be read)" if device.friendly_name is None else device.friendly_name
    location, kind, host = (
        printable(text, "\ufffd").replace(" ", "%20") or "-" for text in (device.location, kind, device.host)
    )
    return printable(name, "\ufffd") or "-", location, kind, host


def _as_json(device: Found) -> dict[str, Any]:
    return {
        "friendly_name": device.friendly_name,
        "location": device.location,
        "udn": device.udn,
        "device_type": device.device_type,
        "server": device.server,
        "host": device.host,
    }
