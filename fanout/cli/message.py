"""Where a message comes from, and how large it may be."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO, NamedTuple

import click

from fanout.errors import FanoutError, MessageTooLarge
from fanout.model import MAX_PAYLOAD


class Limit(NamedTuple):
    """How many bytes a message may have."""

    size: int
    what: str
    """What can be no larger."""
    advice: str


def limit_of(*, framed: bool) -> Limit:
    """Return the limit of a plain message, or of one in frames."""
    if not framed:
        return Limit(
            MAX_PAYLOAD,
            "a UDP datagram carries",
            "send it in parts, or to fanout receivers in fragments (--max-datagram 1200, or --confirm)",
        )
    from fanout.protocol.frame import MESSAGE_MAX

    return Limit(MESSAGE_MAX, "a message may have", "send it in parts")


def read_message(message: str | None, path: str | None, limit: Limit, *, allow_empty: bool) -> bytes:
    """Return the message that --message or --file is."""
    if path is not None:
        try:
            with open(path, "rb") as file:
                data = _bounded(file, path, limit)
        except OSError as error:
            raise FanoutError(f"cannot read the message from {path}: {error.strerror}") from None
    elif message == "-":
        data = _bounded(standard_input(), "standard input", limit)
    else:
        data = os.fsencode(message or "")
    if not data and not allow_empty:
        raise click.UsageError("the message is empty: is a variable unset? (--allow-empty sends an empty datagram)")
    if len(data) > limit.size:
        raise _too_large("the message", limit)
    return data


def _bounded(file: BinaryIO, name: str, limit: Limit) -> bytes:
    data = file.read(limit.size + 1)
    if len(data) > limit.size:
        raise _too_large(name, limit)
    return data


def _too_large(name: str, limit: Limit) -> MessageTooLarge:
    return MessageTooLarge(f"{name} has more than the {limit.size:,} bytes that {limit.what}: {limit.advice}")


def standard_input() -> BinaryIO:
    """Return standard input; raise `FanoutError` where it is closed."""
    if sys.stdin is None:
        raise FanoutError("cannot read from standard input: it is closed")
    return sys.stdin.buffer
