"""Whom the relay's HTTP ports refuse, and how much of anything they take."""

from __future__ import annotations

import asyncio
import contextlib
import functools

import pytest

from fanout.ssdp.core.drop_reasons import HttpFailure
from fanout.ssdp.http import proxy, server
from tests.support.event_loops import advance
from tests.support.ports import bind_both
from tests.support.ssdp_http import (
    CLIENT,
    FAR,
    POD,
    RELAY,
    STRANGER,
    Pod,
    advance_until,
    always,
    hang_up,
    http,
    read_reply,
    relay,
    run,
)
from tests.support.waiting import until_async

XML = 'Content-Type: text/xml; charset="utf-8"'


def test_a_path_that_is_no_ascii_is_no_path() -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            head = f" HTTP/1.1\r\nHost: {RELAY}\r\nConnection: close\r\n\r\n".encode()
            assert (await edge.say(b"GET /\xc3\xbc\xff" + head)).status == 400
            assert not pod.asked

    run(test())


@pytest.mark.parametrize("target", ["x", "https://127.0.0.20/x", "ftp://127.0.0.20/x"])
def test_what_is_no_path_is_refused(target: str) -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            assert (await edge.get(target, method="OPTIONS")).status == 400
            assert not pod.asked

    run(test())


def test_a_port_that_another_program_has_is_passed_over() -> None:
    async def test() -> None:
        udp, tcp = bind_both("")
        with udp, tcp:
            tcp.listen()
            async with relay() as edge:
                assert not edge.proxy.listen(tcp.getsockname()[1])
                assert edge.proxy.listen(edge.port)  # again: it is ours

    run(test())


@pytest.mark.parametrize("how", ["declared", "expected", "chunked"])
def test_a_request_that_is_too_large_is_refused(how: str) -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            reader, writer = await edge.connect()
            framing = "Transfer-Encoding: chunked" if how == "chunked" else f"Content-Length: {proxy.BODY_MAX + 1}"
            expect = "Expect: 100-continue\r\n" if how == "expected" else ""
            writer.write(f"POST / HTTP/1.1\r\nHost: {RELAY}\r\n{framing}\r\n{expect}\r\n".encode())
            if how != "expected":
                for _ in range(20):
                    writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n" if how == "chunked" else b"x" * 65_536)
            assert (await read_reply(reader)).status == 413
            assert not pod.asked
            assert edge.failed(HttpFailure.REQUEST_TOO_LARGE) == 1
            await hang_up(writer)

    run(test())


def test_a_body_that_takes_too_long_is_given_up() -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            head = f"POST / HTTP/1.1\r\nHost: {RELAY}\r\nContent-Length: 5\r\n\r\n"
            saying = asyncio.create_task(edge.say(head.encode() + b"ab"))
            await until_async(lambda: edge.counts.requests.get(edge.port))
            advance(FAR)
            assert (await saying).status == 408
            assert edge.failed(HttpFailure.TOO_SLOW) == 1
            assert not pod.asked

    run(test())


@pytest.mark.parametrize(
    ("host", "is_served"),
    [
        *(("127.0.0.20", True), ("127.0.0.20:28200", True), ("[::1]:80", True), ("[fe80::1]", True), ("::1", True)),
        *(("evil.example", False), ("localhost", False), ("127.0.0.20.evil.example", False), ("", False)),
        *(("127.0.0.20:x", False), ("[::1]x", False), ("0x7f000014", False), ("2130706452", False), ("[::1", False)),
    ],
)
def test_a_host_that_is_no_address_is_refused(host: str, is_served: bool) -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            reply = await edge.say(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert reply.status == (200 if is_served else 403)
            assert len(pod.asked) == is_served
            assert edge.failed(HttpFailure.WRONG_HOST) == (not is_served)

    run(test())


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "NOTIFY", "PROPFIND", "M-SEARCH"])
def test_other_methods_are_refused(method: str) -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            target = "127.0.0.11:22" if method == "CONNECT" else "/"
            reply = await edge.get(target, method=method)
            assert reply.status == (400 if method == "CONNECT" else 405)
            if method != "CONNECT":
                assert "GET" in reply.headers["Allow"]
                assert edge.failed(HttpFailure.WRONG_METHOD) == 1
            assert not pod.asked

    run(test())


def test_whoever_is_not_allowed_gets_not_a_byte() -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await edge.get(source=STRANGER)
            await until_async(lambda: edge.failed(HttpFailure.SOURCE_NOT_ALLOWED) == 1)
            reader, writer = await asyncio.open_connection("127.0.0.21", edge.port, local_addr=(CLIENT, 0))
            assert await reader.read() == b""  # not where clients come to
            await hang_up(writer)
            assert edge.failed(HttpFailure.SOURCE_NOT_ALLOWED) == 2
            assert not pod.asked

    run(test())


def test_a_pod_may_ask_nothing() -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            assert (await edge.get(source=POD)).status == 403
            assert not pod.asked

    run(test())


def test_a_head_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT", 1000.0)
    came = 0

    class Counted(server.Connection):
        def data_received(self, data: bytes) -> None:
            nonlocal came
            super().data_received(data)
            came += 1

    monkeypatch.setattr(server, "Connection", Counted)

    def has_come(times: int) -> bool:
        return came == times

    async def test() -> None:
        async with Pod(always(http(b"ok"))) as pod, relay(pod) as edge:
            _silent, slow, late = opened = [await edge.connect() for _ in range(3)]
            late[1].write(f"GET / HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
            assert (await read_reply(late[0])).body == b"ok"  # and its next request is the slow one
            await until_async(lambda: not any(each.request for each in edge.proxy._server._connections))
            for number, line in enumerate((b"GET / HTTP/1.1\r\n", b"X: y\r\n", b"X: y\r\n"), 1):
                for _, writer in (slow, late):
                    writer.write(line)
                await until_async(functools.partial(has_come, 1 + 2 * number))
                advance(400)
            for reader, _ in opened:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            for _, writer in opened:
                await hang_up(writer)
            assert edge.failed(HttpFailure.TOO_SLOW) == 2  # the silent one is closed, and that is all
            assert edge.counts.connections == 0

    run(test())


def test_a_connection_that_is_not_used_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_TIMEOUT", 1000.0)

    async def test() -> None:
        async with Pod(always(http(b"ok"))) as pod, relay(pod) as edge:
            reader, writer = await edge.connect()
            writer.write(f"GET / HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
            assert (await read_reply(reader)).body == b"ok"
            await advance_until(reader.at_eof, 1000)
            await hang_up(writer)
            assert not edge.counts.failures

    run(test())


@pytest.mark.parametrize(
    "request_",
    [
        b"garbage\r\n\r\n",
        b"\0" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.20\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: 127.0.0.20\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.20\r\n" + b"X: y\r\n" * 100 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.20\r\nHost: 127.0.0.21\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.20\r\nX: a\0b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.20\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.20\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.20\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.20\r\nX : y\r\n\r\n",
    ],
    ids=lambda request: repr(request[:50]),
)
def test_what_is_no_request_is_a_bad_one(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            assert (await edge.say(request_)).status == 400
            assert not pod.asked
            assert edge.failed(HttpFailure.BAD_REQUEST) == 1
            assert edge.counts.statuses == {4: 1}

    run(test())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_headers_that_are_too_large_together_are_refused() -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            assert (await edge.get("/", *(f"X-{number}: {'x' * 1000}" for number in range(17)))).status == 431
            assert (await edge.get("/", *(f"X-{number}: {'x' * 1000}" for number in range(15)))).status == 200
            assert len(pod.asked) == 1
            assert edge.failed(HttpFailure.REQUEST_TOO_LARGE) == 1

    run(test())


def test_more_connections_than_may_be_are_some_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 40)

    async def test() -> None:
        async with Pod(always(http(b"ok"))) as pod, relay(pod) as edge:
            sources = [f"127.0.1.{1 + number % 15}" for number in range(50)]
            edge.allowed |= set(sources)
            opened = [await edge.connect(source) for source in sources]
            await until_async(lambda: edge.counts.connections + edge.failed(HttpFailure.TOO_MANY_CONNECTIONS) == 50)
            assert edge.counts.connections == 40
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await edge.get()
            answered = 0
            for reader, writer in opened:
                writer.write(f"GET / HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    answered += (await read_reply(reader)).status == 200
            assert answered == 40
            await asyncio.gather(*(hang_up(writer) for _, writer in opened))
            await until_async(lambda: edge.counts.connections == 0)
            assert (await edge.get()).status == 200

    run(test())


def test_a_client_has_no_more_than_its_share() -> None:
    async def test() -> None:
        async with Pod(always(http(b"ok"))) as pod, relay(pod) as edge:
            opened = [await edge.connect() for _ in range(server.CONNECTIONS_OF_ONE_MAX + 8)]
            await until_async(lambda: edge.failed(HttpFailure.TOO_MANY_CONNECTIONS) == 8)
            assert edge.counts.connections == server.CONNECTIONS_OF_ONE_MAX < server.CONNECTIONS_MAX
            assert (await edge.get(source="127.0.0.31")).status == 200
            await asyncio.gather(*(hang_up(writer) for _, writer in opened))

    run(test())
