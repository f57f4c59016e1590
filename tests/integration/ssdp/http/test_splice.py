"""The pump: every byte and no other, at the pace of whoever is slower, and never alone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import tracemalloc
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from fanout.ssdp.http import splice as pumping
from fanout.ssdp.http.server import _RESET
from fanout.ssdp.http.splice import ARENA, ClientGone, PodBroke, pump
from tests.support.ssdp_http import BUFFER, advance_until, run
from tests.support.waiting import Turns, give_turns, until_async


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


@pytest.mark.parametrize("count", [0, 1, 1000, ARENA - 1, ARENA, ARENA + 1, 5 * ARENA + 7])
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
    """Each time it sends less than is gathered before the relay wakes up, and waits until that has arrived."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with both() as (pod, source, sink, client):
            pumped = asyncio.create_task(pump(source, sink, 10_000_000, _ignored))
            for number in range(10):
                await loop.sock_sendall(pod, b"x" * (number + 1))
                assert len(await receive(client, number + 1)) == number + 1
            pumped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pumped

    run(test())


def test_the_last_bytes_are_not_waited_for_in_vain() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with both() as (pod, source, sink, client):
            went: list[int] = []
            pumped = asyncio.create_task(pump(source, sink, 1_000_003, went.append))
            receiving = asyncio.create_task(receive(client, 1_000_003))
            await loop.sock_sendall(pod, bytes(1_000_000))
            await until_async(lambda: sum(went) == 1_000_000)
            await loop.sock_sendall(pod, bytes(3))
            await pumped
            await receiving

    run(test())


@pytest.mark.parametrize("how", ["end", "reset", "nothing at all"])
@pytest.mark.parametrize("first", [0, 1, 300_000])
def test_a_pod_that_breaks_off_is_told_from_one_that_is_done(
    how: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pumping, "PATIENCE", 1000.0)

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
            else:
                await advance_until(pumped.done, 1000)
            with pytest.raises(PodBroke, match=f"{1_000_000 - first} bytes early" if how == "end" else "."):
                await pumped

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
            count = 50_000_000 if waits_for == "the client" else 10
            sending = asyncio.create_task(loop.sock_sendall(pod, bytes(count)))
            went: list[int] = []
            pumped = asyncio.create_task(pump(source, sink, 1 << 40, went.append))
            await until_async(lambda: sum(went) == 10 if waits_for == "the pod" else pumping._rests.size)
            await give_turns()
            pumped.cancel()
            sending.cancel()
            await asyncio.gather(pumped, sending, return_exceptions=True)
            assert not loop.remove_reader(source.fileno())
            assert not loop.remove_writer(sink.fileno())

    run(test())


def test_little_is_held_for_a_slow_client() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with both(client_buffer=BUFFER) as (pod, source, sink, client):
            sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            body = memoryview(bytes(20_000_000))
            sending = asyncio.create_task(loop.sock_sendall(pod, body))
            pumped = asyncio.create_task(pump(source, sink, len(body), _ignored))
            await until_async(lambda: pumping._rests.size)
            while pumping._rests.size > pumping._LEAST:  # soon less, once it is known how slow it is
                await receive(client, 1000)
            tracemalloc.start()
            try:
                for _ in range(200):
                    await receive(client, 1000)
                    await give_turns()
                assert tracemalloc.get_traced_memory()[1] < 2 * 65_536
            finally:
                tracemalloc.stop()
            assert not sending.done()  # it was stopped long before the end
            sending.cancel()
            pumped.cancel()
            await asyncio.gather(pumped, sending, return_exceptions=True)

    run(test())


def test_others_have_a_turn_with_each_piece() -> None:
    count = 20 * ARENA

    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with both() as (pod, source, sink, client):
            sending = loop.run_in_executor(None, _send_blocking, pod.dup(), count)
            receiving = loop.run_in_executor(None, _receive_blocking, client.dup(), count)
            turns_had: list[int] = []
            async with Turns() as turns:
                await pump(source, sink, count, lambda _: turns_had.append(turns.count))
            assert len(turns_had) >= count // ARENA
            assert all(before < after for before, after in pairwise(turns_had))
            await sending
            assert await receiving == count

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
            bodies = [bytes([number]) * 600_000 for number in range(20)]
            work = []
            for body in bodies:
                pod, source, sink, client = await stack.enter_async_context(both(client_buffer=65_536))
                work.append(asyncio.create_task(loop.sock_sendall(pod, body)))
                work.append(asyncio.create_task(pump(source, sink, len(body), _ignored)))
                work.append(asyncio.create_task(receive(client, len(body))))  # type: ignore[arg-type]
            results = await asyncio.gather(*work)
            assert results[2::3] == bodies

    run(test())
