"""How `fanout query` prints a reply, whatever is in it."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.cli.commands.query import _line, _payload_json, _printable
from fanout.model import Endpoint
from fanout.protocol.sending.receipt import Reply

HERE = Endpoint("10.0.0.7", 12000)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_reply_can_harm_a_terminal_or_the_json(payload: bytes) -> None:
    shown = _line(Reply(HERE, payload, 0.001))
    plain = shown.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert all(character.isprintable() or character == "\n" for character in plain)
    assert all(line.startswith(("10.0.0.7:12000", "  ")) for line in plain.splitlines())
    value = _payload_json(payload)
    json.dumps(value, allow_nan=False)
    kept = base64.b64decode(value["payload_base64"]) if "payload_base64" in value else value["payload"].encode()
    assert kept == payload


@pytest.mark.parametrize(
    ("payload", "parsed"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'{"a": NaN}', None),
        (b'{"a": 1e999}', None),
        (b"[1]", None),
        (b'"a"', None),
        (b'{"a": ' * 100_000, None),
        (b'{"a": ' + b"9" * 5000 + b"}", None),
    ],
)
def test_json_objects_are_parsed(payload: bytes, parsed: object) -> None:
    assert _payload_json(payload).get("json") == parsed


def test_text_that_a_terminal_can_show() -> None:
    assert _printable("grüße\tund\r\nmehr\n".encode()) == "grüße    und\nmehr"
    assert [_printable(payload) for payload in (b"\x1b[2J", b"a\rb", "\u202e".encode(), b"\xff")] == [None] * 4
