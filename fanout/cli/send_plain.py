"""`fanout send` without --confirm: a stream of messages, and what became of each copy of them."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from fanout.cli.interrupt import on_interrupt
from fanout.cli.message_input import MessageStream
from fanout.cli.output import plural
from fanout.cli.target import Target
from fanout.errno_text import sending
from fanout.errors import FanoutError
from fanout.report import Outcome, Report, Status
from fanout.sender.sync import Sender

_PROGRESS_INTERVAL = 0.1


class PaceOptions(NamedTuple):
    """How fast messages leave, and how long refusals of the last ones are awaited."""

    interval: float | None
    """Seconds from one message to the next, at least."""
    rate: float | None
    """Messages a second."""
    bandwidth: float | None
    """Bits of payload a second, to each pod."""
    burst: int
    settle: float
    """Seconds."""

    @property
    def least_interval(self) -> float:
        """Seconds from one message to the next, at least, where each is waited for."""
        return 1.0 / self.rate if self.rate else self.interval or 0.0


def send_plain(sender: Sender, payloads: Iterator[bytes], stream: MessageStream, pace: PaceOptions) -> Report:
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


def with_progress(payloads: Iterator[bytes], length: int | None) -> Iterator[bytes]:
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


def show_report(target: Target, report: Report, stream: MessageStream) -> None:
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
    counts = [f"{n} {word}" for n, word in ((outcome.refused, "refused"), (outcome.dropped, "dropped")) if n]
    how = outcome.status if messages == 1 else f"sent {what}, {', '.join(counts)}"
    return click.style(f"{how}: {sending(outcome.endpoint, outcome.errno)}", fg="red")


def report_json(target: Target, report: Report, elapsed: float) -> dict[str, Any]:
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
