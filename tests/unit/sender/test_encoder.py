"""A sender's frames: who sends, numbers in order, where a stream began; and which answers are its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import InvalidInput, MessageTooLarge
from fanout.model import Endpoint
from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import AnswerStatus, Fragment, InvalidFrame, Mark, Numbered, Sealed
from fanout.sender.encoder import MAX_DATAGRAM, Encoder, check_max_datagram, check_message

A, B, C = (Endpoint(f"10.0.0.{number}", 12000) for number in (1, 2, 3))
POD = 5


def encoder(*, is_numbered: bool = True, max_datagram: int | None = None, key_file: str | None = None) -> Encoder:
    return Encoder(is_numbered=is_numbered, max_datagram=max_datagram, key_file=key_file, cluster="")


def datagrams(made: Encoder, payloads: list[bytes], endpoints: tuple[Endpoint, ...] = (A, B)) -> list[bytes]:
    return [datagram for copies in made.copies(payloads, endpoints, 0) for datagram in copies.payloads]


def test_numbers_follow_each_other_and_name_one_sender() -> None:
    made = encoder()
    decoded = [frame.decode(each) for each in datagrams(made, [b"a", b"b"]) + datagrams(made, [b""])]
    assert decoded == [Numbered(made.identity, number, payload) for number, payload in ((1, b"a"), (2, b"b"), (3, b""))]
    assert encoder().identity != made.identity


def test_without_numbers_and_key_a_small_message_is_a_plain_datagram() -> None:
    assert datagrams(encoder(is_numbered=False), [b"a", b"b"]) == [b"a", b"b"]


@given(st.integers(1, 20_000), st.integers(frame.FRAGMENT_MIN, 4000))
def test_a_large_message_is_cut_and_its_parts_leave_in_bursts(size: int, max_datagram: int) -> None:
    payload = bytes(number % 251 for number in range(size))
    bursts = list(encoder(max_datagram=max_datagram).copies([payload], (A,), 0))
    assert [burst.messages for burst in bursts] == [1] + [0] * (len(bursts) - 1)
    assert sum(burst.size for burst in bursts) == size
    assert [burst.pause > 0 for burst in bursts] == [False] + [True] * (len(bursts) - 1)
    parts = [frame.decode(datagram) for burst in bursts for datagram in burst.payloads]
    if size <= max_datagram:
        assert [part.payload for part in parts if isinstance(part, Numbered)] == [payload]
    else:
        fragments = [part for part in parts if isinstance(part, Fragment)]
        assert [part.position for part in fragments] == list(range(len(parts)))
        assert {(part.number, part.total) for part in fragments} == {(1, size)}
        assert b"".join(part.payload for part in fragments) == payload


def test_a_mark_says_where_the_stream_of_each_pod_began() -> None:
    made = encoder()
    assert made.marks() == [], "nothing was sent"
    datagrams(made, [b"x"] * 3, (A, B))
    datagrams(made, [b"x"] * 2, (B, C))
    marks = {copies.endpoints: {frame.decode(each) for each in copies.payloads} for copies in made.marks()}
    assert marks == {(B,): {Mark(made.identity, 5, 1)}, (C,): {Mark(made.identity, 5, 4)}}
    assert encoder(is_numbered=False).marks() == []


def test_its_own_answers_are_opened_and_all_others_refused() -> None:
    made = encoder()
    own = frame.answer(POD, 1, made.identity, 0, AnswerStatus.CONFIRMED)
    assert made.open(own).number == 1
    for datagram, reason in (
        (b"text", ReceiveDrop.UNEXPECTED),
        (frame.answer(POD, 1, made.identity ^ 1, 0, AnswerStatus.CONFIRMED), ReceiveDrop.UNEXPECTED),
        (frame.mark(POD, 1, 1), ReceiveDrop.UNEXPECTED),
        (own[:-1], ReceiveDrop.MALFORMED),
    ):
        with pytest.raises(InvalidFrame) as refused:
            made.open(datagram)
        assert refused.value.reason is reason


def test_a_key_seals_all_and_opens_only_what_is_sealed(key_file: str) -> None:
    made, pod = encoder(is_numbered=False, key_file=key_file), encoder(key_file=key_file)
    assert made.is_sealed
    assert made.is_numbered, "sealed messages always have numbers"
    assert all(isinstance(frame.decode(each), Sealed) for each in datagrams(made, [b"a", bytes(5000)]))
    answer = frame.answer(pod.identity, 1, made.identity, 0, AnswerStatus.CONFIRMED)
    (sealed,) = pod.seal([answer])
    assert made.open(sealed) == frame.decode(answer)
    for opened_by, datagram, reason in (
        (made, answer, ReceiveDrop.UNSEALED),
        (made, sealed, ReceiveDrop.REPLAYED),
        (encoder(), sealed, ReceiveDrop.NO_KEY),
    ):
        with pytest.raises(InvalidFrame) as refused:
            opened_by.open(datagram)
        assert refused.value.reason is reason


@pytest.mark.parametrize("size", [0, -1, frame.FRAGMENT_MIN - 1, 65_507, True, 1200.0, "1200"])
def test_a_datagram_has_room_for_a_fragment_and_for_all_headers(size: int) -> None:
    with pytest.raises(InvalidInput, match="max_datagram must be a number of bytes"):
        check_max_datagram(size)


def test_the_size_of_datagrams_has_a_default() -> None:
    assert check_max_datagram(None) is None
    assert encoder().fragment_size == MAX_DATAGRAM
    assert encoder(max_datagram=frame.FRAGMENT_MIN).fragment_size == frame.FRAGMENT_MIN


def test_a_framed_message_is_bytes_of_at_most_16_mib() -> None:
    assert check_message(bytearray(b"ab")) == check_message(memoryview(b"ab")) == b"ab"
    with pytest.raises(InvalidInput, match="payload must be bytes: encode it first; got str"):
        check_message("text")
    assert len(check_message(bytes(frame.MESSAGE_MAX))) == frame.MESSAGE_MAX
    with pytest.raises(MessageTooLarge, match="16,777,217 bytes"):
        check_message(bytes(frame.MESSAGE_MAX + 1))
