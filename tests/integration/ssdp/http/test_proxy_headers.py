"""What the relay's HTTP ports do with heads of requests and answers, as RFC 9110 and 9112 ask of who is in between."""

from __future__ import annotations

import pytest

from fanout.ssdp.core.drop_reasons import HttpFailure
from tests.support.ssdp_http import POD, RELAY, Asked, Pod, always, hang_up, http, read_reply, relay, run

XML = "Content-Type: text/xml"
FILM = "Content-Type: video/mp4"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_true_of_the_pods_document_is_not_said_of_another(method: str) -> None:
    said = [
        *('ETag: "x"', "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT", "Digest: sha-256=abc", "Accept-Ranges: bytes"),
        *("Repr-Digest: sha-256=:abc:", "Content-Digest: sha-256=:abc:", "Content-MD5: abc"),
    ]

    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            body = b"" if method == "HEAD" else b"<a/>"
            return http(body, XML if asked.path == "/xml" else FILM, *said)

        async with Pod(serve) as pod, relay(pod) as edge:
            document, film = await edge.get("/xml", method=method), await edge.get("/film", method=method)
            for each in said:
                name, _, value = each.partition(": ")
                assert name not in document.headers
                assert film.headers[name] == value

    run(test())


def test_whoever_is_in_between_says_so() -> None:
    async def test() -> None:
        async with Pod(always(http(b"x", FILM, "Via: 1.1 cache"))) as pod, relay(pod) as edge:
            reply = await edge.get("/", "Via: 1.0 tv")
            assert pod.asked[0].headers.getall("Via") == ["1.0 tv", "1.1 fanout"]
            assert reply.headers.getall("Via") == ["1.1 cache"], "as the pod has it"
            await edge.say(f"GET / HTTP/1.0\r\nHost: {RELAY}\r\n\r\n".encode())
            assert pod.asked[1].headers["Via"] == "1.0 fanout"

    run(test())


@pytest.mark.parametrize(
    ("target", "host", "status", "path"),
    [
        ("http://127.0.0.20/x?y=1", "127.0.0.20", 200, "/x?y=1"),
        ("HTTP://127.0.0.20:28200/x", "127.0.0.20", 200, "/x"),
        ("http://[::1]:28200", "127.0.0.20", 200, "/"),
        ("http://127.0.0.20?x=/y", "127.0.0.20", 200, "/?x=/y"),
        ("http://127.0.0.20/x", "evil.example", 200, "/x"),  # Host means nothing then
        ("http://evil.example/x", "127.0.0.20", 403, ""),
        ("http://evil.example", "127.0.0.20", 403, ""),
        ("http://me@127.0.0.20/x", "127.0.0.20", 403, ""),
    ],
)
def test_a_target_may_be_a_whole_url_of_the_relay(target: str, host: str, status: int, path: str) -> None:
    async def test() -> None:
        async with Pod(always(http())) as pod, relay(pod) as edge:
            reply = await edge.say(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert reply.status == status
            assert [(asked.path, asked.headers["Host"]) for asked in pod.asked] == (
                [(path, f"{POD}:{pod.port}")] if status == 200 else []
            )
            assert edge.failed(HttpFailure.WRONG_HOST) == (status == 403)

    run(test())


def test_who_asks_what_may_be_asked_is_told() -> None:
    async def test() -> None:
        async with Pod(always(http(b"", "Allow: GET"))) as pod, relay(pod) as edge:
            reply = await edge.get("*", method="OPTIONS")
            assert (reply.status, reply.headers["Content-Length"], reply.body) == (200, "0", b"")
            assert "SUBSCRIBE" in reply.headers["Allow"]
            assert not pod.asked
            assert (await edge.get("/x", method="OPTIONS")).headers["Allow"] == "GET"  # that is the pod's to say
            assert (await edge.get("*")).status == 400

    run(test())


def test_a_client_of_old_is_not_told_to_continue() -> None:
    async def test() -> None:
        async with Pod(always(http(b"ok"))) as pod, relay(pod) as edge:
            reader, writer = await edge.connect()
            head = f"POST / HTTP/1.0\r\nHost: {RELAY}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
            writer.write(head.encode() + b"hello")
            reply = await read_reply(reader)
            assert (reply.status, reply.body) == (200, b"ok")
            assert pod.asked[0].body == b"hello"
            await hang_up(writer)

    run(test())


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked, chunked, x", "gzip", "x"])
def test_a_transfer_that_is_coded_as_nobody_asked_for_is_not_passed_as_plain(coding: str) -> None:
    async def test() -> None:
        body = b"5\r\nhello\r\n0\r\n\r\n" if coding.endswith("chunked") else b"hello"
        answer = f"HTTP/1.1 200 OK\r\n{FILM}\r\nTransfer-Encoding: {coding}\r\n\r\n".encode() + body
        async with Pod(always(answer)) as pod, relay(pod) as edge:
            assert (await edge.get()).status == 502
            assert edge.failed(HttpFailure.POD_BROKE) == 1

    run(test())
