"""What comes close together leaves together, and nothing waits for what may never come."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fanout.coalescing import BATCH, Coalescer
from fanout.pacing import Pacer


class Flushes:
    """Keeps what was flushed."""

    def __init__(self, failing_from: int | None = None) -> None:
        self.batches: list[list[bytes]] = []
        self.flushed = threading.Event()
        self._failing_from = failing_from

    def __call__(self, payloads: list[bytes]) -> None:
        if self._failing_from is not None and len(self.batches) >= self._failing_from:
            raise OSError("the kernel is gone")
        self.batches.append(payloads)
        self.flushed.set()

    @property
    def payloads(self) -> list[bytes]:
        return [payload for batch in self.batches for payload in batch]


def numbered(count: int) -> Iterator[bytes]:
    return (b"%d" % number for number in range(count))


@pytest.mark.parametrize("never_pauses", [True, False])
def test_what_comes_fast_leaves_in_few_batches_and_in_order(never_pauses: bool) -> None:
    flushes = Flushes()
    with Coalescer(flushes, never_pauses=never_pauses) as coalescer:
        for payload in numbered(10_000):
            assert coalescer.put(payload)
    assert flushes.payloads == list(numbered(10_000))
    assert len(flushes.batches) < 2_000
    assert max(map(len, flushes.batches)) <= BATCH


def test_a_lone_message_does_not_wait() -> None:
    flushes = Flushes()
    with Coalescer(flushes) as coalescer:
        for number in range(3):
            coalescer.put(b"%d" % number)
            assert flushes.batches == [[b"%d" % earlier] for earlier in range(number + 1)]
            time.sleep(0.005)


def test_a_producer_that_pauses_does_not_hold_back_what_it_has_put() -> None:
    flushes = Flushes()
    with Coalescer(flushes) as coalescer:
        coalescer.put(b"first")
        coalescer.put(b"second, within a millisecond")
        flushes.flushed.clear()
        if len(flushes.payloads) < 2:
            assert flushes.flushed.wait(5)
        assert len(flushes.payloads) == 2


def test_an_error_of_the_producer_leaves_what_came_before_it_sent() -> None:
    flushes = Flushes()

    def stream() -> None:
        with Coalescer(flushes, never_pauses=True) as coalescer:
            coalescer.put(b"1")
            coalescer.put(b"2")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        stream()
    assert flushes.payloads == [b"1", b"2"]


def test_what_the_flush_raises_comes_out_of_the_stream_once() -> None:
    def stream(pause: float) -> None:
        with Coalescer(Flushes(failing_from=1)) as coalescer:
            for payload in numbered(100_000):
                coalescer.put(payload)
                if payload == b"1":
                    time.sleep(pause)  # the thread meets the error, not the stream

    for pause in (0.0, 0.05):
        with pytest.raises(OSError, match="gone"):
            stream(pause)


def test_a_stop_ends_a_long_wait() -> None:
    flushes, stop = Flushes(), threading.Event()
    with Coalescer(flushes, pacer=Pacer(time.monotonic(), rate=0.01, bandwidth=None), stop=stop) as coalescer:
        assert coalescer.put(b"1")
        threading.Timer(0.05, stop.set).start()
        assert not coalescer.put(b"2")
        assert not coalescer.put(b"3")
    assert flushes.payloads == [b"1"]


def test_a_paced_stream_leaves_in_its_order() -> None:
    flushes = Flushes()
    with Coalescer(flushes, pacer=Pacer(time.monotonic(), rate=50_000, bandwidth=None)) as coalescer:
        for payload in numbered(2_000):
            coalescer.put(payload)
    assert flushes.payloads == list(numbered(2_000))
    assert max(map(len, flushes.batches)) <= BATCH
