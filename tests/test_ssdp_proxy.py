"""What the relay's HTTP ports carry, what they rewrite, and whom they refuse; pods and clients are real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import os
import socket
import zlib
from collections.abc import AsyncIterator

import pytest

from fanout.ssdp import documents, door, proxy, upstream
from fanout.ssdp.places import Origin
from fanout.ssdp.reasons import HttpFailure
from tests.ports import bind_both
from tests.ssdp_http import (
    CLIENT,
    OTHER_POD,
    POD,
    RELAY,
    STRANGER,
    Asked,
    Pod,
    always,
    client,
    hang_up,
    http,
    read_reply,
    relay,
    run,
    until,
)

XML = 'Content-Type: text/xml; charset="utf-8"'


def test_a_description_names_the_relay() -> None:
    async def test() -> None:
        async with Pod(describe) as pod, relay(pod) as edge:
            reply = await edge.get("/rootDesc.xml?x=%2f")
            assert reply.status == 200
            assert reply.body == f"<URLBase>http://{RELAY}:{edge.port}/</URLBase>".encode()
            assert reply.headers["Content-Length"] == str(len(reply.body))
            assert reply.headers["Content-Type"] == 'text/xml; charset="utf-8"'
            assert reply.headers["Server"] == "Debian DLNADOC/1.50"
            assert pod.asked[0].path == "/rootDesc.xml?x=%2f"
            assert pod.asked[0].headers["Host"] == f"{POD}:{pod.port}"
            assert edge.counts.rewritten == 1
            assert edge.counts.requests == {edge.port: 1}
            assert edge.counts.bytes == {edge.port: len(reply.body)}
            assert edge.counts.statuses == {2: 1}

    async def describe(asked: Asked) -> bytes:
        host, port = asked.writer.get_extra_info("sockname")
        return http(f"<URLBase>http://{host}:{port}/</URLBase>".encode(), XML, "Server: Debian DLNADOC/1.50")

    run(test())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8", "latin-1"])
@pytest.mark.parametrize("packing", ["", "gzip", "deflate", "raw deflate"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close", "1.0"])
def test_a_document_is_rewritten_however_it_is_coded_and_framed(encoding: str, packing: str, framing: str) -> None:
    async def test() -> None:
        async with Pod(describe) as pod, relay(pod) as edge:
            reply = await edge.get()
            assert reply.body.decode(encoding) == f"<a>http://{RELAY}:{edge.port}/ü</a>"
            assert reply.headers["Content-Length"] == str(len(reply.body))
            assert "Content-Encoding" not in reply.headers
            assert "Transfer-Encoding" not in reply.headers

    async def describe(asked: Asked) -> bytes:
        host, port = asked.writer.get_extra_info("sockname")
        body = f"<a>http://{host}:{port}/ü</a>".encode(encoding)
        headers = ["Content-Type: application/xml"]
        if packing:
            headers.append(f"Content-Encoding: {packing.removeprefix('raw ')}")
            body = {
                "gzip": gzip.compress(body[:7]) + gzip.compress(body[7:]),
                "deflate": zlib.compress(body),
                "raw deflate": zlib.compress(body)[2:-4],
            }[packing]
        if framing == "length":
            return http(body, *headers)
        version = "1.0" if framing == "1.0" else "1.1"
        if framing == "chunked":
            headers.append("Transfer-Encoding: chunked")
            body = b"5;x=y\r\n" + body[:5] + b"\r\n%x\r\n" % len(body[5:]) + body[5:] + b"\r\n0\r\nTrailer: x\r\n\r\n"
        return "\r\n".join([f"HTTP/{version} 200 OK", *headers, "", ""]).encode() + body

    run(test())


def test_what_is_packed_in_a_way_that_is_not_known_passes_untouched() -> None:
    body = b"\x0b\x02\x80<a>http://127.0.0.11:8200/</a>\x03"

    async def test() -> None:
        async with Pod(always(http(body, XML, "Content-Encoding: br"))) as pod, relay(pod) as edge:
            reply = await edge.get()
            assert reply.body == body
            assert reply.headers["Content-Encoding"] == "br"

    run(test())


def test_media_pass_untouched_whatever_they_hold() -> None:
    body = b"<a>http://127.0.0.11:8200/</a>" * 100

    async def test() -> None:
        async with Pod(always(http(body, "Content-Type: video/mp4"))) as pod, relay(pod) as edge:
            assert (await edge.get()).body == body
            assert edge.counts.rewritten == 0

    run(test())


def test_headers_of_an_answer_name_the_relay_and_the_other_ones_pass() -> None:
    async def test() -> None:
        async with Pod(serve) as pod, relay(pod) as edge:
            reply = await edge.get()
            here = f"http://{RELAY}:{edge.port}"
            assert reply.headers["CaptionInfo.sec"] == f"{here}/x.srt"
            assert reply.headers["Location"] == f"{here}/moved"
            assert reply.headers["Content-Location"] == f"{here}/here"
            assert reply.headers["contentFeatures.dlna.org"] == "DLNA.ORG_PN=AVC;DLNA.ORG_OP=01"
            assert reply.headers.getall("Set-Cookie") == ["a=1", "b=2"]
            assert reply.headers["X-Name"] == "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n"
            assert b"contentFeatures.dlna.org: " in reply.raw  # spelled as the pod does
            for name in ("Keep-Alive", "X-Mine", "Proxy-Connection"):
                assert name not in reply.headers

    async def serve(asked: Asked) -> bytes:
        here = f"http://{POD}:{asked.writer.get_extra_info('sockname')[1]}"
        return http(
            b"x",
            *(f"CaptionInfo.sec: {here}/x.srt", f"Location: {here}/moved", f"Content-Location: {here}/here"),
            *("contentFeatures.dlna.org: DLNA.ORG_PN=AVC;DLNA.ORG_OP=01", "Set-Cookie: a=1", "Set-Cookie: b=2"),
            *("Connection: keep-alive, X-Mine", "Keep-Alive: timeout=5", "X-Mine: 1", "Proxy-Connection: close"),
            "X-Name: gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n",
        )

    run(test())


def test_what_is_for_the_relay_alone_is_not_passed_to_the_pod() -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            headers = ("Connection: close, X-Mine", "X-Mine: 1", "TE: trailers", "Accept-Encoding: gzip, br")
            await edge.get("/a%20b", *headers, "getcontentFeatures.dlna.org: 1", "User-Agent: DLNADOC/1.50 TV")
            [asked] = pod.asked
            assert asked.headers["getcontentFeatures.dlna.org"] == "1"
            assert asked.headers.getall("User-Agent") == ["DLNADOC/1.50 TV"]
            assert asked.headers.getall("Accept-Encoding") == ["identity"]
            assert asked.headers.getall("Host") == [f"{POD}:{pod.port}"]
            for name in ("X-Mine", "TE", "Accept", "Content-Type", "Content-Length", "Transfer-Encoding"):
                assert name not in asked.headers

    run(test())


@pytest.mark.parametrize(
    "path",
    ["/", "/a/../b/./c", "//x//y", "/%41%2f%00", "/?a=b&c=%20;d", "/MediaItems/22.mp4", "/~!$&'()*+,;=:@[]|"],
)
def test_a_path_reaches_the_pod_as_it_is(path: str) -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            assert (await edge.get(path)).status == 200
            assert pod.asked[0].path == path

    run(test())


def test_a_path_that_is_no_ascii_is_no_path() -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            head = f" HTTP/1.1\r\nHost: {RELAY}\r\nConnection: close\r\n\r\n".encode()
            assert (await edge.say(b"GET /\xc3\xbc\xff" + head)).status == 400
            assert not pod.asked

    run(test())


@pytest.mark.parametrize("target", ["*", "http://127.0.0.20/x", "x"])
def test_what_is_no_path_is_refused(target: str) -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            assert (await edge.get(target, method="OPTIONS")).status == 400
            assert not pod.asked

    run(test())


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://127.0.0.11:{pod}/again", "http://127.0.0.20:{edge}/again"),
        ("/again", "/again"),
        ("http://192.0.2.1:{pod}/x", "http://192.0.2.1:{pod}/x"),
        ("http://media.example/x", "http://media.example/x"),
        ("http://127.0.0.11:1/x", "http://127.0.0.20:{other}/x"),
    ],
)
def test_a_redirect_is_the_clients_to_follow(location: str, expected: str) -> None:
    async def test() -> None:
        async def move(asked: Asked) -> bytes:
            return http(b"", f"Location: {location.format(pod=pod.port)}", status="302 Found")

        async with Pod(move) as pod, relay(pod) as edge:
            reply = await edge.get()
            assert reply.status == 302
            assert reply.reason == "Found"
            other = edge.places.known(Origin(POD, 1))
            assert reply.headers["Location"] == expected.format(pod=pod.port, edge=edge.port, other=other)
            assert len(pod.asked) == 1

    run(test())


def test_another_port_of_a_pod_that_a_document_names_is_served() -> None:
    async def test() -> None:
        async with Pod(always(http(b"the other one"))) as other:
            body = f"<a>http://{POD}:{other.port}/x http://{OTHER_POD}:1/y</a>".encode()
            async with Pod(always(http(body, XML))) as pod, relay(pod) as edge:
                text = (await edge.get()).body.decode()
                port = edge.places.known(Origin(POD, other.port))
                assert text == f"<a>http://{RELAY}:{port}/x http://{OTHER_POD}:1/y</a>"
                assert edge.counts.left == 1  # a pod that has no place
                async with client() as session, session.get(f"http://{RELAY}:{port}/x") as answer:
                    assert await answer.read() == b"the other one"

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


def test_head_has_no_body_and_a_length_only_where_it_is_true() -> None:
    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            kind = XML if asked.path == "/xml" else "Content-Type: video/mp4"
            return http(b"", kind, length=1 << 30)

        async with Pod(serve) as pod, relay(pod) as edge:
            assert (await edge.get("/mp4", method="HEAD")).headers["Content-Length"] == str(1 << 30)
            reply = await edge.get("/xml", method="HEAD")
            assert reply.status == 200
            assert "Content-Length" not in reply.headers
            assert "Transfer-Encoding" not in reply.headers
            assert (await edge.get("/mp4", method="HEAD", source="127.0.0.31")).status == 200

    run(test())


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("kind", [XML, "Content-Type: video/mp4"])
def test_an_answer_that_has_no_body_keeps_the_connection(status: str, kind: str) -> None:
    async def test() -> None:
        answer = f"HTTP/1.1 {status}\r\n{kind}\r\nETag: x\r\n\r\n".encode()
        async with Pod(always(answer)) as pod, relay(pod) as edge:
            reader, writer = await edge.connect()
            for _ in range(3):
                writer.write(f"GET / HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
                reply = await read_reply(reader)
                assert f"{reply.status} {reply.reason}" == status
                assert reply.headers["ETag"] == "x"
            await hang_up(writer)

    run(test())


def test_ranges_pass_to_the_byte() -> None:
    film = os.urandom(3_000_000)

    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            first, last = map(int, asked.headers["Range"].removeprefix("bytes=").split("-"))
            part = film[first : last + 1]
            return http(part, f"Content-Range: bytes {first}-{last}/{len(film)}", status="206 Partial Content")

        async with Pod(serve) as pod, relay(pod) as edge:
            for first, last in ((0, 0), (17, 1016), (1_000_000, 2_999_999), (1_234_567, 1_234_567 + 262_144)):
                reply = await edge.get("/film", f"Range: bytes={first}-{last}")
                assert reply.status == 206
                assert reply.headers["Content-Range"] == f"bytes {first}-{last}/3000000"
                assert reply.body == film[first : last + 1]

    run(test())


def test_who_asks_for_a_range_of_a_document_gets_all_of_it() -> None:
    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            body = f"<a>http://{POD}:{pod.port}/</a>".encode()
            if "Range" in asked.headers:
                return http(body[:9], XML, f"Content-Range: bytes 0-8/{len(body)}", status="206 Partial Content")
            return http(body, XML, "Accept-Ranges: bytes")

        async with Pod(serve) as pod, relay(pod) as edge:
            reply = await edge.get("/", "Range: bytes=0-8")
            assert reply.status == 200
            assert reply.body == f"<a>http://{RELAY}:{edge.port}/</a>".encode()
            assert "Accept-Ranges" not in reply.headers
            assert "Content-Range" not in reply.headers

    run(test())


def test_a_soap_call_and_its_error_pass() -> None:
    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            return http(b"<fault/>", XML, "EXT: ", status="500 Internal Server Error")

        async with Pod(serve) as pod, relay(pod) as edge, client() as session:
            headers = {"SOAPACTION": '"urn:x#Browse"', "Content-Type": "text/xml"}
            async with session.post(f"{edge.url}/ctl", data=b"<Browse/>", headers=headers) as answer:
                assert answer.status == 500
                assert await answer.read() == b"<fault/>"
            [asked] = pod.asked
            assert asked.body == b"<Browse/>"
            assert asked.headers["SOAPACTION"] == '"urn:x#Browse"'
            assert asked.headers["Content-Length"] == "9"

    run(test())


def test_a_chunked_request_reaches_the_pod_whole() -> None:
    async def test() -> None:
        async with Pod(always(http(b"ok"))) as pod, relay(pod) as edge, client() as session:

            async def pieces() -> AsyncIterator[bytes]:
                for _ in range(10):
                    yield b"x" * 1000

            async with session.post(f"{edge.url}/ctl", data=pieces()) as answer:
                assert answer.status == 200
            assert pod.asked[0].body == b"x" * 10_000
            assert "Transfer-Encoding" not in pod.asked[0].headers

    run(test())


def test_a_client_that_expects_to_be_told_to_continue_is_told() -> None:
    async def test() -> None:
        async with Pod(always(http(b"ok"))) as pod, relay(pod) as edge:
            reader, writer = await edge.connect()
            head = f"POST / HTTP/1.1\r\nHost: {RELAY}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
            writer.write(head.encode())
            assert (await read_reply(reader)).status == 100
            assert not pod.asked
            writer.write(b"hello")
            assert (await read_reply(reader)).body == b"ok"
            assert pod.asked[0].body == b"hello"
            assert "Expect" not in pod.asked[0].headers
            await hang_up(writer)

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


def test_a_body_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "BODY_TIMEOUT", 0.2)

    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            reply = await edge.say(f"POST / HTTP/1.1\r\nHost: {RELAY}\r\nContent-Length: 5\r\n\r\nab".encode())
            assert reply.status == 408
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


def test_a_client_of_old_sends_no_host() -> None:
    async def test() -> None:
        async with Pod(always(http(b"x" * 1000, "Content-Type: video/mp4"))) as pod, relay(pod) as edge:
            assert (await edge.say(b"GET / HTTP/1.0\r\n\r\n")).body == b"x" * 1000
            assert pod.asked[0].headers["Host"] == f"{POD}:{pod.port}"

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
            await until(lambda: edge.failed(HttpFailure.SOURCE_NOT_ALLOWED) == 1)
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


def test_a_device_whose_pod_is_gone_is_asked_for_later() -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            edge.pods.discard(POD)  # it is in the Service no more
            reply = await edge.get()
            assert reply.status == 503
            assert int(reply.headers["Retry-After"]) > 0
            edge.pods.add(POD)
            edge.places.gone(POD)
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
    monkeypatch.setattr(upstream, "ANSWER_TIMEOUT", 0.3)

    async def test() -> None:
        async def serve(asked: Asked) -> None:
            await asked.reader.read()

        async with Pod(serve) as pod, relay(pod) as edge:
            assert (await edge.get()).status == 504
            assert edge.failed(HttpFailure.POD_BROKE) == 1
            await until(lambda: pod.ended == 1)

    run(test())


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("packing", ["", "gzip"])
def test_a_document_without_end_is_not_read_to_it(framing: str, packing: str) -> None:
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
                await asyncio.sleep(0)  # a drain of little does not wait

        async with Pod(serve) as pod, relay(pod) as edge:
            reply = await edge.get()
            assert reply.status == 502
            assert b"16777216" in reply.body
            assert edge.failed(HttpFailure.DOCUMENT_TOO_LARGE) == 1
            await until(lambda: pod.ended == 1)

    run(test())


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(documents.DOCUMENT_MAX + 1))
    assert len(bomb) < 20_000

    async def test() -> None:
        for packed in (bomb, gzip.compress(b"x") * 5 + bomb, gzip.compress(bytes(1 << 20)) * 17):
            async with Pod(always(http(packed, XML, "Content-Encoding: gzip"))) as pod, relay(pod) as edge:
                assert (await edge.get()).status == 502
                assert edge.failed(HttpFailure.DOCUMENT_TOO_LARGE) == 1

    run(test())


def test_the_largest_document_passes() -> None:
    body = b"<a>" + b" " * (documents.DOCUMENT_MAX - 7) + b"</a>"

    async def test() -> None:
        async with Pod(always(http(body, XML))) as pod, relay(pod) as edge:
            assert (await edge.get()).body == body

    run(test())


@pytest.mark.parametrize("size", [1000, 300_000, 20_000_000])
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
            await asyncio.sleep(0.05)
            opened = asked.writer.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, door._RESET)
            asked.writer.transport.abort()
            return None

        async with Pod(serve) as pod, relay(pod) as edge:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await edge.say(f"GET / HTTP/{version}\r\nHost: {RELAY}\r\n\r\n".encode())
            await until(lambda: edge.failed(HttpFailure.POD_BROKE) == 1)
            await until(lambda: edge.counts.connections == 0)

    run(test())


@pytest.mark.parametrize("size", [0, 1, 70_000, proxy.PUMP_MIN - 1, proxy.PUMP_MIN, 5_000_000, 40_000_001])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_what_is_large_arrives_whole_and_the_connection_is_kept(size: int, framing: str) -> None:
    body = os.urandom(size)
    digest = hashlib.sha256(body).digest()

    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            if framing == "length":
                return http(body, "Content-Type: video/mp4")
            head = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n"
            if framing == "close":
                return head + b"\r\n" + body
            chunk = b"%x\r\n%s\r\n" % (size, body) if size else b""
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"

        async with Pod(serve) as pod, relay(pod) as edge:
            reader, writer = await edge.connect()
            for number in range(3):
                writer.write(f"GET /{number} HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
                reply = await read_reply(reader)
                assert hashlib.sha256(reply.body).digest() == digest
            assert edge.counts.bytes[edge.port] == 3 * size
            assert edge.counts.connections == 1
            assert not edge.counts.failures
            await hang_up(writer)

    run(test())


def test_requests_that_are_sent_at_once_are_answered_in_turn() -> None:
    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            return http(asked.path.encode() * 100_000, "Content-Type: video/mp4")

        async with Pod(serve) as pod, relay(pod) as edge:
            reader, writer = await edge.connect()
            paths = [f"/{number}" for number in range(9)]
            writer.write("".join(f"GET {path} HTTP/1.1\r\nHost: {RELAY}\r\n\r\n" for path in paths).encode())
            for path in paths:
                assert (await read_reply(reader)).body == path.encode() * 100_000
            await hang_up(writer)

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
            await until(lambda: len(pod.asked) == 1)
            if how == "reset":
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, door._RESET)
                writer.transport.abort()
            await hang_up(writer)
            await until(lambda: pod.ended == 1, 2)
            await until(lambda: edge.counts.connections == 0)
            assert edge.failed(HttpFailure.CLIENT_GONE) == 1

    run(test())


def test_nothing_is_read_that_a_client_does_not_take() -> None:
    async def test() -> None:
        sent = 0

        async def serve(asked: Asked) -> None:
            nonlocal sent
            head = f"Content-Length: {1 << 30}\r\n" if asked.path == "/pumped" else ""
            asked.writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n{head}\r\n".encode())
            while True:
                asked.writer.write(bytes(65_536))
                await asked.writer.drain()
                sent += 65_536

        async with Pod(serve) as pod, relay(pod) as edge:
            for path in ("/pumped", "/streamed"):
                sent = 0
                opened = socket.socket()
                opened.setblocking(False)
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
                opened.bind((CLIENT, 0))
                await asyncio.get_running_loop().sock_connect(opened, (RELAY, edge.port))
                request = f"GET {path} HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode()
                await asyncio.get_running_loop().sock_sendall(opened, request)
                before = -1
                while before != sent or not sent:
                    before = sent
                    await asyncio.sleep(0.3)
                assert sent < 32 << 20  # what the kernel's buffers hold
                opened.close()

    run(test())


def test_a_head_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HEAD_TIMEOUT", 0.5)

    async def test() -> None:
        async with Pod(always(http(b"ok"))) as pod, relay(pod) as edge:
            silent, slow, late = [await edge.connect() for _ in range(3)]
            late[1].write(f"GET / HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
            assert (await read_reply(late[0])).body == b"ok"  # and its next request is the slow one

            async def drip(writer: asyncio.StreamWriter) -> None:
                writer.write(b"GET / HTTP/1.1\r\n")
                while True:
                    writer.write(b"X: y\r\n")
                    await asyncio.sleep(0.05)

            drips = [asyncio.create_task(drip(writer)) for _, writer in (slow, late)]
            async with asyncio.timeout(3):
                for reader, _ in (silent, slow, late):
                    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                        await read_reply(reader)
            for each in drips:
                each.cancel()
            await asyncio.gather(*drips, return_exceptions=True)
            for _, writer in (silent, slow, late):
                await hang_up(writer)
            assert edge.failed(HttpFailure.TOO_SLOW) == 3
            assert edge.counts.connections == 0

    run(test())


def test_a_connection_that_is_not_used_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "IDLE_TIMEOUT", 0.3)

    async def test() -> None:
        async with Pod(always(http(b"ok"))) as pod, relay(pod) as edge:
            reader, writer = await edge.connect()
            writer.write(f"GET / HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
            assert (await read_reply(reader)).body == b"ok"
            async with asyncio.timeout(3):
                assert await reader.read() == b""
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


def test_three_hundred_connections_at_once_are_some_too_many() -> None:
    async def test() -> None:
        async with Pod(always(http(b"ok"))) as pod, relay(pod) as edge:
            sources = [f"127.0.1.{1 + number % 15}" for number in range(300)]
            edge.allowed |= set(sources)
            opened = [await edge.connect(source) for source in sources]
            await until(lambda: edge.counts.connections + edge.failed(HttpFailure.TOO_MANY_CONNECTIONS) == 300)
            assert edge.counts.connections == door.CONNECTIONS_MAX
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await edge.get()
            answered = 0
            for reader, writer in opened:
                writer.write(f"GET / HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    answered += (await read_reply(reader)).status == 200
            assert answered == door.CONNECTIONS_MAX
            await asyncio.gather(*(hang_up(writer) for _, writer in opened))
            await until(lambda: edge.counts.connections == 0)
            assert (await edge.get()).status == 200

    run(test())


def test_a_client_has_no_more_than_its_share() -> None:
    async def test() -> None:
        async with Pod(always(http(b"ok"))) as pod, relay(pod) as edge:
            opened = [await edge.connect() for _ in range(40)]
            await until(lambda: edge.failed(HttpFailure.TOO_MANY_CONNECTIONS) == 8)
            assert edge.counts.connections == door.CONNECTIONS_OF_ONE_MAX
            assert (await edge.get(source="127.0.0.31")).status == 200
            await asyncio.gather(*(hang_up(writer) for _, writer in opened))

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
            await until(lambda: len(pod.asked) == 4)
            started = asyncio.get_running_loop().time()
            await edge.proxy.close()
            assert asyncio.get_running_loop().time() - started < 1
            await until(lambda: pod.ended == 4)
            assert edge.counts.connections == 0
            assert not edge.counts.failures
            for _, writer in opened:
                await hang_up(writer)

    run(test())


def test_ipv6_clients_and_pods_are_served() -> None:
    async def test() -> None:
        body = b"<a>http://[::1]:8200/</a>"
        async with Pod(always(http(body, XML)), "::1") as pod, relay(pod) as edge:
            edge.pods.add("::1")
            edge.proxy._is_here = lambda host: host == "::1"
            edge.proxy._is_allowed = lambda host: host == "::1"
            known = edge.places.claim(Origin("::1", 8200), "uuid:two")
            reader, writer = await asyncio.open_connection("::1", edge.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n")
            assert (await read_reply(reader)).body == f"<a>http://[::1]:{known}/</a>".encode()
            assert pod.asked[0].headers["Host"] == f"[::1]:{pod.port}"
            await hang_up(writer)

    run(test())
