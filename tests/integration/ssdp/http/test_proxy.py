"""What the relay's HTTP ports carry, and what they rewrite; pods and clients are real sockets."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import zlib
from collections.abc import AsyncIterator

import pytest

from fanout.ssdp.core.urls import Origin
from fanout.ssdp.http import proxy, splice
from tests.support.needs import require_address
from tests.support.ssdp_http import (
    BUFFER,
    OTHER_POD,
    POD,
    RELAY,
    Asked,
    Pod,
    always,
    client,
    hang_up,
    http,
    read_reply,
    relay,
    run,
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
            other = edge.port_map.known(Origin(POD, 1))
            assert reply.headers["Location"] == expected.format(pod=pod.port, edge=edge.port, other=other)
            assert len(pod.asked) == 1

    run(test())


def test_another_port_of_a_pod_that_a_document_names_is_served() -> None:
    async def test() -> None:
        async with Pod(always(http(b"the other one"))) as other:
            body = f"<a>http://{POD}:{other.port}/x http://{OTHER_POD}:1/y</a>".encode()
            async with Pod(always(http(body, XML))) as pod, relay(pod) as edge:
                text = (await edge.get()).body.decode()
                port = edge.port_map.known(Origin(POD, other.port))
                assert text == f"<a>http://{RELAY}:{port}/x http://{OTHER_POD}:1/y</a>"
                assert edge.counts.left == 1  # a pod that has no place
                async with client() as session, session.get(f"http://{RELAY}:{port}/x") as answer:
                    assert await answer.read() == b"the other one"

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
                assert reply.headers.get("ETag") == ("x" if "mp4" in kind else None)
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


def test_a_client_of_old_sends_no_host() -> None:
    async def test() -> None:
        async with Pod(always(http(b"x" * 1000, "Content-Type: video/mp4"))) as pod, relay(pod) as edge:
            assert (await edge.say(b"GET / HTTP/1.0\r\n\r\n")).body == b"x" * 1000
            assert pod.asked[0].headers["Host"] == f"{POD}:{pod.port}"

    run(test())


@pytest.mark.parametrize("size", [0, 1, 70_000, proxy.PUMP_MIN - 1, proxy.PUMP_MIN, 5 * splice.ARENA + 1])
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
            for number in range(2):
                writer.write(f"GET /{number} HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode())
                reply = await read_reply(reader)
                assert hashlib.sha256(reply.body).digest() == digest
            assert edge.counts.bytes[edge.port] == 2 * size
            assert edge.counts.connections == 1
            assert not edge.counts.failures
            await hang_up(writer)

    run(test())


@pytest.mark.parametrize("size", [80_000, 400_000], ids=["streamed", "pumped"])
def test_requests_that_are_sent_at_once_are_answered_in_turn(size: int) -> None:
    """Each answer begins while the kernel still has all it keeps of the one before."""

    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            return http(asked.path.encode() * (size // 2), "Content-Type: video/mp4")

        async with Pod(serve) as pod, relay(pod, keeps=BUFFER) as edge:
            reader, writer = await edge.connect()
            paths = [f"/{number}" for number in range(9)]
            writer.write("".join(f"GET {path} HTTP/1.1\r\nHost: {RELAY}\r\n\r\n" for path in paths).encode())
            for path in paths:
                assert (await read_reply(reader)).body == path.encode() * (size // 2)
            await hang_up(writer)

    run(test())


def test_ipv6_clients_and_pods_are_served() -> None:
    require_address("::1")

    async def test() -> None:
        body = b"<a>http://[::1]:8200/</a>"
        async with Pod(always(http(body, XML)), "::1") as pod, relay(pod) as edge:
            edge.pods.add("::1")
            edge.addresses, edge.allowed = {"::1"}, {"::1"}
            known = edge.port_map.claim(Origin("::1", 8200), "uuid:two")
            reader, writer = await asyncio.open_connection("::1", edge.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n")
            assert (await read_reply(reader)).body == f"<a>http://[::1]:{known}/</a>".encode()
            assert pod.asked[0].headers["Host"] == f"[::1]:{pod.port}"
            await hang_up(writer)

    run(test())
