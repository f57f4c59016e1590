"""Receivers and those who ask them, over loopback sockets: who is told what, when, and by which address."""

from __future__ import annotations

import socket
import threading
import time
from types import SimpleNamespace

import pytest

import fanout
from fanout.model import Message
from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import AnswerStatus, ReplyFragment
from fanout.receiver import demux
from fanout.receiver.sync import Receiver
from tests.support.datagrams import gso_sender, send_run
from tests.support.frame_client import asking
from tests.support.handler_pods import SHELLS, Serving, stop
from tests.support.needs import require_address, unavailable
from tests.support.waiting import PATIENCE, until


@SHELLS
@pytest.mark.parametrize("workers", [1, 2])
def test_a_message_is_confirmed_after_its_handler_and_handed_over_once(serving: Serving, workers: int) -> None:
    seen: list[bytes] = []
    entered, go_on = threading.Event(), threading.Event()

    def handler(message: Message) -> None:
        seen.append(message.payload)
        entered.set()
        go_on.wait(PATIENCE)

    with serving(handler, workers=workers) as receiver, asking(receiver.address) as asker:
        asker.ask(1, b"reload")
        assert entered.wait(PATIENCE)
        asker.ask(1, b"reload", attempt=1)
        if workers == 1:  # which is in the handler: no answer comes before those that are expected
            expected = {0: AnswerStatus.CONFIRMED, 1: AnswerStatus.CONFIRMED}
        else:
            assert asker.status(1) is AnswerStatus.PENDING
            expected = {0: AnswerStatus.CONFIRMED}
        go_on.set()
        heard = [asker.answer() for _ in expected]
        assert {answer.attempt: answer.status for answer in heard} == expected
        asker.ask(1, b"reload", attempt=2)
        assert asker.status(1) is AnswerStatus.CONFIRMED
        assert (receiver.stats.confirmed, receiver.stats.datagrams) == (1, 1)
    assert seen == [b"reload"]


@SHELLS
def test_failures_and_replies(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    def handler(message: Message) -> object:
        match message.payload:
            case b"bad":
                raise ValueError("bad payload")
            case b"wrong":
                return 7
            case b"replies":
                assert message.wants_reply
                message.reply(b"by itself")
                assert not message.wants_reply
                with pytest.raises(fanout.InvalidInput, match="answered before"):
                    message.reply(b"again")
                return b"ignored"
            case b"text":
                message.reply("text")  # type: ignore[arg-type]
            case b"nothing":
                return None
        return message.payload.upper()

    with serving(handler) as receiver, asking(receiver.address) as asker:
        expected: list[tuple[bytes, object]] = [
            (b"bad", b"ValueError: bad payload"),
            (b"wrong", b"the handler must return bytes or None; got int"),
            (b"text", b"InvalidInput: reply must be bytes: encode it first; got str"),
            (b"ping", b"PING"),
            (b"replies", b"by itself"),
            (b"nothing", b""),
        ]
        for number, (payload, answer) in enumerate(expected, 1):
            asker.query(number, payload)
            heard = asker.hear()
            if isinstance(heard, ReplyFragment):
                assert (heard.number, heard.asker, heard.payload) == (number, asker.sender, answer)
            else:
                assert (heard.status, heard.detail) == (AnswerStatus.FAILED, answer)  # type: ignore[union-attr]
        asker.query(4, b"ping")
        assert asker.hear().payload == b"PING"  # type: ignore[union-attr]
        asker.ask(10, b"wrong")
        assert asker.status(10) is AnswerStatus.CONFIRMED, "what a handler returns matters only where a reply is wanted"
        assert (receiver.stats.failed, receiver.stats.replied, receiver.stats.confirmed) == (3, 3, 1)
        assert receiver.stats.handler_errors == 3


# After the end.


def own_address() -> str:
    """Return an address of this host that is not the loopback interface's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            unavailable("tools", "this host has only its loopback interface")
        host: str = probe.getsockname()[0]
        return host


def can_be_bound(port: int) -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as tried:
        try:
            tried.bind(("::", port))
        except OSError:  # the system may have lent it to another test meanwhile
            return False
        return True


@SHELLS
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("family", ["own", "127.0.0.1", "127.0.0.5", "::1"])
def test_what_is_still_queued_at_the_end_is_answered(serving: Serving, workers: int, family: str) -> None:
    host = own_address() if family == "own" else family
    require_address(host)
    entered, go_on = threading.Event(), threading.Event()

    def handler(message: Message) -> bytes:
        entered.set()
        go_on.wait(PATIENCE)
        return message.payload

    with serving(handler, workers=workers, host=None) as receiver:
        address = fanout.Endpoint(host, receiver.address.port)
        with asking(address, host) as asker:
            asker.query(1, b"first")
            assert entered.wait(PATIENCE)
            for number in range(2, 40):
                asker.query(number, b"x")
            stop(receiver)
            go_on.set()
            sources = set()
            for number in range(1, 40):
                datagram, source = asker.socket.recvfrom(2048)
                heard = frame.decode(datagram)
                assert isinstance(heard, ReplyFragment)
                assert heard.number == number
                sources.add(source[:2])
            assert sources == {address}
    until(lambda: can_be_bound(address.port))


# Streams, logs and metrics.


@SHELLS
def test_gaps_and_counts_of_a_numbered_stream(serving: Serving) -> None:
    gaps: dict[bytes, int] = {}
    seen = threading.Semaphore(0)

    def handler(message: Message) -> None:
        gaps[message.payload] = message.gap
        seen.release()

    with serving(handler) as receiver, asking(receiver.address) as asker:
        prefix = frame.numbered_prefix(asker.sender)
        for number in (10, 11, 14, 12, 14, 15):
            asker.send(prefix + number.to_bytes(8, "big") + b"%d" % number)
        for _ in range(5):
            assert seen.acquire(timeout=PATIENCE)
        asker.send(frame.mark(asker.sender, 17, 9))
        until(lambda: receiver.stats.skipped >= 5)
        stats = receiver.stats
        assert (stats.skipped, stats.reordered, stats.lost, stats.duplicates) == (5, 1, 4, 1)
        assert stats.refused == {ReceiveDrop.DUPLICATE: 1}
        assert (stats.datagrams, stats.bytes) == (5, 10)
        (counts,) = receiver.senders
        assert counts == (f"{asker.sender:016x}", False, 5, 5, 1, 1)
    assert gaps == {b"10": 0, b"11": 0, b"14": 2, b"12": -1, b"15": 0}


def test_merged_numbered_runs_are_split_when_they_are_handed_over() -> None:
    with Receiver(0, host="127.0.0.1") as receiver, gso_sender(receiver.address) as sender:
        prefix = frame.numbered_prefix(7)
        datagrams = [prefix + number.to_bytes(8, "big") + b"%05d" % number for number in range(1, 6401)]
        del datagrams[100:130]
        got: list[Message] = []
        batches = receiver.batches()
        for start in range(0, len(datagrams), 64):
            run = datagrams[start : start + 64]
            send_run(sender, b"".join(run), len(run[0]))
            while len(got) < start + len(run):
                got += next(batches)
        assert [message.payload for message in got] == [datagram[24:] for datagram in datagrams]
        assert [message.gap for message in got if message.gap] == [30]
        assert receiver.stats.lost == 30


def test_refused_frames_are_logged_with_their_source_and_not_too_often(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 5.0
    monkeypatch.setattr(demux, "time", SimpleNamespace(monotonic=lambda: now, time=time.time))
    with Receiver(0, host="127.0.0.1") as receiver, asking(receiver.address) as asker:
        messages = iter(receiver)
        for sent, total in ((200, 200), (1, 201)):
            asker.send(*[frame.MAGIC + b"\x09" + bytes(30)] * sent, b"plain")
            assert next(messages).payload == b"plain"
            assert receiver.stats.refused == {ReceiveDrop.UNKNOWN_VERSION: total}
            now += 1.0
        port = asker.socket.getsockname()[1]
    lines = [line for line in caplog.messages if line.startswith("frame_refused")]
    assert len(lines) == 6
    assert lines[0].startswith(
        f"frame_refused: unknown_version, from 127.0.0.1 port {port}: a frame of version 9, not 1"
    )
    assert lines[4].endswith("(0 such lines left out before)")
    assert lines[5].endswith("(195 such lines left out before)")
