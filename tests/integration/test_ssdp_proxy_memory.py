"""How much memory and how much of everybody's time the relay's HTTP ports take, whatever clients and pods do."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import socket
import sys
import time
from pathlib import Path

import pytest

from fanout.ssdp.http import documents, door, pump, room
from fanout.ssdp.http.documents import DOCUMENT_MAX, Gathered
from fanout.ssdp.http.room import SMALL, Busy, Room
from fanout.ssdp.reasons import HttpFailure
from fanout.ssdp.rewrite import URLS_MAX
from tests.support.pace import a_million_additions
from tests.support.ssdp_http import CLIENT, RELAY, Asked, Pod, Relay, always, hang_up, http, read_reply, relay, run
from tests.support.waiting import until_async

XML = "Content-Type: text/xml"


def test_there_is_room_for_so_many_bytes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PATIENCE", 0.05)

    async def test() -> None:
        shared = Room(size=4 * SMALL, of_one=3 * SMALL)
        with shared.for_one("a") as held, shared.for_one("b") as other:
            await held.grow(SMALL)
            assert shared.taken == 0  # what is small needs none
            await held.grow(3 * SMALL)
            await held.grow(2 * SMALL)
            assert shared.taken == 3 * SMALL
            with pytest.raises(Busy), shared.for_one("a") as more:
                await more.grow(SMALL + 1)  # it has its share
            with pytest.raises(Busy):
                await other.grow(SMALL + 1)
            held.shrink(2 * SMALL)
            await other.grow(2 * SMALL)
            with pytest.raises(Busy):
                await held.grow(3 * SMALL)
            assert shared.taken == 4 * SMALL
        assert shared.taken == 0

    run(test())


def test_who_waits_for_room_gets_it_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "WAITING_MAX", 3)

    async def test() -> None:
        shared = Room(size=2 * SMALL, of_one=2 * SMALL)
        order = []

        async def take(number: int) -> None:
            with shared.for_one(str(number)) as held:
                await held.grow(2 * SMALL)
                order.append(number)

        with shared.for_one("first") as first:
            await first.grow(2 * SMALL)
            waiting = [asyncio.create_task(take(number)) for number in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await take(3)  # nobody queues without end
            waiting[1].cancel()
            await asyncio.sleep(0)
            assert order == []
        await asyncio.gather(*waiting, return_exceptions=True)
        assert order == [0, 2]
        assert shared.taken == 0

    run(test())


@pytest.mark.parametrize("expected", [0, 1000, 3_000_000])
def test_there_is_always_room_for_what_was_gathered(expected: int) -> None:
    async def test() -> None:
        shared, came = Room(), 0

        async def read() -> bytes:
            nonlocal came
            assert shared.taken >= (came if came > SMALL else 0)
            came += 10_000
            return bytes(10_000) if came <= 3_000_000 else b""

        with shared.for_one("a") as held:
            assert len(await held.fill(Gathered(DOCUMENT_MAX), expected, read)) == 3_000_000
            assert shared.taken == 3_000_000

    run(test())


async def ask_and_read_nothing(edge: Relay, source: str, request: bytes) -> socket.socket:
    opened = socket.socket()
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.bind((source, 0))
    await asyncio.get_running_loop().sock_connect(opened, (RELAY, edge.port))
    with contextlib.suppress(BlockingIOError):
        opened.send(request)
    return opened


GET = f"GET / HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode()
LARGE_HEAD = GET[:-2] + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 250) for number in range(60)) + b"\r\n"


@pytest.mark.parametrize("framing", ["length", "close", "gzip"])
def test_documents_that_nobody_takes_have_their_bounds(framing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PATIENCE", 0.2)
    body = b"<a>" + b" " * (DOCUMENT_MAX - 7) + b"</a>"

    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            if asked.path == "/small":
                return http(b"<a/>", XML)
            if framing == "length":
                return http(body, XML)
            packing = "Content-Encoding: gzip\r\n" if framing == "gzip" else ""
            return f"HTTP/1.1 200 OK\r\n{XML}\r\n{packing}\r\n".encode() + (packed if packing else body)

        packed = gzip.compress(body, 1)
        async with Pod(serve) as pod, relay(pod) as edge:
            held = edge.proxy._room

            def has_settled(documents_held: int, refused: int) -> bool:
                return (held.taken, edge.failed(HttpFailure.BUSY)) == (documents_held * DOCUMENT_MAX, refused)

            opened = []
            for source, taken, refused in (
                *((CLIENT, 1, 0), (CLIENT, 2, 0), (CLIENT, 2, 1)),  # one client has no more than its share
                *(("127.0.0.31", 3, 1), ("127.0.0.31", 4, 1), ("127.0.0.31", 4, 2)),
            ):
                opened.append(await ask_and_read_nothing(edge, source, GET))
                await until_async(functools.partial(has_settled, taken, refused))
            reply = await edge.get(source=RELAY)
            assert reply.status == 503
            assert reply.headers["Retry-After"]
            assert (await edge.get("/small")).status == 200
            for each in opened:
                each.close()
            await until_async(lambda: held.taken == 0)
            assert len((await edge.get()).body) == DOCUMENT_MAX

    run(test())


RELAY_ALONE = """
import asyncio, sys
from pathlib import Path
from tests.support.ssdp_http import POD, relay

class Pod:
    host, port = POD, int(sys.argv[1])

async def main():
    async with relay(Pod) as edge:
        edge.allowed |= {f"127.0.1.{number}" for number in range(1, 9)}
        print(edge.port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


@pytest.mark.parametrize("what", ["documents", "urls", "films", "chunks", "bodies", "heads"])
def test_the_relay_stays_small(what: str) -> None:
    """256 connections of clients that read nothing, to pods that send without end, or nothing at all."""
    large = b"<a>" + b" " * (DOCUMENT_MAX - 7) + b"</a>"
    requests = {
        "bodies": f"POST / HTTP/1.1\r\nHost: {RELAY}\r\nContent-Length: 1048576\r\n\r\n".encode() + bytes(1 << 20),
        "heads": LARGE_HEAD,
    }
    request = requests.get(what, GET)

    async def test() -> None:
        async def serve(asked: Asked) -> bytes | None:
            if what == "documents":
                return http(large, XML)
            if what == "urls":
                return http(b"http://127.0.0.11:9/ " * URLS_MAX, XML)
            kind = "Content-Length: 10000000000" if what == "films" else "Transfer-Encoding: chunked"
            if what in ("films", "chunks"):
                asked.writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n{kind}\r\n\r\n".encode())
            while what in ("films", "chunks"):
                asked.writer.write(bytes(100_000) if what == "films" else b"%x\r\n%s\r\n" % (100_000, bytes(100_000)))
                await asked.writer.drain()
            await asked.reader.read()
            return None

        async def say(opened: socket.socket) -> None:
            with contextlib.suppress(OSError):
                for _ in range(20 if what == "heads" else 1):
                    await asyncio.get_running_loop().sock_sendall(opened, request)

        async with Pod(serve) as pod:
            alone = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", RELAY_ALONE, str(pod.port)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            assert alone.stdout is not None
            port = int(await alone.stdout.readline())
            opened = []
            for number in range(door.CONNECTIONS_MAX):
                each = socket.socket()
                each.setblocking(False)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                each.bind((f"127.0.1.{1 + number // door.CONNECTIONS_OF_ONE_MAX}", 0))
                await asyncio.get_running_loop().sock_connect(each, (RELAY, port))
                opened.append(each)
            saying = [asyncio.create_task(say(each)) for each in opened]
            await asyncio.sleep(4)
            assert most_memory(alone.pid) < 150 << 20
            assert pod.asked or what == "heads"
            alone.kill()
            await alone.communicate()
            for task in saying:
                task.cancel()
            await asyncio.gather(*saying, return_exceptions=True)
            for each in opened:
                each.close()

    run(test())


def most_memory(pid: int) -> int:
    """Bytes that a process had in memory at most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def test_who_says_more_and_more_without_an_answer_is_cut_off() -> None:
    async def test() -> None:
        async with Pod(silence) as pod, relay(pod) as edge:
            reader, writer = await edge.connect()
            writer.write(LARGE_HEAD * (4 * door.AHEAD_MAX // len(LARGE_HEAD)))
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
            for members, status in ((documents.MEMBERS_MAX, 200), (documents.MEMBERS_MAX + 1, 502)):
                pod.serve = always(http(gzip.compress(b"<a/>") * members, XML, "Content-Encoding: gzip"))
                assert (await edge.get()).status == status
            assert edge.failed(HttpFailure.POD_BROKE) == 1

    run(test())


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(b"http://127.0.0.11:9/ " * (DOCUMENT_MAX // 21)),
        gzip.compress((b"http://127.0.0.11:9/ " * URLS_MAX).ljust(DOCUMENT_MAX)),
        gzip.compress(b"".join(b"http://127.0.0.11:%d/ " % (1 + number % 65_535) for number in range(URLS_MAX))),
        gzip.compress(b"".join(b"http://127.0.0.%d:%d/ " % (11 + number % 2, number) for number in range(URLS_MAX))),
        gzip.compress(("http://127.0.0.11:9/ " * URLS_MAX).encode("utf-16")),
        gzip.compress(b"", 0) * 200_000,
        gzip.compress(bytes(1 << 30), 1),
    ],
    ids=["too many", "many", "ports", "hosts", "wide", "parts", "bomb"],
)
def test_no_document_takes_the_time_of_others(body: bytes) -> None:
    """One turn of the loop, of the processor's time: what is done for four clients at once, and for the pod too."""

    async def test() -> None:
        longest = 0.0

        async def watch() -> None:
            nonlocal longest
            while True:
                started = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - started)

        async with Pod(always(http(body, XML, "Content-Encoding: gzip"))) as pod, relay(pod) as edge:
            watching = asyncio.create_task(watch())
            await asyncio.gather(*(edge.get() for _ in range(4)))
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            assert longest < 6 * a_million_additions()

    run(test())


def test_little_is_held_for_many_slow_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "SLOW_MAX", 1 << 18)

    async def test() -> None:
        async def serve(asked: Asked) -> None:
            asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                asked.writer.write(bytes(100_000))
                await asked.writer.drain()

        async with Pod(serve) as pod, relay(pod) as edge:
            opened = [await ask_and_read_nothing(edge, CLIENT, GET) for _ in range(20)]
            before = -1
            while before != sum(edge.counts.bytes.values()) or not before:
                before = sum(edge.counts.bytes.values())
                await asyncio.sleep(0.3)
            assert 0 < pump._rests.size <= (1 << 18) + pump.ARENA + 20 * pump._LEAST
            for each in opened:
                each.close()
            await until_async(lambda: pump._rests.size == 0)

    run(test())
