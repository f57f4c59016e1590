"""Options that several commands share: their names, types and help texts.

Options that belong together are added by one decorator, and reach the command as one value: its argument `seal` is a
`SealOptions`. (Named tuples: to define a dataclass would take far longer at each start.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, Protocol, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
_BANDWIDTH_LIMIT = 1e15
"""Bits a second: beyond every network there is."""
DATAGRAM_LEAST, DATAGRAM_MOST = 256, 65_435
"""Bytes of payload in a framed datagram, as in the wire format; repeated here, for that takes long to import."""


class OptionDecorator(Protocol):
    """Adds options to a command."""

    def __call__(self, command: Command, /) -> Command:
        """Return the command with them."""


def option(*declarations: str, **settings: Any) -> OptionDecorator:
    """Return `click.option` with the environment variable FANOUT_<LONG NAME>; the help shows it, and the default."""
    long_name = next(name for name in declarations if name.startswith("--")).partition("/")[0]
    settings.setdefault("envvar", "FANOUT_" + long_name.removeprefix("--").replace("-", "_").upper())
    settings.setdefault("show_envvar", True)
    settings.setdefault("show_default", settings.get("default", "") != "")
    return click.option(*declarations, **settings)


class FiniteRange(click.FloatRange):
    """A `click.FloatRange` without NaN and the infinities."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"must be a finite number; got {value}.", param, ctx)
        return number


def seconds_option(
    name: str, default: float | None, text: str, *, most: float, least: float = 0, above_zero: bool = False
) -> OptionDecorator:
    """Return an option that takes seconds, from `least` (or above it, with `above_zero`) to `most`."""
    number = FiniteRange(least, most, min_open=above_zero)
    return option(name, type=number, default=default, metavar="SECONDS", help=text)


class Bandwidth(click.types.FloatParamType):
    """Bits a second as iperf takes them: `800`, `64k`, `10M`, `1.5G`, a `float` above 0; k, M, G and T are decimal."""

    name = "bandwidth"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        if isinstance(value, float):
            return value
        # Neither "1e6" nor "inf": most likely a typing error.
        match = re.fullmatch(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)) ?([kmgtKMGT]?)", str(value).strip(), re.ASCII)
        if match is None:
            self.fail(f"must be bits a second such as 64k, 10M or 1.5G; got {value!r}.", param, ctx)
        bits = float(match[1]) * 1000.0 ** " kmgt".index(match[2].lower() or " ")
        if not 0 < bits < _BANDWIDTH_LIMIT:
            self.fail(f"must be above 0 and below 1000T bits a second; got {value!r}.", param, ctx)
        return bits


def is_given(name: str) -> bool:
    """Return whether an argument was given on the command line: the environment's are for several commands."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def gathered(kind: type[NamedTuple], name: str) -> OptionDecorator:
    """Return a decorator that passes the values of the fields of `kind` to a command as one argument, `name`."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def gather(**values: Any) -> Any:
            values[name] = kind(**{field: values.pop(field) for field in kind._fields})  # type: ignore[call-overload]
            return command(**values)

        return gather  # type: ignore[return-value]

    return decorate


def group(*options: OptionDecorator) -> OptionDecorator:
    """Return a decorator that adds these options, in this order."""

    def decorate(command: Command) -> Command:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


class SealOptions(NamedTuple):
    """The keys that seal messages."""

    key_file: str | None
    cluster: str

    def check(self) -> None:
        """Raise `click.UsageError` for a label without keys."""
        if is_given("cluster") and self.key_file is None:
            raise click.UsageError("--cluster needs --key-file: give both")

    @property
    def label(self) -> str:
        """The cluster; empty without keys, for one in the environment may be meant for other commands."""
        return self.cluster if self.key_file else ""


output_option: OptionDecorator = option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="What to print: lines for people, or JSON.",
)

# An empty path means no keys: a manifest can set FANOUT_KEY_FILE to nothing.
key_options: OptionDecorator = group(
    option(
        "--key-file",
        metavar="PATH",
        callback=lambda _context, _parameter, path: path or None,
        help="Seal messages with the first key of this file, and open them with any of its keys (fanout keygen).",
    ),
    option(
        "--cluster",
        default="",
        metavar="LABEL",
        help="With keys: what is sealed for one label is refused under another.",
    ),
)
seal_options: OptionDecorator = group(gathered(SealOptions, "seal"), key_options)

admin_port_option: OptionDecorator = option(
    "--admin-port",
    type=click.IntRange(0, 65_535),
    default=8080,
    help="TCP port of /livez, /readyz and /metrics; 0 for none.",
)
admin_host_option: OptionDecorator = option(
    "--admin-host", metavar="ADDRESS", help="Serve the admin port on this address only. [default: all addresses]"
)

log_options: OptionDecorator = group(
    option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        help="Lowest level to log.",
    ),
    option(
        "--log-format",
        type=click.Choice(["auto", "json", "console"]),
        default="auto",
        help="auto is console lines above a live table on a terminal, JSON elsewhere.",
    ),
    option("--log-file", metavar="PATH", help="Append the log to this file instead of standard output."),
)

patience_options: OptionDecorator = group(
    seconds_option(
        "--timeout", 2.0, "Wait at most this long for the answers of all pods.", most=86_400, above_zero=True
    ),
    option(
        "--retries",
        type=click.IntRange(min=0),
        metavar="N",
        help="Send it again to a silent pod at most N times; answers are awaited until the timeout. "
        "[default: as often as the timeout allows]",
    ),
)

max_datagram_option: OptionDecorator = option(
    "--max-datagram",
    type=click.IntRange(DATAGRAM_LEAST, DATAGRAM_MOST),
    metavar="BYTES",
    help="Cut larger messages into datagrams of at most BYTES of payload, which fanout receivers put together.",
)

interface_timeout_option: OptionDecorator = seconds_option(
    "--interface-timeout", 60.0, "Wait at most this long at the start for an interface to appear.", most=86_400
)

bandwidth_option: OptionDecorator = option(
    "--bandwidth", type=Bandwidth(), metavar="BITS", help="Send BITS of payload a second to each pod: 64k, 10M, 1.5G."
)


def drain_option(default: float, goes_on: str) -> OptionDecorator:
    """Return --drain of a program that `goes_on` after SIGTERM."""
    return seconds_option("--drain", default, f"Go on {goes_on} for this long after SIGTERM.", most=3600)
