"""`Sender`: the shell that blocks; what it does is in `engine` and `confirming`."""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Literal, Self, overload

from fanout.errors import FanoutError
from fanout.model import MAX_PAYLOAD, Endpoint, check_payload
from fanout.protocol.sending.pacer import BURST
from fanout.report import Fault, Report, Tally
from fanout.sender import engine
from fanout.sender.coalescer import Coalescer
from fanout.sender.confirming import Confirming
from fanout.sender.engine import LOOK_AGAIN, Copies, check_stream, make_pacer

if TYPE_CHECKING:
    from fanout.protocol.sending.exchange import Exchange
    from fanout.protocol.sending.receipt import Confirmation, Reply
    from fanout.sender.confirming import OnReceipt

TIMEOUT = 2.0
"""Seconds to wait for the answers of all pods."""


class Sender(Confirming):
    """Sends each message to every pod of a headless Service.

    `service` is a short name, an FQDN (with a trailing dot it is taken as it is) or a literal list of endpoints
    (`10.0.0.7,10.0.0.8:13000`), `port` a number or the name of a Service port. Loopback addresses in answers of
    DNS are refused unless `allow_loopback`. `nameserver` (`HOST[:PORT]`) takes the place of those in resolv.conf.
    `resolver` and `transport` replace DNS and the sockets, in tests for instance (`fanout.testing`).

    The pods are resolved in the background from the first use on. `send` waits for DNS only where there never was
    an answer; a later outage keeps the last known pods. Safe to use from several threads. Raises `InvalidService`.

    Messages are plain datagrams, unless one of these is given; only a fanout `Receiver` understands framed ones:
    `numbered` lets receivers count what was lost, `max_datagram` (bytes, 256 or more) cuts what is larger into
    fragments, and `key_file` seals everything, for receivers that have one of its keys and the same `cluster` label.
    Framed messages may have up to 16 MiB, in fragments of `max_datagram` or 1,200 bytes. Raises `InvalidInput` and
    `KeyUnavailable`.
    """

    _is_reading = False
    """Whether a thread waits for answers: it reads for all that do."""

    @overload
    def send(self, payload: bytes, *, settle: float = 0.0, confirm: Literal[False] = False) -> Report: ...

    @overload
    def send(
        self,
        payload: bytes,
        *,
        confirm: Literal[True],
        timeout: float = TIMEOUT,
        retries: int | None = None,
        on_receipt: OnReceipt = None,
    ) -> Confirmation: ...

    def send(
        self,
        payload: bytes,
        *,
        settle: float = 0.0,
        confirm: bool = False,
        timeout: float = TIMEOUT,
        retries: int | None = None,
        on_receipt: OnReceipt = None,
    ) -> Report | Confirmation:
        """Send one copy of `payload` to each pod and report on each.

        A plain message has up to 65,507 bytes. ICMP errors come a round trip later: `settle` is how many seconds to
        wait for them. Those that come after this call are told by a later report.

        With `confirm`, the message is framed, and each pod acknowledges it after its handler has returned. It is sent
        again to those that are silent, up to `retries` times, until all have answered or `timeout` (seconds) is over;
        each pod hands it over once, however often it comes. Pods that join meanwhile get it, too. `on_receipt` is
        called with a pod's `Receipt` whenever that changes.

        Raises `InvalidInput`, `MessageTooLarge`, `NoEndpoints`, `ResolverUnavailable` or `Closed`; no pod got a copy
        then (but for a sender that is closed while it sends).
        """
        if confirm:
            exchange = self._ask(payload, timeout, retries, on_receipt, is_query=False)
            for _ in self._converse(exchange, on_receipt):
                pass
            return self._confirmation(exchange)
        if self._is_framed:
            return self._send_framed(payload, settle)
        # Written out, and not a stream of one: to two pods, this function must cost next to nothing.
        if type(payload) is not bytes or len(payload) > MAX_PAYLOAD:
            payload = check_payload(payload)
        refresher = self._opened or self._open()
        known = refresher.known
        endpoints = known.endpoints
        if not endpoints:
            known = refresher.endpoints()
            endpoints = known.endpoints
        stop = len(endpoints)
        faults: list[Fault] = []
        transport = self._transport
        with self._lock:
            position = transport.send(payload, endpoints, 0, stop, faults)
            stats = self._stats
            if position == stop and not (faults or settle or transport.has_heard):
                stats.messages += 1
                stats.sent += stop
                age = monotonic() - (known.answered_at or 0.0)
                return Report(1, len(payload), ((endpoints, 1),), age, known.failure is not None)
            self._add(position, faults)
            stats.messages += position == stop
        copies = Copies((payload,), endpoints, 0, position, faults)
        if position < stop:
            self._finish(copies)
        tally = Tally()
        self._tell(tally, copies)
        return self._settled(tally, settle)

    def _send_framed(self, payload: bytes, settle: float) -> Report:
        data = self._check(payload)
        endpoints = self.resolve()
        tally = Tally()
        self._flush([data], endpoints, tally)
        return self._settled(tally, settle)

    def _flush(self, payloads: list[bytes], endpoints: tuple[Endpoint, ...], tally: Tally) -> None:
        with self._framing.order if self._is_framed else contextlib.nullcontext():
            for copies in self._copies(payloads, endpoints):
                if copies.pause:
                    time.sleep(copies.pause)
                self._finish(copies)
                self._tell(tally, copies)

    def _finish(self, copies: Copies) -> None:
        while not self._step(copies):
            if not self._wait_writable(copies.next_endpoint):
                self._give_up(copies)
                return

    def _wait_writable(self, endpoint: Endpoint) -> bool:
        """Wait until the socket has room; return False where it stayed full, raise `Closed` where it was closed."""
        descriptor = self._writable(endpoint)
        if descriptor is None:
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            deadline = monotonic() + engine.STALL
            while monotonic() < deadline and not self._closed:
                if poll.poll(LOOK_AGAIN * 1000):
                    return True
        finally:
            os.close(descriptor)
        if self._closed:
            self._open()
        return False

    def send_many(
        self,
        payloads: Iterable[bytes],
        *,
        rate: float | None = None,
        bandwidth: float | None = None,
        burst: int = BURST,
        stop: threading.Event | None = None,
        settle: float = 0.0,
    ) -> Report:
        """Send each of `payloads` as it is produced, following the pods meanwhile; report on all.

        What is produced within a millisecond leaves together, as runs of equal sizes where the kernel can (GSO);
        what comes after a pause leaves at once. `rate` (messages/s) and `bandwidth` (bits of payload/s) pace the
        stream, in bursts of at most `burst` tiny datagrams (see `Pacer`); `stop`, set by anyone, ends it before its
        next message.

        An error raised by the iterable, or by one of its payloads, ends the stream: what came before it was sent.
        Raises what `send` raises, with the `report` of what was sent.
        """
        refresher = self._open()
        tally = Tally()

        def flush(ready: list[bytes]) -> None:
            self._flush(ready, refresher.endpoints().endpoints, tally)

        check_stream(payloads)
        pacer = make_pacer(rate, bandwidth, burst)
        check = self._check
        never_pauses = type(payloads) in (list, tuple)
        try:
            with Coalescer(flush, pacer=pacer, stop=stop, never_pauses=never_pauses) as coalescer:
                for payload in payloads:
                    if not coalescer.put(check(payload)):
                        break
            self._close_stream()
        except FanoutError as error:
            error.report = self._report(tally)
            raise
        self._hear(tally)
        return self._settled(tally, settle)

    def query(
        self,
        payload: bytes,
        *,
        timeout: float = TIMEOUT,
        retries: int | None = None,
        on_receipt: OnReceipt = None,
    ) -> Query:
        """Ask every pod, and return their replies as they come: see `Query`.

        Each pod's handler replies (`Message.reply`, or by what it returns). What is said of `send` with `confirm` holds
        for a query, too: it is handed over once, and asked again of the silent. Raises what `send` raises.
        """
        exchange = self._ask(payload, timeout, retries, on_receipt, is_query=True)
        query = Query(self._converse(exchange, on_receipt), lambda: self._confirmation(exchange))
        self._end_with(query, exchange)
        return query

    def _ask(
        self, payload: bytes, timeout: float, retries: int | None, on_receipt: OnReceipt, *, is_query: bool
    ) -> Exchange:
        """Return an exchange whose first copies have left."""
        from fanout.sender.encoder import check_message, check_patience

        data = check_message(payload)
        check_patience(timeout, retries, on_receipt)
        endpoints = self.resolve()
        with self._framing.order:
            exchange = self._begin(data, endpoints, timeout, retries, is_query=is_query)
            try:
                for copies in self._asking_now(exchange):
                    self._finish(copies)
                    self._asked(exchange, copies)
            except BaseException:
                self._end(exchange)
                raise
        return exchange

    def _converse(self, exchange: Exchange, on_receipt: OnReceipt) -> Iterator[Reply]:
        """Yield replies, and send what is due, until the exchange is over."""
        try:
            while True:
                due, replies, is_over = self._turn(exchange, on_receipt)
                for copies in due:
                    self._finish(copies)
                    self._asked(exchange, copies)
                yield from replies
                if is_over:
                    self._end(exchange)
                    return
                self._await_answers(exchange)
        finally:
            # Not ended here: the collector of garbage may close a generator while this very thread holds a lock.
            self._abandon(exchange)

    def _await_answers(self, exchange: Exchange) -> None:
        """Wait until the exchange has news, or something to send: one of the threads that wait reads for all."""
        answers = self._framing.answers
        with answers:
            while True:
                seconds = exchange.next_wakeup - monotonic()
                if exchange.has_news or seconds <= 0:
                    return
                if not self._is_reading:
                    break
                answers.wait(seconds)
            self._is_reading = True
        try:
            poll = select.poll()
            for descriptor in self._readable():
                poll.register(descriptor, select.POLLIN)
            # A bit later than asked for, never earlier: poll counts milliseconds.
            poll.poll(math.ceil(min(seconds, LOOK_AGAIN) * 1000))
        finally:
            with answers:
                self._is_reading = False
                self._take_answers()
                answers.notify_all()

    def _settled(self, tally: Tally, settle: float) -> Report:
        if settle > 0:
            time.sleep(settle)
            self._hear(tally)
        return self._report(tally)

    def resolve(self) -> tuple[Endpoint, ...]:
        """Return the pods; wait where there never was an answer. Raises `NoEndpoints` or `ResolverUnavailable`."""
        return self._open().endpoints().endpoints

    def open(self) -> Self:
        """Start to resolve, and return at once; `send` does it where it was not done."""
        self._open()
        return self

    def close(self) -> None:
        """Stop to resolve and close the sockets. Closing twice is fine."""
        self._close_stream()
        self._close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()


class Query:
    """The replies of all pods: iterate over them as they come, or `gather` them. Ends with the last that is expected.

    Pods are asked again only while somebody iterates. `confirmation` names who did not reply.
    """

    def __init__(self, replies: Iterator[Reply], confirm: Callable[[], Confirmation]) -> None:
        self._replies = replies
        self._confirm = confirm

    def __iter__(self) -> Iterator[Reply]:
        return self._replies

    def __next__(self) -> Reply:
        return next(self._replies)

    def gather(self) -> list[Reply]:
        """Return all replies that have not been taken yet, once the last has come or the time is up."""
        return list(self._replies)

    @property
    def confirmation(self) -> Confirmation:
        """What is known of each pod: those that may still reply are silent."""
        return self._confirm()
