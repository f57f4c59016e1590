"""Pods that misbehave: each fault costs a line in the log, and the other pods nothing."""

from __future__ import annotations

import gzip
import itertools
import threading
import urllib.parse
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.waiting import until
from tests.system.ssdp import ssdp, web
from tests.system.ssdp.media import MIB
from tests.system.ssdp.scripted_device import (
    OTHER_PORT,
    PORT,
    Handler,
    ScriptedDevice,
    say,
    say_in_chunks,
    wait_for_request,
)
from tests.system.ssdp.segment import OTHER_UDN, UDN, Segment
from tests.system.ssdp.servers import uuid
from tests.system.ssdp.site import POD_NETWORK, SsdpRelay, since

NO_XML = (b"", b"<", b"this is not XML", b"<root>" * 100_000, b"\xff\xfe<\x00", bytes(range(256)) * 64)
ENTITIES = b"""<!DOCTYPE root [<!ENTITY a "0123456789"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>
<root><device><UDN>&b;&c;</UDN></device></root>"""


@dataclass
class Unreadable:
    """What a relay made of a pod whose descriptions are none."""

    said: set[str]
    """The paths of those that its log has a line of."""
    pages: dict[str, web.Page]
    """What a client got, by path."""
    secrets: list[str]
    """What another pod was asked, to which one of the descriptions leads."""
    failures: dict[str, int]
    events: list[dict[str, Any]]
    grown: int
    """Bytes of memory that it took to carry one that has no end."""


@pytest.fixture(scope="module")
def unreadable(package_segment: Segment) -> Unreadable:
    """One pod has all of them: the relay reads descriptions when it first sees a pod."""
    segment = package_segment
    broken = threading.Event()

    def endless(handler: Handler) -> None:
        try:
            say_in_chunks(handler, itertools.chain([b"<root>"], itertools.repeat(b"<!-- endless -->" * 4096)))
        except OSError:
            broken.set()

    try:
        other = segment.add_device(2, OTHER_UDN, pages={"/secret": b"<secret/>"})
        device = segment.add_device(1, UDN, ports=(8200,))
        bodies = {f"/{number}": body for number, body in enumerate(NO_XML)}
        device.pages |= {
            **bodies,
            "/rootDesc.xml": lambda handler: say(handler, b"", {"Location": f"{other.origin}/secret"}, status=302),
            "/entities": ENTITIES,
            "/endless": endless,
        }
        bad = [*bodies, "/entities", "/endless"]
        relay = segment.start(UDN, arguments=tuple(f"--description=8200{path}" for path in ("/rootDesc.xml", *bad)))
        said = relay.wait_for("description_unreadable", len(bad))
        wait_for_request(device, "GET /rootDesc.xml")
        until(broken.is_set, "the relay reads no more of what has no end")
        broken.clear()
        before = relay.resident
        origin = segment.location_of(UDN).removesuffix("/description.xml")
        pages = {path: web.fetch(segment.site.source, origin + path) for path in (*bodies, "/endless")}
        until(broken.is_set, "the pod's connection is ended")
        grown = relay.resident - before
        relay.wait_for("http_failed")
        segment.assert_others_work(relay)
        assert {each["url"].removesuffix(urllib.parse.urlsplit(each["url"]).path) for each in said} == {device.origin}
        paths = {urllib.parse.urlsplit(each["url"]).path for each in said}
        return Unreadable(paths, pages, other.requests, relay.http_failures(), relay.run.events("http_failed"), grown)
    finally:
        segment.clear()


def test_descriptions_that_are_no_xml_are_said_and_passed_on(unreadable: Unreadable) -> None:
    """What they are is for the client to say."""
    for number, body in enumerate(NO_XML):
        assert f"/{number}" in unreadable.said
        page = unreadable.pages[f"/{number}"]
        assert (page.status, page.body) == (200, body)


def test_entities_of_a_description_are_not_expanded(unreadable: Unreadable) -> None:
    assert "/entities" in unreadable.said


def test_a_description_that_is_a_redirect_elsewhere_is_not_followed(unreadable: Unreadable) -> None:
    """The relay itself reads descriptions: a pod must not send it to others."""
    assert "GET /secret" not in unreadable.secrets


def test_a_description_without_end_is_broken_off(unreadable: Unreadable) -> None:
    assert "/endless" in unreadable.said
    assert unreadable.pages["/endless"].status == 502
    assert unreadable.failures["document_too_large"] == 1
    assert [each["reason"] for each in unreadable.events] == ["document_too_large"]
    assert unreadable.grown < 96 * MIB


def wait_until_foreign(relay: SsdpRelay, locations: dict[str, str]) -> None:
    """Wait until the log has a line of each of these, by UDN."""

    def said() -> dict[str, str]:
        return {each["udn"]: each["location"] for each in relay.wait_for("location_foreign")}

    until(lambda: locations.items() <= said().items(), lambda: f"it says that these are foreign: {locations}, {said()}")


def test_locations_that_are_not_the_pods_are_passed_on_and_counted(segment: Segment) -> None:
    locations = {
        f"uuid:{uuid(0xA0 + number)}": location
        for number, location in enumerate(
            (
                "http://media.local:8895/description.xml",
                "http://[fd60::12]:8895/description.xml",
                "http://10.50.0.99:8895/description.xml",
                "https://10.60.0.12:8895/description.xml",
                f"http://{segment.site.edge.pod_ip}:8080/metrics",
                "http://127.0.0.1:8080/metrics",
            )
        )
    }
    for number, (udn, location) in enumerate(locations.items(), 1):
        segment.add_device(number, udn, location=location)
    relay = segment.relay(*locations)
    found = ssdp.find(segment.site.source, udns=locations)
    assert {udn: found[udn].location for udn in locations} == locations
    assert relay.count("fanout_ssdp_foreign_locations_total") >= len(locations)
    wait_until_foreign(relay, locations)
    segment.assert_others_work(relay)


def test_locations_that_are_none(segment: Segment) -> None:
    nonsense = (
        " ",
        "/description.xml",
        "http://",
        "http://10.60.0.12:99999/",
        "ftp://10.60.0.12/",
        "http://10.60.0.12:0/",
    )
    relay = segment.relay()
    dropped = relay.drops()
    locations = {f"uuid:{uuid(0xB0 + number)}": text for number, text in enumerate(nonsense, 1)}
    for number, (udn, location) in enumerate(locations.items(), 1):
        segment.add_device(number, udn, location=location)
    ssdp.find(segment.site.source, udns=[segment.working.udn])
    wait_until_foreign(relay, {udn: location for udn, location in locations.items() if location.strip()})
    until(lambda: since(dropped, relay.drops()).get("malformed"), "the one that names none is no answer")
    segment.assert_others_work(relay)


def test_urls_of_another_port_of_the_pod_get_a_port_of_their_own(segment: Segment) -> None:
    device = segment.add_device(1, UDN, ports=(PORT, OTHER_PORT))
    pod = device.pod
    device.pages["/description.xml"] = device.description(f"http://{pod.pod_ip}:{OTHER_PORT}")
    device.pages["/scpd.xml"] = b"<scpd/>"
    relay = segment.relay(UDN)
    location = segment.location_of(UDN)
    described = web.fetch(segment.site.source, location)
    assert described.status == 200
    assert POD_NETWORK not in described.text
    url = described.text.partition("<SCPDURL>")[2].partition("</SCPDURL>")[0]
    assert urllib.parse.urlsplit(url).hostname == segment.site.edge.lan
    assert web.port_of(url) != web.port_of(location)
    assert web.fetch(segment.site.source, url).text == "<scpd/>"
    segment.assert_others_work(relay)


def test_redirects_are_passed_on_and_followed_by_the_client(segment: Segment) -> None:
    def redirect(to: str) -> Callable[[Handler], None]:
        return lambda handler: say(handler, b"", {"Location": to}, status=302)

    device = segment.add_device(1, UDN)
    device.pages |= {
        "/away": redirect("http://10.99.0.1:80/elsewhere"),
        "/here": redirect(f"{device.origin}/description.xml?again"),
        "/relative": redirect("/description.xml"),
        "/loop": redirect("/loop"),
    }
    relay = segment.relay(UDN)
    origin = segment.location_of(UDN).removesuffix("/description.xml")
    for path, expected in {
        "/away": "http://10.99.0.1:80/elsewhere",
        "/here": f"{origin}/description.xml?again",
        "/relative": "/description.xml",
        "/loop": "/loop",
    }.items():
        page = web.fetch(segment.site.source, origin + path)
        assert (page.status, page.headers["Location"]) == (302, expected)
    assert device.requests.count("GET /loop") == 1
    segment.assert_others_work(relay)


def test_descriptions_in_other_wrappings_are_rewritten(segment: Segment) -> None:
    device = segment.add_device(1, UDN, name="Wörld " * 200)
    plain = device.description()

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
    device.pages |= wrapped
    relay = segment.relay(UDN)
    origin = segment.location_of(UDN).removesuffix("/description.xml")
    for path in wrapped:
        page = web.fetch(segment.site.source, origin + path)
        assert page.status == 200
        assert "Content-Encoding" not in page.headers
        assert int(page.headers["Content-Length"]) == len(page.body)
        assert page.text == plain.decode().replace(device.origin, origin)
    segment.assert_others_work(relay)


def test_a_description_that_is_a_bomb(segment: Segment) -> None:
    """256 MiB in 256 KiB."""
    device = segment.add_device(1, UDN)
    packer = zlib.compressobj(9, wbits=31)
    head, packed = (packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    bomb = head + 255 * packed
    device.pages["/description.xml"] = lambda handler: say(handler, bomb, {"Content-Encoding": "gzip"})
    relay = segment.relay(UDN)
    before = relay.resident
    assert web.fetch(segment.site.source, segment.location_of(UDN)).status == 502
    assert relay.resident - before < 96 * MIB
    segment.assert_others_work(relay)


class RepeatingDevice(ScriptedDevice):
    """Answers everything that it is asked a hundred times, as what comes after version 1."""

    def targets(self) -> tuple[str, ...]:
        return super().targets() * 100

    def answer(self, target: str) -> bytes:
        return super().answer(target.replace("MediaServer:1", "MediaServer:2"))


def test_a_client_is_told_once_and_of_the_version_that_it_searched_for(segment: Segment) -> None:
    """UDA 1.1, 1.3.2; 100 bytes that any address may have sent do not bring it a hundred answers."""
    device = segment.keep(RepeatingDevice(segment.site.network.pods[2], OTHER_UDN))
    relay = segment.relay(OTHER_UDN)
    asking = {target: ssdp.client(segment.site.source) for target in (ssdp.ROOT_DEVICE, ssdp.MEDIA_SERVER)}
    for target, opened in asking.items():
        opened.sendto(ssdp.search(target, 1), ssdp.EVERYBODY)
    until(lambda: asking.keys() <= device.searches.keys(), "it is asked for both")
    until(lambda: relay.count("fanout_ssdp_sessions") == 0, "nobody is answered any more")
    for target, opened in asking.items():
        heard = [each for each in ssdp.have_come(opened) if each.udn == OTHER_UDN]
        assert [(each.headers["st"], each.usn) for each in heard] == [(target, f"{OTHER_UDN}::{target}")]
    segment.assert_others_work(relay)


def test_two_pods_with_one_udn(segment: Segment) -> None:
    first, second = segment.site.network.pods[1:3]
    segment.site.serve_names(segment.site.network.pods[0], first)
    try:
        listener = ssdp.NotifyListener(segment.site.source)
        segment.add_device(1, UDN, name="First")
        segment.add_device(2, UDN, name="Second")
        relay = segment.start(UDN)
        location = segment.location_of(UDN)
        segment.site.rename(segment.site.network.pods[0], first, second)
        (said,) = relay.wait_for("udn_taken")
        assert (said["udn"], said["host"]) == (UDN, second.pod_ip)
        assert ssdp.find(segment.site.source, UDN, udns=[UDN])[UDN].location == location
        assert "First" in web.fetch(segment.site.source, location).text
        assert relay.drops()["udn_taken"] >= 1
        segment.assert_others_work(relay)

        # The first leaves, and the second takes its place.
        segment.site.rename(segment.site.network.pods[0], second)
        until(lambda: "Second" in web.fetch(segment.site.source, location).text, "the second has taken over")
        assert segment.location_of(UDN) == location
        listener.wait_for("ssdp:byebye", UDN)
        listener.wait_for("ssdp:alive", UDN)
        listener.drain()
        of_it = [each.nts for each in listener.heard if each.udn == UDN and each.headers["nt"] == ssdp.ROOT_DEVICE]
        assert of_it[-1] == "ssdp:alive"
        segment.assert_others_work(relay)
    finally:
        assert segment.site.knot is not None
        segment.site.knot.close()
        segment.site.knot = None
