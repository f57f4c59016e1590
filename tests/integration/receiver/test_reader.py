"""From a socket into the queue: each datagram with its boundaries and its source, whatever the kernel merged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.model import Endpoint, Message
from tests.support.datagrams import gso_sender, send_run
from tests.support.inbox import backlog_of, drain, inbox_of


def cut(payload: bytes, segment: int) -> list[bytes]:
    return [payload[start : start + segment] for start in range(0, len(payload), segment)] if segment else [payload]


def runs_of_datagrams() -> st.SearchStrategy[tuple[bytes, int]]:
    """Payload and segment size of one GSO send: 1 to 64 segments, the last of which may be shorter; 0 for none."""

    def payload(segment: int, count: int, last: int) -> tuple[bytes, int]:
        size = min((count - 1) * segment + min(last, segment), 65_507)
        return bytes(number * 31 % 251 for number in range(size)), segment if size > segment else 0

    return st.builds(payload, st.integers(1, 64) | st.integers(1, 1472), st.integers(1, 64), st.integers(1, 1472))


@given(
    st.lists(runs_of_datagrams() | st.just((b"", 0)) | st.just((bytes(65_507), 0)), min_size=1, max_size=8),
    st.integers(1, 200),
    st.sampled_from(["127.0.0.1", "0.0.0.0", None]),
)
def test_boundaries_are_kept_whatever_the_kernel_merged(
    sends: list[tuple[bytes, int]], limit: int, host: str | None
) -> None:
    expected = [datagram for payload, segment in sends for datagram in cut(payload, segment)]
    got: list[Message] = []
    waiting = 0
    queue = backlog_of()
    with (
        inbox_of(queue, host=host) as listener,
        gso_sender(Endpoint("127.0.0.1", listener.address.port)) as sender,
    ):
        listener.fill()
        for payload, segment in sends:
            waiting += len(payload)
            if waiting > 100_000:  # any kernel's receive buffer holds so much
                got += drain(listener, queue, limit)
                waiting = len(payload)
            send_run(sender, payload, segment)
        got += drain(listener, queue, limit)
        source = Endpoint(*sender.getsockname())
    assert [message.payload for message in got] == expected
    assert {message.source for message in got} == {source}


def test_sources_are_told_apart_however_their_runs_interleave() -> None:
    queue = backlog_of()
    with inbox_of(queue) as listener, gso_sender(listener.address) as one, gso_sender(listener.address) as other:
        got: list[Message] = []
        for _ in range(4):  # the kernel merges from the second time on
            for number in range(8):
                send_run(one, bytes([number]) * 200, 10)
                send_run(other, bytes([number]) * 300, 10)
            got += drain(listener, queue, 1000)
    by_source = {
        Endpoint(*sender): b"".join(message.payload for message in got if message.source == sender)
        for sender in {message.source for message in got}
    }
    assert sorted(map(len, by_source.values())) == [4 * 8 * 200, 4 * 8 * 300]
