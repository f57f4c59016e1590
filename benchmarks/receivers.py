"""Ways to receive into Python code, each a process in a pod: `python -m benchmarks.receivers NAME PORT`.

Says that it is ready, counts messages from the first one on until an empty one, and tells the count and the times.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import fanout
from benchmarks.talk import KEY_FILE
from fanout.net.bind import RECEIVE_BUFFER


class _Clock:
    """What happens between the first message and the last."""

    def start(self) -> None:
        self.wall, self.cpu = time.perf_counter_ns(), time.process_time_ns()

    def report(self, count: int) -> None:
        cpu, wall = time.process_time_ns() - self.cpu, time.perf_counter_ns() - self.wall
        print(json.dumps({"count": count, "wall": wall, "cpu": cpu}), flush=True)


def _ready() -> None:
    print('"ready"', flush=True)


def _recvfrom(port: int, clock: _Clock, receive_buffer: int | None = None) -> int:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if receive_buffer is not None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    opened.bind(("", port))
    receive = opened.recvfrom
    _ready()
    receive(65_535)
    clock.start()
    count = 1
    while receive(65_535)[0]:
        count += 1
    return count


class _CountingProtocol(asyncio.DatagramProtocol):
    def __init__(self, clock: _Clock, done: asyncio.Event) -> None:
        self.count = 0
        self.clock = clock
        self.done = done

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if not self.count:
            self.clock.start()
        if data:
            self.count += 1
        else:
            self.done.set()


def _stock_asyncio(port: int, clock: _Clock) -> int:
    async def run() -> int:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(
            lambda: _CountingProtocol(clock, done), local_addr=("0.0.0.0", port)
        )
        _ready()
        await done.wait()
        return protocol.count

    return asyncio.run(run())


def _receiver(port: int, clock: _Clock) -> int:
    count = 0
    with fanout.Receiver(port) as receiver:
        _ready()
        for message in receiver:
            if not count:
                clock.start()
            if not message.payload:
                break
            count += 1
    return count


def _async_receiver(port: int, clock: _Clock) -> int:
    async def run() -> int:
        count = 0
        async with fanout.AsyncReceiver(port) as receiver:
            _ready()
            async for message in receiver:
                if not count:
                    clock.start()
                if not message.payload:
                    break
                count += 1
        return count

    return asyncio.run(run())


def _serve(port: int, clock: _Clock) -> int:
    """Hand messages to a handler until the input ends: who confirms, and answers pings."""
    with fanout.Receiver(port) as receiver:

        def stop_at_the_end() -> None:
            sys.stdin.read()
            receiver.stop()

        threading.Thread(target=stop_at_the_end, daemon=True).start()
        _ready()
        clock.start()
        receiver.serve(lambda message: None)
    return 0


def _batches(port: int, clock: _Clock, **settings: Any) -> int:
    count = 0
    with fanout.Receiver(port, **settings) as receiver:
        _ready()
        for batch in receiver.batches():
            if not count:
                clock.start()
            for message in batch:
                if not message.payload:
                    return count
                count += 1
    return count


def _async_batches(port: int, clock: _Clock) -> int:
    async def run() -> int:
        count = 0
        async with fanout.AsyncReceiver(port) as receiver:
            _ready()
            async for batch in receiver.batches():
                if not count:
                    clock.start()
                for message in batch:
                    if not message.payload:
                        return count
                    count += 1
        return count

    return asyncio.run(run())


RECEIVERS: dict[str, Callable[[int, _Clock], int]] = {
    "recvfrom": _recvfrom,
    "recvfrom-buffer": lambda port, clock: _recvfrom(port, clock, RECEIVE_BUFFER),
    "asyncio": _stock_asyncio,
    "receiver": _receiver,
    "batches": _batches,
    # The end of a stream is a plain datagram.
    "batches-sealed": lambda port, clock: _batches(port, clock, key_file=str(KEY_FILE), accept_plaintext=True),
    "serve": _serve,
    "async": _async_receiver,
    "async-batches": _async_batches,
}


def main() -> None:
    """Receive one stream."""
    name, port = sys.argv[1:]
    clock = _Clock()
    clock.report(RECEIVERS[name](int(port), clock))


if __name__ == "__main__":
    main()
