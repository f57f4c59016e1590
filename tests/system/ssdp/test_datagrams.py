"""What comes to port 1900 and is no search: counted by its reason, and the next search is answered."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.support.waiting import until
from tests.system.ssdp import ssdp
from tests.system.ssdp.site import Site, SsdpRelay, make_site

SEARCH = ssdp.search(ssdp.ROOT_DEVICE)
_LINES = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n"
_MAN = 'MAN: "ssdp:discover"\r\n'


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with make_site(1) as made:
        films = made.library("films")
        films.add("clip.wav")
        made.minidlna(made.network.pods[0], "Cinema", films)
        yield made


@pytest.fixture(scope="module")
def module_relay(site: Site) -> SsdpRelay:
    started = site.relay()
    ssdp.find(site.source, udns=site.udns)
    return started


@pytest.fixture
def relay(site: Site, module_relay: SsdpRelay) -> Iterator[SsdpRelay]:
    """The relay, which answers after whatever the test has sent."""
    yield module_relay
    ssdp.find(site.source, udns=site.udns)  # at the latest when its client may search again
    assert module_relay.run.process.poll() is None
    assert "Traceback" not in module_relay.run.out + module_relay.run.err


@pytest.mark.parametrize("destination", ["239.255.255.250", "10.50.0.20"], ids=["group", "unicast"])
@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "not_ssdp"),
        (bytes(100), "not_ssdp"),
        (b"\xff" * 1400, "not_ssdp"),
        (b"GET / HTTP/1.1\r\nHost: 10.50.0.20\r\n\r\n", "not_ssdp"),
        (b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04name\x00\x00\x01\x00\x01", "not_ssdp"),
        (b"M-SEARCH", "not_ssdp"),
        (b"M-SEARCH * HTTP/1.1", "wrong_man"),
        (b"M-SEARCH * HTTP/1.1\r\nno header\r\n\r\n", "malformed"),
        (SEARCH.replace(b"MX: 1", b"MX\0: 1\1"), "malformed"),
        (_LINES.encode() + b"".join(b"X-%d: 1\r\n" % number for number in range(200)) + b"\r\n", "oversized"),
        (SEARCH[:-2] + b"X: " + b"x" * 5000 + b"\r\n\r\n", "oversized"),
        (SEARCH[:-2] + b"X: " + b"x" * 60_000 + b"\r\n\r\n", "oversized"),
        ((_LINES + 'MAN: "ssdp:discovery"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n').encode(), "wrong_man"),
        ((_LINES + "MX: 1\r\nST: ssdp:all\r\n\r\n").encode(), "wrong_man"),
        ((_LINES + _MAN + "MX: 1\r\n\r\n").encode(), "no_target"),
        ((_LINES + _MAN + "MX: 1\r\nST: \r\n\r\n").encode(), "no_target"),
    ],
)
def test_what_is_no_search_is_counted(
    site: Site, relay: SsdpRelay, datagram: bytes, reason: str, destination: str
) -> None:
    before, dropped = relay.drops(), relay.count("fanout_ssdp_dropped_total")
    asking = ssdp.client(site.source)
    asking.sendto(datagram, (destination, ssdp.PORT))
    until(lambda: relay.count("fanout_ssdp_dropped_total") == dropped + 1, "it is counted")
    after = relay.drops()
    assert {each for each in after if after[each] != before.get(each, 0)} == {reason}
    ssdp.find(site.source, udns=site.udns)
    assert ssdp.have_come(asking) == []


@pytest.mark.parametrize("mx", [None, 1, 5, 120, 10**12])
def test_mx_is_asked_for_where_the_group_is_asked(site: Site, relay: SsdpRelay, mx: int | None) -> None:
    """UPnP Device Architecture 1.1, 1.3.2: without one a search to the group is not answered; above 5 it is 5."""
    before = relay.drops().get("no_mx", 0)
    to_edge = (site.edge.lan, ssdp.PORT)
    assert set(ssdp.find(site.source, udns=site.udns, destination=to_edge, mx=mx)) == site.udns
    if mx is not None:
        assert set(ssdp.find(site.source, udns=site.udns, mx=mx)) == site.udns
        assert relay.drops().get("no_mx", 0) == before
    else:
        asking = ssdp.client(site.source)
        asking.sendto(ssdp.search(ssdp.ROOT_DEVICE, mx), ssdp.EVERYBODY)
        until(lambda: relay.drops().get("no_mx", 0) == before + 1, "it is counted")
        ssdp.find(site.source, udns=site.udns)
        assert ssdp.have_come(asking) == []


def test_announcements_of_other_devices_are_nothing_to_the_relay(site: Site, relay: SsdpRelay) -> None:
    """They come to the group all day."""
    before, announced = relay.drops(), relay.count("fanout_ssdp_announcements_total")
    other = ssdp.client(site.source)
    for nts in ("ssdp:alive", "ssdp:update", "ssdp:byebye"):
        other.sendto(
            f"NOTIFY * HTTP/1.1\r\nHOST: {ssdp.GROUP}:{ssdp.PORT}\r\nCACHE-CONTROL: max-age=1800\r\n"
            f"LOCATION: http://{site.source.lan}:80/\r\nNT: upnp:rootdevice\r\nNTS: {nts}\r\nSERVER: tv\r\n"
            "USN: uuid:00000000-1111-2222-3333-444444444444::upnp:rootdevice\r\n\r\n".encode(),
            ssdp.EVERYBODY,
        )
        for udn in site.udns:  # or one that wants the relay to believe that its own device has gone
            other.sendto(
                f"NOTIFY * HTTP/1.1\r\nHOST: {ssdp.GROUP}:{ssdp.PORT}\r\nNT: upnp:rootdevice\r\nNTS: {nts}\r\n"
                f"LOCATION: http://{site.source.lan}:80/\r\nCACHE-CONTROL: max-age=1800\r\nSERVER: tv\r\n"
                f"USN: {udn}::upnp:rootdevice\r\n\r\n".encode(),
                ssdp.EVERYBODY,
            )
    found = ssdp.find(site.source, udns=site.udns)
    assert {each.source[0] for each in found.values()} == {site.edge.lan}
    assert all(site.source.lan not in each.location for each in found.values())
    assert relay.drops() == before
    assert relay.count("fanout_ssdp_announcements_total") == announced


def test_answers_that_nobody_asked_for(site: Site, relay: SsdpRelay) -> None:
    forger = ssdp.client(site.source)
    (udn,) = site.udns
    for destination in (ssdp.EVERYBODY, (site.edge.lan, ssdp.PORT)):
        forger.sendto(
            f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\nEXT:\r\nLOCATION: http://{site.source.lan}:80/\r\n"
            f"SERVER: tv\r\nST: upnp:rootdevice\r\nUSN: {udn}::upnp:rootdevice\r\n\r\n".encode(),
            destination,
        )
    found = ssdp.find(site.source, udns=site.udns)
    assert all(site.source.lan not in each.location for each in found.values())


def test_searches_that_chance_has_changed(site: Site, relay: SsdpRelay) -> None:
    chance = random.Random(6)
    asking = ssdp.client(site.source)
    for number in range(600):
        changed = bytearray(SEARCH)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(changed))
            match chance.randrange(4):
                case 0:
                    changed[at] = chance.randrange(256)
                case 1:
                    del changed[at : at + chance.randrange(1, 20)]
                case 2:
                    changed[at:at] = chance.randbytes(chance.randrange(1, 20))
                case _:
                    changed[at:at] = changed[: chance.randrange(len(changed))]
            if not changed:
                break
        asking.sendto(changed, (site.edge.lan, ssdp.PORT) if number % 2 else ssdp.EVERYBODY)
