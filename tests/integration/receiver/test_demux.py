"""What a socket gave, sorted: plain datagrams, probes and frames in one run, in any mixture."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fanout
from fanout.model import Endpoint, FramedMessage, Message
from fanout.protocol import frame, probe
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import AnswerStatus
from fanout.protocol.receiving.reception import Reception
from fanout.protocol.receiving.run import Run
from fanout.receiver.demux import Demux
from fanout.receiver.probe_filter import ProbeFilter
from fanout.receiver.queue import MessageQueue, split
from fanout.receiver.reply_path import ReplyPath
from fanout.receiver.sync import Receiver
from tests.support.frame_client import asking
from tests.support.reception import numbered

ADDRESS = ("127.0.0.1", 9)
SOURCE = Endpoint(*ADDRESS)


def demux() -> Demux:
    return Demux(Reception(1), ProbeFilter(lambda: (0, 0)))


def reply_path() -> ReplyPath:
    """Return one by which nothing leaves: the socket is closed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        return ReplyPath(opened)


def run_of(datagrams: list[bytes]) -> Run:
    return Run(b"".join(datagrams), len(datagrams[0]), len(datagrams), ADDRESS, 0.0)


def messages_of(runs: list[Run]) -> list[Message]:
    messages: list[Message] = []
    for run in runs:
        gaps = run.track and run.track.handed(0, run.messages)
        split(run, 0, run.messages, SOURCE, messages, gaps)
    return messages


def test_plain_runs_pass_as_they_are() -> None:
    runs = [run_of([b"x" * 8, b"y"]), run_of([b""]), run_of([b"fanout" * 10] * 3), run_of([b"x\xff\xff" + frame.MAGIC])]
    assert demux().sift(runs, reply_path()) is runs
    looks_like_one = run_of([b"\xffplain", b"\xfffoul?", b"\xff"])
    assert demux().sift([looks_like_one], reply_path()) == [looks_like_one]


@given(st.lists(st.sampled_from("pnfdbx"), min_size=1, max_size=64), st.integers(1, 80))
def test_a_run_of_everything_is_sorted(kinds: list[str], last: int) -> None:
    size = 80

    def made(kind: str, at: int) -> bytes:
        match kind:
            case "p":
                return b"plain %02d" % at
            case "n":
                return numbered(at + 1, b"numbered %02d" % at)
            case "f":
                return b"\xfffoul %02d" % at
            case "d":
                return probe.data_prefix(7) + at.to_bytes(8, "big")
            case "b":
                return frame.MAGIC + b"\x09 %02d" % at
            case _:
                return b"%02d" % at + probe.MAGIC + frame.MAGIC

    datagrams = [made(kind, at).ljust(size, b"\0") for at, kind in enumerate(kinds)]
    datagrams[-1] = datagrams[-1][:last]
    sorting = demux()
    messages = messages_of(sorting.sift([run_of(datagrams)], reply_path()))
    assert [message.payload for message in messages] == [
        datagram[24:] if datagram.startswith(frame.numbered_prefix(0)[:8]) else datagram
        for datagram in datagrams
        if not datagram.startswith((probe.MAGIC, frame.MAGIC + b"\x09"))
        and not (datagram.startswith(frame.MAGIC) and len(datagram) < 24)
    ]
    assert sorting.probes == sum(datagram.startswith(probe.MAGIC) for datagram in datagrams)
    refused = sum(datagram.startswith(frame.MAGIC) for datagram in datagrams) - sum(
        datagram.startswith(frame.MAGIC + b"\x01") and len(datagram) >= 24 for datagram in datagrams
    )
    assert sum(sorting.counts().refused.values()) == refused


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0, 0, 0, 1, 5]), st.booleans()), max_size=200))
def test_frames_that_come_one_by_one_keep_their_order_their_sizes_and_their_source(
    steps: list[tuple[int, int, bool]],
) -> None:
    runs, expected = [], []
    for at, (source, more, is_plain) in enumerate(steps):
        payload = b"%03d" % at + b"x" * more
        datagram = payload if is_plain else numbered(at + 1, payload, sender=source)
        runs.append(Run(datagram, len(datagram), 1, (f"10.0.0.{source}", 9), 0.0))
        expected.append((payload, f"10.0.0.{source}"))
    queue = MessageQueue(1000, fanout.Overflow.WAIT)
    queue.put(demux().sift(runs, reply_path()), queue.reserve())
    assert [(message.payload, message.source.host) for message in queue.take(1000)] == expected
    assert (queue.datagrams, queue.bytes) == (len(steps), sum(len(payload) for payload, _ in expected))


@pytest.mark.parametrize("overflow", [fanout.Overflow.DROP_OLDEST, fanout.Overflow.DROP_NEWEST])
def test_what_a_full_queue_dropped_is_taken_when_it_comes_again(overflow: fanout.Overflow) -> None:
    kept, dropped = (3, 1) if overflow is fanout.Overflow.DROP_OLDEST else (1, 3)
    with (
        Receiver(0, host="127.0.0.1", overflow=overflow, capacity=1) as receiver,
        asking(receiver.address) as asker,
    ):
        for number in (1, 2, 3):
            asker.ask(number, b"%d" % number)
        messages = iter(receiver)
        assert next(messages).payload == b"%d" % kept
        asker.ask(dropped, b"%d" % dropped, attempt=1)
        assert next(messages).payload == b"%d" % dropped
        assert asker.status(kept) is AnswerStatus.CONFIRMED
        assert receiver.stats.queue_drops == 2
        assert ReceiveDrop.DUPLICATE not in receiver.stats.refused


def test_what_the_queue_dropped_shows_in_the_gap() -> None:
    queue = MessageQueue(2, fanout.Overflow.DROP_OLDEST)
    sorting = demux()
    for number in range(1, 10):
        queue.put(sorting.sift([run_of([numbered(number)])], reply_path()), queue.reserve())
    first, second = queue.take(10)
    assert (first.gap, second.gap) == (7, 0)
    for number in range(10, 20):
        queue.put(sorting.sift([run_of([numbered(number)])], reply_path()), queue.reserve())
    first, second = queue.take(10)
    assert (first.gap, second.gap) == (8, 0)
    assert sorting.counts().skipped == 0


def test_ordinary_messages_and_those_with_a_gap_are_alike() -> None:
    plain, framed = Message(b"x", SOURCE, 1.0), FramedMessage(b"x", SOURCE, 1.0, 3)
    assert (framed.payload, framed.source, framed.received_at) == (plain.payload, plain.source, plain.received_at)
    assert (plain.gap, framed.gap) == (0, 3)
    assert plain.question is framed.question is None
    for message in (plain, framed):
        assert not message.wants_reply
        with pytest.raises(fanout.InvalidInput, match="cannot reply: the message is not a query"):
            message.reply(b"")
    assert "payload=b'x'" in repr(framed)
