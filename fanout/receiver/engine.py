"""The engine that `Receiver` and `AsyncReceiver` share: everything except the waiting."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import length_hint

from fanout import errno_text, options
from fanout.errors import Closed, InvalidInput
from fanout.limiter import LimitedLogger
from fanout.model import DEFAULT_PORT, Endpoint, Message, Question
from fanout.net.bind import RECEIVE_BUFFER
from fanout.net.key_file import KeyFile
from fanout.protocol.receiving.dedup import SenderCounts
from fanout.protocol.receiving.reception import FrameCounts
from fanout.receiver.core.stats import ReceiverStats
from fanout.receiver.listener import WORKERS_MAX, FrameSettings, Listener
from fanout.receiver.queue import MessageBatch, MessageQueue, Overflow

log: logging.Logger = logging.getLogger("fanout")

CAPACITY = 65_536
"""Messages queued for a busy handler before the rest stays in the kernel's buffer."""
BATCH = 1024
"""Maximum messages in a batch."""
TURN = 32
"""Messages handed over one by one between two reads of the socket, so that the kernel's buffer stays short."""
_CLOSED = "the receiver was closed"


class ReceiverEngine:
    """The listener, its queue, and the messages being handed over.

    Messages are handed over in batches or one by one, and settled when the next is taken. The `rest` of a batch is not
    handed over yet: where an iteration was left, the next one begins with it.
    """

    def __init__(
        self,
        port: int,
        host: str | None,
        receive_buffer: int,
        capacity: int,
        overflow: Overflow | str,
        workers: int,
        framing: FrameSettings,
    ) -> None:
        options.whole_number("receive_buffer", receive_buffer, least=1, unit="bytes")
        options.whole_number("workers", workers, least=1, most=WORKERS_MAX)
        self.framing = framing
        self.queue: MessageQueue = MessageQueue(capacity, Overflow.parse(overflow), takers=workers)
        self._open = partial(Listener, host, port, self.queue, receive_buffer=receive_buffer, workers=workers)
        self.listener: Listener | None = None
        self.is_stopped = False
        self.handing: threading.RLock = threading.RLock()
        """Held while messages are handed over, so that `close` in another thread misses none."""
        self.rest: Iterator[Message] = iter(())
        self._rest_may_ask = False
        self._handed: Sequence[Question] = ()  # settled when the next messages are taken
        self._handler_errors = 0
        self._log_failure = LimitedLogger(log.error, 10)

    @property
    def stats(self) -> ReceiverStats:
        """Counts since it was opened."""
        listener, queue = self.listener, self.queue
        framed = FrameCounts() if listener is None else listener.demux.counts()
        return ReceiverStats(
            datagrams=queue.datagrams,
            bytes=queue.bytes,
            kernel_drops=0 if listener is None else listener.kernel_drops,
            queue_drops=queue.drops,
            handler_errors=self._handler_errors,
            queue_depth=queue.depth + length_hint(self.rest),
            receive_buffer=0 if listener is None else listener.receive_buffer,
            bench_probes=0 if listener is None else listener.demux.probes,
            **framed._asdict() | {"refused": dict(framed.refused)},
        )

    def __str__(self) -> str:
        if self.listener is None:
            return "not opened"
        return "stopped" if self.is_stopped else f"on {self.listener.address}"

    def listen(self) -> Listener:
        """Open the sockets, unless they are open."""
        if self.is_stopped:
            raise Closed("the receiver was stopped: make a new one")
        if self.listener is None:
            self.listener = self._open(framing=self.framing)
        return self.listener

    def close(self) -> None:
        """Drop messages not handed over, fail those not settled, and release the port."""
        with self.handing:
            if self.listener is None:
                return
            self.listener.drain()
            rest = self._unhanded()
            questions = [*self._handed, *rest.questions, *self.queue.clear(len(rest))]
            self._handed = ()
            for question in questions:  # answered before the sockets are closed
                question.fail(_CLOSED)
            self.listener.close()

    # Handing messages over.

    def take(self, limit: int, keep: Callable[[MessageBatch], None], listener: Listener | None = None) -> MessageBatch:
        """Take the next messages and pass them to `keep`: `keep_rest` or `keep_handed`.

        Those that another iteration left come first; otherwise at most `limit` of the queue, which a `listener` fills
        before, unless the receiver was stopped.
        """
        with self.handing:
            if length_hint(self.rest):
                batch = self._unhanded()
            else:
                if listener is not None and not self.is_stopped:
                    listener.fill()
                batch = self.queue.take(limit)
            keep(batch)
            return batch

    def _unhanded(self) -> MessageBatch:
        batch = MessageBatch(self.rest)
        batch.may_ask = self._rest_may_ask
        return batch

    def keep_rest(self, batch: MessageBatch) -> None:
        """Hand over this batch message by message."""
        self.rest, self._rest_may_ask = iter(batch), batch.may_ask

    def keep_handed(self, batch: MessageBatch) -> None:
        """Hand over this batch as a whole."""
        if batch.may_ask:
            self._handed = batch.questions

    def next_of(self, rest: Iterator[Message]) -> Message | None:
        """Hand over and return the next message; None where there is none."""
        with self.handing:
            message = next(rest, None)
            if message is not None and (question := message.question) is not None:
                self._handed = (question,)
            return message

    def settle_handed(self) -> None:
        """Confirm what was handed over before."""
        if not self._handed:
            return
        with self.handing:
            questions, self._handed = self._handed, ()
            for question in questions:
                question.confirm()

    # Their results.

    def handler_failed(self, message: Message, error: Exception) -> None:
        """See `ReceiverBase`."""
        self._handler_errors += 1
        reason = errno_text.exception(error)
        if message.question is not None:
            message.question.fail(reason)
        self._log_failure(
            time.monotonic(),
            "handler_failed: message from %(source)s: %(error)s",
            {"source": str(message.source), "error": reason},
            exc_info=error,
        )

    def handled(self, message: Message, result: object) -> None:
        """Answer a sender that asked, after `serve`'s handler returned `result`, a query's reply."""
        if problem := conclude(message, result):
            self.handler_failed(message, InvalidInput(problem))


def conclude(message: Message, result: object) -> str:
    """Answer a sender that asked, after the handler returned `result`, a query's reply; return why it failed, if so.

    A message that is not a query and has not failed is confirmed, whatever was returned.
    """
    question = message.question
    if question is None:
        return ""
    problem = ""
    if not question.wants_reply:
        question.confirm()
    elif result is None or isinstance(result, (bytes, bytearray, memoryview)):
        try:
            message.reply(b"" if result is None else bytes(result))
        except Exception as error:
            if question.wants_reply:  # otherwise another thread has just replied
                problem = str(error) if isinstance(error, InvalidInput) else errno_text.exception(error)
    else:
        problem = f"the handler must return bytes or None; got {type(result).__name__}"
    if problem:
        question.fail(problem)
    return problem


def frame_settings(key_file: str | None, cluster: str, accept_plaintext: bool, reply_to_anyone: bool) -> FrameSettings:
    """Return a receiver's settings for frames; raise `InvalidInput` or `KeyUnavailable`."""
    path = options.key_path(key_file)
    label = options.cluster_label(cluster, key_file)
    if accept_plaintext and path is None:
        raise InvalidInput("accept_plaintext needs key_file: give both")
    if reply_to_anyone and path is None:
        log.warning(
            "reply_to_anyone: replies of any size go to the source address of a query, which may be forged to "
            "flood a victim: seal queries instead (key_file)"
        )
    keys = None if path is None else KeyFile(path)
    return FrameSettings(keys, label, bool(accept_plaintext), bool(reply_to_anyone))


class ReceiverBase(ABC):
    """What `Receiver` and `AsyncReceiver` have in common: their options and what can be read of them."""

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
        framing = frame_settings(key_file, cluster, accept_plaintext, reply_to_anyone)
        self.__engine = ReceiverEngine(port, host, receive_buffer, capacity, overflow, workers, framing)
        self._begin(self.__engine)

    @abstractmethod
    def _begin(self, engine: ReceiverEngine) -> None:
        """Begin to drive the engine: the end of the constructor."""

    @property
    def address(self) -> Endpoint:
        """The endpoint that it listens on; raises `Closed` before it is opened and after it is stopped."""
        engine = self.__engine
        if engine.listener is None or engine.is_stopped:
            raise Closed("the receiver is not listening: open it first")
        return engine.listener.address

    @property
    def stats(self) -> ReceiverStats:
        """Counts since it was opened."""
        return self.__engine.stats

    @property
    def senders(self) -> list[SenderCounts]:
        """Counts of each sender of frames, at most 1,024, the most recent last."""
        listener = self.__engine.listener
        return [] if listener is None else listener.demux.senders()

    def handler_failed(self, message: Message, error: Exception) -> None:
        """Count a message as failed, answer a sender that asked, and log at most 10 lines a second.

        `serve` calls it; a program that iterates may, before it takes the next message.
        """
        self.__engine.handler_failed(message, error)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__engine}>"
