"""`fanout send`: a message, or a stream of them, to every pod of a Service."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import click

from fanout.cli.interrupt import on_interrupt
from fanout.cli.main import EXIT_INCOMPLETE, EXIT_INTERRUPTED
from fanout.cli.message import limit_of, read_message, standard_input
from fanout.cli.options import (
    Bandwidth,
    FiniteRange,
    is_given,
    max_datagram_option,
    option,
    output_option,
    patience_options,
    seal_options,
)
from fanout.cli.output import errors_as_json, note, print_json, show_library_notes
from fanout.cli.stream import LineStream
from fanout.cli.target import Target, find_target, plural, target_options
from fanout.errors import FanoutError
from fanout.model import Endpoint
from fanout.net.errno_text import sending
from fanout.protocol.sending.pacer import BURST
from fanout.report import Outcome, Report, Status
from fanout.sender.sync import Sender

SETTLE = 0.003
"""Seconds to wait for ICMP errors after the last message: several round trips inside a cluster."""
_PROGRESS_INTERVAL = 0.1


@click.command()
@target_options
@option("-m", "--message", metavar="TEXT", help="The message; '-' reads it from standard input.")
@option("--file", "path", metavar="PATH", help="The message is this file's content.")
@option("--lines", is_flag=True, help="Read standard input and send each line as a message.")
@option(
    "--count",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Send the message so many times.",
)
@option("--interval", type=FiniteRange(0, 86_400), metavar="SECONDS", help="Wait so long between messages, at least.")
@option("--rate", type=FiniteRange(min=0.0001), metavar="N", help="Send N messages a second.")
@option("--bandwidth", type=Bandwidth(), metavar="BITS", help="Send so many bits of payload a second to each pod: 10M.")
@option(
    "--burst",
    type=click.IntRange(min=1),
    default=BURST,
    show_default=True,
    metavar="N",
    help="Send at most N tiny messages at once when paced, fewer larger ones: what a default receive buffer holds.",
)
@option(
    "--settle",
    type=FiniteRange(min=0, max=60),
    default=SETTLE,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for refusals after the last message.",
)
@option("--confirm", is_flag=True, help="Have each pod confirm that it has handled the message; ask the silent again.")
@patience_options
@option("--numbered", is_flag=True, help="Number the messages, so that fanout receivers count what was lost.")
@max_datagram_option
@seal_options
@option("--allow-empty", is_flag=True, help="Send an empty message, too, as an empty datagram.")
@output_option
@option("-q", "--quiet", is_flag=True, help="Print errors only.")
@option("--dry-run", is_flag=True, help="Resolve and show the pods, and send nothing.")
def send(
    service: str,
    port: str,
    family: str,
    nameserver: str | None,
    allow_loopback: bool,
    message: str | None,
    path: str | None,
    lines: bool,
    count: int,
    interval: float | None,
    rate: float | None,
    bandwidth: float | None,
    burst: int,
    settle: float,
    confirm: bool,
    timeout: float,
    retries: int | None,
    numbered: bool,
    max_datagram: int | None,
    key_file: str | None,
    cluster: str,
    allow_empty: bool,
    output: str,
    quiet: bool,
    dry_run: bool,
) -> int:
    """Send a message to every pod of a headless Service, and say what became of each copy.

    "sent" means that the kernel took the copy, not that it was delivered. With --confirm each pod says that it
    has handled the message, or why not; this, like --numbered, --max-datagram and --key-file, needs fanout
    receivers. Exit codes: 0 all sent (or confirmed), 1 error, 2 usage, 3 no endpoints, 4 some pods refused it,
    could not be sent to, or did not confirm.

    \b
    fanout send -s headless-udp -m reload
    fanout send -s headless-udp -m reload --confirm --timeout 5
    tail -f events | fanout send -s headless-udp --lines
    fanout send -s headless-udp -m tick --count 60 --interval 1
    """
    show_library_notes()
    with errors_as_json(output, service=service):
        if (message is not None) + (path is not None) + lines != 1:
            raise click.UsageError("give one of --message, --file and --lines")
        if lines and count != 1:
            raise click.UsageError("--count repeats one message: it does not go with --lines")
        if interval is not None and (rate is not None or bandwidth is not None):
            raise click.UsageError("--interval says how fast, and so do --rate and --bandwidth: give one")
        _check_together(confirm=confirm, bandwidth=bandwidth, sealed=key_file is not None)
        limit = limit_of(framed=bool(confirm or numbered or max_datagram or key_file))
        stream = LineStream(limit, allow_empty=allow_empty)
        payload = None if lines else read_message(message, path, limit, allow_empty=allow_empty)
        target = find_target(service, port, family, nameserver, allow_loopback)
        if target.note and not quiet:
            note(target.note)
        with Sender(
            target.service,
            resolver=target.resolver,
            numbered=numbered,
            max_datagram=max_datagram,
            key_file=key_file,
            cluster=cluster if key_file else "",  # the environment's label is for those who have keys
        ) as sender:
            if dry_run:
                return _show_dry_run(target, sender.resolve(), output, quiet=quiet)
            started = time.monotonic()
            payloads = stream.lines(standard_input()) if payload is None else repeat(payload, count)
            # Nobody types lines into a progress bar.
            is_typed = payload is None and sys.stdin.isatty()
            shown = not is_typed and not quiet and sys.stderr.isatty()
            if confirm:
                # Imported when it is needed: a plain message is not to wait for it.
                from fanout.cli.send_confirmed import ConfirmOptions, send_confirmed

                pace = 1.0 / rate if rate else interval or 0.0
                messages = None if payload is None else count
                asking = ConfirmOptions(timeout, retries, pace, messages, output, quiet, shown)
                if max_datagram is not None:
                    asking = asking._replace(whole=max_datagram)
                return send_confirmed(sender, target, payloads, stream, asking)
            if interval:
                rate, burst = 1.0 / interval, 1
            shown = shown and (payload is None or count > 1)
            try:
                with on_interrupt(stream.interrupt):
                    report = sender.send_many(
                        _with_progress(payloads, None if lines else count) if shown else payloads,
                        rate=rate,
                        bandwidth=bandwidth,
                        burst=burst,
                        stop=stream.stopped,
                        settle=settle,
                    )
            except FanoutError as error:
                if error.report is None or not error.report.messages:
                    raise
                report, stream.failure = error.report, error
            elapsed = time.monotonic() - started
    if output == "json":
        print_json(_as_json(target, report, elapsed))
    elif not quiet:
        _show(target, report, stream)
    if stream.failure is not None:
        raise stream.failure
    if stream.interrupted:
        return EXIT_INTERRUPTED
    return 0 if report.complete else EXIT_INCOMPLETE


def _check_together(*, confirm: bool, bandwidth: float | None, sealed: bool) -> None:
    """Raise `click.UsageError` for options that say nothing together."""
    if confirm and bandwidth is not None:
        raise click.UsageError("--confirm waits for each message's answers: pace it by --rate or --interval")
    for name in ("burst", "settle") if confirm else ("timeout", "retries"):
        if is_given(name):
            other = "goes with plain messages, not with --confirm" if confirm else "says how long --confirm may take"
            raise click.UsageError(f"--{name} {other}")
    if is_given("cluster") and not sealed:
        raise click.UsageError("--cluster is a label for sealed messages: give --key-file as well")


def _with_progress(payloads: Iterator[bytes], length: int | None) -> Iterator[bytes]:
    with click.progressbar(
        payloads, length, label="sending", show_pos=True, show_percent=length is not None, file=sys.stderr
    ) as bar:
        pending, due = 0, 0.0
        for payload in payloads:
            yield payload
            pending += 1
            if (now := time.monotonic()) >= due:
                bar.update(pending)
                pending, due = 0, now + _PROGRESS_INTERVAL
        bar.update(pending)


def _show_dry_run(target: Target, endpoints: tuple[Endpoint, ...], output: str, *, quiet: bool) -> int:
    if output == "json":
        print_json(
            {
                "service": target.service.name,
                "dry_run": True,
                "endpoints": [{"endpoint": str(e)} for e in endpoints],
            }
        )
    elif not quiet:
        for endpoint in endpoints:
            click.echo(f"would send message to {endpoint}")
        click.echo(f"nothing sent (dry run): {target.pods(len(endpoints))} of {target.service.name}")
    return 0


def _show(target: Target, report: Report, stream: LineStream) -> None:
    if not report.messages:
        left_out = f"; {plural(stream.empty_lines, 'empty line')} left out" if stream.empty_lines else ""
        click.secho(f"sent nothing: no message came{left_out}", fg="yellow")
        return
    for outcome in report.outcomes:
        click.echo(_line(outcome, report.messages))
    size = plural(report.size, "byte") + ("" if report.messages == 1 else " in all")
    complete, pods = len(report.sent), len(report.outcomes)
    whom = target.pods(pods) if complete == pods else f"{complete} of {target.pods(pods)}"
    of_service = "" if target.is_literal else f" of {target.service.name}"
    troubles = [f"{len(group)} {group[0].status}" for group in (report.refused, report.dropped) if group]
    if stream.empty_lines:
        troubles.append(f"{plural(stream.empty_lines, 'empty line')} left out")
    if report.stale:
        troubles.append(f"DNS does not answer, its last answer is {report.age:.0f} s old")
    summary = f"sent {plural(report.messages, 'message')} ({size}) to {whom}{of_service}"
    click.secho("; ".join([summary, *troubles]), fg="green" if complete == pods else "yellow")


def _line(outcome: Outcome, messages: int) -> str:
    what = "message" if messages == 1 else plural(outcome.sent, "message")
    if outcome.status is Status.SENT:
        return f"sent {what} to {outcome.endpoint}"
    counts = [f"{n} {word}" for n, word in ((outcome.refused, "refused"), (outcome.dropped, "dropped")) if n]
    how = outcome.status if messages == 1 else f"sent {what}, {', '.join(counts)}"
    return click.style(f"{how}: {sending(outcome.endpoint, outcome.errno)}", fg="red")


def _as_json(target: Target, report: Report, elapsed: float) -> dict[str, Any]:
    return {
        "service": target.service.name,
        "messages": report.messages,
        "bytes": report.size,
        "elapsed": round(elapsed, 6),
        "answer_age": round(report.age, 3),
        "stale": report.stale,
        "sent": len(report.sent),
        "refused": len(report.refused),
        "dropped": len(report.dropped),
        "endpoints": [
            {
                "endpoint": str(outcome.endpoint),
                "status": outcome.status.value,
                "sent": outcome.sent,
                "refused": outcome.refused,
                "dropped": outcome.dropped,
                "reason": outcome.reason and outcome.reason.value,
                "errno": errno.errorcode.get(outcome.errno),
            }
            for outcome in report.outcomes
        ],
    }
