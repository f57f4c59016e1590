"""What a log line has of a message: any bytes are a value of JSON, and no more of them than was allowed."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from fanout.daemon.core.log_fields import message_fields, payload_field
from fanout.model import Endpoint, FramedMessage, Message

SOURCE = Endpoint("10.0.0.7", 40_000)


@given(st.binary(max_size=40), st.integers(0, 40))
def test_any_payload_is_a_value(payload: bytes, limit: int) -> None:
    field = payload_field(payload, limit)
    cut = field.pop("payload_cut", False)
    assert cut == (limit < len(payload))
    ((key, value),) = field.items()
    shown = value.encode() if key == "payload" else base64.b64decode(value)
    assert payload.startswith(shown)
    assert len(shown) >= min(limit, len(payload)) - (3 if cut and key == "payload" else 0)


def test_a_character_that_the_limit_cuts_in_two_is_left_out_and_bytes_that_are_no_text_are_not() -> None:
    assert payload_field("aé€".encode(), 5) == {"payload": "aé", "payload_cut": True}
    assert payload_field("aé".encode(), 3) == {"payload": "aé"}
    assert payload_field(b"a\xc3", 2) == {"payload_base64": "YcM="}, "nothing was cut off there"
    assert payload_field(b"a\xc3(", 2) == {"payload": "a", "payload_cut": True}
    assert payload_field(b"\xff" * 5, 4) == {"payload_base64": "/////w==", "payload_cut": True}


def test_a_line_has_a_gap_only_where_there_is_one() -> None:
    plain = {"source": "10.0.0.7:40000", "size": 6, "payload": "hel", "payload_cut": True}
    assert message_fields(Message(b"hello!", SOURCE, 0.0), 3) == plain
    assert message_fields(FramedMessage(b"hello!", SOURCE, 0.0, 2), 3) == {**plain, "gap": 2}
    assert message_fields(FramedMessage(b"hello!", SOURCE, 0.0, -1), 3)["gap"] == -1
