"""Pods that lie, break off and come again: each costs a line in the log, and the others nothing."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import socket
import threading
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import IncompleteRead

import pytest

from tests.dlna import ssdp, web
from tests.dlna.liar import OTHER_PORT, PORT, Handler, Liar, say, say_in_chunks, wait_for_request
from tests.dlna.media import MIB
from tests.dlna.servers import Minidlna, uuid
from tests.dlna.world import POD_NETWORK, Home, SsdpRelay, home
from tests.lan import wait_until

CINEMA = "Cinema"
LIAR, TWIN = f"uuid:{uuid(0xBAD)}", f"uuid:{uuid(0xBAD2)}"
FILM_SIZE = 24 * MIB
PODS = 7


@pytest.fixture(scope="module")
def module_home() -> Iterator[Home]:
    """A minidlnad that is honest, and pods for others."""
    with home(PODS) as made:
        films = made.library("films")
        films.add("film.mp4", tail=FILM_SIZE)
        made.minidlna(made.world.pods[0], CINEMA, films)
        yield made


@pytest.fixture(scope="module")
def film_path(module_home: Home) -> str:
    """What follows the origin in the URL of the film of the one that is honest."""
    server = module_home.servers[CINEMA]
    found = module_home.control_point("play", server.location, host=module_home.edge)
    url: str
    (url,) = {each["url"] for each in found["resources"] if each["sha256"] in server.library.digests}
    return urllib.parse.urlsplit(url).path


@pytest.fixture
def here(module_home: Home, film_path: str) -> Iterator[Home]:
    yield module_home
    module_home.edge.end_all()
    for host in (*module_home.world.sources, *module_home.world.pods):
        host.close_sockets()


@pytest.fixture
def lie(here: Home) -> Iterator[Callable[..., Liar]]:
    """Start a liar in one of the pods; it ends with the test."""
    with ExitStack() as stack:
        yield lambda number, *arguments, **named: stack.enter_context(
            Liar(here.world.pods[number], *arguments, **named)
        )


@pytest.fixture
def assert_rest_goes_on(here: Home, film_path: str) -> Callable[[SsdpRelay], None]:
    """Assert that the one that is honest is found and played, and that the relay lives."""
    server = here.servers[CINEMA]
    (film,) = server.library

    def is_so(relay: SsdpRelay) -> None:
        location = location_of(here, server.udn)
        description = web.fetch(here.source, location)
        assert server.udn in description.text
        assert POD_NETWORK not in description.text
        played = web.fetch(here.source, location.removesuffix("/rootDesc.xml") + film_path)
        assert hashlib.sha256(played.body).hexdigest() == film.sha256
        assert relay.run.process.poll() is None
        assert "Traceback" not in relay.run.out + relay.run.err

    return is_so


def start(here: Home, *udns: str) -> SsdpRelay:
    """Start a relay, and wait until these are found, and the one that is honest."""
    relay = here.relay()
    wanted = {*udns, *here.udns}
    wait_until(lambda: wanted <= set(ssdp.find(here.source, udns=wanted, seconds=1)), f"{wanted} are found")
    return relay


def location_of(here: Home, udn: str) -> str:
    return ssdp.find(here.source, udns=[udn])[udn].location


def port_of(url: str) -> int:
    port = urllib.parse.urlsplit(url).port
    assert port
    return port


def test_locations_that_are_not_the_pods_are_passed_on_and_counted(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    locations = {
        f"uuid:{uuid(0xA0 + number)}": location
        for number, location in enumerate(
            (
                "http://media.local:8895/description.xml",
                "http://[fd60::12]:8895/description.xml",
                "http://10.50.0.99:8895/description.xml",
                "https://10.60.0.12:8895/description.xml",
                f"http://{here.edge.pod_ip}:8080/metrics",
                "http://127.0.0.1:8080/metrics",
            )
        )
    }
    for number, (udn, location) in enumerate(locations.items(), 1):
        lie(number, udn, location=location)
    relay = start(here, *locations)
    found = ssdp.find(here.source, udns=locations)
    assert {udn: found[udn].location for udn in locations} == locations
    assert relay.count("fanout_ssdp_foreign_locations_total") >= len(locations)
    said = relay.wait_for("location_foreign", len(locations))
    assert {each["udn"]: each["location"] for each in said} == locations
    assert_rest_goes_on(relay)


def test_locations_that_are_none(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    nonsense = (
        " ",
        "/description.xml",
        "http://",
        "http://10.60.0.12:99999/",
        "ftp://10.60.0.12/",
        "http://10.60.0.12:0/",
    )
    liars = [lie(number, f"uuid:{uuid(0xA0 + number)}", location=text) for number, text in enumerate(nonsense, 1)]
    relay = start(here)
    wait_until(lambda: all(liar.searches for liar in liars), "all are asked")
    assert_rest_goes_on(relay)


def test_urls_of_another_port_of_the_pod_get_a_port_of_their_own(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    liar = lie(1, LIAR, ports=(PORT, OTHER_PORT))
    pod = liar.pod
    liar.pages["/description.xml"] = liar.description(f"http://{pod.pod_ip}:{OTHER_PORT}")
    liar.pages["/scpd.xml"] = b"<scpd/>"
    relay = start(here, LIAR)
    location = location_of(here, LIAR)
    described = web.fetch(here.source, location)
    assert described.status == 200
    assert POD_NETWORK not in described.text
    url = described.text.partition("<SCPDURL>")[2].partition("</SCPDURL>")[0]
    assert urllib.parse.urlsplit(url).hostname == here.edge.lan
    assert port_of(url) != port_of(location)
    assert web.fetch(here.source, url).text == "<scpd/>"
    assert_rest_goes_on(relay)


def test_redirects_are_passed_on_and_followed_by_the_client(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    def redirect(to: str) -> Callable[[Handler], None]:
        return lambda handler: say(handler, b"", {"Location": to}, status=302)

    liar = lie(1, LIAR)
    liar.pages |= {
        "/away": redirect("http://10.99.0.1:80/elsewhere"),
        "/here": redirect(f"{liar.origin}/description.xml?again"),
        "/relative": redirect("/description.xml"),
        "/loop": redirect("/loop"),
    }
    relay = start(here, LIAR)
    origin = location_of(here, LIAR).removesuffix("/description.xml")
    for path, expected in {
        "/away": "http://10.99.0.1:80/elsewhere",
        "/here": f"{origin}/description.xml?again",
        "/relative": "/description.xml",
        "/loop": "/loop",
    }.items():
        page = web.fetch(here.source, origin + path)
        assert (page.status, page.headers["Location"]) == (302, expected)
    assert liar.requests.count("GET /loop") == 1
    assert_rest_goes_on(relay)


def test_a_description_that_is_a_redirect_elsewhere_is_not_followed(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    """The relay itself reads descriptions: a pod must not send it to others."""
    asked = lie(2, TWIN, pages={"/secret": b"<secret/>"})
    liar = lie(1, LIAR, ports=(8200,))
    liar.location = f"{liar.origin}/rootDesc.xml"
    liar.pages["/rootDesc.xml"] = lambda handler: say(handler, b"", {"Location": f"{asked.origin}/secret"}, status=302)
    relay = start(here, LIAR)
    wait_for_request(liar, "GET /rootDesc.xml")
    assert_rest_goes_on(relay)
    assert "GET /secret" not in asked.requests


def test_descriptions_in_other_wrappings_are_rewritten(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    liar = lie(1, LIAR, name="Wörld " * 200)
    plain = liar.description()

    def in_chunks(body: bytes, headers: dict[str, str] | None = None) -> Callable[[Handler], None]:
        cut = [body[at : at + 100] for at in range(0, len(body), 100)]
        return lambda handler: say_in_chunks(handler, iter(cut), headers)

    def packed(body: bytes, how: str) -> Callable[[Handler], None]:
        return lambda handler: say(handler, body, {"Content-Encoding": how})

    wrapped = {
        "/chunked": in_chunks(plain),
        "/gzip": packed(gzip.compress(plain), "gzip"),
        "/deflate": packed(zlib.compress(plain), "deflate"),
        "/gzip-in-chunks": in_chunks(gzip.compress(plain), {"Content-Encoding": "gzip"}),
    }
    liar.pages |= wrapped
    relay = start(here, LIAR)
    origin = location_of(here, LIAR).removesuffix("/description.xml")
    for path in wrapped:
        page = web.fetch(here.source, origin + path)
        assert page.status == 200
        assert "Content-Encoding" not in page.headers
        assert int(page.headers["Content-Length"]) == len(page.body)
        assert page.text == plain.decode().replace(liar.origin, origin)
    assert_rest_goes_on(relay)


def test_descriptions_that_are_no_xml(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    """The relay says so, and passes them on: what they are is for the client to say."""
    bodies = (b"", b"<", b"this is not XML", b"<root>" * 100_000, b"\xff\xfe<\x00", bytes(range(256)) * 64)
    liars = [
        lie(number, f"uuid:{uuid(0xA0 + number)}", ports=(8200,), pages={"/rootDesc.xml": body})
        for number, body in enumerate(bodies, 1)
    ]
    relay = start(here, *(liar.udn for liar in liars))
    said = relay.wait_for("description_unreadable", len(bodies))
    assert {each["url"] for each in said} == {f"{liar.origin}/rootDesc.xml" for liar in liars}
    for liar, body in zip(liars, bodies, strict=True):
        page = web.fetch(here.source, location_of(here, liar.udn).replace("description", "rootDesc"))
        assert (page.status, page.body) == (200, body)
    assert_rest_goes_on(relay)


def test_entities_of_a_description_are_not_expanded(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    liar = lie(1, LIAR, ports=(8200,))
    bomb = (
        b'<!DOCTYPE root [<!ENTITY a "0123456789"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>'
    )
    liar.pages["/rootDesc.xml"] = bomb + b"<root><device><UDN>&b;&c;</UDN></device></root>"
    relay = start(here, LIAR)
    relay.wait_for("description_unreadable")
    assert_rest_goes_on(relay)


def test_a_description_without_end(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    liar = lie(1, LIAR, ports=(8200,))
    chunk = b"<!-- endless -->" * 4096
    broken = threading.Event()

    def endless(handler: Handler) -> None:
        try:
            say_in_chunks(handler, itertools.chain([b"<root>"], itertools.repeat(chunk)))
        except OSError:
            broken.set()

    liar.pages |= {"/rootDesc.xml": endless, "/description.xml": endless}
    relay = start(here, LIAR)
    relay.wait_for("description_unreadable", 2)
    before = relay.resident
    page = web.fetch(here.source, location_of(here, LIAR))
    assert page.status == 502
    assert relay.http_failures()["document_too_large"] == 1
    assert broken.wait(5), "the pod's connection is ended"
    assert relay.resident - before < 96 * MIB
    assert any(each["reason"] == "document_too_large" for each in relay.wait_for("http_failed"))
    assert_rest_goes_on(relay)


def test_a_description_that_is_a_bomb(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    """256 MiB in 256 KiB."""
    liar = lie(1, LIAR)
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(256)) + packer.flush()
    liar.pages["/description.xml"] = lambda handler: say(handler, bomb, {"Content-Encoding": "gzip"})
    relay = start(here, LIAR)
    before = relay.resident
    assert web.fetch(here.source, location_of(here, LIAR)).status == 502
    assert relay.resident - before < 96 * MIB
    assert_rest_goes_on(relay)


def test_two_pods_with_one_udn(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    first, second = here.world.pods[1:3]
    here.serve_names(here.world.pods[0], first)
    try:
        ear = ssdp.Ear(here.source)
        lie(1, LIAR, name="First")
        lie(2, LIAR, name="Second")
        relay = start(here, LIAR)
        location = location_of(here, LIAR)
        here.rename(here.world.pods[0], first, second)
        (said,) = relay.wait_for("udn_taken")
        assert (said["udn"], said["host"]) == (LIAR, second.pod_ip)
        assert ssdp.find(here.source, LIAR)[LIAR].location == location
        assert "First" in web.fetch(here.source, location).text
        assert relay.drops()["udn_taken"] >= 1
        assert_rest_goes_on(relay)

        # The first leaves, and the second takes its place.
        here.rename(here.world.pods[0], second)
        wait_until(lambda: "Second" in web.fetch(here.source, location).text, "the second has taken over")
        assert location_of(here, LIAR) == location
        ear.drain()
        of_it = [each.nts for each in ear.heard if each.udn == LIAR and each.headers["nt"] == ssdp.ROOT_DEVICE]
        assert of_it[-1] == "ssdp:alive"
        assert_rest_goes_on(relay)
    finally:
        assert here.knot is not None
        here.knot.close()
        here.knot = None


def test_a_client_that_vanishes_in_the_middle_of_a_film(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
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

    liar = lie(1, LIAR, pages={"/film.mp4": film})
    relay = start(here, LIAR)
    url = location_of(here, LIAR).replace("description.xml", "film.mp4")
    files = relay.open_files
    for _ in range(3):
        broken.clear()
        with web.opened(here.source, url) as (client, response):
            assert len(response.read(3 * MIB)) == 3 * MIB
            assert relay.count("fanout_ssdp_http_connections") >= 1
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
            response.close()
        assert broken.wait(5), "the pod needs not go on"
    wait_until(lambda: relay.count("fanout_ssdp_http_connections") == 0, "no connection is left")
    wait_until(lambda: relay.open_files <= files, "no file is left open")
    assert relay.http_failures()["client_gone"] == 3
    assert liar.requests.count("GET /film.mp4") == 3
    assert_rest_goes_on(relay)


def test_a_client_that_reads_no_more_holds_up_nobody(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
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

    lie(1, LIAR, pages={"/film.mp4": film})
    relay = start(here, LIAR)
    before = relay.resident
    with web.opened(here.source, location_of(here, LIAR).replace("description.xml", "film.mp4")) as (_, response):
        response.read(1)
        assert_rest_goes_on(relay)
        assert sum(sent) < 64 * MIB
        assert relay.resident - before < 48 * MIB


def test_a_pod_that_does_not_answer(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    """Who asks it waits, nobody else does; and who waits no more leaves nothing behind."""
    answer = threading.Event()

    def late(handler: Handler) -> None:
        answer.wait(30)
        say(handler, b"at last")

    liar = lie(1, LIAR, pages={"/slow": late})
    relay = start(here, LIAR)
    slow = location_of(here, LIAR).replace("description.xml", "slow")
    asking = [web.connect(here.source, slow) for _ in range(10)]
    for each in asking:
        each.request("GET", "/slow")
    wait_until(lambda: liar.requests.count("GET /slow") == 10, "all are asked for")
    assert_rest_goes_on(relay)
    for each in asking[1:]:
        each.close()
    wait_until(lambda: relay.count("fanout_ssdp_http_connections") == 1, "one is left")
    answer.set()
    assert asking[0].getresponse().read() == b"at last"
    asking[0].close()


def test_a_pod_that_breaks_off_in_a_body_breaks_off_at_the_client(
    here: Home, lie: Callable[..., Liar], assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
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
    lie(1, LIAR, pages={**pages, **others})
    relay = start(here, LIAR)
    origin = location_of(here, LIAR).removesuffix("/description.xml")
    for path in ("/film", "/film-large", "/chunks"):
        with web.opened(here.source, origin + path) as (_, response):
            assert response.status == 200
            with pytest.raises((IncompleteRead, ConnectionResetError)):
                response.read()
    for path in ("/document", "/garbage", "/silence"):
        assert web.fetch(here.source, origin + path).status == 502
    assert relay.http_failures()["pod_broke"] == 6
    assert_rest_goes_on(relay)


def test_a_pod_that_restarts_while_its_film_is_watched(
    here: Home, film_path: str, assert_rest_goes_on: Callable[[SsdpRelay], None]
) -> None:
    """The player's connection ends, and the same URL has the rest."""
    relay = start(here)
    server = here.servers[CINEMA]
    assert isinstance(server, Minidlna)
    (film,) = server.library
    url = location_of(here, server.udn).removesuffix("/rootDesc.xml") + film_path
    got = bytearray()
    with web.opened(here.source, url) as (client, response):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        got += response.read(2 * MIB)
        server.end()
        with suppress(ConnectionResetError):
            while more := response.read1(65_536):
                got += more
    assert len(got) < len(film.bytes), "it was broken off"
    assert web.fetch(here.source, url).status in (502, 503)
    server.start()
    rest = web.fetch(here.source, url, headers={"Range": f"bytes={len(got)}-"})
    assert rest.status == 206
    assert hashlib.sha256(bytes(got) + rest.body).hexdigest() == film.sha256
    assert location_of(here, server.udn).partition("/rootDesc")[0] in url
    assert_rest_goes_on(relay)
