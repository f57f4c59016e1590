"""How `fanout bench` looks: a live table on a terminal, a table at the end, and sentences on what went wrong."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import click

from fanout.cli.output import aligned, console, milliseconds, plural
from fanout.cli.target import Target
from fanout.errno_text import sending
from fanout.measure.prober import REQUEST_RATE
from fanout.measure.result import PERCENTILES, BenchResult, PodResult, PodStatus, worst_first
from fanout.model import Endpoint

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from fanout.measure.session import Bench, Plan

_QUIET = 1.0
"""Seconds without an answer from which on the live table says so."""
_REFRESH = 0.25
"""Seconds between two looks of the live table."""
_OTHER_LINES = 8
"""Of the screen: what is not rows of the live table."""
_NAMED = 8
"""Pods that sentences name one by one."""
_AS_ASKED = 0.97
"""Of the rate that was asked for; below, the sender was the limit."""
_ANSWERED = 0.98
"""Of the pings; the percentiles of a pod that answered fewer are too good."""
_DISPENSABLE = ("SENT", "P90 MS", "DUP", "MAX MS", "REORD", "PER S")
"""Columns that a narrow terminal has to do without, in this order."""


class BenchProgress:
    """A progress bar and a table on standard error while a run goes on; they are erased at the end."""

    def __init__(self, target: Target) -> None:
        from rich.live import Live as RichLive

        self._target = target
        self._console = console(err=True)
        self._live = RichLive(console=self._console, auto_refresh=False, transient=True)
        self._due = 0.0

    def look(self, bench: Bench) -> None:
        """Show the state of a run, unless it was shown just now."""
        now = time.monotonic()
        if now < self._due or self._console.is_dumb_terminal:
            return
        self._due = now + _REFRESH
        self._live.update(self._picture(bench.result(), bench.plan), refresh=True)

    def _picture(self, result: BenchResult, plan: Plan) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        done = min(1.0, result.elapsed / plan.seconds if plan.count is None else result.messages / plan.count)
        head = Table.grid(padding=(0, 1))
        head.add_row(
            self._target.whom(len(result.pods)),
            ProgressBar(1.0, done, width=max(10, min(40, self._console.width - 60))),
            f"{done:.0%}  {result.messages:,} sent",
        )
        room = max(1, self._console.height - _OTHER_LINES)
        quiet = quiet_for(result)
        rows = list(result.pods)
        if len(rows) > room:
            rows = sorted(worst_first(rows), key=lambda pod: pod.endpoint not in quiet)[:room]
        # A pod's last report is some moments old: what was sent until now says nothing beside it.
        parts: list[Table | str] = [head, _table(self._console.width, rows, without=("SENT",), quiet=quiet)]
        if left := len(result.pods) - len(rows):
            parts.append(f"  and {plural(left, 'pod')} that lost no more than these")
        return Group(*parts)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()


def show(result: BenchResult, target: Target, plan: Plan, *, err: bool = False) -> None:
    """Print the final table, what went wrong, and a summary, on standard error with `err`."""
    if (sys.stderr if err else sys.stdout).isatty():
        terminal = console(err=err)
        terminal.print(_table(terminal.width, result.pods))
    else:
        names = [name.replace(" ", "_") for name in _COLUMNS]
        for line in aligned([names, *(list(cells(pod).values()) for pod in result.pods)], numbers=True):
            click.echo(line, err=err)
    for sentence in troubles(result):
        click.secho(sentence, fg="red", err=err)
    if not result.interrupted and 0 < result.rate < _AS_ASKED * plan.rate:
        click.secho(f"slower than requested: this host reached {result.rate:,.0f}/s", fg="yellow", err=err)
    is_well = len(result.having(PodStatus.MEASURED)) == len(result.pods) and not result.lost
    for line in _summary(result, target):
        click.secho(line, fg="green" if is_well else "yellow", err=err)


def quiet_for(result: BenchResult) -> dict[Endpoint, float]:
    """Return for how many seconds pods have not answered, where that is longer than it takes to ask them all."""
    patience = max(_QUIET, 3.0 * len(result.pods) / REQUEST_RATE)
    silences = {pod.endpoint: result.elapsed - (pod.last_answer or 0.0) for pod in result.pods}
    return {endpoint: seconds for endpoint, seconds in silences.items() if seconds > patience}


def _table(
    width: int, pods: Sequence[PodResult], without: tuple[str, ...] = (), quiet: Mapping[Endpoint, float] | None = None
) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    rows = [(pod, cells(pod)) for pod in pods]
    for pod, row in rows:
        if quiet and pod.endpoint in quiet:
            row["LOSS %"] = f"quiet {quiet[pod.endpoint]:.0f} s"
    columns = _fitting([row for _, row in rows], width, without)
    for name in columns:
        table.add_column(name, justify="left" if name == "POD" else "right", no_wrap=True)
    for pod, row in rows:
        is_well = pod.status is PodStatus.MEASURED and not (quiet and pod.endpoint in quiet)
        style = "yellow" if is_well and pod.lost else None if is_well else "red"
        table.add_row(*(row[name] for name in columns), style=style)
    return table


def _fitting(rows: list[dict[str, str]], width: int, without: tuple[str, ...]) -> list[str]:
    """Return the columns that fit the terminal."""
    needed = {name: 2 + max(map(len, [name, *(row[name] for row in rows)])) for name in _COLUMNS if name not in without}
    for name in _DISPENSABLE:
        if sum(needed.values()) < width:
            break
        needed.pop(name, None)
    return list(needed)


def cells(pod: PodResult) -> dict[str, str]:
    """Return what the table says of a pod, by column; a pod without figures says why."""
    row = {name: cell(pod) for name, cell in _COLUMNS.items()}
    if pod.status is not PodStatus.MEASURED:
        row |= dict.fromkeys(("PER S", "REORD", "DUP"), "-")
        row |= {f"{name.upper()} MS": "-" for name in PERCENTILES}
        row |= {"RECEIVED": "-", "LOSS %": pod.status.value}
    return row


def troubles(result: BenchResult) -> list[str]:
    """Return a sentence for each pod in trouble, the first few of a kind, and for other problems."""
    sentences = [
        *_some(result.having(PodStatus.SILENT), _why_silent),
        *_some(result.having(PodStatus.IMPLAUSIBLE), _why_implausible),
        *_some([pod for pod in worst_first(result.having(PodStatus.MEASURED)) if pod.lost], _why_lost),
        *_some([pod for pod in result.having(PodStatus.MEASURED) if _is_unanswered(pod)], _how_unanswered),
    ]
    if result.ignored:
        stranger = "" if result.stranger is None else f", one of them from {result.stranger}, which got no probe"
        sentences.append(
            f"{plural(result.ignored, 'datagram')} came that answered nothing{stranger}: "
            "does a pod answer from another address of its own?"
        )
    return sentences


def _some(pods: Sequence[PodResult], sentence: Callable[[PodResult], str]) -> list[str]:
    named = [sentence(pod) for pod in pods[:_NAMED]]
    return [*named, f"... and so for {plural(len(pods) - _NAMED, 'more pod')}"] if len(pods) > _NAMED else named


def _why_silent(pod: PodResult) -> str:
    if pod.refused or pod.dropped:
        return f"silent: {sending(pod.endpoint, pod.errno)}"
    if pod.last_answer is not None:
        return (
            f"silent: {pod.endpoint}: it answered until {pod.last_answer:.1f} s into the run, then nothing: "
            "is it stuck, or gone?"
        )
    return (
        f"silent: {pod.endpoint}: does a fanout receiver listen on that port there, does it have keys (then it answers "
        "no probe unless it has --accept-plaintext), and does a NetworkPolicy let UDP in, and its answers out?"
    )


def _is_unanswered(pod: PodResult) -> bool:
    """Return whether too many pings had no answer for the round trips of the others to be representative."""
    return len(pod.round_trips) < _ANSWERED * pod.pings and pod.pings - len(pod.round_trips) > 1


def _how_unanswered(pod: PodResult) -> str:
    return (
        f"unanswered: {pod.endpoint}: {pod.pings - len(pod.round_trips)} of {pod.pings} pings, which no percentile has"
    )


def _why_implausible(pod: PodResult) -> str:
    seen = pod.observed
    claims = "" if seen is None else f" ({seen.unique:,} different messages of {pod.attempted:,})"
    return f"implausible: {pod.endpoint} reports impossible counts{claims}: is it a fanout receiver that answers?"


def _why_lost(pod: PodResult) -> str:
    """Return where messages were lost, as far as the counters of the two hosts show."""
    causes = []
    if pod.dropped:
        causes.append(f"{pod.dropped:,} did not leave this host ({errno.errorcode.get(pod.errno, pod.errno)})")
    if pod.seen.kernel_drops:
        causes.append(
            "its receive buffer was full (too small: raise net.core.rmem_max; or its program is too slow): "
            f"{plural(pod.seen.kernel_drops, 'drop')} there, a merged run counting as one"
        )
    if pod.lost > pod.dropped and not pod.seen.kernel_drops:
        causes.append(f"{'the others' if pod.dropped else 'they'} were lost on the way: neither host dropped them")
    return f"lost: {pod.endpoint}: {pod.lost:,} of {pod.attempted:,} messages: {'; '.join(causes)}"


def _summary(result: BenchResult, target: Target) -> list[str]:
    measured = result.having(PodStatus.MEASURED)
    pods = target.whom(len(result.pods))
    if not result.messages:
        return [f"sent nothing to {pods}"]
    parts = []
    if len(measured) < len(result.pods):
        parts.append(f"{len(measured)} of {target.pods(len(result.pods))} measured")
    if measured:
        worst = result.worst
        at_worst = f" ({_loss(worst.loss)} % at {worst.endpoint})" if worst is not None and worst.lost else ""
        parts.append(f"lost {_loss(result.loss)} %{at_worst}")
    every = result.round_trips()
    if every.round_trips:
        p50, p99 = milliseconds(every.round_trip(0.5)), milliseconds(every.round_trip(0.99))
        parts.append(f"round trip {p50} ms (p50), {p99} ms (p99)")
    return [
        f"sent {result.messages:,} messages of {result.size:,} bytes to each of {pods} in {result.elapsed:.2f} s: "
        f"{result.rate:,.0f}/s, {bits(result.rate * result.size * 8)}/s",
        "; ".join(parts),
    ]


def bits(number: float) -> str:
    """Return a number of bits as `1.6 Mbit`."""
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g} {unit}bit"
        number /= 1000
    return f"{number:,.3g} Tbit"


def _figure(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)


def _loss(percent: float | None) -> str:
    if percent is None:
        return "-"
    return "0" if percent == 0 else "<0.01" if percent < 0.01 else f"{percent:.2f}"


def _percentile(fraction: float) -> Callable[[PodResult], str]:
    return lambda pod: milliseconds(pod.round_trip(fraction))


_COLUMNS: dict[str, Callable[[PodResult], str]] = {
    "POD": lambda pod: str(pod.endpoint),
    "SENT": lambda pod: f"{pod.sent:,}",
    "RECEIVED": lambda pod: f"{pod.seen.received:,}",
    "PER S": lambda pod: _figure(pod.rate, "{:,.0f}"),
    "LOSS %": lambda pod: _loss(pod.loss),
    "REORD": lambda pod: f"{pod.seen.reordered:,}",
    "DUP": lambda pod: f"{pod.seen.duplicates:,}",
    **{f"{name.upper()} MS": _percentile(fraction) for name, fraction in PERCENTILES.items()},
}
