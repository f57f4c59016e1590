"""`Receiver`: the blocking driver."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Iterator
from operator import length_hint
from typing import Self

from fanout.model import Message
from fanout.receiver.engine import BATCH, TURN, ReceiverBase, ReceiverEngine
from fanout.receiver.queue import MessageBatch


class Receiver(ReceiverBase):
    """Receives messages: iterate over it, or give `serve` a handler.

    Listens on `port` of all addresses of both families, or of `host` only; port 0 picks a free one (`address`).
    Requests `receive_buffer` bytes of kernel buffer and warns where less is granted. At most `capacity` messages and
    32 MiB of payload are queued for a busy handler (the last run that the kernel merged may exceed that); `overflow`
    says what happens then. With `workers` from 2 to 64, that many threads, each with a socket, empty the kernel's
    buffers while Python code handles messages, and other processes of the same user with several workers may share
    the port (SO_REUSEPORT, man 7 socket). Each source's order is kept.

    Messages in frames are reassembled and handed over once. A confirmed message is confirmed when the next message
    (with `batches`, the next batch) is taken, by any iteration, or when `serve`'s handler has returned. A query without
    a reply by then has failed, and so has the last message taken when the receiver is closed. With a `key_file` (one
    key per line, the first seals, all open; re-read when it changes) only messages sealed with one of its keys, for the
    same `cluster`, are accepted, unless `accept_plaintext`. Replies are no larger than the question, unless that was
    sealed, or with `reply_to_anyone`. A question to one of several addresses is answered from that one.

    Raises `InvalidInput` and `KeyUnavailable`; opening raises `SocketUnavailable` or `InvalidService`.
    """

    def _begin(self, engine: ReceiverEngine) -> None:
        self._engine = engine
        self._wake: tuple[socket.socket, socket.socket] | None = None
        """A waiting iteration polls the first beside the socket; `stop` writes to the second."""

    def open(self) -> Self:
        """Start listening; `with` and iterating do it, too."""
        self._engine.listen()
        self._woken()
        return self

    def _woken(self) -> socket.socket:
        """Return the socket that becomes readable when the receiver is stopped."""
        if self._wake is None:
            self._wake = socket.socketpair()
        return self._wake[0]

    def stop(self) -> None:
        """Stop listening; iteration ends once everything received is handed over. Any thread may call it."""
        self._engine.is_stopped = True
        if self._wake is not None:
            with contextlib.suppress(OSError):  # closed, or full after many calls
                self._wake[1].send(b"\0", socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Stop listening and drop messages not handed over, which `queue_drops` counts. Closing twice is fine.

        Unsettled messages fail, and their senders are answered that the receiver was closed.
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
        """Yield lists of 1 to 1,024 messages until `stop`: the fastest way to receive."""
        for batch in self._batches(BATCH, self._engine.keep_handed):
            yield batch
            self._engine.settle_handed()

    def _batches(self, limit: int, keep: Callable[[MessageBatch], None]) -> Iterator[MessageBatch]:
        """Yield batches, each passed to `keep` before."""
        engine = self._engine
        engine.settle_handed()  # of an iteration that was broken out of
        listener, woken = engine.listen(), self._woken()
        poll = select.poll()
        with contextlib.ExitStack() as stack:
            with engine.handing:
                if not engine.is_stopped:
                    # A duplicate: `close` in another thread closes the original, whose number may be reused.
                    poll.register(stack.enter_context(woken.dup()), select.POLLIN)
                    poll.register(listener.readable, select.POLLIN)
            while not engine.is_stopped:
                if not engine.queue.depth and not length_hint(engine.rest):
                    poll.poll()
                if batch := engine.take(limit, keep, listener):
                    yield batch
        with engine.handing:
            listener.drain()
        # Its sockets are needed to answer what is still queued.
        while listener.demux.has_pending and (batch := engine.take(limit, keep)):
            yield batch
        with engine.handing:
            listener.close()
        while batch := engine.take(limit, keep):
            yield batch

    def serve(self, handler: Callable[[Message], object]) -> None:
        """Call `handler` for each message until `stop`; exceptions are counted and logged.

        The return value is a query's reply: bytes, or None for an empty one, unless it called `message.reply`.
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
