"""`Sender`: the blocking shell around `engine` and `confirming`."""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
import time
from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Literal, Self, overload

from fanout.errors import FanoutError
from fanout.model import MAX_PAYLOAD, Endpoint, check_payload
from fanout.protocol.sending.pacer import BURST
from fanout.report import Fault, Report, Tally
from fanout.sender.coalescer import Coalescer
from fanout.sender.engine import TIMEOUT, Engine, SenderBase, check_stream, make_pacer
from fanout.sender.steps import Copies, Sleep, WaitReadable, WaitWritable

if TYPE_CHECKING:
    from fanout.protocol.sending.exchange import Exchange
    from fanout.protocol.sending.receipt import Confirmation, Reply
    from fanout.sender.confirming import Conversation, ExchangeTable, OnReceipt
    from fanout.sender.steps import Flow

_LOOK_AGAIN = 0.05
"""Seconds between two checks whether the sender was closed meanwhile."""


class Sender(SenderBase):
    """Sends each message to every pod of a headless Service.

    `service` is a short name, an FQDN (with a trailing dot, no search list applies) or a literal list of endpoints
    (`10.0.0.7,10.0.0.8:13000`), `port` a number or the name of a Service port. Loopback addresses in DNS answers are
    refused unless `allow_loopback`. `nameserver` (`HOST[:PORT]`) replaces those in resolv.conf. `resolver` and
    `transport` replace DNS and the sockets, in tests for instance (`fanout.testing`).

    Pods are resolved in the background from the first use on. `send` waits for DNS only until the first answer; a
    later outage keeps the last known pods. Safe to use from several threads. Raises `InvalidService`.

    Messages are plain datagrams, unless one of these options is given; framed ones need a fanout `Receiver`:
    `numbered` lets receivers count losses, `max_datagram` (bytes, 256 or more) splits larger messages into fragments,
    and `key_file` seals everything, for receivers with one of its keys and the same `cluster` label. Framed messages
    may have up to 16 MiB, in fragments of `max_datagram` or 1,200 bytes. Raises `InvalidInput` and `KeyUnavailable`.
    """

    def _begin(self, engine: Engine) -> None:
        self._engine, self._driver = engine, BlockingDriver(engine)

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

        A plain message has at most 65,507 bytes. ICMP errors come a round trip later: `settle` is how many seconds to
        wait for them. Those that come after this call are in a later report.

        With `confirm`, the message is framed, and each pod acknowledges it after its handler has returned. It is sent
        again to silent pods, at most `retries` times, until all have answered or `timeout` (seconds) has passed; each
        pod hands it over once, however often it arrives. Pods that join meanwhile get it, too. `on_receipt` is called
        with a pod's `Receipt` whenever it changes.

        Raises `InvalidInput`, `MessageTooLarge`, `NoEndpoints`, `ResolverUnavailable` or `Closed`; no pod got a copy
        then (except where the sender is closed while sending).
        """
        if confirm:
            conversation = self._ask(payload, timeout, retries, on_receipt, is_query=False)
            flow = conversation.converse()
            while self._driver.run(flow):
                pass
            return conversation.confirmation
        engine = self._engine
        if engine.is_framed:
            data, tally = engine.check(payload), Tally()
            self._send([data], self.resolve(), tally)
            return self._settled(tally, settle)
        # Written out instead of a stream of one: for two pods, this function must cost next to nothing.
        if type(payload) is not bytes or len(payload) > MAX_PAYLOAD:
            payload = check_payload(payload)
        refresher = engine.opened or engine.open()
        known = refresher.known
        endpoints = known.endpoints
        if not endpoints:
            known = refresher.endpoints()
            endpoints = known.endpoints
        stop = len(endpoints)
        faults: list[Fault] = []
        transport = engine.transport
        with engine.lock:
            position = transport.send(payload, endpoints, 0, stop, faults)
            counts = engine.counts
            counts.sent += position
            if position == stop:
                counts.messages += 1
                if not (faults or settle or transport.has_icmp_errors):
                    age = monotonic() - (known.answered_at or 0.0)
                    return Report(1, len(payload), ((endpoints, 1),), age, known.failure is not None)
            engine.count_faults(faults)
        copies = Copies((payload,), endpoints, 0, position, faults)
        if position < stop:
            self._driver.run(engine.finish(copies))
        tally = Tally()
        engine.record(tally, copies)
        return self._settled(tally, settle)

    def _send(self, payloads: list[bytes], endpoints: tuple[Endpoint, ...], tally: Tally) -> None:
        engine = self._engine
        with engine.encoder.order if engine.is_framed else contextlib.nullcontext():
            self._driver.run(engine.send(payloads, endpoints, partial(engine.record, tally)))

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

        What is produced within a millisecond leaves together, as runs of equal sizes where the kernel supports it
        (GSO); what comes after a pause leaves at once. `rate` (messages/s) and `bandwidth` (bits of payload/s) pace
        the stream, in bursts of at most `burst` tiny datagrams (see `Pacer`); setting `stop` ends it before its next
        message.

        An error raised by the iterable, or for one of its payloads, ends the stream: what came before it was sent.
        Raises what `send` raises, with the `report` of what was sent.
        """
        engine = self._engine
        refresher = engine.open()
        tally = Tally()

        def flush(ready: list[bytes]) -> None:
            self._send(ready, refresher.endpoints().endpoints, tally)

        check_stream(payloads)
        pacer = make_pacer(rate, bandwidth, burst)
        check = engine.check
        never_pauses = type(payloads) in (list, tuple)
        try:
            with Coalescer(flush, pacer=pacer, stop=stop, never_pauses=never_pauses) as coalescer:
                for payload in payloads:
                    if not coalescer.put(check(payload)):
                        break
            engine.end_stream()
        except FanoutError as error:
            error.report = engine.report(tally)
            raise
        engine.count_icmp_errors(tally)
        return self._settled(tally, settle)

    def query(
        self, payload: bytes, *, timeout: float = TIMEOUT, retries: int | None = None, on_receipt: OnReceipt = None
    ) -> Query:
        """Send a query to every pod, and return the replies as they arrive: see `Query`.

        Each pod's handler replies (with `Message.reply`, or its return value). As with `send(confirm=True)`, a query is
        handed over once, and sent again to silent pods. Raises what `send` raises.
        """
        return Query(self._ask(payload, timeout, retries, on_receipt, is_query=True), self._driver)

    def _ask(
        self, payload: bytes, timeout: float, retries: int | None, on_receipt: OnReceipt, *, is_query: bool
    ) -> Conversation:
        """Return a conversation whose first copies have been sent."""
        from fanout.sender.confirming import Conversation, Request

        request = Request.checked(payload, timeout, retries, on_receipt, is_query=is_query)
        endpoints, table = self.resolve(), self._engine.exchanges
        with table.encoder.order:
            conversation = Conversation(self._engine, table, request, endpoints)
            self._driver.run(conversation.ask())
        return conversation

    def _settled(self, tally: Tally, settle: float) -> Report:
        if settle > 0:
            time.sleep(settle)
            self._engine.count_icmp_errors(tally)
        return self._engine.report(tally)

    def resolve(self) -> tuple[Endpoint, ...]:
        """Return the pods; wait for the first answer. Raises `NoEndpoints` or `ResolverUnavailable`."""
        refresher = self._engine.opened or self._engine.open()
        return refresher.known.endpoints or refresher.endpoints().endpoints

    def open(self) -> Self:
        """Start resolving, and return at once; `send` does it if needed."""
        self._engine.open()
        return self

    def close(self) -> None:
        """Stop resolving and close the sockets. Closing twice is fine."""
        self._engine.end_stream()
        self._engine.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()


class BlockingDriver:
    """Runs a sender's flows, and blocks for what they wait for. Threads may share it, each with its own flow."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, flow: Flow) -> Reply | None:
        """Run a flow until it yields a reply, and return that; None once it has ended."""
        try:
            step = next(flow)
            while isinstance(step, (Sleep, WaitWritable, WaitReadable)):
                try:
                    is_writable = self._wait(step)
                except BaseException as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(is_writable)
        except StopIteration:
            return None
        return step

    def _wait(self, step: Sleep | WaitWritable | WaitReadable) -> bool:
        if isinstance(step, WaitWritable):
            return self._wait_writable(step.endpoint, step.seconds)
        if isinstance(step, WaitReadable):
            self._wait_readable(step.exchange, step.table)
        else:
            time.sleep(step.seconds)
        return True

    def _wait_writable(self, endpoint: Endpoint, seconds: float) -> bool:
        """Wait until the socket is writable; return False where it stayed full, raise `Closed` where it was closed."""
        engine = self._engine
        descriptor = engine.writable(endpoint)
        if descriptor is None:
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            deadline = monotonic() + seconds
            while monotonic() < deadline and not engine.is_closed:
                if poll.poll(_LOOK_AGAIN * 1000):
                    return True
        finally:
            os.close(descriptor)
        if engine.is_closed:
            engine.open()
        return False

    def _wait_readable(self, exchange: Exchange, table: ExchangeTable) -> None:
        """Wait until the exchange has news, or something to send: one of the waiting threads reads for all."""
        answers = table.answers
        with answers:
            while True:
                seconds = exchange.next_wakeup - monotonic()
                if exchange.has_news or seconds <= 0:
                    return
                if not table.is_reading:
                    break
                answers.wait(seconds)
            table.is_reading = True
        try:
            poll = select.poll()
            for descriptor in self._engine.readable():
                poll.register(descriptor, select.POLLIN)
            # Rounded up: poll counts milliseconds, and must not return early.
            poll.poll(math.ceil(min(seconds, _LOOK_AGAIN) * 1000))
        finally:
            with answers:
                table.is_reading = False
                table.take(self._engine)
                answers.notify_all()


class Query:
    """The replies of all pods: iterate over them as they arrive, or `gather` them. Ends with the last expected one.

    Silent pods are asked again only during the iteration. `confirmation` says which pods did not reply.
    """

    def __init__(self, conversation: Conversation, driver: BlockingDriver) -> None:
        self._conversation = conversation
        self._flow = conversation.converse()
        self._driver = driver
        conversation.end_with(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Reply:
        reply = self._driver.run(self._flow)
        if reply is None:
            raise StopIteration
        return reply

    def gather(self) -> list[Reply]:
        """Wait for the last reply or the timeout; return all replies not yet iterated over."""
        return list(self)

    @property
    def confirmation(self) -> Confirmation:
        """The state of each pod: those that may still reply are silent."""
        return self._conversation.confirmation
