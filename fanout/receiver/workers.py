"""Threads that empty the kernel's buffers while Python code handles messages."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Sequence

from fanout.errors import SocketUnavailable
from fanout.receiver.queue import MessageQueue
from fanout.receiver.reader import Reader


class Waker:
    """A socket to wait on, which any thread can make readable."""

    def __init__(self) -> None:
        self.readable: socket.socket
        self.readable, self._written = socket.socketpair()
        self._is_set = False
        self._lock = threading.Lock()

    def set(self) -> None:
        """Make it readable until it is cleared."""
        with self._lock:
            if not self._is_set:
                self._is_set = True
                self._written.send(b"\0")

    def clear(self) -> None:
        """Make it unreadable again."""
        with self._lock:
            if self._is_set:
                self._is_set = False
                self.readable.recv(1)

    def close(self) -> None:
        """Close the sockets."""
        self.readable.close()
        self._written.close()


class Workers:
    """A running thread for each reader, until `close`; sets `arrived` after each read."""

    def __init__(self, readers: Sequence[Reader], queue: MessageQueue, arrived: Waker) -> None:
        self._queue = queue
        self._arrived = arrived
        self._end = Waker()
        self._threads: list[threading.Thread] = []
        for number, reader in enumerate(readers, 1):
            thread = threading.Thread(target=self._work, args=(reader,), name=f"fanout-receiver-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self.close()
                raise SocketUnavailable(
                    f"cannot start thread {number} of workers={len(readers)}: the system refused it; "
                    "use fewer workers, or raise the limit of processes (pids)"
                ) from None
            self._threads.append(thread)

    def _work(self, reader: Reader) -> None:
        poll = select.poll()
        poll.register(reader.socket, select.POLLIN)
        poll.register(self._end.readable, select.POLLIN)
        end = self._end.readable.fileno()
        while all(number != end for number, _ in poll.poll()):
            reader.fill()
            self._arrived.set()
            reader.wait_for_room()

    def close(self) -> None:
        """Stop the threads and wait for them."""
        self._end.set()
        self._queue.lift()
        for thread in self._threads:
            thread.join()
        self._end.close()
