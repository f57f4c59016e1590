"""Receivers with keys: nobody without one is heard or answered, and what is sealed comes through as if it were not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import ASK, QUERY, REPLIES_UNASKED, AnswerStatus, Sealed
from fanout.protocol.receiving import dedup
from fanout.protocol.receiving.dedup import SENDERS_MAX
from fanout.protocol.receiving.reception import Reception
from fanout.protocol.seal import Keyring, Opener, Sealer
from tests.support.frame_client import SENDER, fragments
from tests.support.reception import (
    EPOCH,
    ME,
    confirmed,
    failed,
    handed,
    mutated,
    numbered,
    replied,
    reply_of,
    take,
    take_run,
    taken_pending,
    told,
)

RING, OTHER = Keyring((bytes(range(32)),)), Keyring((bytes(32),))


def receiver(**settings: Any) -> Reception:
    return Reception(ME, keyring=RING, cluster="east", counter=1, **settings)


def sealer(keyring: Keyring = RING, cluster: str = "east", sender: int = SENDER, counter: int = 1) -> Sealer:
    return Sealer(keyring, cluster, sender, counter)


def sealed(frames: list[bytes], by: Sealer | None = None) -> list[bytes]:
    return (by or sealer()).seal_many(frames, EPOCH)


def opened(answers: list[bytes]) -> list[bytes]:
    """Return the answers, which are sealed by the receiver."""
    opener = Opener(RING, "east")
    inner = []
    for answer in answers:
        decoded = frame.decode(answer)
        assert isinstance(decoded, Sealed)
        assert decoded.sender == ME
        inner.append(opener.open(decoded, EPOCH))
    return inner


def test_a_sealed_stream_is_a_stream_again() -> None:
    reception = receiver()
    payloads = [b"%04d" % number for number in range(1, 66)]
    first, *datagrams = sealed([numbered(number, payload) for number, payload in enumerate(payloads, 1)])
    take(reception, first)
    taken = take_run(reception, datagrams)
    assert [run.messages for run in taken.runs] == [64], "one run, split when it is handed over"
    assert [message.payload for message in handed(taken.runs)] == payloads[1:]
    assert handed(take_run(reception, datagrams).runs) == []
    assert reception.counts.refused == {ReceiveDrop.REPLAYED: 64}


@pytest.mark.parametrize("number", [2**63, 2**64 - 2])
def test_sealed_numbers_that_are_none_are_malformed(number: int) -> None:
    reception, by = receiver(), sealer()
    take(reception, by.seal_stream(5, [b"first"], EPOCH)[0])
    assert handed(take_run(reception, by.seal_stream(number, [b"x", b"y"], EPOCH)).runs) == []
    assert reception.counts.refused == {ReceiveDrop.MALFORMED: 2}


def test_questions_are_answered_under_seal() -> None:
    reception = receiver()
    by = sealer()
    ask = sealed(fragments(1, b"x"), by)
    pending = taken_pending(reception, *ask)
    answers = confirmed(pending)
    assert told(opened(answers)) == (AnswerStatus.CONFIRMED, b"")
    assert len(answers[0]) <= len(ask[0])
    assert told(opened(take(reception, *sealed(fragments(1, b"x"), by))[1])) == (AnswerStatus.CONFIRMED, b"")
    assert take(reception, *ask) == ([], []), "a replay is not answered"


def test_sealed_queries_get_replies_of_any_size() -> None:
    reception = receiver()
    by = sealer()
    query = sealed(fragments(1, b"status", flags=ASK | QUERY), by)
    replies = reply_of(opened(replied(taken_pending(reception, *query), bytes(100_000))))
    assert len(replies) == REPLIES_UNASKED
    pulled = take(reception, *sealed([frame.pull(SENDER, 1, [50, 51])], by))[1]
    assert [reply.position for reply in reply_of(opened(pulled))] == [50, 51]


@pytest.mark.parametrize(
    "datagram", [b"", b"plain", b"\xffplain", numbered(1), *fragments(1, b"x"), frame.mark(1, 1, 1)]
)
def test_what_is_not_sealed_is_dropped_and_not_answered(datagram: bytes) -> None:
    reception = receiver()
    assert take(reception, datagram) == ([], [])
    assert reception.counts.refused[ReceiveDrop.UNSEALED] == 1


@pytest.mark.parametrize("by", [sealer(OTHER, counter=9), sealer(cluster="west", counter=9), sealer(OTHER, sender=7)])
def test_another_key_or_cluster_is_dropped_and_not_answered(by: Sealer) -> None:
    reception = receiver(accept_plaintext=True, reply_to_anyone=True)
    taken_pending(reception, *sealed(fragments(1, b"x")))
    assert take(reception, *sealed(fragments(1, b"x"), by), *sealed([frame.pull(SENDER, 1, [0])], by)) == ([], [])
    assert reception.counts.refused[ReceiveDrop.WRONG_KEY] == 2


@given(st.lists(mutated() | st.binary(max_size=100), min_size=1, max_size=8))
def test_nobody_who_has_no_key_gets_an_answer(datagrams: list[bytes]) -> None:
    reception = receiver()
    size = len(datagrams[0])
    for run in ([one] for one in datagrams):
        taken = take_run(reception, run)
        assert (taken.runs, taken.answers) == ([], [])
    if size:
        taken = take_run(reception, [one.ljust(size, b"\0")[:size] for one in datagrams])
        assert (taken.runs, taken.answers) == ([], [])
    assert sum(reception.counts.refused.values()) == len(datagrams) * (2 if size else 1)


def test_what_is_sealed_is_dropped_where_there_is_no_key() -> None:
    reception = Reception(ME)
    assert take(reception, *sealed(fragments(1, b"x"))) == ([], [])
    assert handed(take_run(reception, sealed([numbered(1), numbered(2)])).runs) == []
    assert reception.counts.refused[ReceiveDrop.NO_KEY] == 3


def test_a_clock_that_differs_is_told_by_how_much() -> None:
    reception = receiver()
    (datagram,) = sealer().seal_many(fragments(1, b"x"), EPOCH - 3600)
    taken = take_run(reception, [datagram])
    assert "3,600 s" in taken.refusals[ReceiveDrop.STALE]


def test_while_plaintext_is_accepted_it_is_answered_in_plaintext_and_never_mixed_with_what_is_sealed() -> None:
    reception = receiver(accept_plaintext=True)
    by = sealer()
    assert [message.payload for message in take(reception, b"plain", *sealed([numbered(1, b"s")], by))[0]] == [
        b"plain",
        b"s",
    ]
    assert told(confirmed(taken_pending(reception, *fragments(5, b"x"))))[0] is AnswerStatus.CONFIRMED
    # A stranger who knows the sender's number cannot pass for it.
    whole = fragments(6, bytes(3000), flags=0)
    take(reception, *sealed(whole[:2], by))
    assert take(reception, *whole[2:]) == ([], [])
    assert len(take(reception, *sealed(whole[2:], by))[0]) == 1
    status, _ = told(replied(taken_pending(reception, *fragments(7, b"q", flags=ASK | QUERY)), bytes(5000)))
    assert status is AnswerStatus.FAILED, "a reply larger than the question needs a seal"


def test_keys_rotate_while_a_stream_goes_on() -> None:
    reception = receiver()
    by = sealer()
    messages = take(reception, *sealed([numbered(1, b"1")], by))[0]
    both = Keyring((RING.keys[0], OTHER.keys[0]))
    reception.use(both)
    by.use(Keyring((OTHER.keys[0],)))
    messages += take(reception, *sealed([numbered(2, b"2")], by))[0]
    reception.use(OTHER)
    messages += take(reception, *sealed([numbered(3, b"3")], by))[0]
    assert [message.payload for message in messages] == [b"1", b"2", b"3"]
    assert take(reception, *sealed([numbered(4)], sealer(sender=8)))[0] == []
    assert reception.counts.refused[ReceiveDrop.WRONG_KEY] == 1


def test_strangers_cannot_make_a_receiver_forget_what_was_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "RESULTS_MAX", 1000)
    reception = receiver(accept_plaintext=True)
    by = sealer()
    ask = fragments(1, b"x", flags=ASK)
    confirmed(taken_pending(reception, *sealed(ask, by)))
    large = sealed(fragments(2, bytes(3000), flags=ASK), by)
    take(reception, *large[:-1])
    for sender in range(1, SENDERS_MAX + 2):
        take(reception, *fragments(1, b"x", flags=0, sender=sender), fragments(2, bytes(3000), sender=sender)[0])
    for number in range(3, 1004):
        failed(taken_pending(reception, *fragments(number, b"", flags=0)), "no")
    assert len(take(reception, large[-1])[0]) == 1
    messages, answers = take(reception, *sealed(ask, by))
    assert messages == []
    assert told(opened(answers))[0] is AnswerStatus.CONFIRMED


def test_keys_are_no_use_to_a_receiver_that_began_without() -> None:
    reception = Reception(ME)
    reception.use(RING)
    assert reception.takes_plaintext
    assert take(reception, *sealed(fragments(1, b"x")))[0] == []
    assert reception.counts.refused == {ReceiveDrop.NO_KEY: 1}


def test_a_receiver_that_was_renamed_seals_its_answers_under_its_new_name() -> None:
    reception = receiver()
    confirmed(taken_pending(reception, *sealed(fragments(1, b"x"))))
    reception.rename(ME + 1, 5)
    (datagram,) = take(reception, *sealed(fragments(1, b"x"), sealer(counter=100)))[1]
    outer = frame.decode(datagram)
    assert isinstance(outer, Sealed)
    assert outer.sender == ME + 1
    inner = frame.decode(Opener(RING, "east").open(outer, EPOCH))
    assert isinstance(inner, frame.Answer)
    assert (inner.sender, inner.status) == (ME + 1, AnswerStatus.CONFIRMED)
