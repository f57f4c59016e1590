"""Confirmed messages, queries, large and numbered messages: both senders and real receivers on loopback."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

import fanout
from fanout.model import Endpoint
from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.sending.receipt import Receipt, ReceiptStatus, Reply
from fanout.testing import MemoryTransport
from tests.support import sealed_frames
from tests.support.handler_pods import Ask, by_status, literal, pods
from tests.support.senders import A, B, LaterResolver
from tests.support.silent_pods import without_answers_of
from tests.support.waiting import until

HOUR = 3600.0
"""Those who answer are waited for, however long they take."""


def test_each_pod_is_told_of(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(message: fanout.Message) -> None:
        raise ValueError("no good")

    monkeypatch.setattr("fanout.protocol.sending.peer_exchange._GIVE_UP_SECONDS", 0.01)
    told: list[Receipt] = []
    with pods(lambda message: None, fails) as receivers:
        nobody = Endpoint("127.0.1.3", receivers[0].address.port)
        service = f"{literal(receivers)}{nobody}"
        # It does not wait for the time to be up.
        confirmation = ask(service, "send", b"reload", confirm=True, timeout=HOUR, on_receipt=told.append)
    first, second = (receiver.address for receiver in receivers)
    assert by_status(confirmation) == {"confirmed": [first], "failed": [second], "refused": [nobody]}
    assert [receipt.reason for receipt in confirmation.receipts] == ["", "ValueError: no good", "Connection refused"]
    assert not confirmation.complete
    assert {receipt.endpoint for receipt in told} == {first, second, nobody}
    assert told[-1].status is not ReceiptStatus.SILENT


def test_a_silent_pod_is_named_when_the_time_is_up(ask: Ask) -> None:
    released = threading.Event()
    with pods(lambda message: None, lambda message: released.wait()) as receivers:
        try:
            with without_answers_of(receivers[1].address, tries=2):
                confirmation = ask(literal(receivers), "send", b"reload", confirm=True, timeout=HOUR)
        finally:
            released.set()
    assert by_status(confirmation) == {"confirmed": [receivers[0].address], "silent": [receivers[1].address]}
    assert confirmation.elapsed == pytest.approx(HOUR)
    assert confirmation.silent[0].tries > 1
    assert receivers[1].stats.confirmed == 1  # of one message, however often it came


def test_replies_are_gathered(ask: Ask) -> None:
    def fails(message: fanout.Message) -> None:
        raise RuntimeError("out of order")

    with pods(lambda message: b"1:" + message.payload, lambda message: message.reply(b"2"), fails) as receivers:
        replies, confirmation = ask(literal(receivers), "query", b"who", timeout=HOUR)
    assert {reply.endpoint: reply.payload for reply in replies} == {
        receivers[0].address: b"1:who",
        receivers[1].address: b"2",
    }
    assert all(isinstance(reply, Reply) and reply.rtt > 0 for reply in replies)
    assert [receipt.reason for receipt in confirmation.failed] == ["RuntimeError: out of order"]


def test_large_messages_and_large_replies(ask: Ask, key_file: str) -> None:
    payload = os.urandom(700_000)
    got: list[bytes] = []

    def turn(message: fanout.Message) -> bytes:
        got.append(message.payload)
        return message.payload[::-1]

    with pods(turn, key_file=key_file) as receivers:
        sealed = {"key_file": key_file}
        confirmation = ask(literal(receivers), "send", payload, confirm=True, timeout=HOUR, sender=sealed)
        assert confirmation.complete
        replies, _ = ask(literal(receivers), "query", payload, timeout=HOUR, sender=sealed)
        assert [reply.payload for reply in replies] == [payload[::-1]]
    assert got == [payload, payload]


def test_a_large_message_that_nobody_confirms_arrives_where_nothing_is_lost(ask: Ask) -> None:
    """A receive buffer of any machine holds each of these floods."""
    payload = os.urandom(100_000)
    got: list[bytes] = []
    with pods(lambda message: got.append(message.payload)) as receivers:
        report = ask(literal(receivers), "send", payload, sender={"max_datagram": 1000})
        assert (report.messages, report.size, report.outcomes[0].sent) == (1, 100_000, 100)
        until(lambda: len(got) == 1)
        report = ask(literal(receivers), "send_many", [b"small", payload, b"small"], sender={"max_datagram": 1000})
        assert (report.messages, report.size) == (3, 100_010)
        until(lambda: len(got) == 4)
    assert got == [payload, b"small", payload, b"small"]


def test_without_fragments_a_large_message_is_too_large(ask: Ask) -> None:
    with pytest.raises(fanout.MessageTooLarge, match="65,507"):
        ask("127.0.0.1,", "send", bytes(65_508))
    with pytest.raises(fanout.MessageTooLarge, match="16,777,216"):
        ask("127.0.0.1,", "send", bytes(16_777_217), confirm=True)
    with pytest.raises(fanout.MessageTooLarge, match="16,777,216"):
        ask("127.0.0.1,", "send", bytes(16_777_217), sender={"numbered": True})


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"timeout": 0}, "timeout must be a number of seconds above 0, up to 86,400; got 0"),
        ({"timeout": float("nan")}, "timeout must be .*; got nan"),
        ({"timeout": True}, "timeout must be .*; got True"),
        ({"timeout": "2"}, "timeout must be .*; got '2'"),
        ({"retries": -1}, "retries must be a number of at least 0; got -1"),
        ({"retries": 1.5}, "retries must be .*; got 1.5"),
        ({"sender": {"max_datagram": 255}}, "max_datagram must be a number of bytes from 256 to 65,435; got 255"),
        ({"sender": {"max_datagram": 65_507}}, "max_datagram must be .*; got 65507"),
        ({"sender": {"max_datagram": True}}, "max_datagram must be .*; got True"),
    ],
)
def test_nonsense_is_refused(ask: Ask, named: dict[str, Any], says: str) -> None:
    with pytest.raises(fanout.InvalidInput, match=says):
        ask("127.0.0.1,", "send", b"x", confirm=True, **named)
    with pytest.raises(fanout.InvalidInput, match="payload must be bytes: encode it first; got str"):
        ask("127.0.0.1,", "query", "x")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"key_file": 5}, "key_file must be the path .*; got 5"),
        ({"cluster": "east"}, "cluster needs key_file: give both; got cluster .east. alone"),
        ({"cluster": 5}, "cluster must be a string, .*; got 5"),
        ({"key_file": "/dev/null", "cluster": "\ud800"}, "cluster must be a string, .*; got .*ud800"),
    ],
)
def test_settings_of_seals_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    for make in (fanout.Sender, fanout.AsyncSender):
        with pytest.raises(fanout.InvalidInput, match=says):
            make("10.0.0.1,", **settings)


def test_what_is_to_be_called_must_be_callable(ask: Ask) -> None:
    transport = MemoryTransport()
    with pytest.raises(fanout.InvalidInput, match="on_receipt must be callable; got 5"):
        ask("10.0.0.1,", "send", b"x", confirm=True, on_receipt=5, sender={"transport": transport})
    assert transport.sent == []


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_a_numbered_stream_is_counted_exactly(ask: Ask, key_file: str, sealed: bool) -> None:
    """A receive buffer of any machine holds it."""
    payloads = [b"%d" % number for number in range(200)]
    settings = {"key_file": key_file} if sealed else {}
    got: list[fanout.Message] = []
    with pods(got.append, **settings) as receivers:
        ask(literal(receivers), "send_many", payloads, sender={"numbered": True, **settings})
        until(lambda: len(got) == 200)
        stats = receivers[0].stats
    assert [message.payload for message in got] == payloads
    assert {message.gap for message in got} == {0}
    assert (stats.skipped, stats.reordered, stats.duplicates, sum(stats.refused.values())) == (0, 0, 0, 0)


def test_a_lost_beginning_and_a_lost_end_are_counted(ask: Ask) -> None:
    with pods(lambda message: None) as receivers:
        # The kernel takes nothing but the mark that ends the stream.
        transport = MemoryTransport(pods=lambda datagram, endpoint: [])
        ask(literal(receivers), "send_many", [b"x"] * 7, sender={"numbered": True, "transport": transport})
        marks = [datagram for _, datagram in transport.sent if isinstance(frame.decode(datagram), frame.Mark)]
        assert len(marks) >= 3
        with fanout.Sender(literal(receivers)) as sender:
            sender.send(marks[0])
        until(lambda: receivers[0].stats.skipped == 7)


@pytest.mark.usefixtures("dns_is_asked_soon")
def test_pods_that_join_meanwhile_get_the_message(ask: Ask) -> None:
    came, joined = threading.Event(), threading.Event()
    with pods(lambda message: came.set(), lambda message: joined.set(), lambda message: joined.wait()) as receivers:
        first, second, third = (str(receiver.address) for receiver in receivers)
        resolver = LaterResolver(came.is_set, f"{first},{third}", f"{first},{second},{third}")
        confirmation = ask("headless-udp", "send", b"x", confirm=True, timeout=HOUR, sender={"resolver": resolver})
    assert by_status(confirmation) == {"confirmed": [Endpoint.parse(one) for one in (first, third, second)]}
    assert [receipt.endpoint for receipt in confirmation.joined] == [receivers[1].address]


def _confirming(sender_id: int = 9, **changes: Any) -> Callable[[bytes, Endpoint], list[bytes]]:
    """A pod in memory that confirms all, and may lie."""

    def pod(datagram: bytes, endpoint: Endpoint) -> list[bytes]:
        asked = frame.decode(datagram)
        assert isinstance(asked, frame.Fragment)
        said = {"number": asked.number, "asker": asked.sender, "attempt": asked.attempt, **changes}
        status = frame.AnswerStatus.CONFIRMED
        return [frame.answer(sender_id, said["number"], said["asker"], said["attempt"], status)]

    return pod


@pytest.mark.parametrize("changes", [{"number": 77}, {"asker": 77}, {"attempt": 77}])
def test_answers_to_other_questions_confirm_nothing(ask: Ask, changes: dict[str, int]) -> None:
    transport = MemoryTransport(pods=_confirming(**changes))
    with without_answers_of("10.0.0.1:12000", tries=2):
        confirmation = ask("10.0.0.1,", "send", b"x", confirm=True, timeout=HOUR, sender={"transport": transport})
    assert by_status(confirmation) == {"silent": [Endpoint("10.0.0.1", 12000)]}


def test_a_pod_whose_copies_the_kernel_does_not_take_is_dropped(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanout.protocol.sending.peer_exchange._GIVE_UP_SECONDS", 0.01)
    transport = MemoryTransport(pods=_confirming(), faults={A: errno.EPERM})
    confirmation = ask("10.0.0.1,10.0.0.2", "send", b"x", confirm=True, timeout=HOUR, sender={"transport": transport})
    assert by_status(confirmation) == {"dropped": [A], "confirmed": [B]}
    assert confirmation.dropped[0].reason == "Operation not permitted"


def test_a_question_that_could_not_be_asked_is_not_confirmed() -> None:
    transport = MemoryTransport()
    with fanout.Sender("10.0.0.1,", transport=transport) as sender:
        transport.close()
        with pytest.raises(fanout.Closed):
            sender.send(b"x", confirm=True, timeout=HOUR)
        assert (sender.stats.confirmed, sender.stats.unconfirmed) == (0, 1)


def test_what_comes_back_and_is_no_answer_is_counted() -> None:
    transport = MemoryTransport()
    with fanout.Sender("10.0.0.1,", transport=transport) as sender:
        pod, stranger = Endpoint("10.0.0.1", 12000), Endpoint("10.9.9.9", 12000)
        query = sender.query(b"x", timeout=HOUR)
        (_, asked), *_ = transport.sent
        found = frame.decode(asked)
        assert isinstance(found, frame.Fragment)
        right = frame.answer(9, found.number, found.sender, 0, frame.AnswerStatus.CONFIRMED)
        for datagram, source in [
            (b"hello", pod),
            (right, stranger),
            (right[:30], pod),
            (right[:6] + b"\2" + right[7:], pod),
            (sealed_frames.beginning(1) + bytes(40), pod),
            (frame.mark(1, 2, 1), pod),
            (right, pod),
            (right, pod),
        ]:
            transport.answer(datagram, source)
        assert query.gather() == []
        assert [receipt.reason for receipt in query.confirmation.failed] == ["it sent no reply"]
        assert sender.stats.unexpected == {
            ReceiveDrop.UNEXPECTED: 4,
            ReceiveDrop.MALFORMED: 1,
            ReceiveDrop.UNKNOWN_VERSION: 1,
            ReceiveDrop.NO_KEY: 1,
        }


def test_a_sender_with_a_key_believes_nobody_without(ask: Ask, key_file: str) -> None:
    def pod(datagram: bytes, endpoint: Endpoint) -> list[bytes]:
        # It cannot know the sender's number, and guesses right.
        sealed = frame.decode(datagram)
        assert isinstance(sealed, frame.Sealed)
        return [frame.answer(9, 1, sealed.sender, 0, frame.AnswerStatus.CONFIRMED)]

    transport = MemoryTransport(pods=pod)
    settings = {"transport": transport, "key_file": key_file}
    with without_answers_of("10.0.0.1:12000", tries=2):
        confirmation = ask("10.0.0.1,", "send", b"secret", confirm=True, timeout=HOUR, sender=settings)
    assert not confirmation.complete
    assert not any(b"secret" in datagram for _, datagram in transport.sent)


def test_receipts_are_told_in_their_order_before_what_they_say_is_sent(ask: Ask) -> None:
    events: list[str] = []

    def pod(datagram: bytes, endpoint: fanout.Endpoint) -> list[bytes]:
        events.append("copy")
        return [] if events.count("copy") == 1 else list(_confirming()(datagram, endpoint))

    confirmation = ask(
        "10.0.0.1,", "send", b"x", confirm=True, timeout=HOUR, sender={"transport": MemoryTransport(pods=pod)},
        on_receipt=lambda receipt: events.append(f"{receipt.status} {receipt.tries}"),
    )  # fmt: skip
    assert confirmation.complete
    assert events == ["copy", "silent 1", "silent 2", "copy", "confirmed 2"]
