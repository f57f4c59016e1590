"""`fanout bench`: what `iperf -u` is to one host, to every pod of a Service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click

from fanout.cli.interrupt import on_interrupt
from fanout.cli.options import FiniteRange, bandwidth_option, gathered, option, output_option
from fanout.cli.output import (
    EXIT_INCOMPLETE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    errors_as_json,
    note,
    print_json,
    show_library_notes,
)
from fanout.cli.target import Target, TargetOptions, find_target, target_options
from fanout.errors import FanoutError
from fanout.measure.result import BenchResult, PodStatus
from fanout.measure.session import Bench, Plan, planned, silent
from fanout.model import MAX_PAYLOAD, Endpoint
from fanout.protocol.probe import HEADER
from fanout.sender.sync import Sender

_RATE = 1000.0
_SECONDS = 5.0


class PlanOptions(NamedTuple):
    """How much to send."""

    rate: float | None
    bandwidth: float | None
    size: int
    seconds: float | None
    messages: int | None

    def plan(self) -> Plan:
        """Return what to send; raise `click.UsageError` for options that exclude each other."""
        rate = self.rate
        if rate is not None and self.bandwidth is not None:
            raise click.UsageError("--rate and --bandwidth exclude each other: give one")
        if self.seconds is not None and self.messages is not None:
            raise click.UsageError("--seconds and --count exclude each other: give one")
        if self.bandwidth is not None:
            rate = _datagrams_per_second(self.bandwidth, self.size)
        return planned(rate or _RATE, self.size, self.seconds or _SECONDS, self.messages)


def _datagrams_per_second(bandwidth: float, size: int) -> float:
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


@click.command()
@target_options
@option("--rate", type=FiniteRange(0.001, 1e7), metavar="N", help="Send N messages a second. [default: 1000]")
@bandwidth_option
@option(
    "--size",
    type=click.IntRange(HEADER.size, MAX_PAYLOAD),
    default=200,
    metavar="BYTES",
    help="Payload of each message.",
)
@option("--seconds", type=FiniteRange(0.1, 86_400), metavar="S", help="Send for this long. [default: 5]")
@option("--count", "messages", type=click.IntRange(min=1), metavar="N", help="Send N messages instead.")
@option("--max-loss", type=FiniteRange(0, 100), metavar="PERCENT", help="Exit with 4 where a pod lost more.")
@option("--plot", metavar="FILE", help="Draw latency and loss of each pod as SVG; - is standard output.")
@output_option
@gathered(PlanOptions, "load")
def bench(target: TargetOptions, load: PlanOptions, max_loss: float | None, plot: str | None, output: str) -> int:
    """Measure the way to every pod of a headless Service: rate, loss, order, and round-trip latency.

    A numbered, paced stream goes to each pod, as `fanout send` would send it. The pods' fanout receivers count it
    and report, those with keys only where they accept plaintext; their programs do not see it. Pings beside the
    stream measure the round trip.

    Exit codes: 0 measured, 1 error, 2 usage, 3 no endpoints, 4 some pods silent or worse than --max-loss,
    130 interrupted; what was measured so far is shown.

    \b
    fanout bench -s headless-udp
    fanout bench -s headless-udp --bandwidth 10M --size 1200 --seconds 30 --plot bench.svg
    """
    show_library_notes()
    with errors_as_json(output, service=target.service):
        plan = load.plan()
        if plot == "-" and output == "json":
            raise click.UsageError("standard output takes one of --plot - and --output json")
        found = find_target(target)
        picture = None if plot is None else _Picture(plot)
        try:
            with Sender(found.service, resolver=found.resolver) as sender:
                endpoints = sender.resolve()
            result = _measure(found, endpoints, plan)
            if picture is not None:
                picture.draw(result, found)
        finally:
            if picture is not None:
                picture.close()
    if output == "json":
        print_json(_as_json(found, plan, result))
    else:
        from fanout.cli.bench_output import show

        show(result, found, plan, err=plot == "-")
    return _judge(result, max_loss)


def _measure(target: Target, endpoints: tuple[Endpoint, ...], plan: Plan) -> BenchResult:
    made = Bench(target.service, endpoints, plan)
    try:
        if not made.greet():
            note("no pod answers, so nothing was sent")
            return silent(endpoints, plan.size)
        with on_interrupt(made.interrupt):
            if not sys.stderr.isatty():
                return made.run()
            from fanout.cli.bench_output import BenchProgress

            with BenchProgress(target) as live:
                return made.run(live.look)
    finally:
        made.close()


def _judge(result: BenchResult, max_loss: float | None) -> int:
    """Return the exit code."""
    if result.interrupted:
        return EXIT_INTERRUPTED
    worst = result.worst
    if max_loss is not None and worst is not None and (worst.loss or 0.0) > max_loss:
        note(f"{worst.endpoint} lost {worst.loss:.4g} %, more than --max-loss {max_loss:g}")
        return EXIT_INCOMPLETE
    return EXIT_OK if len(result.having(PodStatus.MEASURED)) == len(result.pods) else EXIT_INCOMPLETE


def _as_json(target: Target, plan: Plan, result: BenchResult) -> dict[str, Any]:
    return {
        "service": target.service.name,
        "rate": plan.rate,
        "bandwidth": plan.rate * plan.size * 8,
        "size": plan.size,
        "seconds": plan.seconds,
        "count": plan.count,
        **result.as_json(),
    }


class _Picture:
    """The file for the plot: open before the run, so that it is not measured in vain; what it held stays until then."""

    def __init__(self, path: str) -> None:
        self._is_output = path == "-"
        self._path = Path("standard output" if self._is_output else path)
        self._is_new = not self._is_output and not self._path.exists()
        self._drawn = False
        try:
            self._file: BinaryIO = sys.stdout.buffer if self._is_output else self._path.open("ab")
        except OSError as error:
            raise self._failure(error) from None

    def draw(self, result: BenchResult, target: Target) -> None:
        """Replace the file's content by the plot."""
        from fanout.cli.bench_plot import draw

        picture = draw(result, target.whom(len(result.pods)))
        try:
            if not self._is_output and self._file.seekable():
                self._file.truncate(0)
            self._file.write(picture)
            self._file.flush()
        except OSError as error:
            raise self._failure(error) from None
        self._drawn = True

    def close(self) -> None:
        """Close the file, and leave no empty one behind."""
        if not self._is_output:
            self._file.close()
        if self._is_new and not self._drawn:
            self._path.unlink()

    def _failure(self, error: OSError) -> FanoutError:
        return FanoutError(f"cannot write the plot to {self._path}: {error.strerror}")
