"""How much memory and how much of everybody's time the relay's HTTP ports take, whatever clients and pods do."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest

from fanout.ssdp.core import urls
from fanout.ssdp.core.body import DOCUMENT_MAX, MEMBERS_MAX, BodyBuffer
from fanout.ssdp.core.drop_reasons import HttpFailure
from fanout.ssdp.core.urls import URLS_MAX, Rewritten
from fanout.ssdp.http import body_budget, server, splice, upstream
from fanout.ssdp.http.body_budget import SMALL, BodyBudget, Busy
from tests.support.event_loops import advance
from tests.support.ssdp_http import (
    BUFFER,
    CLIENT,
    FAR,
    GET,
    LARGE_HEAD,
    RELAY,
    Asked,
    Pod,
    advance_until,
    always,
    connect_and_read_nothing,
    hang_up,
    http,
    read_reply,
    relay,
    run,
    until_stopped,
)
from tests.support.waiting import Turns, give_turns, until_async

XML = "Content-Type: text/xml"


@contextlib.asynccontextmanager
async def refused_for_want_of_room() -> AsyncIterator[None]:
    """What is done within waits for room until time has passed, and is refused then."""
    passing = asyncio.create_task(advance_until(lambda: False, 1000))
    try:
        with pytest.raises(Busy):
            yield
    finally:
        passing.cancel()


def test_there_is_room_for_so_many_bytes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_budget, "PATIENCE", 1000.0)

    async def test() -> None:
        shared = BodyBudget(size=4 * SMALL, of_one=3 * SMALL)
        with shared.for_one("a") as held, shared.for_one("b") as other:
            await held.grow(SMALL)
            assert shared.taken == 0  # what is small needs none
            await held.grow(3 * SMALL)
            await held.grow(2 * SMALL)
            assert shared.taken == 3 * SMALL
            async with refused_for_want_of_room():
                with shared.for_one("a") as more:
                    await more.grow(SMALL + 1)  # it has its share
            async with refused_for_want_of_room():
                await other.grow(SMALL + 1)
            held.shrink(2 * SMALL)
            await other.grow(2 * SMALL)
            async with refused_for_want_of_room():
                await held.grow(3 * SMALL)
            assert shared.taken == 4 * SMALL
        assert shared.taken == 0

    run(test())


def test_who_waits_for_room_gets_it_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_budget, "PATIENCE", FAR)
    monkeypatch.setattr(body_budget, "WAITING_MAX", 3)

    async def test() -> None:
        shared = BodyBudget(size=2 * SMALL, of_one=2 * SMALL)
        order = []

        async def take(number: int) -> None:
            with shared.for_one(str(number)) as held:
                await held.grow(2 * SMALL)
                order.append(number)

        with shared.for_one("first") as first:
            await first.grow(2 * SMALL)
            waiting = [asyncio.create_task(take(number)) for number in range(3)]
            await give_turns()
            with pytest.raises(Busy):
                await take(3)  # nobody queues without end
            waiting[1].cancel()
            await give_turns()
            assert order == []
        await asyncio.gather(*waiting, return_exceptions=True)
        assert order == [0, 2]
        assert shared.taken == 0

    run(test())


@pytest.mark.parametrize("expected", [0, 1000, 3_000_000])
def test_there_is_always_room_for_what_was_gathered(expected: int) -> None:
    async def test() -> None:
        shared, came = BodyBudget(), 0

        async def read() -> bytes:
            nonlocal came
            assert shared.taken >= (came if came > SMALL else 0)
            came += 10_000
            return bytes(10_000) if came <= 3_000_000 else b""

        with shared.for_one("a") as held:
            assert len(await held.fill(BodyBuffer(DOCUMENT_MAX), expected, read)) == 3_000_000
            assert shared.taken == 3_000_000

    run(test())


@pytest.mark.parametrize("framing", ["length", "close", "gzip"])
def test_documents_that_nobody_takes_have_their_bounds(framing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 1 << 20
    monkeypatch.setattr(upstream, "DOCUMENT_MAX", largest)
    monkeypatch.setattr(body_budget, "MEDIUM", largest // 8)
    monkeypatch.setattr(body_budget, "PATIENCE", 1000.0)
    body = b"<a>" + b" " * (largest - 7) + b"</a>"

    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            if asked.path == "/small":
                return http(b"<a/>", XML)
            if framing == "length":
                return http(body, XML)
            packing = "Content-Encoding: gzip\r\n" if framing == "gzip" else ""
            return f"HTTP/1.1 200 OK\r\n{XML}\r\n{packing}\r\n".encode() + (packed if packing else body)

        packed = gzip.compress(body, 1)
        async with Pod(serve) as pod, relay(pod, keeps=BUFFER) as edge:
            held = edge.proxy._budget = BodyBudget(4 * largest, 2 * largest)

            def has_settled(documents_held: int, refused: int) -> bool:
                return (held.taken, edge.failed(HttpFailure.BUSY)) == (documents_held * largest, refused)

            opened = []
            for source, taken, refused in (
                *((CLIENT, 1, 0), (CLIENT, 2, 0), (CLIENT, 2, 1)),  # one client has no more than its share
                *(("127.0.0.31", 3, 1), ("127.0.0.31", 4, 1), ("127.0.0.31", 4, 2)),
            ):
                opened.append(await connect_and_read_nothing(edge.port, source))
                opened[-1].send(GET)
                if len(opened) in (3, 6):
                    await until_async(lambda: held._waiting)
                    advance(1000)
                await until_async(functools.partial(has_settled, taken, refused))
            asking = asyncio.create_task(edge.get(source=RELAY))
            await until_async(lambda: held._waiting)
            advance(1000)
            assert (await asking).status == 503
            assert asking.result().headers["Retry-After"]
            assert (await edge.get("/small")).status == 200
            for each in opened:
                each.close()
            await until_async(lambda: held.taken == 0)
            assert len((await edge.get()).body) == largest

    run(test())


def test_who_says_more_and_more_without_an_answer_is_cut_off() -> None:
    async def test() -> None:
        async with Pod(silence) as pod, relay(pod) as edge:
            reader, writer = await edge.connect()
            writer.write(LARGE_HEAD * (4 * server.AHEAD_MAX // len(LARGE_HEAD)))
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            await until_async(lambda: edge.counts.connections == 0)
            assert edge.failed(HttpFailure.REQUEST_TOO_LARGE) == 1
            await hang_up(writer)

    async def silence(asked: Asked) -> None:
        await asked.reader.read()

    run(test())


def test_several_requests_at_once_are_answered_in_their_order() -> None:
    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            return http(asked.path.encode() + asked.body)

        async with Pod(serve) as pod, relay(pod) as edge:
            reader, writer = await edge.connect()
            for number in range(20):
                writer.write(f"POST /{number} HTTP/1.1\r\nHost: {RELAY}\r\nContent-Length: 2000\r\n\r\n".encode())
                writer.write(b"x" * 2000)
            for number in range(20):
                assert (await read_reply(reader)).body == f"/{number}".encode() + b"x" * 2000
            await hang_up(writer)

    run(test())


def test_a_document_of_many_urls_and_one_of_many_parts_are_refused() -> None:
    async def test() -> None:
        async with Pod(always(http(b"http://127.0.0.11:9/ " * (URLS_MAX + 1), XML))) as pod, relay(pod) as edge:
            assert (await edge.get()).status == 502
            assert edge.failed(HttpFailure.DOCUMENT_TOO_LARGE) == 1
            for members, status in ((MEMBERS_MAX, 200), (MEMBERS_MAX + 1, 502)):
                pod.serve = always(http(gzip.compress(b"<a/>") * members, XML, "Content-Encoding: gzip"))
                assert (await edge.get()).status == status
            assert edge.failed(HttpFailure.POD_BROKE) == 1

    run(test())


MANY = 1024
"""URLs that a document may have."""
LARGEST = 1 << 19
"""Bytes that it may have."""
URL = b"http://127.0.0.11:9/ "


@pytest.mark.parametrize(
    "make",
    [
        lambda: (URL * MANY).ljust(LARGEST),
        lambda: b"".join(b"http://127.0.0.11:%d/ " % (1 + number) for number in range(MANY)),
        lambda: b"".join(b"http://127.0.0.%d:%d/ " % (11 + number % 2, number) for number in range(MANY)),
        lambda: (URL.decode() * MANY).encode("utf-16"),
    ],
    ids=["many", "ports", "hosts", "wide"],
)
def test_documents_are_rewritten_one_in_a_turn(make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many clients ask at once. How long one takes is measured by `make bench`."""
    monkeypatch.setattr(urls, "URLS_MAX", MANY)
    monkeypatch.setattr(upstream, "DOCUMENT_MAX", LARGEST)
    body = gzip.compress(make(), 1)

    async def test() -> None:
        all_asked = asyncio.Event()

        async def serve(asked: Asked) -> bytes:
            if len(pod.asked) == 4:
                all_asked.set()
            await all_asked.wait()
            return http(body, XML, "Content-Encoding: gzip")

        def in_text(*arguments: Any) -> Rewritten:
            began_in.append(turns.count)
            return original(*arguments)

        began_in: list[int] = []
        original = urls.in_text
        monkeypatch.setattr(urls, "in_text", in_text)
        async with Pod(serve) as pod, relay(pod) as edge, Turns() as turns:
            replies = await asyncio.gather(*(edge.get() for _ in range(4)))
        assert [reply.status for reply in replies] == [200] * 4
        assert len(began_in) == 4
        assert all(before < after for before, after in pairwise(began_in))

    run(test())


@pytest.mark.parametrize(
    "make",
    [lambda: gzip.compress(b"", 0) * 20_000, lambda: gzip.compress(bytes(1 << 26), 1)],
    ids=["parts", "bomb"],
)
def test_no_more_is_unpacked_than_a_document_may_have(
    make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "DOCUMENT_MAX", LARGEST)
    body = make()
    original = zlib.decompressobj
    unpacked: list[Unpacker] = []

    class Unpacker:
        """As that of zlib."""

        def __init__(self, wbits: int) -> None:
            self._made = original(wbits)
            self.size = 0
            unpacked.append(self)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._made, name)

        def decompress(self, data: bytes, size_max: int) -> bytes:
            piece = self._made.decompress(data, size_max)
            self.size += len(piece)
            return piece

    async def test() -> None:
        async with Pod(always(http(body, XML, "Content-Encoding: gzip"))) as pod, relay(pod) as edge:
            replies = await asyncio.gather(*(edge.get() for _ in range(4)))
            assert [reply.status for reply in replies] == [502] * 4
        assert len(unpacked) <= 4 * (MEMBERS_MAX + 1)
        assert sum(each.size for each in unpacked) <= 4 * (LARGEST + 1)

    monkeypatch.setattr(zlib, "decompressobj", Unpacker)
    run(test())


def test_little_is_held_for_many_slow_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "SLOW_MAX", 1 << 18)
    most = 8 << 20  # of what a pod sends

    async def test() -> None:
        async def serve(asked: Asked) -> None:
            asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: 1000000000\r\n\r\n")
            for _ in range(most // 100_000):
                asked.writer.write(bytes(100_000))
                await asked.writer.drain()

        async with Pod(serve) as pod, relay(pod, keeps=1 << 18) as edge:
            opened = [await connect_and_read_nothing(edge.port) for _ in range(20)]
            for each in opened:
                each.send(GET)
            await until_async(lambda: len(pod.asked) == 20)
            await until_stopped(lambda: sum(edge.counts.bytes.values()))
            assert 0 < splice._rests.size <= (1 << 18) + splice.ARENA + 20 * splice._LEAST
            for each in opened:
                each.close()
            await until_async(lambda: splice._rests.size == 0)

    run(test())
