"""The contenders written in Python: `python -m benchmarks.contenders.worker NAME SIZE PORT ADDRESS...`.

Commands as in `benchmarks/c/sender.c`: "burst N" and "each N"; also "pace N RATE", messages a second.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import fanout
from benchmarks.talk import KEY_FILE
from fanout.net import udp
from fanout.net.udp import UdpTransport
from fanout.protocol import probe
from fanout.sender.aio import AsyncSender
from fanout.sender.sync import Sender

DISTINCT = 1024
"""Different payloads that a stream goes through again and again: more than one batch, so that none can be reused."""
_TASKS = 64
_CHUNK, _CHUNKS_A_SECOND = 32, 5_000
Address = tuple[str, int]


class Contender(NamedTuple):
    """Sends one message, or many; returns how many copies failed so far."""

    one: Callable[[bytes], object]
    many: Callable[[list[bytes]], object]
    failed: Callable[[], int] = lambda: 0


def _loop(addresses: list[Address]) -> Contender:
    sendto = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto

    def one(payload: bytes) -> None:
        for address in addresses:
            sendto(payload, address)

    def many(payloads: list[bytes]) -> None:
        for payload in payloads:
            for address in addresses:
                sendto(payload, address)

    return Contender(one, many)


def _connected(addresses: list[Address]) -> Contender:
    sockets = []
    for address in addresses:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.connect(address)
        sockets.append(opened)
    sends = [opened.send for opened in sockets]

    def one(payload: bytes) -> None:
        for send in sends:
            send(payload)

    def many(payloads: list[bytes]) -> None:
        for payload in payloads:
            for send in sends:
                send(payload)

    return Contender(one, many)


def literal(addresses: list[Address]) -> str:
    """Return the addresses as fanout takes them; one alone takes a comma, too."""
    return ",".join(f"{host}:{port}" for host, port in addresses) + ("," if len(addresses) == 1 else "")


def _failed(sender: Sender | AsyncSender) -> int:
    stats = sender.stats
    return stats.refused + sum(stats.dropped.values())


def _single(addresses: list[Address], transport: UdpTransport | None = None) -> Contender:
    sender = fanout.Sender(literal(addresses), transport=transport).open()

    def many(payloads: list[bytes]) -> None:
        for payload in payloads:
            sender.send(payload)

    return Contender(sender.send, many, lambda: _failed(sender))


def _single_by_sendmmsg(addresses: list[Address]) -> Contender:
    udp.HEADERS_FROM = 1
    return _single(addresses)


def _many(addresses: list[Address], how: Callable[[list[bytes]], Iterable[bytes]] = list, **settings: Any) -> Contender:
    sender = fanout.Sender(literal(addresses), **settings).open()
    return Contender(sender.send, lambda payloads: sender.send_many(how(payloads)), lambda: _failed(sender))


def _confirmed(addresses: list[Address]) -> Contender:
    sender = fanout.Sender(literal(addresses)).open()

    def one(payload: bytes) -> None:
        if not sender.send(payload, confirm=True).complete:
            raise TimeoutError("a pod did not confirm")

    return Contender(one, lambda payloads: _one_by_one(one, payloads))


def _round_trip(addresses: list[Address]) -> Contender:
    """What anything that waits for all pods takes at least: a ping to each, and their pongs, by bare sockets."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(5)

    def one(payload: bytes) -> None:
        ping = probe.ping(1, 1).ljust(len(payload), b"\0")
        for address in addresses:
            opened.sendto(ping, address)
        for _ in addresses:
            opened.recvfrom(65_535)

    return Contender(one, lambda payloads: _one_by_one(one, payloads))


def _one_by_one(one: Callable[[bytes], None], payloads: list[bytes]) -> None:
    for payload in payloads:
        one(payload)


def _async(addresses: list[Address]) -> Contender:
    loop = asyncio.new_event_loop()
    sender = fanout.AsyncSender(literal(addresses))

    async def run(payloads: list[bytes]) -> None:
        for start in range(0, len(payloads), _TASKS):
            await asyncio.gather(*(sender.send(one) for one in payloads[start : start + _TASKS]))

    return Contender(
        lambda payload: loop.run_until_complete(sender.send(payload)),
        lambda payloads: loop.run_until_complete(run(payloads)),
        lambda: _failed(sender),
    )


CONTENDERS: dict[str, Callable[[list[Address]], Contender]] = {
    "loop": _loop,
    "connected": _connected,
    "single": _single,
    "single-loop": lambda addresses: _single(addresses, UdpTransport(find_sendmmsg=lambda: None)),
    "single-sendmmsg": _single_by_sendmmsg,
    "list": _many,
    "generator": lambda addresses: _many(addresses, lambda payloads: (payload for payload in payloads)),
    "async": _async,
    "numbered": lambda addresses: _many(addresses, numbered=True),
    "sealed": lambda addresses: _many(addresses, key_file=str(KEY_FILE)),
    "confirmed": _confirmed,
    "round-trip": _round_trip,
}


def main() -> None:
    """Take commands until the input ends."""
    name, size, port, *hosts = sys.argv[1:]
    contender = CONTENDERS[name]([(host, int(port)) for host in hosts])
    # Of size 0 it is what tells a receiver of the bench that the stream is over.
    distinct = [(number.to_bytes(8, sys.byteorder) + b"x" * int(size))[: int(size)] for number in range(DISTINCT)]
    print('"ready"', flush=True)
    for line in sys.stdin:
        command, count, *rate = line.split()
        payloads = [distinct[number % DISTINCT] for number in range(int(count))]
        if command == "pace":
            result: object = _pace(contender, payloads, int(rate[0]))
        else:
            result = _burst(contender, payloads) if command == "burst" else _each(contender, payloads)
        print(json.dumps(result), flush=True)


def _burst(contender: Contender, payloads: list[bytes]) -> dict[str, int]:
    failed = contender.failed()
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    contender.many(payloads)
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    return {"wall": wall, "cpu": cpu, "failed": contender.failed() - failed}


def _each(contender: Contender, payloads: list[bytes]) -> list[int]:
    one, clock = contender.one, time.perf_counter_ns
    times = []
    for payload in payloads:
        started = clock()
        one(payload)
        times.append(clock() - started)
    return times


def _pace(contender: Contender, payloads: list[bytes], rate: int) -> dict[str, int]:
    clock = time.perf_counter_ns
    chunk = max(_CHUNK, rate // _CHUNKS_A_SECOND)
    started = clock()
    for position in range(0, len(payloads), chunk):
        # Busy: a sleep would end late by more than a chunk takes.
        while (clock() - started) * rate < position * 1_000_000_000:
            pass
        contender.many(payloads[position : position + chunk])
    return {"wall": clock() - started}


if __name__ == "__main__":
    main()
