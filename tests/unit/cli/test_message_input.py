"""Messages from arguments, files and lines: as they are, within what a message may have."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import click
import pytest

from fanout.cli.message_input import Limit, MessageStream, limit_of, read_message
from fanout.errors import FanoutError, MessageTooLarge

LIMIT = Limit(8, "a test may have", "write less")


def test_a_plain_message_is_a_datagram_and_one_in_frames_may_be_larger() -> None:
    assert limit_of(framed=False).size == 65_507
    assert limit_of(framed=True).size == 16 * 1024 * 1024


def test_a_message_is_an_argument_byte_for_byte() -> None:
    assert read_message("héllo", None, LIMIT, allow_empty=False) == "héllo".encode()
    assert read_message(os.fsdecode(b"\xff"), None, LIMIT, allow_empty=False) == b"\xff"
    with pytest.raises(MessageTooLarge, match="the message has more than the 8 bytes that a test may have: write less"):
        read_message("123456789", None, LIMIT, allow_empty=False)


@pytest.mark.parametrize("message", ["", None])
def test_an_empty_message_must_be_meant(message: str | None) -> None:
    with pytest.raises(click.UsageError, match="the message must not be empty: check for an unset variable"):
        read_message(message, None, LIMIT, allow_empty=False)
    assert read_message(message, None, LIMIT, allow_empty=True) == b""


def test_a_message_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "message"
    file.write_bytes(b"12345678")
    assert read_message(None, str(file), LIMIT, allow_empty=False) == b"12345678"
    file.write_bytes(b"123456789")
    with pytest.raises(MessageTooLarge, match=f"^{file} has more than"):
        read_message(None, str(file), LIMIT, allow_empty=False)
    with pytest.raises(FanoutError, match=r"cannot read the message from .*: Is a directory"):
        read_message(None, str(tmp_path), LIMIT, allow_empty=False)


def test_a_message_may_be_standard_input_unless_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n")))
    assert read_message("-", None, LIMIT, allow_empty=False) == b"a\nb\n"
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(FanoutError, match="it is closed"):
        read_message("-", None, LIMIT, allow_empty=False)


def test_each_line_is_a_message_and_empty_ones_are_left_out_and_counted() -> None:
    stream = MessageStream(LIMIT)
    assert list(stream.lines(io.BytesIO(b"a\n\n12345678\n\r\nend"))) == [b"a", b"12345678", b"\r", b"end"]
    assert stream.left_out == "1 empty line left out"
    assert (stream.exit_code(complete=True), stream.exit_code(complete=False)) == (0, 4)
    stream = MessageStream(LIMIT, allow_empty=True)
    assert list(stream.lines(io.BytesIO(b"\n\n"))) == [b"", b""]
    assert stream.left_out == ""


def test_a_line_that_is_too_long_ends_the_stream_before_it() -> None:
    stream = MessageStream(LIMIT)
    assert list(stream.lines(io.BytesIO(b"a\n123456789\nb\n"))) == [b"a"]
    with pytest.raises(MessageTooLarge, match=r"^line 2 has more than the 8 bytes .* and the rest were not sent$"):
        stream.exit_code(complete=True)


def test_an_interrupt_ends_the_stream_after_what_is_under_way() -> None:
    stream = MessageStream(LIMIT)
    lines = stream.lines(io.BytesIO(b"a\nb\n"))
    assert next(lines) == b"a"
    stream.interruption.set()
    assert list(lines) == []
    assert stream.exit_code(complete=True) == 130
