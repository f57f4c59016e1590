"""Pods and clients that vanish, stall and come again while something is played: the others notice nothing."""

from __future__ import annotations

import hashlib
import socket
import threading
from contextlib import suppress
from http.client import IncompleteRead

import pytest

from tests.support.waiting import PATIENCE, until
from tests.system.ssdp import web
from tests.system.ssdp.media import MIB
from tests.system.ssdp.scripted_device import Handler, say
from tests.system.ssdp.segment import UDN, Segment
from tests.system.ssdp.site import since


def test_a_client_that_vanishes_in_the_middle_of_a_film(segment: Segment) -> None:
    broken = threading.Event()

    def film(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp4")
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(MIB))
        except OSError:
            broken.set()

    device = segment.add_device(1, UDN, pages={"/film.mp4": film})
    relay = segment.relay(UDN)
    url = segment.location_of(UDN).replace("description.xml", "film.mp4")
    until(lambda: relay.count("fanout_ssdp_sessions") == 0, "no search is under way")
    files, failures = relay.open_files, relay.http_failures()
    for _ in range(3):
        broken.clear()
        with web.opened(segment.site.source, url) as (client, response):
            assert len(response.read(3 * MIB)) == 3 * MIB
            assert relay.count("fanout_ssdp_http_connections") >= 1
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
            response.close()
        until(broken.is_set, "the pod needs not go on")
    until(lambda: relay.count("fanout_ssdp_http_connections") == 0, "no connection is left")
    until(lambda: relay.open_files <= files, "no file is left open")
    assert since(failures, relay.http_failures()) == {"client_gone": 3}
    assert device.requests.count("GET /film.mp4") == 3
    segment.assert_others_work(relay)


def test_a_client_that_reads_no_more_holds_up_nobody(segment: Segment) -> None:
    """What it has asked for waits in the pod, not in the relay."""
    sent = []

    def film(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp4")
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(MIB))
            sent.append(MIB)

    segment.add_device(1, UDN, pages={"/film.mp4": film})
    relay = segment.relay(UDN)
    before = relay.resident
    with web.opened(segment.site.source, segment.location_of(UDN).replace("description.xml", "film.mp4")) as (
        _,
        response,
    ):
        response.read(1)
        segment.assert_others_work(relay)
        assert sum(sent) < 64 * MIB
        assert relay.resident - before < 48 * MIB


def test_a_pod_that_does_not_answer(segment: Segment) -> None:
    """Who asks it waits, nobody else does; and who waits no more leaves nothing behind."""
    answer = threading.Event()

    def late(handler: Handler) -> None:
        answer.wait(PATIENCE)
        say(handler, b"at last")

    device = segment.add_device(1, UDN, pages={"/slow": late})
    relay = segment.relay(UDN)
    slow = segment.location_of(UDN).replace("description.xml", "slow")
    asking = [web.connect(segment.site.source, slow) for _ in range(10)]
    for each in asking:
        each.request("GET", "/slow")
    until(lambda: device.requests.count("GET /slow") == 10, "all are asked for")
    segment.assert_others_work(relay)
    for each in asking[1:]:
        each.close()
    until(lambda: relay.count("fanout_ssdp_http_connections") == 1, "one is left")
    answer.set()
    assert asking[0].getresponse().read() == b"at last"
    asking[0].close()


def test_a_pod_that_breaks_off_in_a_body_breaks_off_at_the_client(segment: Segment) -> None:
    """Never a short body that looks like a whole one."""

    def half(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp4" if handler.path.startswith("/film") else "text/xml")
        handler.send_header("Content-Length", str(2 * MIB if "large" in handler.path else 1000))
        handler.end_headers()
        handler.wfile.write(bytes(MIB if "large" in handler.path else 500))
        handler.close_connection = True

    def chunks(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp4")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"1f4\r\n" + bytes(500) + b"\r\n")
        handler.close_connection = True

    def garbage(handler: Handler) -> None:
        handler.wfile.write(b"\0\1\2 this is no HTTP\r\n\r\n")
        handler.close_connection = True

    def silence(handler: Handler) -> None:
        handler.close_connection = True

    pages = {"/film": half, "/film-large": half, "/document": half}
    others = {"/chunks": chunks, "/garbage": garbage, "/silence": silence}
    segment.add_device(1, UDN, pages={**pages, **others})
    relay = segment.relay(UDN)
    failures = relay.http_failures()
    origin = segment.location_of(UDN).removesuffix("/description.xml")
    for path in ("/film", "/film-large", "/chunks"):
        with web.opened(segment.site.source, origin + path) as (_, response):
            assert response.status == 200
            with pytest.raises((IncompleteRead, ConnectionResetError)):
                response.read()
    for path in ("/document", "/garbage", "/silence"):
        assert web.fetch(segment.site.source, origin + path).status == 502
    assert since(failures, relay.http_failures()) == {"pod_broke": 6}
    segment.assert_others_work(relay)


def test_a_pod_that_restarts_while_its_film_is_watched(segment: Segment) -> None:
    """The player's connection ends, and the same URL has the rest."""
    relay = segment.relay()
    server = segment.working
    url = segment.location_of(server.udn).removesuffix("/rootDesc.xml") + segment.film_path
    got = bytearray()
    with web.opened(segment.site.source, url) as (client, response):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        got += response.read(2 * MIB)
        server.end()
        with suppress(ConnectionResetError):
            while more := response.read1(65_536):
                got += more
    assert len(got) < len(segment.film.bytes), "it was broken off"
    assert web.fetch(segment.site.source, url).status in (502, 503)
    server.start()
    rest = web.fetch(segment.site.source, url, headers={"Range": f"bytes={len(got)}-"})
    assert rest.status == 206
    assert hashlib.sha256(bytes(got) + rest.body).hexdigest() == segment.film.sha256
    assert segment.location_of(server.udn).partition("/rootDesc")[0] in url
    segment.assert_others_work(relay)
