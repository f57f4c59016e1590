"""Options that several commands share, and the rule that each has its environment variable."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
_BANDWIDTH_LIMIT = 1e15
"""Bits a second: beyond every network there is."""
DATAGRAM_LEAST, DATAGRAM_MOST = 256, 65_435
"""Bytes of payload in a framed datagram, as the wire format has it; written down here, for it takes long to import."""


def option(*declarations: str, **settings: Any) -> Callable[[Command], Command]:
    """Return `click.option` with the environment variable FANOUT_<LONG NAME>, shown in the help."""
    long_name = next(name for name in declarations if name.startswith("--")).partition("/")[0]
    settings.setdefault("envvar", "FANOUT_" + long_name.removeprefix("--").replace("-", "_").upper())
    settings.setdefault("show_envvar", True)
    return click.option(*declarations, **settings)


output_option = option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What to print: lines for people, or JSON.",
)


def seal_options(command: Command) -> Command:
    """Add --key-file and --cluster: the arguments `key_file` and `cluster`.

    An empty path is none: a manifest can set FANOUT_KEY_FILE to nothing.
    """
    for each in (
        option(
            "--cluster",
            default="",
            metavar="LABEL",
            help="With keys: what is sealed for one label is not opened under another.",
        ),
        option(
            "--key-file",
            metavar="PATH",
            callback=lambda _context, _parameter, path: path or None,
            help="Seal messages with the first key of this file, and open with all of them (fanout keygen).",
        ),
    ):
        command = each(command)
    return command


admin_port_option = option(
    "--admin-port",
    type=click.IntRange(0, 65_535),
    default=8080,
    show_default=True,
    help="TCP port of /livez, /readyz and /metrics; 0 for none.",
)


def log_options(command: Command) -> Command:
    """Add --log-level, --log-format and --log-file."""
    for each in (
        option("--log-file", metavar="PATH", help="Append the log to this file instead of standard output."),
        option(
            "--log-format",
            type=click.Choice(["auto", "json", "console"]),
            default="auto",
            show_default=True,
            help="auto is console lines above a live table on a terminal, JSON elsewhere.",
        ),
        option(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="info",
            show_default=True,
            help="Least level to log.",
        ),
    ):
        command = each(command)
    return command


class FiniteRange(click.FloatRange):
    """A `click.FloatRange` without NaN and the infinities."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def patience_options(command: Command) -> Command:
    """Add --timeout and --retries."""
    for each in (
        option(
            "--retries",
            type=click.IntRange(min=0),
            metavar="N",
            help="Send it again to a silent pod at most N times; answers are awaited until the time is up. "
            "[default: as often as there is time]",
        ),
        option(
            "--timeout",
            type=FiniteRange(0, 86_400, min_open=True),
            default=2.0,
            show_default=True,
            metavar="SECONDS",
            help="Wait so long for the answers of all pods.",
        ),
    ):
        command = each(command)
    return command


max_datagram_option = option(
    "--max-datagram",
    type=click.IntRange(DATAGRAM_LEAST, DATAGRAM_MOST),
    metavar="BYTES",
    help="Cut larger messages into datagrams of so many bytes of payload, which fanout receivers put together.",
)


def is_given(name: str) -> bool:
    """Return whether an argument was given on the command line: the environment's are for several commands."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


class Bandwidth(click.types.FloatParamType):
    """Bits a second as iperf takes them: `800`, `64k`, `10M`, `1.5G`, a `float` above 0; k, M, G and T are decimal."""

    name = "bandwidth"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        if isinstance(value, float):
            return value
        # Neither "1e6" nor "inf": whoever types such a figure has most likely slipped.
        match = re.fullmatch(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)) ?([kmgtKMGT]?)", str(value).strip(), re.ASCII)
        if match is None:
            self.fail(f"{value!r} is not bits a second: write 64k, 10M or 1.5G.", param, ctx)
        bits = float(match[1]) * 1000.0 ** " kmgt".index(match[2].lower() or " ")
        if not 0 < bits < _BANDWIDTH_LIMIT:
            self.fail(f"{value!r} is not above 0 and below 1000T bits a second.", param, ctx)
        return bits


def datagrams_per_second(bandwidth: float, size: int) -> float:
    """Return how many datagrams of `size` bytes of payload a second make `bandwidth` bits a second.

    Headers are not counted (iperf does not either). Raises `click.UsageError` where it is less than one a second.
    """
    if size == 0:
        raise click.UsageError("empty datagrams have no bits to pace by --bandwidth: give --rate")
    rate = bandwidth / (8 * size)
    if rate < 1.0:
        raise click.UsageError(
            f"--bandwidth of {bandwidth:,.0f} bits a second is under one datagram of {size:,} bytes a second "
            f"({8 * size:,} bits): raise it, send smaller datagrams, or give --rate"
        )
    return rate
