"""`fanout send --confirm`: one message after the other, each until every pod has answered or the time is up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Any

import click

from fanout.cli.confirm_progress import ConfirmProgress, MessageInProgress
from fanout.cli.confirm_report import ConfirmTally, lines, pod_json, pods_by_status, seconds
from fanout.cli.interrupt import on_interrupt
from fanout.cli.message_input import MessageStream
from fanout.cli.output import plural, print_json
from fanout.cli.send_options import SendOptions
from fanout.cli.target import Target
from fanout.errors import FanoutError
from fanout.protocol.sending.receipt import ReceiptStatus
from fanout.sender.encoder import MAX_DATAGRAM
from fanout.sender.sync import Sender


def send_confirmed(
    sender: Sender, target: Target, payloads: Iterable[bytes], stream: MessageStream, options: SendOptions
) -> int:
    """Send messages and have them confirmed; say what became of them, and return the exit code."""
    tally, watch = ConfirmTally(), MessageInProgress()
    started = time.monotonic()
    shown = (
        ConfirmProgress(watch, target, options.patience.timeout, options.messages)
        if options.shows_progress
        else contextlib.nullcontext()
    )
    with shown, on_interrupt(stream.interruption.set):
        try:
            _send_all(sender, payloads, stream, options, tally, watch)
        except FanoutError as error:
            if not tally.messages:
                raise
            stream.failure = error
    elapsed = time.monotonic() - started
    if options.output == "json":
        print_json(_as_json(target, tally, elapsed))
    elif not options.quiet:
        _show(target, tally, stream, elapsed)
    return stream.exit_code(complete=tally.complete)


def _send_all(
    sender: Sender,
    payloads: Iterable[bytes],
    stream: MessageStream,
    options: SendOptions,
    tally: ConfirmTally,
    watch: MessageInProgress,
) -> None:
    interruption, patience = stream.interruption, options.patience
    due = 0.0
    for payload in payloads:
        if interruption.stopped.wait(max(0.0, due - time.monotonic())):
            return
        due = time.monotonic() + options.pace.least_interval
        is_cut = len(payload) > (options.max_datagram or MAX_DATAGRAM)
        watch.begin(is_cut=is_cut)
        confirmation = None
        with interruption.may_be_cut():
            confirmation = sender.send(
                payload, confirm=True, timeout=patience.timeout, retries=patience.retries, on_receipt=watch.note
            )
        if confirmation is None:  # interrupted: what is known of it counts
            elapsed = time.monotonic() - watch.started
            tally.add_interrupted(list(watch.receipts.values()), len(payload), elapsed, is_cut=is_cut)
        else:
            tally.add(confirmation, is_cut=is_cut)


def _show(target: Target, tally: ConfirmTally, stream: MessageStream, elapsed: float) -> None:
    left_out = stream.left_out and f"; {stream.left_out}"
    interrupted = stream.interruption.came
    if not tally.messages:
        what = "interrupted: nothing is known about any pod" if interrupted else "sent nothing: no message came"
        click.secho(f"{what}{left_out}", fg="yellow")
        return
    for line in lines(tally):
        click.echo(line)
    pods = tally.pods
    by_status = pods_by_status(pods)
    size = plural(tally.size, "byte") + ("" if tally.messages == 1 else " in all")
    became = ", ".join(f"{count} {status}" for status, count in by_status.items() if count)
    if by_status[ReceiptStatus.CONFIRMED] == len(pods):
        became = "confirmed" if len(pods) == 1 else "all confirmed"
    left_out += "; interrupted" * interrupted
    click.secho(
        f"sent {plural(tally.messages, 'message')} ({size}) to {target.whom(len(pods))}: {became}, "
        f"in {seconds(tally.elapsed if tally.messages == 1 else elapsed)}{left_out}{tally.dns}",
        fg="green" if tally.complete else "yellow",
    )


def _as_json(target: Target, tally: ConfirmTally, elapsed: float) -> dict[str, Any]:
    pods = tally.pods
    return {
        "service": target.service.name,
        "messages": tally.messages,
        "bytes": tally.size,
        "elapsed": round(elapsed, 6),
        **tally.dns_json,
        "complete": tally.complete,
        **{status.value: count for status, count in pods_by_status(pods).items()},
        "joined": sum(pod.joined for pod in pods),
        "endpoints": [
            {**pod_json(pod), "messages": {status.value: count for status, count in pod.counts.items() if count}}
            for pod in pods
        ],
    }
