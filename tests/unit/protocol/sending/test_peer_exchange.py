"""One pod of an exchange: what its answers mean, and when it is asked again."""

from __future__ import annotations

import errno
import math
import os

import pytest

from fanout.model import Endpoint
from fanout.protocol import frame
from fanout.protocol.frame import ASK, QUERY, Answer, AnswerStatus, Cut, Fragment
from fanout.protocol.sending.fragments import SendWindow
from fanout.protocol.sending.peer_exchange import OutgoingMessage, PeerExchange
from fanout.protocol.sending.receipt import ReceiptStatus
from fanout.protocol.sending.rtt import FIRST, MOST, RttEstimator

POD = Endpoint("10.0.0.7", 12_000)


def message(payload: bytes = b"reload", *, flags: int = 0, pad: int = 0, retries: int | None = None) -> OutgoingMessage:
    return OutgoingMessage(1, 7, Cut.of(payload, 300), flags, pad, retries, RttEstimator(lambda: 0.0))


def peer(payload: bytes = b"reload", *, flags: int = 0, retries: int | None = None) -> PeerExchange:
    outgoing = message(payload, flags=flags, retries=retries)
    return PeerExchange(POD, False, 0.0, outgoing, SendWindow(outgoing.cut.parts) if outgoing.cut.parts > 1 else None)


def answer(status: AnswerStatus, attempt: int = 0, missing: int = 0, detail: bytes = b"") -> Answer:
    return Answer(2, 7, 1, attempt, status, missing, detail)


def test_the_last_frame_of_a_burst_asks_and_alone_is_padded() -> None:
    frames = [frame.decode(each) for each in message(bytes(900), pad=500).frames(3, (0, 1, 2))]
    assert all(isinstance(one, Fragment) for one in frames)
    assert [(one.position, bool(one.flags & ASK), one.attempt) for one in frames if isinstance(one, Fragment)] == [
        (0, False, 3), (1, False, 3), (2, True, 3),
    ]  # fmt: skip
    assert [len(each) for each in message(pad=500).frames(0, (0,))] == [500]


def test_the_round_trip_is_that_of_the_try_that_is_answered() -> None:
    pod = peer()
    assert pod.burst(0.0) == (0, (0,))
    assert pod.wake == FIRST
    assert pod.burst(FIRST) == (1, (0,))
    pod.answered(answer(AnswerStatus.CONFIRMED, attempt=5), 0.2)
    assert pod.tries == 2
    assert pod.receipt().status is ReceiptStatus.SILENT, "nobody asked that"
    pod.answered(answer(AnswerStatus.CONFIRMED, attempt=1), 0.2)
    assert (pod.status, pod.rtt, pod.tries, pod.wake) == (ReceiptStatus.CONFIRMED, 0.1, 2, math.inf)


def test_an_answer_without_news_does_not_have_it_asked_at_once() -> None:
    pod = peer(bytes(900))
    attempt, _ = pod.burst(0.0)
    pod.answered(answer(AnswerStatus.PARTIAL, attempt, missing=1), 0.01)
    assert pod.wake == 0.01
    attempt, _ = pod.burst(0.01)
    later = pod.wake
    pod.answered(answer(AnswerStatus.PARTIAL, attempt, missing=1), 0.02)
    assert pod.wake == later > 0.02
    assert pod.reason == "1 of 3 fragments have arrived"


def test_a_pod_whose_handler_is_at_work_is_asked_seldom() -> None:
    pod = peer(bytes(900))
    attempt, _ = pod.burst(0.0)
    pod.answered(answer(AnswerStatus.PENDING, attempt), 0.01)
    assert pod.wake == 0.01 + MOST
    assert pod.burst(pod.wake) == (1, (2,)), "the last fragment alone asks: it has them all"


def test_where_all_tries_are_used_it_waits_and_may_still_answer() -> None:
    pod = peer(retries=0)
    pod.burst(0.0)
    assert pod.burst(FIRST) == (0, ())
    assert (pod.wake, pod.tries) == (math.inf, 1)
    assert pod.pulls(FIRST) == ()
    pod.answered(answer(AnswerStatus.CONFIRMED), 1.0)
    assert pod.status is ReceiptStatus.CONFIRMED


def test_a_query_without_a_reply_has_failed_and_a_reason_is_one_harmless_line() -> None:
    pod = peer(flags=QUERY)
    pod.burst(0.0)
    pod.answered(answer(AnswerStatus.CONFIRMED), 0.1)
    assert (pod.status, pod.reason) == (ReceiptStatus.FAILED, "it sent no reply")
    pod = peer()
    pod.burst(0.0)
    pod.answered(answer(AnswerStatus.FAILED, detail=b"no \n disk\x1b[31m\xff" + b"x" * 999), 0.1)
    assert pod.reason.startswith("no disk?[31m\ufffdxxx")
    assert len(pod.reason) == 300


@pytest.mark.parametrize(("number", "status"), [(errno.ECONNREFUSED, "refused"), (errno.ENOBUFS, "dropped")])
def test_it_is_given_up_after_three_failures_over_a_second(number: int, status: str) -> None:
    pod = peer()
    for now in (0.0, 0.5, 0.99, 1.0):
        assert pod.status is None
        pod.burst(now)
        fail = pod.refused if status == "refused" else pod.dropped
        fail(number, now)
    assert (pod.status, pod.reason) == (ReceiptStatus(status), os.strerror(number))


def test_of_one_burst_one_refusal_counts() -> None:
    pod = peer()
    pod.burst(0.0)
    for now in (0.0, 1.0, 2.0, 3.0):
        pod.refused(errno.ECONNREFUSED, now)
    assert pod.status is None
    pod.give_up()
    assert pod.status is ReceiptStatus.REFUSED


def test_how_it_ends_without_an_answer() -> None:
    gone, silent, dropped = peer(), peer(), peer()
    gone.is_gone = True
    dropped.burst(0.0)
    dropped.dropped(errno.ENOBUFS, 0.0)
    for pod in (gone, silent, dropped):
        pod.give_up()
    assert [pod.receipt().status for pod in (gone, silent, dropped)] == ["left", "silent", "dropped"]
    assert peer().receipt().status is ReceiptStatus.SILENT, "as long as it may still answer"
