"""Where messages come from, arguments, files and standard input, and how large they may be."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import click

from fanout.cli.interrupt import Interruption
from fanout.cli.output import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_OK, plural
from fanout.errors import FanoutError, MessageTooLarge
from fanout.model import MAX_PAYLOAD


class Limit(NamedTuple):
    """The largest message that can be sent."""

    size: int
    what: str
    """What sets the limit, as a part of a sentence."""
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
    """Return the message of --message or --file."""
    name = "the message"
    if path is not None:
        name = path
        try:
            with open(path, "rb") as file:
                data = file.read(limit.size + 1)
        except OSError as error:
            raise FanoutError(f"cannot read the message from {path}: {error.strerror}") from None
    elif message == "-":
        name, data = "standard input", standard_input().read(limit.size + 1)
    else:
        data = os.fsencode(message or "")
    if not data and not allow_empty:
        raise click.UsageError(
            "the message must not be empty: check for an unset variable, or send an empty datagram (--allow-empty)"
        )
    if len(data) > limit.size:
        raise MessageTooLarge(f"{name} has more than the {limit.size:,} bytes that {limit.what}: {limit.advice}")
    return data


def standard_input() -> BinaryIO:
    """Return standard input; raise `FanoutError` where it is closed."""
    if sys.stdin is None:
        raise FanoutError("cannot read from standard input: it is closed")
    return sys.stdin.buffer


class MessageStream:
    """The messages of one `fanout send`, and what ended them early.

    An interrupt ends them after those under way, a line that cannot be sent ends them before that line (`failure`):
    what was sent until then is reported like any other stream.
    """

    def __init__(self, limit: Limit, *, allow_empty: bool = False) -> None:
        self.interruption: Interruption = Interruption()
        self.failure: FanoutError | None = None
        self._empty_lines = 0
        self._limit = limit
        self._allow_empty = allow_empty

    def lines(self, source: BinaryIO) -> Iterator[bytes]:
        """Yield each line without its line feed, as it comes; empty ones are counted and left out."""
        number = 0
        most = self._limit.size
        while not self.interruption.stopped.is_set():
            line = b""
            with self.interruption.may_be_cut():
                line = source.readline(most + 2)
            if not line:
                return
            number += 1
            payload = line.removesuffix(b"\n")
            if len(payload) > most:
                self.failure = MessageTooLarge(
                    f"line {number} has more than the {most:,} bytes that {self._limit.what}: "
                    "this line and the rest were not sent"
                )
                return
            if payload or self._allow_empty:
                yield payload
            else:
                self._empty_lines += 1

    @property
    def left_out(self) -> str:
        """Return how many lines were left out, in words; empty where none was."""
        return f"{plural(self._empty_lines, 'empty line')} left out" if self._empty_lines else ""

    def exit_code(self, *, complete: bool) -> int:
        """Return the exit code once all is reported; raise what ended the stream."""
        if self.failure is not None:
            raise self.failure
        return EXIT_INTERRUPTED if self.interruption.came else EXIT_OK if complete else EXIT_INCOMPLETE
