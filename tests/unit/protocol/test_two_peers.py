"""An asker and its pods back to back in memory: a scripted clock, and a network that does what hypothesis says."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, count, repeat
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.model import Endpoint
from fanout.protocol import frame
from fanout.protocol.receiving.dedup import CONFIRMED, HandlingResult
from fanout.protocol.receiving.receive_state import PendingReply
from fanout.protocol.receiving.reception import Reception
from fanout.protocol.receiving.run import Run
from fanout.protocol.seal import Keyring, Opener, Sealer
from fanout.protocol.sending.exchange import Exchange
from fanout.protocol.sending.receipt import Receipt, ReceiptStatus, Reply
from fanout.protocol.sending.rtt import RttEstimator

ME = 1
EPOCH = 1_700_000_000.0
KEYRING = Keyring((bytes(range(32)),))
TRIP = 0.001

Fate = list[float]
"""What becomes of a datagram: the delay of each of its copies; none where it is lost."""


class Pod:
    """A receiver whose handler takes its time, and remembers what it was handed."""

    def __init__(self, world: World, number: int, handler_seconds: float, *, is_sealed: bool) -> None:
        self.endpoint = Endpoint(f"10.0.0.{number}", 12000)
        self.handed: list[bytes] = []
        self.is_done = False
        self._world = world
        self._seconds = handler_seconds
        self._reception = Reception(100 + number, keyring=KEYRING if is_sealed else None, counter=1)

    def take(self, datagram: bytes) -> None:
        now = self._world.now
        mishap = next(self._world.mishaps)
        if mishap == "forgets":
            self._reception.give_up(math.inf)
        taken = self._reception.take(Run(datagram, len(datagram), 1, ("10.0.0.9", 1), EPOCH + now), now)
        self._answer(taken.answers)
        for run, pending in zip(taken.runs, taken.pending, strict=True):
            assert run.question is pending
            if mishap == "drops":
                pending.state.release(pending)
                continue
            self.handed.append(run.data)
            self._world.later(self._seconds, partial(self._handle, pending, run.data))

    def _handle(self, pending: PendingReply, data: bytes) -> None:
        self.is_done = True
        result = HandlingResult.replied(data[::-1]) if pending.wants_reply else CONFIRMED
        self._answer(pending.state.settle(pending, result, EPOCH + self._world.now))

    def _answer(self, answers: list[bytes]) -> None:
        for datagram in answers:
            self._world.send(partial(self._world.hear, datagram, self.endpoint))


class World:
    """A clock, a network, an exchange and its pods."""

    def __init__(
        self,
        payload: bytes,
        fates: Iterator[Fate],
        handlers: list[float],
        *,
        is_query: bool = False,
        is_sealed: bool = False,
        timeout: float = 60.0,
        mishaps: Iterable[str] = (),
    ) -> None:
        self.now = 0.0
        self.mishaps = chain(mishaps, repeat(""))
        """What goes wrong at a pod when each of the first datagrams comes."""
        self.pods = [Pod(self, number, seconds, is_sealed=is_sealed) for number, seconds in enumerate(handlers, 1)]
        self.exchange = Exchange(
            payload,
            tuple(pod.endpoint for pod in self.pods),
            0.0,
            sender=ME,
            number=1,
            fragment_size=256,
            timeout=timeout,
            retries=None,
            is_query=is_query,
            round_trip=RttEstimator(lambda: 0.5),
        )
        self._fates = fates
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._sealer = Sealer(KEYRING, "", ME, 1) if is_sealed else None
        self._opener = Opener(KEYRING, "") if is_sealed else None

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def send(self, deliver: Callable[[], None]) -> None:
        for delay in next(self._fates):
            self.later(delay, deliver)

    def hear(self, datagram: bytes, source: Endpoint) -> None:
        found = frame.decode(datagram)
        if isinstance(found, frame.Sealed):
            assert self._opener is not None
            try:
                found = frame.decode(self._opener.open(found, EPOCH + self.now))
            except frame.InvalidFrame:
                return  # a copy of one that was opened
        assert isinstance(found, (frame.Answer, frame.ReplyFragment))
        assert (found.asker, found.number) == (ME, 1)
        self.exchange.take(found, source, self.now)

    def run(self) -> tuple[dict[Endpoint, Receipt], list[Reply]]:
        """Let it go on until the exchange is over."""
        by_endpoint = {pod.endpoint: pod for pod in self.pods}
        replies: list[Reply] = []
        for _ in range(100_000):
            turn = self.exchange.advance(tuple(by_endpoint), self.now)
            replies += turn.replies
            if turn.is_over:
                return {receipt.endpoint: receipt for receipt in self.exchange.receipts()}, replies
            for dispatch in turn.due:
                frames = dispatch.frames if self._sealer is None else self._sealer.seal_many(dispatch.frames, EPOCH)
                for endpoint in dispatch.endpoints:
                    for datagram in frames:
                        self.send(partial(by_endpoint[endpoint].take, datagram))
            wakeup = self.exchange.next_wakeup
            if self._events and self._events[0][0] <= wakeup:
                self.now, _, event = heapq.heappop(self._events)
                event()
            else:
                self.now = max(self.now, wakeup)
        raise AssertionError("the exchange does not end")


delays = st.floats(0, 3)
fates = st.lists(st.lists(delays, max_size=3), max_size=60)
"""Lost, late, doubled: whatever each of the first datagrams is drawn."""
handlers = st.lists(st.sampled_from([0.0, 0.01, 1.0, 100.0]), min_size=1, max_size=3)
payloads = st.sampled_from([b"", b"reload", bytes(range(250)) * 12])


@given(fates, handlers, payloads, st.booleans(), st.booleans(), st.sampled_from([0.5, 20.0]))
def test_any_schedule_ends_with_one_hand_over_or_is_told(
    drawn: list[Fate], seconds: list[float], payload: bytes, is_query: bool, is_sealed: bool, timeout: float
) -> None:
    world = World(
        payload, chain(drawn, repeat([TRIP])), seconds, is_query=is_query, is_sealed=is_sealed, timeout=timeout
    )
    receipts, replies = world.run()
    for pod in world.pods:
        receipt = receipts[pod.endpoint]
        assert pod.handed in ([], [payload])
        if receipt.status is ReceiptStatus.CONFIRMED:
            assert pod.handed == [payload]
            assert pod.is_done
            assert receipt.rtt is not None
        elif is_query and not is_sealed and len(payload) > 256:
            assert receipt.status in (ReceiptStatus.FAILED, ReceiptStatus.SILENT)  # the reply would be the larger one
        else:
            assert receipt.status is ReceiptStatus.SILENT
            assert world.now == pytest.approx(timeout)
    answered = {reply.endpoint: reply.payload for reply in replies}
    assert len(answered) == len(replies)
    assert answered == {
        endpoint: payload[::-1]
        for endpoint, receipt in receipts.items()
        if is_query and receipt.status is ReceiptStatus.CONFIRMED
    }


@given(fates, st.lists(st.sampled_from(["", "forgets", "drops"]), max_size=60), payloads, st.booleans(), st.booleans())
def test_a_pod_that_gives_parts_up_or_drops_the_message_gets_it_again_and_once(
    drawn: list[Fate], mishaps: list[str], payload: bytes, is_query: bool, is_sealed: bool
) -> None:
    world = World(
        payload, chain(drawn, repeat([TRIP])), [0.01], is_query=is_query, is_sealed=is_sealed, mishaps=mishaps
    )
    (receipt,) = world.run()[0].values()
    assert world.pods[0].handed == [payload]
    too_large = is_query and not is_sealed and len(payload) > 256
    assert receipt.status is (ReceiptStatus.FAILED if too_large else ReceiptStatus.CONFIRMED)


@given(st.integers(0, 2**32), payloads, st.booleans())
def test_a_third_lost_both_ways_is_no_obstacle(seed: int, payload: bytes, is_query: bool) -> None:
    draw = Random(seed).random
    lossy: Iterator[Fate] = iter(lambda: [] if draw() < 0.3 else [TRIP + draw() * TRIP], None)
    world = World(payload, lossy, [0.0, 0.005, 0.05], is_query=is_query, is_sealed=True)
    receipts, _ = world.run()
    assert {receipt.status for receipt in receipts.values()} == {ReceiptStatus.CONFIRMED}
    assert [pod.handed for pod in world.pods] == [[payload]] * 3


def test_nobody_hears_anything() -> None:
    world = World(b"reload", repeat([]), [0.0, 0.0], timeout=2.0)
    receipts, _ = world.run()
    assert {receipt.status for receipt in receipts.values()} == {ReceiptStatus.SILENT}
    assert world.now == 2.0


def test_a_large_message_and_a_large_reply_need_few_round_trips() -> None:
    payload = bytes(range(256)) * 2000
    world = World(payload, repeat([TRIP]), [0.0], is_query=True, is_sealed=True)
    receipts, replies = world.run()
    assert replies[0].payload == payload[::-1]
    assert receipts[world.pods[0].endpoint].tries == 1
    assert world.now < 125 * TRIP
