"""`Receiver`, and what it shares with `AsyncReceiver`: two shells over one `Listener`."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import length_hint
from typing import Self

from fanout import options
from fanout.errors import Closed, InvalidInput
from fanout.limiter import LimitedLogger
from fanout.model import DEFAULT_PORT, Endpoint, FramedMessage, Message, Question
from fanout.net import errno_text
from fanout.net.bind import RECEIVE_BUFFER
from fanout.net.key_file import KeyFile
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.receiving.dedup import SenderCounts
from fanout.receiver.demux import NOTHING
from fanout.receiver.listener import WORKERS_MAX, FrameSettings, Listener
from fanout.receiver.queue import MessageBatch, MessageQueue, Overflow

log = logging.getLogger("fanout")

CAPACITY = 65_536
"""Messages that are queued for a busy handler before they are left to the kernel's buffer."""
BATCH = 1024
"""Messages in a batch, at most."""
TURN = 32
"""Messages handed over one by one between two looks at the socket: the kernel's buffer stays short."""
_CLOSED = "the receiver was closed"


@dataclass(frozen=True, slots=True)
class ReceiverStats:
    """What a receiver has done since it was opened: counts that only grow, and its queue now."""

    datagrams: int = 0
    """Taken from the kernel: handed over, queued, or dropped by the queue. A message in fragments counts once."""
    bytes: int = 0
    """Of their payloads."""
    kernel_drops: int = 0
    """Datagrams that the kernel dropped because the receive buffer was full.

    Exact for datagrams that came one by one. A run of them that the kernel keeps merged (UDP_GRO: it came from a
    sender on this host that coalesces, or was merged by the network card) counts as one where it was dropped while
    nobody looked at the socket: at least so many were lost. From where the queue is full (`Overflow.WAIT`) until the
    kernel's buffer was found empty again, nothing is merged and each counts.
    """
    queue_drops: int = 0
    """Messages that the queue dropped because it was full (`Overflow`), or that were in it at `close`."""
    handler_errors: int = 0
    queue_depth: int = 0
    """Messages taken from the kernel and not handed over yet."""
    receive_buffer: int = 0
    """Bytes of receive buffer that the kernel granted, of all workers' sockets together."""
    bench_probes: int = 0
    """Datagrams of `fanout bench`, which it answers by itself: they are not among `datagrams`."""
    skipped: int = 0
    """Messages of numbered streams that had not come when a later one did."""
    reordered: int = 0
    """Those of them that came all the same, late."""
    duplicates: int = 0
    """Messages of numbered streams that came again, and were not handed over again."""
    refused: Mapping[ReceiveDrop, int] = field(default_factory=dict)
    """Frames, and messages in several of them, that were not handed over, by reason; only reasons that occurred."""
    confirmed: int = 0
    """Messages whose senders were told, or would be, that their handler has returned."""
    failed: int = 0
    """Messages whose senders asked, and were told that they failed."""
    replied: int = 0
    """Replies that were sent, each counted once or more often."""

    @property
    def lost(self) -> int:
        """Messages of numbered streams that have not come."""
        return self.skipped - self.reordered


class ReceiverBase:
    """What both receivers are made of: everything but the waiting."""

    def __init__(
        self,
        port: int = DEFAULT_PORT,
        *,
        host: str | None = None,
        receive_buffer: int = RECEIVE_BUFFER,
        capacity: int = CAPACITY,
        overflow: Overflow | str = Overflow.WAIT,
        workers: int = 1,
        key_file: str | None = None,
        cluster: str = "",
        accept_plaintext: bool = False,
        reply_to_anyone: bool = False,
    ) -> None:
        self._settings = (
            host,
            port,
            options.whole_number("receive_buffer", receive_buffer, least=1, unit="bytes"),
            options.whole_number("workers", workers, least=1, most=WORKERS_MAX),
        )
        self._framing = _framing(key_file, cluster, accept_plaintext, reply_to_anyone)
        self._queue = MessageQueue(capacity, Overflow.parse(overflow), takers=workers)
        self._listener: Listener | None = None
        self._stopped = False
        self._rest: Iterator[Message] = iter(())  # of the batch that is being handed over message by message
        self._rest_may_ask = False
        self._handed: Sequence[Question] = ()  # over, and not settled before the next messages are asked for
        self._handing = threading.RLock()
        """Held while messages change hands: `close` in another thread comes before or after, and misses none."""
        self._handler_errors = 0
        self._log_failure = LimitedLogger(log.error, 10)

    @property
    def address(self) -> Endpoint:
        """Where it listens; raises `Closed` before it was opened and after it stopped."""
        if self._listener is None or self._stopped:
            raise Closed("the receiver does not listen: open it first")
        return self._listener.address

    @property
    def stats(self) -> ReceiverStats:
        """Counts since it was opened."""
        listener, queue = self._listener, self._queue
        framed = NOTHING if listener is None else listener.counts
        return ReceiverStats(
            datagrams=queue.datagrams,
            bytes=queue.bytes,
            kernel_drops=0 if listener is None else listener.kernel_drops,
            queue_drops=queue.drops,
            handler_errors=self._handler_errors,
            queue_depth=queue.depth + length_hint(self._rest),
            receive_buffer=0 if listener is None else listener.receive_buffer,
            bench_probes=0 if listener is None else listener.probes,
            skipped=framed.skipped,
            reordered=framed.reordered,
            duplicates=framed.duplicates,
            refused=framed.refused,
            confirmed=framed.confirmed,
            failed=framed.failed,
            replied=framed.replied,
        )

    @property
    def senders(self) -> list[SenderCounts]:
        """What came of each sender of frames, at most 1,024: the one that was heard last at the end."""
        return [] if self._listener is None else self._listener.senders()

    def _listen(self) -> Listener:
        if self._stopped:
            raise Closed("the receiver was stopped: make a new one")
        if self._listener is None:
            host, port, receive_buffer, workers = self._settings
            self._listener = Listener(
                host, port, self._queue, receive_buffer=receive_buffer, workers=workers, framing=self._framing
            )
        return self._listener

    def _take_rest(self) -> MessageBatch:
        """Return what an iteration over messages took and did not hand over: it was broken out of."""
        return MessageBatch(self._rest, self._rest_may_ask)

    def _settle_handed(self) -> None:
        """Take note that the next messages are asked for: those before were handled."""
        if not self._handed:
            return
        with self._handing:
            questions, self._handed = self._handed, ()
            for question in questions:
                question.confirm()

    def _forget(self) -> None:
        """Drop what was not handed over, and tell whoever asks; the sockets must not be closed yet."""
        rest = self._take_rest()
        questions = [*self._handed, *rest.questions, *self._queue.clear(len(rest))]
        self._handed = ()
        for question in questions:
            question.fail(_CLOSED)

    def handler_failed(self, message: Message, error: Exception) -> None:
        """Count one message's failure, tell a sender that asked, and log a few a second.

        `serve` does it, and who iterates may, before the next message is asked for.
        """
        self._handler_errors += 1
        reason = errno_text.exception(error)
        if isinstance(message, FramedMessage) and message.question is not None:
            message.question.fail(reason)
        self._log_failure(
            time.monotonic(),
            "handler_failed: message from %(source)s: %(error)s",
            {"source": str(message.source), "error": reason},
            exc_info=error,
        )

    def _handled(self, message: Message, result: object) -> None:
        """Tell a sender that asked that `serve`'s handler has returned, and what a query's reply is."""
        if problem := conclude(message, result):
            self.handler_failed(message, InvalidInput(problem))

    def __repr__(self) -> str:
        if self._listener is None or self._stopped:
            return f"<{type(self).__name__} {'not opened' if self._listener is None else 'stopped'}>"
        return f"<{type(self).__name__} on {self._listener.address}>"


def conclude(message: Message, result: object) -> str:
    """Tell a sender that asked that the handler has returned `result`, a query's reply; return why not, if so.

    A message that has no reply and was not failed is confirmed, whatever was returned.
    """
    question = message.question if isinstance(message, FramedMessage) else None
    if question is None:
        return ""
    problem = ""
    if not question.wants_reply:
        question.confirm()
    elif result is None or isinstance(result, (bytes, bytearray, memoryview)):
        try:
            message.reply(b"" if result is None else bytes(result))
        except Exception as error:
            if question.wants_reply:  # otherwise another thread has replied in this very moment
                problem = str(error) if isinstance(error, InvalidInput) else errno_text.exception(error)
    else:
        problem = f"the handler returned {type(result).__name__}, not bytes or None"
    if problem:
        question.fail(problem)
    return problem


def _framing(key_file: str | None, cluster: str, accept_plaintext: bool, reply_to_anyone: bool) -> FrameSettings:
    path = options.key_path(key_file)
    label = options.cluster_label(cluster, key_file)
    if accept_plaintext and path is None:
        raise InvalidInput("accept_plaintext says nothing without key_file: give both")
    if reply_to_anyone and path is None:
        log.warning(
            "reply_to_anyone: replies go to whoever asks, however large they are: "
            "with a forged source address they hit others. Seal queries instead (key_file)"
        )
    keys = None if path is None else KeyFile(path)
    return FrameSettings(keys, label, bool(accept_plaintext), bool(reply_to_anyone))


class Receiver(ReceiverBase):
    """Receives messages: iterate over it, or give `serve` a handler.

    Listens on `port` of all addresses of both families, or of `host` alone; port 0 takes a free one (`address`).
    Asks for `receive_buffer` bytes of kernel buffer and warns where less is granted. Up to `capacity` messages and
    32 MiB of payload are queued for a busy handler (the last run that the kernel merged may go beyond);
    `overflow` says what happens then. With `workers` from 2 to 64, so many threads, with a socket each, empty the
    kernel's buffers while Python code handles messages, and other processes of the same user may have the port as
    well, where they too have more than one (SO_REUSEPORT, man 7 socket). Each source's order is kept.

    What comes in frames is handed over once, as whole messages, with no doing of the user's. A confirmed message is
    confirmed when the next message is asked for (of `batches`: the next batch), be it by another iteration, or
    `serve`'s handler has returned; a query that was not replied to by then has failed, and so has, when the receiver
    is closed, what nothing was asked for after. With a `key_file` (a key a line, the first seals, all open; followed
    as it changes) only what was sealed with one of them, for the same `cluster`, is taken, unless
    `accept_plaintext`. Replies are no larger than the question, but where that was sealed, or where
    `reply_to_anyone`. What is sent to one address of several is answered from there.

    Raises `InvalidInput` and `KeyUnavailable`; opening raises `SocketUnavailable` or `InvalidService`.
    """

    _wake: tuple[socket.socket, socket.socket] | None = None
    """What `stop` writes to, and what a waiting iteration watches beside the socket."""

    def open(self) -> Self:
        """Listen; `with` and iterating do it too."""
        self._listening()
        return self

    def stop(self) -> None:
        """Stop listening; iteration ends once what was received is handed over. Any thread may call it."""
        self._stopped = True
        if self._wake is not None:
            with contextlib.suppress(OSError):  # closed, or told so often that the pipe is full
                self._wake[1].send(b"\0", socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Stop listening and drop what was not handed over, which `queue_drops` counts. Closing twice is fine.

        Who asks for a message that is not settled by now is told that the receiver was closed.
        """
        self.stop()
        with self._handing:
            if self._listener is not None:
                self._listener.drain()
                self._forget()
                self._listener.close()
            for opened in self._wake or ():
                opened.close()

    def __iter__(self) -> Iterator[Message]:
        """Yield messages until `stop`."""
        for batch in self._batches(TURN, self._keep_rest):
            if not batch.may_ask:
                yield from self._rest
                continue
            rest = self._rest
            while (message := self._next_of(rest)) is not None:
                yield message
                self._settle_handed()

    def _keep_rest(self, batch: MessageBatch) -> None:
        self._rest, self._rest_may_ask = iter(batch), batch.may_ask

    def _next_of(self, rest: Iterator[Message]) -> Message | None:
        """Return the next message, which is handed over now; None where there is none."""
        with self._handing:
            message = next(rest, None)
            if isinstance(message, FramedMessage) and message.question is not None:
                self._handed = (message.question,)
            return message

    def batches(self) -> Iterator[list[Message]]:
        """Yield what is there, as lists of 1 to 1,024 messages, until `stop`: the fastest way to have them."""
        for batch in self._batches(BATCH, self._keep_handed):
            yield batch
            self._settle_handed()

    def _keep_handed(self, batch: MessageBatch) -> None:
        if batch.may_ask:
            self._handed = batch.questions

    def _batches(self, limit: int, keep: Callable[[MessageBatch], None]) -> Iterator[MessageBatch]:
        """Yield what is there; `keep` takes note of a batch before that is yielded."""
        self._settle_handed()  # of an iteration that was broken out of
        listener, woken = self._listening()

        def take(*, fill: bool = False) -> MessageBatch:
            with self._handing:
                if fill and not self._stopped:
                    listener.fill()
                batch = listener.take(limit)
                keep(batch)
                return batch

        with self._handing:
            rest = self._take_rest()
            keep(rest)
        if rest:
            yield rest
        poll = select.poll()
        with contextlib.ExitStack() as stack:
            with self._handing:
                if not self._stopped:
                    # A copy: `close` in another thread closes the others, and new files may get their numbers.
                    poll.register(stack.enter_context(woken.dup()), select.POLLIN)
                    poll.register(listener.readable, select.POLLIN)
            while not self._stopped:
                if not self._queue.depth:
                    poll.poll()
                if batch := take(fill=True):
                    yield batch
        with self._handing:
            listener.drain()
        # The answers to what is still queued leave by its sockets.
        while listener.has_pending and (batch := take()):
            yield batch
        with self._handing:
            listener.close()
        while batch := take():
            yield batch

    def _listening(self) -> tuple[Listener, socket.socket]:
        listener = self._listen()
        if self._wake is None:
            self._wake = socket.socketpair()
        return listener, self._wake[0]

    def serve(self, handler: Callable[[Message], object]) -> None:
        """Call `handler` for each message until `stop`; what it raises is counted and logged.

        A query's reply is what it returns: bytes, or None for an empty one, unless it called `message.reply`.
        """
        for message in self:
            try:
                result = handler(message)
            except Exception as error:
                self.handler_failed(message, error)
            else:
                if type(message) is not Message:
                    self._handled(message, result)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()
