"""`fanout query`: ask every pod of a Service, and print what each replies."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import click

from fanout.cli.confirm_report import ConfirmTally, hint, pod_json, pod_line, pods_by_status, seconds
from fanout.cli.interrupt import Interruption, on_interrupt
from fanout.cli.message_input import limit_of, read_message
from fanout.cli.options import SealOptions, max_datagram_option, option, output_option, patience_options, seal_options
from fanout.cli.output import (
    EXIT_INCOMPLETE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    errors_as_json,
    milliseconds,
    print_json,
    show_library_notes,
)
from fanout.cli.target import Target, TargetOptions, find_target, target_options
from fanout.protocol.frame import FRAGMENT_OVERHEAD, REPLY_OVERHEAD
from fanout.protocol.sending.receipt import ReceiptStatus, Reply
from fanout.sender.encoder import MAX_DATAGRAM
from fanout.sender.sync import Query, Sender

_SHOWN = 24
"""Bytes of a binary reply that are shown."""


@click.command()
@target_options
@option("-m", "--message", metavar="TEXT", help="The query; '-' reads it from standard input.")
@option("--file", "path", metavar="PATH", help="Send the content of this file as the query.")
@patience_options
@max_datagram_option
@seal_options
@option("--allow-empty", is_flag=True, help="Allow an empty query.")
@output_option
def query(
    target: TargetOptions,
    message: str | None,
    path: str | None,
    timeout: float,
    retries: int | None,
    max_datagram: int | None,
    seal: SealOptions,
    allow_empty: bool,
    output: str,
) -> int:
    """Query every pod of a headless Service, print each reply as it comes, then the pods without a reply.

    Fanout receivers answer ping and info by themselves, and whatever their handlers answer. Replies may be as large
    as the query's datagram (--max-datagram), larger where messages are sealed (--key-file) or the receivers reply to
    anyone. Exit codes: 0 all replied, 1 error, 2 usage, 3 no endpoints, 4 some pods did not reply.

    \b
    fanout query -s headless-udp -m ping
    fanout query -s headless-udp -m info -o json
    """
    show_library_notes()
    with errors_as_json(output, service=target.service):
        if (message is not None) + (path is not None) != 1:
            raise click.UsageError("give one of --message and --file")
        seal.check()
        payload = read_message(message, path, limit_of(framed=True), allow_empty=allow_empty)
        found = find_target(target)
        with Sender(
            found.service,
            resolver=found.resolver,
            max_datagram=max_datagram,
            key_file=seal.key_file,
            cluster=seal.label,
        ) as sender:
            # A reply's datagram is no larger than the query's, and its header is longer: it holds a bit less.
            whole = (max_datagram or MAX_DATAGRAM) + FRAGMENT_OVERHEAD - REPLY_OVERHEAD
            start = partial(sender.query, payload, timeout=timeout, retries=retries)
            result = _ask(start, len(payload), whole, None if output == "json" else click.echo)
    if output == "json":
        print_json(_as_json(found, len(payload), result))
    elif result.tally.messages:
        _show(found, result)
    else:
        click.secho("interrupted: nothing is known about any pod", fg="yellow")
    if result.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_OK if result.tally.complete else EXIT_INCOMPLETE


class _QueryResult(NamedTuple):
    """The result of a query."""

    tally: ConfirmTally
    replies: list[Reply]
    elapsed: float
    """Seconds."""
    interrupted: bool


def _ask(start: Callable[[], Query], size: int, whole: int, show: Callable[[str], None] | None) -> _QueryResult:
    """Start a query of `size` bytes, and show each reply as it comes; over `whole` bytes it has come in fragments."""
    interruption, tally = Interruption(), ConfirmTally()
    replies: list[Reply] = []
    running = None
    started = time.monotonic()
    with on_interrupt(interruption.set):
        with interruption.may_be_cut():
            running = start()
            for reply in running:
                replies.append(reply)
                if show is not None:
                    show(_line(reply, is_cut=max(size, len(reply.payload)) > whole))
        if running is None:  # interrupted, usually while the name was resolved
            tally.add_interrupted((), size, time.monotonic() - started)
        else:
            tally.add(running.confirmation)
    return _QueryResult(tally, replies, time.monotonic() - started, interruption.came)


def _line(reply: Reply, *, is_cut: bool = False) -> str:
    # With fragments, `rtt` is the round trip of a few of them, not the time that the whole took.
    took = "" if is_cut else f" ({milliseconds(reply.rtt)} ms)"
    head = f"{click.style(str(reply.endpoint), bold=True)}{took}"
    text = _printable(reply.payload)
    if text is None:
        shown = reply.payload[:_SHOWN].hex(" ") + (" ..." if len(reply.payload) > _SHOWN else "")
        return f"{head}: {len(reply.payload):,} bytes: {shown}"
    if not text:
        return f"{head}: (empty)"
    lines = text.splitlines()
    return f"{head}: {text}" if len(lines) == 1 else "\n".join([f"{head}:", *(f"  {line}" for line in lines)])


def _printable(payload: bytes) -> str | None:
    """Return the payload as text that a terminal can show, without its last line break; None for binary data."""
    try:
        text = payload.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        return None
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    return text if all(character.isprintable() or character == "\n" for character in text) else None


def _show(target: Target, result: _QueryResult) -> None:
    tally = result.tally
    for pod in tally.pods:
        if pod.status is not ReceiptStatus.CONFIRMED:
            click.echo(pod_line(pod, tally.elapsed))
    pods = tally.pods
    if (said := hint(pods)) is not None:
        click.echo(said)
    by_status = pods_by_status(pods)
    replied = by_status.pop(ReceiptStatus.CONFIRMED)
    troubles = "".join(f"; {count} {status}" for status, count in by_status.items() if count)
    whole = target.whom(len(pods))
    who = whole if replied == len(pods) else f"{replied} of {whole}"
    troubles += "; interrupted" * result.interrupted
    click.secho(
        f"{who} replied in {seconds(tally.elapsed)}{troubles}{tally.dns}", fg="green" if tally.complete else "yellow"
    )


def _as_json(target: Target, size: int, result: _QueryResult) -> dict[str, Any]:
    tally = result.tally
    joined = {pod.endpoint for pod in tally.pods if pod.joined}
    others = [status for status in ReceiptStatus if status is not ReceiptStatus.CONFIRMED]
    return {
        "service": target.service.name,
        "bytes": size,
        "elapsed": round(result.elapsed, 6),
        **tally.dns_json,
        "complete": tally.complete,
        "replies": [
            {
                "endpoint": str(reply.endpoint),
                "rtt": round(reply.rtt, 6),
                "joined": reply.endpoint in joined,
                **_payload_json(reply.payload),
            }
            for reply in result.replies
        ],
        **{status.value: [pod_json(pod) for pod in tally.pods if pod.status is status] for status in others},
    }


def _payload_json(payload: bytes) -> dict[str, Any]:
    """Return a reply as text where it is UTF-8, as base64 where it is not, and parsed where it is a JSON object."""
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(payload).decode("ascii")}
    try:
        parsed = json.loads(text, parse_constant=_refuse)
        json.dumps(parsed, allow_nan=False)  # 1e999 is infinite, which JSON cannot represent
    except (ValueError, RecursionError):
        return {"payload": text}
    return {"payload": text, "json": parsed} if isinstance(parsed, dict) else {"payload": text}


def _refuse(constant: str) -> None:
    raise ValueError(constant)
