"""Event subscriptions that go through the relay: who gets events, who does not, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket

import pytest

from fanout.ssdp.core.drop_reasons import HttpFailure
from fanout.ssdp.core.urls import HttpUrl, Origin
from fanout.ssdp.http import gena, server
from tests.support.event_loops import advance
from tests.support.ssdp_http import (
    CLIENT,
    OTHER_POD,
    POD,
    RELAY,
    Asked,
    Pod,
    Relay,
    Reply,
    always,
    hang_up,
    http,
    read_reply,
    relay,
    run,
)
from tests.support.waiting import until_async

XML = 'Content-Type: text/xml; charset="utf-8"'
SUBSCRIBED = http(b"", "SID: uuid:sub-1", "TIMEOUT: Second-300")


async def subscribe(edge: Relay, callback: str, *, timeout: str = "Second-1800", source: str = CLIENT) -> Reply:
    headers = (f"CALLBACK: {callback}", "NT: upnp:event", f"TIMEOUT: {timeout}")
    return await edge.get("/evt/ContentDir", *headers, method="SUBSCRIBE", source=source)


async def notify(edge: Relay, callback: str, body: bytes = b"<e/>", *headers: str, source: str = POD) -> Reply:
    """Tell an event as a pod does: to the URL that it was given, from its own address."""
    match = re.fullmatch(r"<http://([^:/]+):(\d+)(/.*)>", callback)
    assert match is not None
    reader, writer = await asyncio.open_connection(match[1], int(match[2]), local_addr=(source, 0))
    try:
        lines = [f"NOTIFY {match[3]} HTTP/1.1", f"HOST: {match[1]}:{match[2]}", XML, *headers]
        lines += [f"CONTENT-LENGTH: {len(body)}", "NT: upnp:event", "NTS: upnp:propchange", "SID: uuid:sub-1"]
        writer.write("\r\n".join([*lines, "SEQ: 0", "", ""]).encode() + body)
        return await read_reply(reader)
    finally:
        await hang_up(writer)


def given_to(pod: Pod) -> str:
    """Return the CALLBACK that a pod was given last."""
    callback: str = pod.asked[-1].headers["CALLBACK"]
    return callback


def test_an_event_reaches_its_subscriber() -> None:
    async def test() -> None:
        async with (
            Pod(always(SUBSCRIBED)) as pod,
            Pod(always(http()), CLIENT) as subscriber,
            relay(pod) as edge,
        ):
            reply = await subscribe(edge, f"<http://{CLIENT}:{subscriber.port}/events?x=1>")
            assert reply.status == 200
            assert reply.headers["SID"] == "uuid:sub-1"
            assert reply.headers["TIMEOUT"] == "Second-300"
            assert pod.asked[0].method == "SUBSCRIBE"
            assert pod.asked[0].path == "/evt/ContentDir"
            assert pod.asked[0].headers["NT"] == "upnp:event"
            assert pod.asked[0].headers["TIMEOUT"] == "Second-1800"
            assert CLIENT not in pod.asked[0].raw.decode()
            assert edge.counts.subscriptions == 1

            body = f"<x>http://{POD}:{pod.port}/art.jpg</x>".encode()
            answer = await notify(edge, given_to(pod), body, "X-Extra: 1")
            assert answer.status == 200
            [event] = subscriber.asked
            assert event.method == "NOTIFY"
            assert event.path == "/events?x=1"
            assert event.headers["Host"] == f"{CLIENT}:{subscriber.port}"
            for name, value in (("NT", "upnp:event"), ("NTS", "upnp:propchange"), ("SID", "uuid:sub-1"), ("SEQ", "0")):
                assert event.headers.getall(name) == [value]
            assert event.headers["X-Extra"] == "1"
            assert event.headers["Content-Type"] == 'text/xml; charset="utf-8"'
            assert event.body == f"<x>http://{RELAY}:{edge.port}/art.jpg</x>".encode()
            assert event.headers["Content-Length"] == str(len(event.body))
            assert edge.counts.events == 1
            assert not edge.counts.failures

    run(test())


def test_an_event_may_come_before_the_answer_to_the_subscription() -> None:
    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            assert (await notify(edge, asked.headers["CALLBACK"])).status == 200
            assert len(subscriber.asked) == 1
            return SUBSCRIBED

        async with Pod(serve) as pod, Pod(always(http()), CLIENT) as subscriber, relay(pod) as edge:
            assert (await subscribe(edge, f"<http://{CLIENT}:{subscriber.port}/>")).status == 200

    run(test())


def test_a_pod_may_connect_long_before_it_tells_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT", 1000.0)
    monkeypatch.setattr(server, "IDLE_TIMEOUT", 1000.0)

    async def test() -> None:
        async with Pod(always(SUBSCRIBED)) as pod, Pod(always(http()), CLIENT) as subscriber, relay(pod) as edge:
            await subscribe(edge, f"<http://{CLIENT}:{subscriber.port}/>")
            path = given_to(pod).removesuffix(">").partition(str(edge.port))[2]
            reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, local_addr=(POD, 0))
            client, its_writer = await edge.connect()
            await until_async(lambda: edge.counts.connections == 2)
            advance(2000)
            with contextlib.suppress(ConnectionError):
                assert await client.read() == b"", "a client has no such time"
            await hang_up(its_writer)
            writer.write(f"NOTIFY {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nSEQ: 0\r\n\r\n".encode())
            assert (await read_reply(reader)).status == 200
            await hang_up(writer)

    run(test())


def test_a_renewal_passes_unchanged_and_the_callback_stays() -> None:
    async def test() -> None:
        async with Pod(always(SUBSCRIBED)) as pod, Pod(always(http()), CLIENT) as subscriber, relay(pod) as edge:
            await subscribe(edge, f"<http://{CLIENT}:{subscriber.port}/>")
            callback = given_to(pod)
            reply = await edge.get("/evt", "SID: uuid:sub-1", "TIMEOUT: Second-600", method="SUBSCRIBE")
            assert reply.status == 200
            assert pod.asked[1].headers["SID"] == "uuid:sub-1"
            assert pod.asked[1].headers["TIMEOUT"] == "Second-600"
            assert "CALLBACK" not in pod.asked[1].headers
            assert edge.counts.subscriptions == 1
            assert (await notify(edge, callback)).status == 200

    run(test())


def test_an_ended_subscription_gets_nothing() -> None:
    async def test() -> None:
        async with Pod(always(SUBSCRIBED)) as pod, Pod(always(http()), CLIENT) as subscriber, relay(pod) as edge:
            await subscribe(edge, f"<http://{CLIENT}:{subscriber.port}/>")
            callback = given_to(pod)
            assert (await edge.get("/evt", "SID: uuid:sub-1", method="UNSUBSCRIBE")).status == 200
            assert pod.asked[1].method == "UNSUBSCRIBE"
            assert pod.asked[1].headers["SID"] == "uuid:sub-1"
            assert edge.counts.subscriptions == 0
            assert (await notify(edge, callback)).status == 412  # so that the pod forgets it
            assert not subscriber.asked
            assert (await edge.get("/evt", "SID: uuid:sub-1", method="UNSUBSCRIBE")).status == 412
            assert len(pod.asked) == 2

    run(test())


@pytest.mark.parametrize("method", ["SUBSCRIBE", "UNSUBSCRIBE"])
def test_nobody_has_a_say_in_the_subscription_of_another(method: str) -> None:
    async def test() -> None:
        async with Pod(always(SUBSCRIBED)) as pod, relay(pod) as edge:
            await subscribe(edge, f"<http://{CLIENT}:1/>")
            reply = await edge.get("/evt", "SID: uuid:sub-1", method=method, source="127.0.0.31")
            assert reply.status == 412
            assert len(pod.asked) == 1
            assert edge.counts.subscriptions == 1

    run(test())


def test_a_subscription_that_the_relay_does_not_know_is_to_be_made_anew() -> None:
    async def test() -> None:
        async with Pod(always(SUBSCRIBED)) as pod, relay(pod) as edge:
            assert (await edge.get("/evt", "SID: uuid:from-before", method="SUBSCRIBE")).status == 412
            assert not pod.asked

    run(test())


def test_a_subscription_that_the_pod_does_not_know_is_forgotten() -> None:
    async def test() -> None:
        answers = [SUBSCRIBED, http(status="503 Busy"), http(status="412 Precondition Failed")]

        async def serve(asked: Asked) -> bytes:
            return answers.pop(0)

        async with Pod(serve) as pod, relay(pod) as edge:
            await subscribe(edge, f"<http://{CLIENT}:1/>")
            for status, left in ((503, 1), (412, 0)):
                assert (await edge.get("/evt", "SID: uuid:sub-1", method="SUBSCRIBE")).status == status
                assert edge.counts.subscriptions == left

    run(test())


@pytest.mark.parametrize(
    "callback",
    [
        "",
        "<>",
        f"http://{CLIENT}:8000/",
        "<http://127.0.0.31:8000/>",
        "<http://192.0.2.1/>",
        f"<http://{POD}:22/>",
        f"<http://{RELAY}:80/>",
        "<http://evil.example/>",
        f"<https://{CLIENT}/>",
        f"<http://{CLIENT}@192.0.2.1/>",
        f"<http://{CLIENT}.evil.example/>",
        f"<http://192.0.2.1/http://{CLIENT}/>",
        f"<ftp://{CLIENT}/>",
        f"<http://192.0.2.1#@{CLIENT}/>",
        f"<http://192.0.2.1\\@{CLIENT}/>",
        "<http://[::ffff:7f00:1f]:80/>",
        "<" * 5000,
    ],
    ids=lambda callback: callback[:40],
)
def test_a_callback_that_is_not_the_subscribers_own_is_refused(callback: str) -> None:
    async def test() -> None:
        async with Pod(always(SUBSCRIBED)) as pod, relay(pod) as edge:
            reply = await subscribe(edge, callback)
            assert reply.status == 412
            assert not pod.asked
            assert edge.failed(HttpFailure.CALLBACK_REFUSED) == 1
            assert edge.counts.subscriptions == 0

    run(test())


def test_of_several_callbacks_the_own_ones_are_tried_in_their_order() -> None:
    async def test() -> None:
        with socket.socket() as closed:
            closed.bind((CLIENT, 0))
            async with (
                Pod(always(SUBSCRIBED)) as pod,
                Pod(always(http()), CLIENT) as first,
                Pod(always(http()), CLIENT) as second,
                Pod(always(http()), "127.0.0.31") as foreign,
                relay(pod) as edge,
            ):
                ports = (closed.getsockname()[1], first.port, second.port)
                own = "".join(f"<http://{CLIENT}:{port}/e>" for port in ports)
                await subscribe(edge, f"<http://127.0.0.31:{foreign.port}/>{own}")
                assert (await notify(edge, given_to(pod))).status == 200
                assert len(first.asked) == 1
                assert not second.asked
                assert not foreign.asked

    run(test())


def test_an_ipv4_callback_without_a_path_or_a_port_is_one() -> None:
    assert gena.callbacks("<http://10.0.0.1>, <HTTP://10.0.0.1:80?x> <http://10.0.0.1/a b#c>", "10.0.0.1") == [
        HttpUrl(Origin("10.0.0.1", 80), "/"),
        HttpUrl(Origin("10.0.0.1", 80), "/?x"),
        HttpUrl(Origin("10.0.0.1", 80), "/a%20b"),
    ]


def test_a_renewal_that_names_a_callback_is_no_request() -> None:
    async def test() -> None:
        async with Pod(always(SUBSCRIBED)) as pod, relay(pod) as edge:
            for header in (f"CALLBACK: <http://{CLIENT}:1/>", "NT: upnp:event"):
                assert (await edge.get("/evt", "SID: uuid:sub-1", header, method="SUBSCRIBE")).status == 400
            assert not pod.asked

    run(test())


def test_an_event_is_taken_from_the_pod_of_the_subscription_alone() -> None:
    async def test() -> None:
        async with Pod(always(SUBSCRIBED)) as pod, Pod(always(http()), CLIENT) as subscriber, relay(pod) as edge:
            await subscribe(edge, f"<http://{CLIENT}:{subscriber.port}/>")
            callback = given_to(pod)
            assert (await notify(edge, callback, source=OTHER_POD)).status == 412
            to_the_edge = re.sub(r"//[^:]+:", f"//{RELAY}:", callback)
            assert (await notify(edge, to_the_edge, source=CLIENT)).status == 405
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await notify(edge, callback, source="127.0.0.99")
            assert (await notify(edge, callback[:-2] + "x>")).status == 412
            assert (await notify(edge, callback.replace("fanout-event", "other"))).status == 412
            assert not subscriber.asked
            assert (await notify(edge, callback)).status == 200

    run(test())


@pytest.mark.parametrize(
    ("answer", "status", "left"),
    [(http(status="500 Oops"), 500, 1), (http(status="412 Precondition Failed"), 412, 0)],
)
def test_the_pod_hears_what_the_subscriber_says(answer: bytes, status: int, left: int) -> None:
    async def test() -> None:
        async with Pod(always(SUBSCRIBED)) as pod, Pod(always(answer), CLIENT) as subscriber, relay(pod) as edge:
            await subscribe(edge, f"<http://{CLIENT}:{subscriber.port}/>")
            assert (await notify(edge, given_to(pod))).status == status
            assert edge.failed(HttpFailure.EVENT_LOST) == 1
            assert edge.counts.events == 0
            assert edge.counts.subscriptions == left

    run(test())


@pytest.mark.parametrize("subscriber_does", ["is silent", "is gone", "speaks no HTTP"])
def test_an_event_that_is_not_taken_is_counted(subscriber_does: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gena, "EVENT_TIMEOUT", 1000.0)

    async def test() -> None:
        async def serve(asked: Asked) -> bytes:
            if subscriber_does == "is silent":
                await asked.reader.read()
            return b"garbage\r\n\r\n"

        async with Pod(always(SUBSCRIBED)) as pod, Pod(serve, CLIENT) as subscriber, relay(pod) as edge:
            port = 1 if subscriber_does == "is gone" else subscriber.port
            await subscribe(edge, f"<http://{CLIENT}:{port}/>")
            telling = asyncio.create_task(notify(edge, given_to(pod)))
            if subscriber_does == "is silent":
                await until_async(lambda: subscriber.asked)
                advance(1000)
            assert (await telling).status == 504
            assert edge.failed(HttpFailure.EVENT_LOST) == 1
            assert edge.counts.subscriptions == 1

    run(test())


def test_a_redirect_of_a_subscriber_is_not_followed() -> None:
    async def test() -> None:
        async with Pod(always(http()), "127.0.0.31") as victim:
            moved = http(b"", f"Location: http://127.0.0.31:{victim.port}/", status="307 Temporary Redirect")
            async with Pod(always(SUBSCRIBED)) as pod, Pod(always(moved), CLIENT) as subscriber, relay(pod) as edge:
                await subscribe(edge, f"<http://{CLIENT}:{subscriber.port}/>")
                assert (await notify(edge, given_to(pod))).status == 307
                assert not victim.asked

    run(test())


@pytest.mark.parametrize(
    "answer",
    [http(status="503 Busy"), http(), b"garbage\r\n\r\n", b""],
    ids=["refused", "without a SID", "no HTTP", "nothing"],
)
def test_a_subscription_that_the_pod_does_not_take_is_none(answer: bytes) -> None:
    async def test() -> None:
        async with Pod(always(answer)) as pod, relay(pod) as edge:
            reply = await subscribe(edge, f"<http://{CLIENT}:1/>")
            assert reply.status in (200, 502, 503)
            assert edge.counts.subscriptions == 0
            assert (await notify(edge, given_to(pod))).status == 412

    run(test())


def test_a_client_has_no_more_subscriptions_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gena, "SUBSCRIPTIONS_OF_ONE_MAX", 8)

    async def test() -> None:
        count = 0

        async def serve(asked: Asked) -> bytes:
            nonlocal count
            count += 1
            return http(b"", f"SID: uuid:{count}", "TIMEOUT: Second-300")

        async with Pod(serve) as pod, relay(pod) as edge:
            for _ in range(8):
                assert (await subscribe(edge, f"<http://{CLIENT}:1/>")).status == 200
            assert (await subscribe(edge, f"<http://{CLIENT}:1/>")).status == 503
            assert edge.failed(HttpFailure.TOO_MANY_SUBSCRIPTIONS) == 1
            assert (await subscribe(edge, "<http://127.0.0.31:1/>", source="127.0.0.31")).status == 200
            assert (await edge.get("/evt", "SID: uuid:7", method="UNSUBSCRIBE")).status == 200
            assert (await subscribe(edge, f"<http://{CLIENT}:1/>")).status == 200

    run(test())


def test_a_subscription_for_ever_is_to_be_renewed_within_a_day() -> None:
    async def test() -> None:
        async with Pod(always(http(b"", "SID: uuid:1", "TIMEOUT: Second-infinite"))) as pod, relay(pod) as edge:
            reply = await subscribe(edge, f"<http://{CLIENT}:1/>", timeout="infinite")
            assert reply.headers.getall("TIMEOUT") == ["Second-86400"]

    run(test())
