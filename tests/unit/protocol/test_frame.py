"""docs/wire-format.md, read by a decoder that uses nothing of fanout, and what `fanout.protocol.frame` makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import AnswerStatus, Cut, InvalidFrame
from fanout.protocol.seal import Keyring, Opener, Sealer
from tests.support import wire_decoder
from tests.support.sealed_frames import seal_one
from tests.support.tree import ROOT

_KEY = bytes(range(32))
_SENDER, _RECEIVER = 0x0123456789ABCDEF, 0xFEDCBA9876543210
_SEALED_AT = 1_700_000_000


def _vectors() -> list[tuple[str, bytes, dict[str, Any]]]:
    text = (ROOT / "docs/wire-format.md").read_text().partition("<!-- vectors -->")[2]
    found = re.findall(r"\*\*(.+)\*\*\n\n```text\n([0-9a-f\n]+)```\n\n```json\n(.+)\n```", text)
    return [(name, bytes.fromhex(digits.replace("\n", "")), json.loads(fields)) for name, digits, fields in found]


_VECTORS = _vectors()


def test_the_decoder_is_short_and_independent() -> None:
    text = Path(wire_decoder.__file__).read_text()
    assert len(text.splitlines()) < 60
    assert not re.search(r"^\s*(from|import) fanout", text, re.MULTILINE)


def test_every_kind_has_a_vector() -> None:
    assert {fields["kind"] for _, _, fields in _VECTORS} == {*frame.FrameKind, frame.FrameKind.NUMBERED | frame.SEALED}


@pytest.mark.parametrize(("data", "fields"), [vector[1:] for vector in _VECTORS], ids=[name for name, _, _ in _VECTORS])
def test_the_decoder_reads_the_vectors(data: bytes, fields: dict[str, Any]) -> None:
    assert wire_decoder.decode(data, _KEY, "blue") == fields


@pytest.mark.parametrize(("data", "fields"), [vector[1:] for vector in _VECTORS], ids=[name for name, _, _ in _VECTORS])
def test_fanout_reads_the_vectors(data: bytes, fields: dict[str, Any]) -> None:
    found = frame.decode(data)
    if isinstance(found, frame.Sealed):
        inner = Opener(Keyring((_KEY,)), "blue").open(found, _SEALED_AT)
        assert _described(frame.decode(inner)) == fields["inner"]
        assert (found.counter, found.time) == (fields["counter"], fields["time"])
    else:
        assert _described(found) == fields


_SPELLED = {"position": "index", "first_missing": "missing"}


def _described(found: frame.Frame) -> dict[str, Any]:
    kinds = {
        frame.Numbered: 1,
        frame.Mark: 2,
        frame.Fragment: 3,
        frame.Answer: 4,
        frame.ReplyFragment: 5,
        frame.Pull: 6,
    }
    fields: dict[str, Any] = {"kind": kinds[type(found)]}
    for name, value in found._asdict().items():
        if isinstance(value, bytes):
            value = value.hex()
        fields[_SPELLED.get(name, name)] = list(value) if isinstance(value, tuple) else value
    return fields | ({"flags": 0} if isinstance(found, frame.ReplyFragment) else {})


def test_fanout_writes_the_vectors() -> None:
    payload = bytes(number % 251 for number in range(600))
    numbered = frame.numbered_prefix(_SENDER) + (7).to_bytes(8) + b"tick"
    assert [data for _, data, _ in _VECTORS] == [
        numbered,
        frame.mark(_SENDER, 9, 1),
        frame.fragment(Cut.of(b"reload", 1200), _SENDER, 8, 0, flags=frame.ASK),
        frame.fragment(Cut.of(payload, 256), _SENDER, 10, 2, flags=frame.NUMBERED),
        frame.answer(_RECEIVER, 8, _SENDER, 0, AnswerStatus.CONFIRMED),
        frame.answer(_RECEIVER, 8, _SENDER, 3, AnswerStatus.FAILED, detail=b"ValueError: no"),
        frame.answer(
            _RECEIVER,
            10,
            _SENDER,
            1,
            AnswerStatus.PARTIAL,
            first_missing=1,
            detail=frame.bitmap([False, True, False, True]),
        ),
        frame.reply(Cut.of(b"pong", 1200), _RECEIVER, 11, _SENDER, 0, 2),
        frame.pull(_SENDER, 11, (3, 5)),
        seal_one(Sealer(Keyring((_KEY,)), "blue", _SENDER, 1_700_000_000_000_000_000), numbered, _SEALED_AT + 0.5),
    ]


@given(st.binary(max_size=200))
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidFrame):
        frame.decode(data)


_BEGINNING = frame.MAGIC + b"\1"


@given(st.integers(0, 8) | st.integers(128, 136), st.binary(max_size=300))
def test_any_body_is_a_frame_or_refused(kind: int, body: bytes) -> None:
    data = _BEGINNING + bytes((kind,)) + body
    try:
        found = frame.decode(data)
    except InvalidFrame as refusal:
        refused = refusal
    else:
        if not isinstance(found, frame.Sealed):
            # Where fanout takes it, the decoder of the documentation does so, too, and reads the same.
            assert _described(found) == wire_decoder.decode(data)
        return
    assert refused.reason in (ReceiveDrop.MALFORMED, ReceiveDrop.UNKNOWN_KIND, ReceiveDrop.UNKNOWN_FLAGS)
    assert str(refused).isprintable()


def test_an_answer_of_no_known_status_is_refused() -> None:
    good = frame.answer(_RECEIVER, 8, _SENDER, 0, AnswerStatus.CONFIRMED)
    at = frame.HEADER.size + 9  # behind whom it answers, and which try
    assert good[at : at + 3] == bytes((AnswerStatus.CONFIRMED, 0, 0))
    for status in range(256):
        for zero in (0, 1):
            data = good[:at] + bytes((status, 0, zero)) + good[at + 3 :]
            if status in set(AnswerStatus) and not zero:
                found = frame.decode(data)
                assert isinstance(found, frame.Answer)
                assert found.status == status
            else:
                with pytest.raises(InvalidFrame, match=f"an answer with status {status}, {zero}"):
                    frame.decode(data)


@given(st.binary(max_size=5000), st.integers(frame.FRAGMENT_MIN, 1500), st.integers(0, 300), st.sampled_from(range(8)))
def test_a_message_is_cut_and_put_together_again(payload: bytes, size: int, attempt: int, flags: int) -> None:
    cut = Cut.of(payload, size)
    fragments = [
        frame.decode(frame.fragment(cut, 1, 2, position, flags=flags, attempt=attempt, pad=1600))
        for position in range(cut.parts)
    ]
    assert all(
        isinstance(one, frame.Fragment) and frame.fragment_count(one.total, one.size) == cut.parts for one in fragments
    )
    assert b"".join(one.payload for one in fragments if isinstance(one, frame.Fragment)) == payload


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ((6, 2), ReceiveDrop.UNKNOWN_VERSION, "version 2"),
        ((7, 9), ReceiveDrop.UNKNOWN_KIND, "kind 9"),
        ((24, 8), ReceiveDrop.UNKNOWN_FLAGS, "0x08"),
        ((31, 1), ReceiveDrop.MALFORMED, "fragment 1 of 1"),
        ((32, 2), ReceiveDrop.MALFORMED, "33554436 bytes"),
    ],
)
def test_what_is_not_known_is_refused_by_name(change: tuple[int, int], reason: ReceiveDrop, says: str) -> None:
    data = bytearray(frame.fragment(Cut.of(b"abcd", 1200), 1, 2, 0, flags=frame.ASK))
    data[change[0]] = change[1]
    with pytest.raises(InvalidFrame, match=says) as refusal:
        frame.decode(bytes(data))
    assert refusal.value.reason is reason


def test_a_reply_with_flags_is_refused_by_name() -> None:
    data = bytearray(frame.reply(Cut.of(b"pong", 1200), _RECEIVER, 11, _SENDER, 0, 2))
    data[frame.HEADER.size + 8] = 4  # behind whom it answers
    with pytest.raises(InvalidFrame, match="a reply with flags 0x04") as refusal:
        frame.decode(bytes(data))
    assert refusal.value.reason is ReceiveDrop.UNKNOWN_FLAGS


@given(st.lists(st.booleans(), max_size=50))
def test_a_bitmap_is_read_as_it_was_written(present: list[bool]) -> None:
    read = frame.bits(frame.bitmap(present))
    assert read[: len(present)] == present
    assert not any(read[len(present) :])


def test_an_answer_is_no_larger_than_the_least_that_asks() -> None:
    question = frame.fragment(Cut.of(b"", 1200), 1, 2, 0, flags=frame.ASK)
    assert len(question) == frame.ASK_MIN
    assert len(frame.answer(1, 2, 3, 4, AnswerStatus.FAILED)) < len(question)
