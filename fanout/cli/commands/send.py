"""`fanout send`: send a message, or a stream of them, to every pod of a Service."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import click

from fanout.cli.interrupt import on_interrupt
from fanout.cli.message_input import MessageStream, limit_of, read_message, standard_input
from fanout.cli.options import (
    FiniteRange,
    bandwidth_option,
    gathered,
    max_datagram_option,
    option,
    output_option,
    patience_options,
    seal_options,
    seconds_option,
)
from fanout.cli.output import EXIT_OK, errors_as_json, plural, print_json, show_library_notes
from fanout.cli.send_options import PaceOptions, SendOptions
from fanout.cli.target import Target, find_target, target_options
from fanout.errors import FanoutError
from fanout.model import Endpoint
from fanout.protocol.sending.pacer import BURST
from fanout.report import Outcome, Report, Status
from fanout.sender.sync import Sender

_SETTLE = 0.003
"""Seconds to wait for ICMP errors after the last message: several round trips inside a cluster."""
_PROGRESS_INTERVAL = 0.1


@click.command()
@target_options
@option("-m", "--message", metavar="TEXT", help="The message; '-' reads it from standard input.")
@option("--file", "path", metavar="PATH", help="Send the content of this file.")
@option("--lines", is_flag=True, help="Read standard input and send each line as a message.")
@option("--count", "repeats", type=click.IntRange(min=1), default=1, help="Send the message this many times.")
@seconds_option("--interval", None, "Wait at least this long between messages.", most=86_400)
@option("--rate", type=FiniteRange(min=0.0001), metavar="N", help="Send N messages a second.")
@bandwidth_option
@option(
    "--burst",
    type=click.IntRange(min=1),
    default=BURST,
    metavar="N",
    help="When paced, send at most N tiny messages at once, fewer larger ones: what a default receive buffer holds.",
)
@seconds_option("--settle", _SETTLE, "Wait this long for refusals (ICMP) after the last message.", most=60)
@option("--confirm", is_flag=True, help="Have each pod confirm that it has handled the message; retry silent pods.")
@patience_options
@option("--numbered", is_flag=True, help="Number the messages, so that fanout receivers count what was lost.")
@max_datagram_option
@seal_options
@option("--allow-empty", is_flag=True, help="Allow an empty message: an empty datagram.")
@output_option
@option("-q", "--quiet", is_flag=True, help="Print errors only.")
@option("--dry-run", is_flag=True, help="Resolve and show the pods; send nothing.")
@gathered(PaceOptions, "pace")
def send(**values: Any) -> int:
    """Send a message to every pod of a headless Service, and report what became of each copy.

    "sent" means that the kernel took the copy, not that it was delivered. With --confirm each pod confirms that it
    has handled the message, or says why not; this, like --numbered, --max-datagram and --key-file, needs fanout
    receivers. Exit codes: 0 all sent (or confirmed), 1 error, 2 usage, 3 no endpoints, 4 some pods refused it,
    could not be sent to, or did not confirm.

    \b
    fanout send -s headless-udp -m reload
    fanout send -s headless-udp -m reload --confirm --timeout 5
    tail -f events | fanout send -s headless-udp --lines
    fanout send -s headless-udp -m tick --count 60 --interval 1
    """
    show_library_notes()
    options = SendOptions(**values)
    with errors_as_json(options.output, service=options.target.service):
        options.check()
        limit = limit_of(framed=options.is_framed)
        stream = MessageStream(limit, allow_empty=options.allow_empty)
        payload = None
        if not options.lines:
            payload = read_message(options.message, options.path, limit, allow_empty=options.allow_empty)
        target = find_target(options.target, quiet=options.quiet)
        with Sender(
            target.service,
            resolver=target.resolver,
            numbered=options.numbered,
            max_datagram=options.max_datagram,
            key_file=options.seal.key_file,
            cluster=options.seal.label,
        ) as sender:
            if options.dry_run:
                return _show_dry_run(target, sender.resolve(), options)
            payloads = stream.lines(standard_input()) if payload is None else repeat(payload, options.repeats)
            if options.confirm:
                # Imported when needed: a plain message must not wait for it.
                from fanout.cli.send_confirmed import send_confirmed

                return send_confirmed(sender, target, payloads, stream, options)
            if options.shows_progress and options.messages != 1:
                payloads = _with_progress(payloads, options.messages)
            started = time.monotonic()
            report = _send(sender, payloads, stream, options.pace)
            elapsed = time.monotonic() - started
    if options.output == "json":
        print_json(_as_json(target, report, elapsed))
    elif not options.quiet:
        _show(target, report, stream)
    return stream.exit_code(complete=report.complete)


def _show_dry_run(target: Target, endpoints: tuple[Endpoint, ...], options: SendOptions) -> int:
    if options.output == "json":
        print_json(
            {"service": target.service.name, "dry_run": True, "endpoints": [{"endpoint": str(e)} for e in endpoints]}
        )
    elif not options.quiet:
        for endpoint in endpoints:
            click.echo(f"would send message to {endpoint}")
        click.echo(f"nothing sent (dry run): {target.pods(len(endpoints))} of {target.service.name}")
    return EXIT_OK


def _send(sender: Sender, payloads: Iterator[bytes], stream: MessageStream, pace: PaceOptions) -> Report:
    """Send messages until they end, or are ended; return what became of those that were sent until then.

    Raises `FanoutError` where nothing was sent.
    """
    rate, burst = (1.0 / pace.interval, 1) if pace.interval else (pace.rate, pace.burst)
    try:
        with on_interrupt(stream.interruption.set):
            report = sender.send_many(
                payloads,
                rate=rate,
                bandwidth=pace.bandwidth,
                burst=burst,
                stop=stream.interruption.stopped,
                settle=pace.settle,
            )
    except FanoutError as error:
        if error.report is None or not error.report.messages:
            raise
        report, stream.failure = error.report, error
    return report


def _with_progress(payloads: Iterator[bytes], length: int | None) -> Iterator[bytes]:
    """Yield the messages, and show on standard error how many have left, of `length` where that is known."""
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


def _show(target: Target, report: Report, stream: MessageStream) -> None:
    """Print a line a pod, and a summary."""
    if not report.messages:
        click.secho("; ".join(filter(None, ["sent nothing: no message came", stream.left_out])), fg="yellow")
        return
    for outcome in report.outcomes:
        click.echo(_line(outcome, report.messages))
    size = plural(report.size, "byte") + ("" if report.messages == 1 else " in all")
    complete, pods = len(report.sent), len(report.outcomes)
    whom = target.whom(pods) if complete == pods else f"{complete} of {target.whom(pods)}"
    troubles = [f"{len(group)} {group[0].status}" for group in (report.refused, report.dropped) if group]
    if stream.left_out:
        troubles.append(stream.left_out)
    if report.stale:
        troubles.append(f"DNS does not answer; its last answer is {report.age:.0f} s old")
    summary = f"sent {plural(report.messages, 'message')} ({size}) to {whom}"
    click.secho("; ".join([summary, *troubles]), fg="green" if complete == pods else "yellow")


def _line(outcome: Outcome, messages: int) -> str:
    what = "message" if messages == 1 else plural(outcome.sent, "message")
    if outcome.status is Status.SENT:
        return f"sent {what} to {outcome.endpoint}"
    from fanout.errno_text import sending  # where all is well, it is not needed

    counts = [f"{n} {word}" for n, word in ((outcome.refused, "refused"), (outcome.dropped, "dropped")) if n]
    how = outcome.status if messages == 1 else f"sent {what}, {', '.join(counts)}"
    return click.style(f"{how}: {sending(outcome.endpoint, outcome.errno)}", fg="red")


def _as_json(target: Target, report: Report, elapsed: float) -> dict[str, Any]:
    """Return what became of all copies."""
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
