"""Pods that lie, break off or are gone, and clients that vanish: nothing looks whole that is not, nothing is left."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import zlib

import pytest

from fanout.ssdp.core.body import DOCUMENT_MAX
from fanout.ssdp.core.drop_reasons import HttpFailure
from fanout.ssdp.http import server, upstream
from tests.support.ssdp_http import (
    BUFFER,
    POD,
    RELAY,
    Asked,
    Pod,
    advance_until,
    always,
    connect_and_read_nothing,
    hang_up,
    http,
    keep_little,
    read_reply,
    relay,
    run,
    until_stopped,
)
from tests.support.waiting import give_turns, until_async

XML = 'Content-Type: text/xml; charset="utf-8"'
LARGEST = 1 << 20
"""Bytes of a document that are read at most, where what is tried has more."""


def test_a_device_whose_pod_is_gone_is_asked_for_later() -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            edge.pods.discard(POD)  # it is in the Service no more
            reply = await edge.get()
            assert reply.status == 503
            assert int(reply.headers["Retry-After"]) > 0
            edge.pods.add(POD)
            edge.port_map.gone(POD)
            assert (await edge.get()).status == 503
            assert edge.failed(HttpFailure.NO_POD) == 2
            assert not pod.asked

    run(test())


def test_a_pod_that_does_not_listen_is_a_bad_gateway() -> None:
    async def test() -> None:
        async with relay() as edge:
            assert (await edge.get()).status == 502
            assert edge.failed(HttpFailure.POD_UNREACHABLE) == 1

    run(test())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0" * 1000,
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 100\r\n\r\n<a/>",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n<a/>",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n<a/>\r\n",
        http(b"<a/> that is not packed", XML, "Content-Encoding: gzip"),
        http(gzip.compress(b"<a/>" * 1000)[:-20], XML, "Content-Encoding: gzip"),
    ],
    ids=lambda answer: repr(answer[:60]),
)
def test_a_pod_that_speaks_no_http_is_a_bad_gateway(answer: bytes) -> None:
    async def test() -> None:
        async with Pod(always(answer)) as pod, relay(pod) as edge:
            assert (await edge.get()).status == 502
            assert edge.failed(HttpFailure.POD_BROKE) == 1

    run(test())


def test_what_else_a_pod_says_after_its_answer_is_not_passed_on() -> None:
    async def test() -> None:
        for size in (10, 1_000_000):
            body = os.urandom(size)
            answer = http(body, "Content-Type: video/mp4") + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad" * 1000
            async with Pod(always(answer)) as pod, relay(pod) as edge:
                reader, writer = await edge.connect()
                for _ in range(2):
                    writer.write(f"GET / HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
                    assert (await read_reply(reader)).body == body
                await hang_up(writer)

    run(test())


def test_a_pod_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "ANSWER_TIMEOUT", 1000.0)

    async def test() -> None:
        async def serve(asked: Asked) -> None:
            await asked.reader.read()

        async with Pod(serve) as pod, relay(pod) as edge:
            asking = asyncio.create_task(edge.get())
            await until_async(lambda: pod.asked)
            await advance_until(asking.done, 1000)
            assert asking.result().status == 504
            assert edge.failed(HttpFailure.POD_BROKE) == 1
            await until_async(lambda: pod.ended == 1)

    run(test())


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("packing", ["", "gzip"])
def test_a_document_without_end_is_not_read_to_it(framing: str, packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "DOCUMENT_MAX", LARGEST)

    async def test() -> None:
        async def serve(asked: Asked) -> None:
            headers = [f"Content-Encoding: {packing}"] if packing else []
            headers += {
                "length": [f"Content-Length: {1 << 30}"],
                "chunked": ["Transfer-Encoding: chunked"],
                "close": [],
            }[framing]
            asked.writer.write("\r\n".join(["HTTP/1.1 200 OK", XML, *headers, "", ""]).encode())
            packer = zlib.compressobj(wbits=31)
            while True:
                piece = b"<a>" * 30_000
                if packing:
                    piece = packer.compress(piece * 10) + packer.flush(zlib.Z_SYNC_FLUSH)
                asked.writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if framing == "chunked" else piece)
                await asked.writer.drain()
                await give_turns()  # a drain of little does not wait

        async with Pod(serve) as pod, relay(pod) as edge:
            reply = await edge.get()
            assert reply.status == 502
            assert str(LARGEST).encode() in reply.body
            assert edge.failed(HttpFailure.DOCUMENT_TOO_LARGE) == 1
            await until_async(lambda: pod.ended == 1)

    run(test())


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "DOCUMENT_MAX", LARGEST)
    bomb = gzip.compress(bytes(LARGEST + 1))
    assert len(bomb) < LARGEST / 500

    async def test() -> None:
        for packed in (bomb, gzip.compress(b"x") * 5 + bomb, gzip.compress(bytes(LARGEST // 16)) * 17):
            async with Pod(always(http(packed, XML, "Content-Encoding: gzip"))) as pod, relay(pod) as edge:
                assert (await edge.get()).status == 502
                assert edge.failed(HttpFailure.DOCUMENT_TOO_LARGE) == 1

    run(test())


def test_the_largest_document_passes() -> None:
    body = b"<a>" + b" " * (DOCUMENT_MAX - 7) + b"</a>"

    async def test() -> None:
        async with Pod(always(http(body, XML))) as pod, relay(pod) as edge:
            assert (await edge.get()).body == body

    run(test())


@pytest.mark.parametrize("size", [1000, 300_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "reset"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_what_a_pod_cuts_short_does_not_look_whole(size: int, framing: str, version: str) -> None:
    body = os.urandom(size)

    async def test() -> None:
        async def serve(asked: Asked) -> bytes | None:
            if framing == "length":
                return http(body[:-1], "Content-Type: video/mp4", length=size)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n"
            if framing == "chunked":
                return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (size, body)
            asked.writer.write(head + b"\r\n" + body)
            await asked.writer.drain()
            await until_async(lambda: edge.counts.bytes[edge.port] == size)  # a reset takes back what is under way
            opened = asked.writer.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, server._RESET)
            asked.writer.transport.abort()
            return None

        async with Pod(serve) as pod, relay(pod) as edge:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await edge.say(f"GET / HTTP/{version}\r\nHost: {RELAY}\r\n\r\n".encode())
            await until_async(lambda: edge.failed(HttpFailure.POD_BROKE) == 1)
            await until_async(lambda: edge.counts.connections == 0)

    run(test())


@pytest.mark.parametrize("moment", ["before the answer", "in a stream", "in a pumped body", "while a body is awaited"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_vanishes_ends_what_is_done_for_it(moment: str, how: str) -> None:
    async def test() -> None:
        async def serve(asked: Asked) -> None:
            if moment == "before the answer":
                await asked.reader.read()
                return
            asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n")
            asked.writer.write(b"\r\n" if moment == "in a stream" else b"Content-Length: 1000000000\r\n\r\n")
            if moment == "while a body is awaited":
                asked.writer.write(bytes(1000))
                await asked.reader.read()
            while True:
                asked.writer.write(bytes(100_000))
                await asked.writer.drain()

        async with Pod(serve) as pod, relay(pod) as edge:
            reader, writer = await edge.connect()
            writer.write(f"GET / HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
            if moment != "before the answer":
                await reader.readexactly(1000)
            await until_async(lambda: len(pod.asked) == 1)
            if how == "reset":
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, server._RESET)
                writer.transport.abort()
            await hang_up(writer)
            await until_async(lambda: pod.ended == 1)
            await until_async(lambda: edge.counts.connections == 0)
            assert edge.failed(HttpFailure.CLIENT_GONE) == 1

    run(test())


@pytest.mark.parametrize("head", ["", f"Content-Length: {1 << 30}\r\n"], ids=["streamed", "pumped"])
def test_nothing_is_read_that_a_client_does_not_take(head: str) -> None:
    most = 2 << 20  # more than the kernel's buffers hold
    sent = 0

    async def test() -> None:
        async def serve(asked: Asked) -> None:
            nonlocal sent
            keep_little(asked.writer.transport)
            asked.writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n{head}\r\n".encode())
            while sent < most:
                asked.writer.write(bytes(65_536))
                await asked.writer.drain()
                sent += 65_536

        async with Pod(serve) as pod, relay(pod, keeps=BUFFER) as edge:
            with await connect_and_read_nothing(edge.port) as opened:
                opened.send(f"GET / HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
                await until_stopped(lambda: sent)
                assert sent < most

    run(test())


def test_closing_ends_everything() -> None:
    async def test() -> None:
        async def serve(asked: Asked) -> None:
            if asked.path == "/silent":
                await asked.reader.read()
            asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                asked.writer.write(bytes(100_000))
                await asked.writer.drain()

        async with Pod(serve) as pod, relay(pod) as edge:
            opened = [await edge.connect() for _ in range(6)]
            for number, (_, writer) in enumerate(opened):
                if number < 4:
                    path = "/silent" if number % 2 else "/film"
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
            await until_async(lambda: len(pod.asked) == 4)
            await edge.proxy.close()
            await until_async(lambda: pod.ended == 4)
            assert edge.counts.connections == 0
            assert not edge.counts.failures
            for _, writer in opened:
                await hang_up(writer)

    run(test())


def test_a_document_that_comes_slowly_holds_up_no_other() -> None:
    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            body = b"<a>" + b" " * 2_000_000 + b"</a>"
            if asked.path == "/slow":
                asked.writer.write(f"HTTP/1.1 200 OK\r\n{XML}\r\n\r\n".encode() + body[:1000])
                await asked.reader.read()
            return http(body, XML)

        async with Pod(serve) as pod, relay(pod) as edge:
            slow = [asyncio.create_task(edge.get("/slow")) for _ in range(5)]
            await until_async(lambda: len(pod.asked) == 5)
            assert len((await edge.get("/fast")).body) == 2_000_007
            for each in slow:
                each.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    run(test())
