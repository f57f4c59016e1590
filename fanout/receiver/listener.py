"""Listening sockets and their threads, which fill the queue."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from typing import NamedTuple

from fanout.model import Endpoint
from fanout.net import bind
from fanout.net.key_file import KeyFile
from fanout.protocol.receiving.reception import Reception
from fanout.receiver.demux import Demux
from fanout.receiver.probe_filter import ProbeFilter
from fanout.receiver.queue import MessageQueue, Overflow
from fanout.receiver.reader import Reader
from fanout.receiver.workers import Waker, Workers

WORKERS_MAX = 64
_ROUNDS = 64
_ROUNDS_PRESSED = 8  # 2,048 unmerged datagrams: the maximum to hand over at a time
_IN_FLIGHT = 0.002  # seconds for what another CPU was delivering when the sockets were closed to new datagrams


class FrameSettings(NamedTuple):
    """How frames are taken and answered: see `Receiver`."""

    keys: KeyFile | None = None
    cluster: str = ""
    accept_plaintext: bool = False
    reply_to_anyone: bool = False

    def reception(self) -> Reception:
        """Return a new `Reception` with its own identity."""
        return Reception(
            secrets.randbits(64),
            keyring=None if self.keys is None else self.keys.keyring(),
            cluster=self.cluster,
            counter=time.time_ns(),
            accept_plaintext=self.accept_plaintext,
            reply_to_anyone=self.reply_to_anyone,
        )


class Listener:
    """Listening sockets on one port, which fill the queue of unhandled messages.

    `fill` moves what the kernel holds into the queue, without blocking and some milliseconds' work at a time;
    `readable` is what to wait on until it has something to do. With one worker the caller's thread does all of it. With
    more, there is a socket and a thread for each, and `fill` only clears `readable`. The kernel maps a source to one
    socket (SO_REUSEPORT, man 7 socket), so each source's order is kept. Probes of `fanout bench` and frames are
    answered on the way (`framing`); the messages in frames are handed over.

    Raises `InvalidService` and `SocketUnavailable`.
    """

    def __init__(
        self,
        host: str | None,
        port: int,
        queue: MessageQueue,
        *,
        receive_buffer: int,
        workers: int = 1,
        framing: FrameSettings | None = None,
    ) -> None:
        self._queue = queue
        self._may_drop = queue.overflow is not Overflow.WAIT
        self._readers: list[Reader] = []
        self._workers: Workers | None = None
        self._arrived: Waker | None = None
        self._closing = threading.Lock()
        self._is_drained = self._is_closed = False
        framing = framing or FrameSettings()
        probe_filter = ProbeFilter(lambda: (self.kernel_drops, queue.drops))
        self.demux: Demux = Demux(framing.reception(), probe_filter, framing.keys)
        try:
            for _ in range(workers):
                self._readers.append(self._open(host, port, workers > 1, receive_buffer))
                port = self.address.port
            if workers > 1:
                self._arrived = Waker()
                self._workers = Workers(self._readers, queue, self._arrived)
        except Exception:
            self.close()
            raise

    def _open(self, host: str | None, port: int, shared: bool, receive_buffer: int) -> Reader:
        opened = bind.listen(host, port, shared=shared)
        try:
            return Reader(opened, self._queue, self.demux, receive_buffer)
        except BaseException:
            opened.close()  # a log handler may raise
            raise

    @property
    def address(self) -> Endpoint:
        """The endpoint that the sockets listen on."""
        return Endpoint(*self._readers[0].socket.getsockname()[:2])

    @property
    def receive_buffer(self) -> int:
        """Bytes of receive buffer that the kernel granted, for all sockets together."""
        return sum(reader.receive_buffer for reader in self._readers)

    @property
    def readable(self) -> socket.socket:
        """The socket that becomes readable when `fill` has something to do."""
        return self._readers[0].socket if self._arrived is None else self._arrived.readable

    def fill(self) -> None:
        """Read what waits, as far as the queue has space."""
        if self._arrived is not None:
            self._arrived.clear()
            return
        (reader,) = self._readers
        # What the queue may drop must not wait in the kernel, which drops the newest: read until nothing waits.
        for _ in range(_ROUNDS if self._may_drop else _ROUNDS_PRESSED if reader.is_pressed else 1):
            if not reader.fill():
                return

    @property
    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped because the receive buffer was full (0 where it does not report it).

        While the queue is full and until the socket was read empty, each datagram counts. Otherwise a run that the
        kernel merged counts as one, so the count is a lower bound.
        """
        return sum(reader.drops for reader in self._readers)

    def drain(self) -> None:
        """Receive nothing more, and read all that the kernel still holds, beyond the bounds if needed."""
        with self._closing:
            if self._is_drained:
                return
            self._is_drained = True
            if self._workers is not None:
                self._workers.close()
            self._queue.lift()
            # All of them first: the kernel passes on to the next socket what one no longer receives.
            for reader in self._readers:
                reader.stop_receiving()
            time.sleep(_IN_FLIGHT)
            for reader in self._readers:
                reader.drain()

    def close(self) -> None:
        """Read what the kernel still holds, and release the port."""
        self.drain()
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            with self.demux.answering:
                for reader in self._readers:
                    reader.close()
            if self._arrived is not None:
                self._arrived.close()
