"""The sender's side of one confirmed message or query: what to send when, and what became of it. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from itertools import count
from typing import NamedTuple

from fanout.model import Endpoint
from fanout.protocol.frame import FRAGMENT_OVERHEAD, NUMBERED, QUERY, Answer, Cut, ReplyFragment, pull
from fanout.protocol.sending.fragments import SendWindow
from fanout.protocol.sending.peer_exchange import OutgoingMessage, PeerExchange
from fanout.protocol.sending.receipt import Confirmation, Receipt, ReceiptStatus, Reply
from fanout.protocol.sending.rtt import RttEstimator

REPLIES_MAX = 256 * 1024 * 1024
"""Maximum bytes of replies that one query keeps."""


class Dispatch(NamedTuple):
    """Frames to send, in their order, to each of some pods."""

    frames: list[bytes]
    endpoints: tuple[Endpoint, ...]


class Turn(NamedTuple):
    """What to do for an exchange now."""

    is_over: bool
    due: list[Dispatch]
    receipts: list[Receipt]
    """Those that have changed since the last turn; empty where they are not watched."""
    replies: list[Reply]
    """Those completed since the last turn."""


class Exchange:
    """Sends one message to every pod and gathers the answers, until all have answered or the time is up.

    `advance` returns what to do now, `next_wakeup` when to call it again, unless it `has_news` before; `take`,
    `refused` and `dropped` record what was received. `now` is in seconds on a monotonic clock; nothing here waits. A
    pod that joins gets the message, too; one that leaves gets nothing more.
    """

    def __init__(
        self,
        payload: bytes,
        endpoints: tuple[Endpoint, ...],
        now: float,
        *,
        sender: int,
        number: int,
        fragment_size: int,
        timeout: float,
        retries: int | None,
        is_query: bool = False,
        is_numbered: bool = False,
        round_trip: RttEstimator,
    ) -> None:
        self.number = number
        self.size: int = len(payload)
        """Bytes of the message."""
        self.deadline: float = now + timeout
        flags = (QUERY if is_query else 0) | (NUMBERED if is_numbered else 0)
        # An unsealed reply is never larger than the query: so the query is padded to the full size.
        pad = FRAGMENT_OVERHEAD + fragment_size if is_query else 0
        cut = Cut.of(payload, fragment_size)
        self._message = OutgoingMessage(sender, number, cut, flags, pad, retries, round_trip)
        self._started = now
        self._ended: float | None = None
        self._pods: dict[Endpoint, PeerExchange] = {}
        self._wakes: list[tuple[float, int, PeerExchange]] = []
        """When to check which pod; outdated where that pod's `wake` has changed."""
        self._order = count()
        self._changed: dict[Endpoint, PeerExchange] = {}
        self._replies: list[Reply] = []
        self._reply_bytes = 0
        self._open = 0  # pods that may still answer
        self._some_left = False
        self._endpoints = endpoints
        self._add(endpoints, now, joined=False)

    def _add(self, endpoints: Iterable[Endpoint], now: float, *, joined: bool) -> None:
        message, cut = self._message, self._message.cut
        for endpoint in endpoints:
            window = SendWindow(cut.parts) if self.size > cut.size else None
            pod = self._pods[endpoint] = PeerExchange(endpoint, joined, now, message, window)
            self._open += 1
            heapq.heappush(self._wakes, (now, next(self._order), pod))

    def advance(self, endpoints: tuple[Endpoint, ...], now: float, *, is_watched: bool = True) -> Turn:
        """Follow the current pods, and return what to do."""
        if endpoints is not self._endpoints:
            self.follow(endpoints, now)
        is_over = self.is_over(now)
        due = [] if is_over else self.due(now)
        receipts = [pod.receipt() for pod in self._changed.values()] if is_watched else []
        self._changed.clear()
        replies, self._replies = self._replies, []
        return Turn(is_over, due, receipts, replies)

    def follow(self, endpoints: tuple[Endpoint, ...], now: float) -> None:
        """Record the current pods."""
        self._endpoints = endpoints
        named = set(endpoints)
        for endpoint, pod in self._pods.items():
            was_gone, pod.is_gone = pod.is_gone, endpoint not in named
            self._some_left |= pod.is_gone
            if pod.is_gone:
                pod.wake = math.inf
            elif was_gone and pod.status is None:
                pod.wake = now
                heapq.heappush(self._wakes, (now, next(self._order), pod))
        self._add((endpoint for endpoint in endpoints if endpoint not in self._pods), now, joined=True)

    @property
    def next_wakeup(self) -> float:
        """When something is due next, or the exchange is over."""
        if not self._open:
            return self._started
        wakes = self._wakes
        while wakes and wakes[0][0] != wakes[0][2].wake:
            heapq.heappop(wakes)
        return min(wakes[0][0], self.deadline) if wakes else self.deadline

    @property
    def has_news(self) -> bool:
        """Whether the next turn has changes or replies."""
        return bool(self._changed or self._replies)

    def due(self, now: float) -> list[Dispatch]:
        """Return what to send now."""
        message = self._message
        bursts: dict[tuple[int, tuple[int, ...]], list[Endpoint]] = {}
        dispatches: list[Dispatch] = []
        while self._wakes and self._wakes[0][0] <= now:
            wake, _, pod = heapq.heappop(self._wakes)
            if wake != pod.wake:
                continue
            if pod.reply is not None:
                if positions := pod.pulls(now):
                    dispatches.append(Dispatch([pull(message.sender, self.number, positions)], (pod.endpoint,)))
            else:
                attempt, positions = pod.burst(now)
                if positions:
                    bursts.setdefault((attempt, positions), []).append(pod.endpoint)
            self._note(pod)
        for (attempt, positions), endpoints in bursts.items():
            # The same tuple where it is all pods, so that what was prepared for them is reused.
            to = self._endpoints if len(endpoints) == len(self._endpoints) else tuple(endpoints)
            dispatches.append(Dispatch(message.frames(attempt, positions), to))
        return dispatches

    def take(self, frame: Answer | ReplyFragment, source: Endpoint, now: float) -> bool:
        """Take an answer to this message; return whether it is from a pod that was asked and has not answered."""
        pod = self._pods.get(source)
        if pod is None or pod.status is not None:
            return False
        if isinstance(frame, Answer):
            pod.answered(frame, now)
        else:
            before = pod.reply_bytes
            reply = pod.replied(frame, now)
            self._reply_bytes += pod.reply_bytes - before
            if reply is not None:
                self._replies.append(reply)
            elif self._reply_bytes > REPLIES_MAX:
                self._reply_bytes -= pod.reply_bytes
                pod.end(ReceiptStatus.FAILED, f"the replies have more than {REPLIES_MAX:,} bytes in total")
        self._note(pod)
        return True

    def refused(self, endpoint: Endpoint, number: int, now: float) -> None:
        """Record an ICMP error for a pod."""
        pod = self._pods.get(endpoint)
        if pod is not None and pod.status is None:
            pod.refused(number, now)
            self._note(pod)

    def dropped(self, endpoint: Endpoint, number: int, now: float) -> None:
        """Record that the kernel did not take a pod's copy."""
        pod = self._pods[endpoint]
        if pod.status is None:
            pod.dropped(number, now)
            self._note(pod)

    def _note(self, pod: PeerExchange) -> None:
        self._changed[pod.endpoint] = pod
        if pod.status is not None:
            self._open -= 1
        elif pod.is_gone:
            pod.wake = math.inf
        else:
            heapq.heappush(self._wakes, (pod.wake, next(self._order), pod))

    def is_over(self, now: float) -> bool:
        """Whether every pod that has not left has answered, or the time is up; the others are then given up."""
        is_over = now >= self.deadline or not self._open
        if not is_over and self._some_left:
            is_over = all(pod.status is not None or pod.is_gone for pod in self._pods.values())
        if is_over and self._ended is None:
            self._ended = now
            for pod in self._pods.values():
                if pod.status is None:
                    pod.give_up()
                    self._note(pod)
        return is_over

    def count(self) -> tuple[int, int]:
        """Return how many pods have confirmed or replied, and how many have not."""
        confirmed = 0
        for pod in self._pods.values():
            confirmed += pod.status is ReceiptStatus.CONFIRMED
        return confirmed, len(self._pods) - confirmed

    def receipts(self) -> tuple[Receipt, ...]:
        """Return the receipt of each pod."""
        return tuple(map(PeerExchange.receipt, self._pods.values()))

    def confirmation(self, now: float, age: float, stale: bool) -> Confirmation:
        """Return the state of each pod; `age` and `stale` are those of the DNS answer: see `Confirmation`."""
        elapsed = (now if self._ended is None else self._ended) - self._started
        return Confirmation(self.receipts(), self.size, elapsed, age, stale)
