"""Pods that lie: each lie costs a line in the log, and the other pods nothing."""

from __future__ import annotations

import gzip
import itertools
import threading
import urllib.parse
import zlib
from collections.abc import Callable

from tests.support.waiting import until
from tests.system.dlna import ssdp, web
from tests.system.dlna.liar import OTHER_PORT, PORT, Handler, Liar, say, say_in_chunks, wait_for_request
from tests.system.dlna.media import MIB
from tests.system.dlna.servers import uuid
from tests.system.dlna.street import LIAR, TWIN, Street
from tests.system.dlna.world import POD_NETWORK


def port_of(url: str) -> int:
    port = urllib.parse.urlsplit(url).port
    assert port
    return port


def test_locations_that_are_not_the_pods_are_passed_on_and_counted(street: Street) -> None:
    locations = {
        f"uuid:{uuid(0xA0 + number)}": location
        for number, location in enumerate(
            (
                "http://media.local:8895/description.xml",
                "http://[fd60::12]:8895/description.xml",
                "http://10.50.0.99:8895/description.xml",
                "https://10.60.0.12:8895/description.xml",
                f"http://{street.home.edge.pod_ip}:8080/metrics",
                "http://127.0.0.1:8080/metrics",
            )
        )
    }
    for number, (udn, location) in enumerate(locations.items(), 1):
        street.lie(number, udn, location=location)
    relay = street.start(*locations)
    found = ssdp.find(street.home.source, udns=locations)
    assert {udn: found[udn].location for udn in locations} == locations
    assert relay.count("fanout_ssdp_foreign_locations_total") >= len(locations)
    said = relay.wait_for("location_foreign", len(locations))
    assert {each["udn"]: each["location"] for each in said} == locations
    street.assert_rest_goes_on(relay)


def test_locations_that_are_none(street: Street) -> None:
    nonsense = (
        " ",
        "/description.xml",
        "http://",
        "http://10.60.0.12:99999/",
        "ftp://10.60.0.12/",
        "http://10.60.0.12:0/",
    )
    liars = [
        street.lie(number, f"uuid:{uuid(0xA0 + number)}", location=text) for number, text in enumerate(nonsense, 1)
    ]
    relay = street.start()
    until(lambda: all(liar.searches for liar in liars), "all are asked")
    street.assert_rest_goes_on(relay)


def test_urls_of_another_port_of_the_pod_get_a_port_of_their_own(street: Street) -> None:
    liar = street.lie(1, LIAR, ports=(PORT, OTHER_PORT))
    pod = liar.pod
    liar.pages["/description.xml"] = liar.description(f"http://{pod.pod_ip}:{OTHER_PORT}")
    liar.pages["/scpd.xml"] = b"<scpd/>"
    relay = street.start(LIAR)
    location = street.location_of(LIAR)
    described = web.fetch(street.home.source, location)
    assert described.status == 200
    assert POD_NETWORK not in described.text
    url = described.text.partition("<SCPDURL>")[2].partition("</SCPDURL>")[0]
    assert urllib.parse.urlsplit(url).hostname == street.home.edge.lan
    assert port_of(url) != port_of(location)
    assert web.fetch(street.home.source, url).text == "<scpd/>"
    street.assert_rest_goes_on(relay)


def test_redirects_are_passed_on_and_followed_by_the_client(street: Street) -> None:
    def redirect(to: str) -> Callable[[Handler], None]:
        return lambda handler: say(handler, b"", {"Location": to}, status=302)

    liar = street.lie(1, LIAR)
    liar.pages |= {
        "/away": redirect("http://10.99.0.1:80/elsewhere"),
        "/here": redirect(f"{liar.origin}/description.xml?again"),
        "/relative": redirect("/description.xml"),
        "/loop": redirect("/loop"),
    }
    relay = street.start(LIAR)
    origin = street.location_of(LIAR).removesuffix("/description.xml")
    for path, expected in {
        "/away": "http://10.99.0.1:80/elsewhere",
        "/here": f"{origin}/description.xml?again",
        "/relative": "/description.xml",
        "/loop": "/loop",
    }.items():
        page = web.fetch(street.home.source, origin + path)
        assert (page.status, page.headers["Location"]) == (302, expected)
    assert liar.requests.count("GET /loop") == 1
    street.assert_rest_goes_on(relay)


def test_a_description_that_is_a_redirect_elsewhere_is_not_followed(street: Street) -> None:
    """The relay itself reads descriptions: a pod must not send it to others."""
    asked = street.lie(2, TWIN, pages={"/secret": b"<secret/>"})
    liar = street.lie(1, LIAR, ports=(8200,))
    liar.location = f"{liar.origin}/rootDesc.xml"
    liar.pages["/rootDesc.xml"] = lambda handler: say(handler, b"", {"Location": f"{asked.origin}/secret"}, status=302)
    relay = street.start(LIAR)
    wait_for_request(liar, "GET /rootDesc.xml")
    street.assert_rest_goes_on(relay)
    assert "GET /secret" not in asked.requests


def test_descriptions_in_other_wrappings_are_rewritten(street: Street) -> None:
    liar = street.lie(1, LIAR, name="Wörld " * 200)
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
    relay = street.start(LIAR)
    origin = street.location_of(LIAR).removesuffix("/description.xml")
    for path in wrapped:
        page = web.fetch(street.home.source, origin + path)
        assert page.status == 200
        assert "Content-Encoding" not in page.headers
        assert int(page.headers["Content-Length"]) == len(page.body)
        assert page.text == plain.decode().replace(liar.origin, origin)
    street.assert_rest_goes_on(relay)


def test_descriptions_that_are_no_xml(street: Street) -> None:
    """The relay says so, and passes them on: what they are is for the client to say."""
    bodies = (b"", b"<", b"this is not XML", b"<root>" * 100_000, b"\xff\xfe<\x00", bytes(range(256)) * 64)
    liars = [
        street.lie(number, f"uuid:{uuid(0xA0 + number)}", ports=(8200,), pages={"/rootDesc.xml": body})
        for number, body in enumerate(bodies, 1)
    ]
    relay = street.start(*(liar.udn for liar in liars))
    said = relay.wait_for("description_unreadable", len(bodies))
    assert {each["url"] for each in said} == {f"{liar.origin}/rootDesc.xml" for liar in liars}
    for liar, body in zip(liars, bodies, strict=True):
        page = web.fetch(street.home.source, street.location_of(liar.udn).replace("description", "rootDesc"))
        assert (page.status, page.body) == (200, body)
    street.assert_rest_goes_on(relay)


def test_entities_of_a_description_are_not_expanded(street: Street) -> None:
    liar = street.lie(1, LIAR, ports=(8200,))
    bomb = (
        b'<!DOCTYPE root [<!ENTITY a "0123456789"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>'
    )
    liar.pages["/rootDesc.xml"] = bomb + b"<root><device><UDN>&b;&c;</UDN></device></root>"
    relay = street.start(LIAR)
    relay.wait_for("description_unreadable")
    street.assert_rest_goes_on(relay)


def test_a_description_without_end(street: Street) -> None:
    liar = street.lie(1, LIAR, ports=(8200,))
    chunk = b"<!-- endless -->" * 4096
    broken = threading.Event()

    def endless(handler: Handler) -> None:
        try:
            say_in_chunks(handler, itertools.chain([b"<root>"], itertools.repeat(chunk)))
        except OSError:
            broken.set()

    liar.pages |= {"/rootDesc.xml": endless, "/description.xml": endless}
    relay = street.start(LIAR)
    relay.wait_for("description_unreadable", 2)
    before = relay.resident
    page = web.fetch(street.home.source, street.location_of(LIAR))
    assert page.status == 502
    assert relay.http_failures()["document_too_large"] == 1
    assert broken.wait(5), "the pod's connection is ended"
    assert relay.resident - before < 96 * MIB
    assert any(each["reason"] == "document_too_large" for each in relay.wait_for("http_failed"))
    street.assert_rest_goes_on(relay)


def test_a_description_that_is_a_bomb(street: Street) -> None:
    """256 MiB in 256 KiB."""
    liar = street.lie(1, LIAR)
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(256)) + packer.flush()
    liar.pages["/description.xml"] = lambda handler: say(handler, bomb, {"Content-Encoding": "gzip"})
    relay = street.start(LIAR)
    before = relay.resident
    assert web.fetch(street.home.source, street.location_of(LIAR)).status == 502
    assert relay.resident - before < 96 * MIB
    street.assert_rest_goes_on(relay)


class Stammerer(Liar):
    """Answers everything that it is asked a hundred times, as what comes after version 1."""

    def targets(self) -> tuple[str, ...]:
        return super().targets() * 100

    def answer(self, target: str) -> bytes:
        return super().answer(target.replace("MediaServer:1", "MediaServer:2"))


def test_a_client_is_told_once_and_of_the_version_that_it_searched_for(street: Street) -> None:
    """UDA 1.1, 1.3.2; 100 bytes that any address may have sent do not bring it a hundred answers."""
    with Stammerer(street.home.world.pods[1], LIAR) as stammerer:
        relay = street.start(LIAR)
        asking = ssdp.client(street.home.source)
        for target in (ssdp.ROOT_DEVICE, ssdp.MEDIA_SERVER):
            asking.sendto(ssdp.search(target, 1), ssdp.EVERYBODY)
            heard = [each for each in ssdp.answers(asking, seconds=2.5) if each.udn == LIAR]
            assert [(each.headers["st"], each.usn) for each in heard] == [(target, f"{LIAR}::{target}")]
        assert stammerer.searches >= 2
        street.assert_rest_goes_on(relay)


def test_two_pods_with_one_udn(street: Street) -> None:
    first, second = street.home.world.pods[1:3]
    street.home.serve_names(street.home.world.pods[0], first)
    try:
        ear = ssdp.Ear(street.home.source)
        street.lie(1, LIAR, name="First")
        street.lie(2, LIAR, name="Second")
        relay = street.start(LIAR)
        location = street.location_of(LIAR)
        street.home.rename(street.home.world.pods[0], first, second)
        (said,) = relay.wait_for("udn_taken")
        assert (said["udn"], said["host"]) == (LIAR, second.pod_ip)
        assert ssdp.find(street.home.source, LIAR)[LIAR].location == location
        assert "First" in web.fetch(street.home.source, location).text
        assert relay.drops()["udn_taken"] >= 1
        street.assert_rest_goes_on(relay)

        # The first leaves, and the second takes its place.
        street.home.rename(street.home.world.pods[0], second)
        until(lambda: "Second" in web.fetch(street.home.source, location).text, "the second has taken over")
        assert street.location_of(LIAR) == location
        ear.drain()
        of_it = [each.nts for each in ear.heard if each.udn == LIAR and each.headers["nt"] == ssdp.ROOT_DEVICE]
        assert of_it[-1] == "ssdp:alive"
        street.assert_rest_goes_on(relay)
    finally:
        assert street.home.knot is not None
        street.home.knot.close()
        street.home.knot = None
