"""The pump: every byte and no other, at the pace of whoever is slower, and never alone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from fanout.ssdp.http import pump as pumping
from fanout.ssdp.http.door import _RESET
from fanout.ssdp.http.pump import ClientGone, PodBroke, pump
from tests.support.ssdp_http import run
from tests.support.waiting import Turns


@contextlib.asynccontextmanager
async def connected(buffer: int = 0) -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        one = socket.socket()
        if buffer:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        one.connect(listener.getsockname())
        other, _ = listener.accept()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


@contextlib.asynccontextmanager
async def both(client_buffer: int = 0) -> AsyncIterator[tuple[socket.socket, ...]]:
    """The pod, the relay's end to it, the relay's end to the client, and the client."""
    async with connected() as (pod, source), connected(client_buffer) as (client, sink):
        yield pod, source, sink, client


async def receive(client: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    pieces = bytearray()
    while piece := await loop.sock_recv(client, min(count - len(pieces), 1 << 20)):
        pieces += piece
    return bytes(pieces)


def _ignored(_: int) -> None:
    pass


@pytest.mark.parametrize("count", [0, 1, 1000, pumping.ARENA - 1, pumping.ARENA, pumping.ARENA + 1, 30_000_000])
def test_it_carries_so_many_bytes_and_leaves_the_rest(count: int) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        body, more = os.urandom(count), b"that is another's"
        async with both() as (pod, source, sink, client):
            went: list[int] = []
            sending = asyncio.create_task(loop.sock_sendall(pod, body + more))
            receiving = asyncio.create_task(receive(client, count))
            await pump(source, sink, count, went.append)
            assert hashlib.sha256(await receiving).digest() == hashlib.sha256(body).digest()
            await sending
            assert sum(went) == count
            assert source.recv(1000) == more
            with pytest.raises(BlockingIOError):
                client.recv(1)

    run(test())


def test_a_slow_pod_is_carried_as_it_comes() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with both() as (pod, source, sink, client):
            pumped = asyncio.create_task(pump(source, sink, 10_000_000, _ignored))
            for number in range(10):
                started = time.monotonic()
                await loop.sock_sendall(pod, b"x" * (number + 1))
                assert len(await receive(client, number + 1)) == number + 1
                assert time.monotonic() - started < 0.5
                await asyncio.sleep(0.05)
            pumped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pumped

    run(test())


def test_the_last_bytes_are_not_waited_for_in_vain() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with both() as (pod, source, sink, client):
            pumped = asyncio.create_task(pump(source, sink, 1_000_003, _ignored))
            receiving = asyncio.create_task(receive(client, 1_000_003))
            await loop.sock_sendall(pod, bytes(1_000_000))
            await asyncio.sleep(0.1)
            started = time.monotonic()
            await loop.sock_sendall(pod, bytes(3))
            await pumped
            await receiving
            assert time.monotonic() - started < 0.5

    run(test())


@pytest.mark.parametrize("how", ["end", "reset", "nothing at all"])
@pytest.mark.parametrize("first", [0, 1, 300_000])
def test_a_pod_that_breaks_off_is_told_from_one_that_is_done(how: str, first: int) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with both() as (pod, source, sink, client):
            pumped = asyncio.create_task(pump(source, sink, 1_000_000, _ignored))
            await loop.sock_sendall(pod, bytes(first))
            assert len(await receive(client, first)) == first
            if how == "reset":
                pod.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            if how == "end":
                pod.shutdown(socket.SHUT_WR)
            elif how == "reset":
                pod.close()
            async with asyncio.timeout(2):
                with pytest.raises(PodBroke, match=f"{1_000_000 - first} bytes early" if how == "end" else "."):
                    await pumped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pumping, "PATIENCE", 0.2 if how == "nothing at all" else 60.0)
        run(test())


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_client_that_is_gone_is_noticed(how: str) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with both() as (pod, source, sink, client):
            pumped = asyncio.create_task(pump(source, sink, 1 << 40, _ignored))
            sending = asyncio.create_task(loop.sock_sendall(pod, bytes(50_000_000)))
            await receive(client, 1000)
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            async with asyncio.timeout(2):
                with pytest.raises(ClientGone):
                    await pumped
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    run(test())


@pytest.mark.parametrize("waits_for", ["the pod", "the client"])
def test_where_it_is_cancelled_nobody_waits_any_more(waits_for: str) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with both() as (pod, source, sink, _client):
            sending = asyncio.create_task(
                loop.sock_sendall(pod, bytes(50_000_000 if waits_for == "the client" else 10))
            )
            pumped = asyncio.create_task(pump(source, sink, 1 << 40, _ignored))
            await asyncio.sleep(0.2)
            pumped.cancel()
            sending.cancel()
            await asyncio.gather(pumped, sending, return_exceptions=True)
            assert not loop.remove_reader(source.fileno())
            assert not loop.remove_writer(sink.fileno())

    run(test())


def test_little_is_held_for_a_slow_client() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with both(client_buffer=16_384) as (pod, source, sink, client):
            body = memoryview(bytes(100_000_000))
            sending = asyncio.create_task(loop.sock_sendall(pod, body))
            pumped = asyncio.create_task(pump(source, sink, len(body), _ignored))
            await asyncio.sleep(0.1)
            tracemalloc.start()
            try:
                for _ in range(200):
                    await receive(client, 1000)
                    await asyncio.sleep(0)
                assert tracemalloc.get_traced_memory()[1] < 2 * 65_536
            finally:
                tracemalloc.stop()
            assert not sending.done()  # it was stopped long before the end
            sending.cancel()
            pumped.cancel()
            await asyncio.gather(pumped, sending, return_exceptions=True)

    run(test())


def test_others_have_a_turn_with_each_piece() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with both() as (pod, source, sink, client):
            sending = loop.run_in_executor(None, _send_blocking, pod.dup(), 100_000_000)
            receiving = loop.run_in_executor(None, _receive_blocking, client.dup(), 100_000_000)
            longest = 0.0
            async with Turns() as turns:
                pumped = asyncio.create_task(pump(source, sink, 100_000_000, _ignored))
                while not pumped.done():
                    started = time.monotonic()
                    await asyncio.sleep(0)
                    longest = max(longest, time.monotonic() - started)
                await pumped
                assert turns.count >= 100_000_000 // pumping.ARENA
            assert longest < 0.25
            await sending
            assert await receiving == 100_000_000

    run(test())


def _send_blocking(opened: socket.socket, count: int) -> None:
    with opened:
        opened.setblocking(True)
        opened.sendall(bytes(count))


def _receive_blocking(opened: socket.socket, count: int) -> int:
    with opened:
        opened.setblocking(True)
        left = count
        while left and (size := len(opened.recv(1 << 20))):
            left -= size
    return count - left


def test_many_streams_do_not_mix() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            bodies = [bytes([number]) * 3_000_000 for number in range(20)]
            work = []
            for body in bodies:
                pod, source, sink, client = await stack.enter_async_context(both())
                work.append(asyncio.create_task(loop.sock_sendall(pod, body)))
                work.append(asyncio.create_task(pump(source, sink, len(body), _ignored)))
                work.append(asyncio.create_task(receive(client, len(body))))  # type: ignore[arg-type]
            results = await asyncio.gather(*work)
            assert results[2::3] == bodies

    run(test())
