"""The probes of `fanout bench` at a receiver: answered by itself, and nothing else is."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

import fanout
from fanout.model import Endpoint, Message
from fanout.protocol import probe
from fanout.protocol.probe import MAGIC, Observed, ProbeKind
from fanout.protocol.receiving.run import Run
from fanout.receiver.probe_filter import ProbeFilter
from fanout.receiver.queue import split
from fanout.receiver.reply_path import ReplyPath
from tests.support.waiting import PATIENCE

RUN = 0x1234_5678_9ABC_DEF0


def no_drops() -> tuple[int, int]:
    return 0, 0


def data(number: int, size: int = 64, run: int = RUN) -> bytes:
    return (probe.data_prefix(run) + number.to_bytes(8)).ljust(size, b"\0")


def probe_filter() -> tuple[ProbeFilter, socket.socket]:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind(("127.0.0.1", 0))
    return ProbeFilter(no_drops), opened


def merged(datagrams: list[bytes], address: tuple[str, int] = ("127.0.0.1", 9)) -> Run:
    """Return a run as the kernel merges it: equal sizes, but for a shorter last one."""
    return Run(b"".join(datagrams), max(map(len, datagrams)), len(datagrams), address, 0.0)


def test_ordinary_runs_pass_as_they_are() -> None:
    made, opened = probe_filter()
    with opened:
        runs = [merged([b"x" * 8, b"y"]), merged([MAGIC[:7]]), merged([b""]), merged([b"x" + MAGIC])]
        assert [made.sift(run, ReplyPath(opened)) for run in runs] == runs
    assert made.probes == 0


@given(st.lists(st.booleans(), min_size=1, max_size=70), st.integers(1, 64))
def test_messages_of_whoever_mixes_them_with_probes_keep_their_order(kinds: list[bool], last: int) -> None:
    """A run that begins with a probe is cut; whatever is no probe passes, in its order and with its boundaries."""
    datagrams = [data(0)] + [data(n) if kind else n.to_bytes(64) for n, kind in enumerate(kinds)]
    datagrams[-1] = datagrams[-1][:last]
    made, opened = probe_filter()
    with opened:
        passed = [made.sift(run, ReplyPath(opened)) for run in (merged(datagrams), merged([b"after"]))]
    messages: list[Message] = []
    for run in passed:
        if run is not None:
            split(run, 0, run.messages, Endpoint("127.0.0.1", 9), messages)
    assert [message.payload for message in messages] == [
        *(each for each in datagrams if not each.startswith(MAGIC)), b"after",
    ]  # fmt: skip
    assert made.probes == sum(each.startswith(MAGIC) for each in datagrams)


def test_a_receiver_answers_by_itself_and_hands_over_no_probe() -> None:
    with fanout.Receiver(0, host="127.0.0.1") as receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(PATIENCE)
        datagrams = [probe.request(RUN, 1), *map(data, range(10)), MAGIC, probe.ping(RUN, 2), probe.request(RUN, 3)]
        for datagram in [*datagrams, b"message"]:
            peer.sendto(datagram, receiver.address)
        message = next(iter(receiver))
        replies = [peer.recv(2048) for _ in range(3)]
        assert message.payload == b"message"
        assert receiver.stats.datagrams == 1
        assert [probe.parse(reply) for reply in replies] == [
            (ProbeKind.REPORT, RUN, 1), (ProbeKind.PONG, RUN, 2), (ProbeKind.REPORT, RUN, 3),
        ]  # fmt: skip
        assert probe.parse_report(replies[0]) == Observed(version=fanout.__version__)
        seen = probe.parse_report(replies[2])
        assert seen is not None
        assert seen._replace(nanoseconds=0) == Observed(10, 10, 10, bytes=640, version=fanout.__version__)
