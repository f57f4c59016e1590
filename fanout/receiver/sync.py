"""`Receiver`: the driver that blocks."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Iterator
from typing import Self

from fanout.model import DEFAULT_PORT, Endpoint, Message
from fanout.net.bind import RECEIVE_BUFFER
from fanout.protocol.receiving.dedup import SenderCounts
from fanout.receiver.engine import BATCH, CAPACITY, TURN, ReceiverEngine, ReceiverStats, frame_settings
from fanout.receiver.queue import MessageBatch, Overflow


class Receiver:
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
        self._engine = ReceiverEngine(port, host, receive_buffer, capacity, overflow, workers, framing)
        self._wake: tuple[socket.socket, socket.socket] | None = None
        """What `stop` writes to, and what a waiting iteration watches beside the socket."""

    @property
    def address(self) -> Endpoint:
        """Where it listens; raises `Closed` before it was opened and after it stopped."""
        return self._engine.address

    @property
    def stats(self) -> ReceiverStats:
        """Counts since it was opened."""
        return self._engine.stats

    @property
    def senders(self) -> list[SenderCounts]:
        """What came of each sender of frames, at most 1,024: the one that was heard last at the end."""
        return self._engine.senders

    def handler_failed(self, message: Message, error: Exception) -> None:
        """Count one message's failure, answer a sender that asked, and log a few a second.

        `serve` does it, and who iterates may, before the next message is asked for.
        """
        self._engine.handler_failed(message, error)

    def open(self) -> Self:
        """Listen; `with` and iterating do it too."""
        self._engine.listen()
        self._woken()
        return self

    def _woken(self) -> socket.socket:
        """Return what becomes readable when the receiver is stopped."""
        if self._wake is None:
            self._wake = socket.socketpair()
        return self._wake[0]

    def stop(self) -> None:
        """Stop listening; iteration ends once what was received is handed over. Any thread may call it."""
        self._engine.is_stopped = True
        if self._wake is not None:
            with contextlib.suppress(OSError):  # closed, or written to so often that the pipe is full
                self._wake[1].send(b"\0", socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Stop listening and drop what was not handed over, which `queue_drops` counts. Closing twice is fine.

        Who asks for a message that is not settled by now is told that the receiver was closed.
        """
        self.stop()
        with self._engine.handing:
            self._engine.close()
            for opened in self._wake or ():
                opened.close()

    def __iter__(self) -> Iterator[Message]:
        """Yield messages until `stop`."""
        engine = self._engine
        for batch in self._batches(TURN, engine.keep_rest):
            rest = engine.rest
            if not batch.may_ask:
                yield from rest
                continue
            while (message := engine.next_of(rest)) is not None:
                yield message
                engine.settle_handed()

    def batches(self) -> Iterator[list[Message]]:
        """Yield what is there, as lists of 1 to 1,024 messages, until `stop`: the fastest way to have them."""
        for batch in self._batches(BATCH, self._engine.keep_handed):
            yield batch
            self._engine.settle_handed()

    def _batches(self, limit: int, keep: Callable[[MessageBatch], None]) -> Iterator[MessageBatch]:
        """Yield what is there; `keep` keeps a batch before that is yielded."""
        engine = self._engine
        engine.settle_handed()  # of an iteration that was broken out of
        listener, woken = engine.listen(), self._woken()
        if rest := engine.take_rest(keep):
            yield rest
        poll = select.poll()
        with contextlib.ExitStack() as stack:
            with engine.handing:
                if not engine.is_stopped:
                    # A copy: `close` in another thread closes the others, and new files may get their numbers.
                    poll.register(stack.enter_context(woken.dup()), select.POLLIN)
                    poll.register(listener.readable, select.POLLIN)
            while not engine.is_stopped:
                if not engine.queue.depth:
                    poll.poll()
                if batch := engine.take(limit, keep, listener):
                    yield batch
        with engine.handing:
            listener.drain()
        # The answers to what is still queued leave by its sockets.
        while listener.has_pending and (batch := engine.take(limit, keep)):
            yield batch
        with engine.handing:
            listener.close()
        while batch := engine.take(limit, keep):
            yield batch

    def serve(self, handler: Callable[[Message], object]) -> None:
        """Call `handler` for each message until `stop`; what it raises is counted and logged.

        A query's reply is what it returns: bytes, or None for an empty one, unless it called `message.reply`.
        """
        engine = self._engine
        for message in self:
            try:
                result = handler(message)
            except Exception as error:
                engine.handler_failed(message, error)
            else:
                if type(message) is not Message:
                    engine.handled(message, result)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._engine}>"
