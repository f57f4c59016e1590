"""The embedded nameserver through its sockets, asked by fanout's own resolver and by peers that lie."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import dns.message
import dns.query
import dns.rcode
import pytest

from fanout.discovery.dns import DnsResolver
from fanout.local.core.zone import Pod, Zone
from fanout.local.nameserver import Nameserver
from fanout.model import Service
from tests.support.waiting import PATIENCE, until_async

QUERY = dns.message.make_query("headless-udp.local.svc.cluster.local", "A", id=4711).to_wire()
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def zone(count: int) -> Zone:
    return Zone().with_pods([Pod(f"pod-{n}", f"127.1.{n // 250}.{n % 250 + 1}") for n in range(count)])


def serving(
    test: Callable[[Nameserver], Coroutine[Any, Any, None]], *, pods: int = 2, idle_timeout: float = 3600.0
) -> None:
    """Run a test beside a nameserver; closing it must end every connection."""

    async def run() -> None:
        nameserver = await Nameserver.start(zone(pods), idle_timeout=idle_timeout)
        try:
            async with asyncio.timeout(PATIENCE):
                await test(nameserver)
        finally:
            await nameserver.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def resolver(nameserver: Nameserver, port: int | str = 12000) -> DnsResolver:
    return DnsResolver(
        Service("headless-udp", port),
        nameserver=str(nameserver.endpoint),
        search=nameserver.zone.search,
        ndots=5,
        allow_loopback=True,
        lifetime=PATIENCE,
    )


@pytest.mark.parametrize("port", [12000, "udp"])
@pytest.mark.parametrize("pods", [0, 1, 28, 29, 72, 73, 200])
def test_fanout_resolves_every_size(pods: int, port: int | str) -> None:
    async def test(nameserver: Nameserver) -> None:
        answer = await asyncio.to_thread(resolver(nameserver, port).resolve)
        expected = {(pod.address, 12000) for pod in nameserver.zone.pods}
        assert set(answer.endpoints) == expected
        assert answer.dns_ttl == (5 if pods else answer.dns_ttl)

    serving(test, pods=pods)


def test_the_next_query_sees_the_new_zone() -> None:
    async def test(nameserver: Nameserver) -> None:
        asking = resolver(nameserver)
        assert len((await asyncio.to_thread(asking.resolve)).endpoints) == 2
        nameserver.zone = nameserver.zone.with_pods([])
        assert (await asyncio.to_thread(asking.resolve)).endpoints == ()

    serving(test)


def test_udp_survives_garbage_and_clients_that_left() -> None:
    async def test(nameserver: Nameserver) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(200):
                client.sendto(QUERY, nameserver.endpoint)
            client.sendto(b"", nameserver.endpoint)
            client.sendto(b"\xff" * 2000, nameserver.endpoint)
        query = dns.message.from_wire(QUERY)
        host, port = nameserver.endpoint
        response = await asyncio.to_thread(dns.query.udp, query, host, PATIENCE, port)
        assert response.rcode() == dns.rcode.NOERROR

    serving(test)


async def connect(nameserver: Nameserver) -> Stream:
    return await asyncio.open_connection(*nameserver.endpoint)


def framed(query: bytes) -> bytes:
    return len(query).to_bytes(2) + query


async def read_answer(reader: asyncio.StreamReader) -> dns.message.Message:
    size = int.from_bytes(await reader.readexactly(2))
    return dns.message.from_wire(await reader.readexactly(size))


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionResetError:
        return True


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def over_tcp(
    converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], **settings: Any
) -> None:
    async def test(nameserver: Nameserver) -> None:
        reader, writer = await connect(nameserver)
        try:
            await converse(reader, writer)
        finally:
            await close(writer)

    serving(test, **settings)


def test_tcp_takes_several_queries_in_any_pieces() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(framed(QUERY) * 3)
        for octet in framed(QUERY):
            writer.write(bytes([octet]))
            await writer.drain()
        for _ in range(4):
            assert len((await read_answer(reader)).answer[0]) == 2

    over_tcp(converse)


def test_tcp_answers_a_peer_that_has_closed_its_half() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(framed(QUERY))
        writer.write_eof()
        assert len((await read_answer(reader)).answer[0]) == 1000
        assert await ended(reader)

    over_tcp(converse, pods=1000)


@pytest.mark.parametrize(
    "lie", [framed(b""), framed(b"short"), framed(QUERY[:2] + b"\x80" + QUERY[3:]), framed(b"\xff" * 65_535)]
)
def test_tcp_cuts_off_what_is_no_query(lie: bytes) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(lie + framed(QUERY))
        assert await ended(reader)

    over_tcp(converse)


@pytest.mark.parametrize("beginning", [b"", b"\x00", framed(QUERY)[:-1], b"\xff\xff" + QUERY])
def test_tcp_cuts_off_who_does_not_go_on(beginning: bytes) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        assert await ended(reader)

    over_tcp(converse, idle_timeout=0.1)


def test_tcp_cuts_off_who_does_not_take_the_answers() -> None:
    async def test(nameserver: Nameserver) -> None:
        assert nameserver._server is not None
        nameserver._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        reader, writer = await connect(nameserver)
        transport = writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        transport.pause_reading()
        writer.write(framed(QUERY) * 200)
        await until_async(lambda: nameserver._connections, "the connection")
        await until_async(lambda: not nameserver._connections, "its end")
        transport.resume_reading()
        received = 0
        with suppress(ConnectionResetError):
            while chunk := await reader.read(65_536):
                received += len(chunk)
        assert received < 200 * 16 * 1000
        await close(writer)

    serving(test, pods=1000, idle_timeout=0.1)


def test_tcp_has_room_for_64_and_for_the_next_when_one_leaves() -> None:
    async def test(nameserver: Nameserver) -> None:
        streams = [await connect(nameserver) for _ in range(64)]
        for reader, writer in streams:
            writer.write(framed(QUERY))
            await read_answer(reader)
        surplus, surplus_writer = await connect(nameserver)
        assert await ended(surplus)
        await close(surplus_writer)
        await close(streams.pop()[1])
        answered = False
        while not answered:
            reader, writer = await connect(nameserver)
            streams.append((reader, writer))
            writer.write(framed(QUERY))
            answered = not await ended(reader)
        for _, writer in streams:
            await close(writer)

    serving(test)


def test_closing_cuts_off_who_is_connected() -> None:
    async def run() -> None:
        nameserver = await Nameserver.start(zone(2))
        reader, writer = await connect(nameserver)
        writer.write(framed(QUERY))
        await read_answer(reader)
        await nameserver.close()
        assert await ended(reader)
        await close(writer)

    asyncio.run(run())
