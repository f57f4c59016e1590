"""What is there is announced on the LAN, and what has gone is revoked: by a nameserver whose answers change."""

from __future__ import annotations

import itertools
import socket
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import until
from tests.system.dlna import ssdp, web
from tests.system.dlna.liar import Handler, Liar
from tests.system.dlna.media import MIB, Library
from tests.system.dlna.servers import Minidlna, end_processes, uuid
from tests.system.dlna.world import DNS_TTL, POD_NETWORK, Home, SsdpRelay, home, require

ALIVE, UPDATE, BYEBYE = "ssdp:alive", "ssdp:update", "ssdp:byebye"
PROMISED = DNS_TTL + 2.0
"""Seconds in which a change of the Service is known on the LAN."""
NAMES_OF_A_MINIDLNA = 6
"""Root device, UDN, device type, and three services."""


@pytest.fixture
def here() -> Iterator[Home]:
    """Two minidlnad behind a name."""
    with home(2) as made:
        for pod, name in zip(made.world.pods, ("Cinema", "Gallery"), strict=True):
            made.library(name).add("clip.mp4")
            made.minidlna(pod, name, Library(made.folder / name))
        made.serve_names(*made.world.pods)
        yield made


@pytest.fixture
def ear(here: Home) -> ssdp.Ear:
    return ssdp.Ear(here.source)


def is_all_of(heard: list[ssdp.Heard], nts: str, udn: str) -> bool:
    """Whether each name of a minidlnad was announced so."""
    return len({each.usn for each in heard if (each.nts, each.udn) == (nts, udn)}) == NAMES_OF_A_MINIDLNA


def wait_for_all(ear: ssdp.Ear, nts: str, udn: str, seconds: float) -> float:
    """Wait until each name of a minidlnad has been announced so; return when that was."""
    return ear.wait_until(lambda _: is_all_of(ear.heard, nts, udn), seconds).at


def test_pods_that_die_and_come_are_revoked_and_announced(
    here: Home, ear: ssdp.Ear, figures: Callable[[str], None]
) -> None:
    require("gssdp-discover")
    watcher = here.source.start("stdbuf", "-oL", "gssdp-discover", "-i", "eth0", "--message-type=all")
    relay = here.relay()
    cinema, gallery = here.servers.values()
    until(lambda: relay.count("fanout_ssdp_devices") == 2, "both are known")
    ear.wait_until(lambda _: all(is_all_of(ear.heard, ALIVE, udn) for udn in here.udns))
    locations = {each.udn: each.location for each in ear.heard}
    for each in ear.heard:
        assert each.source[0] == here.edge.lan
        assert each.headers["host"] == f"{ssdp.GROUP}:{ssdp.PORT}"
        assert POD_NETWORK not in str(each)
        assert int(each.headers["cache-control"].partition("=")[2]) >= 1800
        assert each.headers["server"]

    # One dies, and the Service knows.
    ear.heard.clear()
    here.kill(cinema.pod)
    began = time.monotonic()
    here.rename(gallery.pod)
    gone = wait_for_all(ear, BYEBYE, cinema.udn, 10) - began
    assert {each.udn for each in ear.heard if each.nts == BYEBYE} == {cinema.udn}, "the other is not revoked"
    assert web.fetch(here.source, locations[cinema.udn]).status == 503
    assert set(ssdp.find(here.source, udns=[gallery.udn], seconds=1)) == {gallery.udn}

    # It comes back elsewhere, as the same.
    ear.heard.clear()
    back = here.add_pod()
    assert back.pod_ip != cinema.pod.pod_ip
    returned = here.minidlna(back, "Cinema", cinema.library, number=int(cinema.udn[5:13], 16))
    assert returned.udn == cinema.udn
    began = time.monotonic()
    here.rename(gallery.pod, back)
    come = wait_for_all(ear, ALIVE, cinema.udn, 10) - began
    assert {each.location for each in ear.heard if each.nts == ALIVE} == {locations[cinema.udn]}, "where it was before"
    found = here.control_point("play", locations[cinema.udn])
    assert {each["sha256"] for each in found["resources"]} >= cinema.library.digests

    # Another one, that was never there.
    ear.heard.clear()
    other = here.add_pod()
    here.library("Attic").add("voice.mp3")
    attic = here.minidlna(other, "Attic", Library(here.folder / "Attic"))
    began = time.monotonic()
    here.rename(gallery.pod, back, other)
    new = wait_for_all(ear, ALIVE, attic.udn, 10) - began
    assert ear.heard[-1].location not in locations.values()

    # The relay is to stop.
    ear.heard.clear()
    assert relay.run.stop().code == 0
    ear.drain()
    assert all(is_all_of(ear.heard, BYEBYE, udn) for udn in here.udns)
    for udn in here.udns:
        root = f"USN:      {udn}::upnp:rootdevice"
        watcher.wait_until(lambda root=root: f"resource unavailable\n  {root}" in watcher.out)  # type: ignore[misc]
        assert f"resource available\n  {root}" in watcher.out
    assert POD_NETWORK not in watcher.out
    figures(
        f"DNS TTL {DNS_TTL} s: byebye for a dead pod {gone:.2f} s after the change, alive for one that came back "
        f"{come:.2f} s, for a new one {new:.2f} s"
    )
    assert max(gone, come, new) <= PROMISED


def hears_pods(here: Home) -> bool:
    """Whether somebody on the edge is in the group on the pods' side."""
    of_eth0 = Path(f"/proc/{here.edge.pid}/net/igmp").read_text().partition("\teth0 ")[2]
    groups = itertools.takewhile(lambda line: line.startswith("\t"), of_eth0.splitlines()[1:])
    return any(line.split()[0] == socket.inet_aton(ssdp.GROUP)[::-1].hex().upper() for line in groups)


def test_a_server_that_is_late_in_its_pod_is_announced_when_it_is_there(here: Home, ear: ssdp.Ear) -> None:
    """The pod is in the Service before its server listens."""
    cinema, gallery = here.servers.values()
    end_processes(cinema.pod)
    relay = here.relay()
    ear.wait_for(ALIVE, gallery.udn)
    until(lambda: relay.count("fanout_ssdp_devices") == 1, "it is counted")
    late = here.minidlna(here.add_pod(), "Late", cinema.library)
    here.rename(gallery.pod, late.pod)
    ear.wait_for(ALIVE, late.udn)


def test_what_the_pods_themselves_announce_is_announced_on_the_lan(figures: Callable[[str], None]) -> None:
    """Where a pod network carries multicast, and no description is read."""
    with home(2, pod_multicast=True) as here:
        first, second = here.world.pods
        for pod in here.world.pods:
            pod.ip("route add 239.0.0.0/8 dev eth0")
        ear = ssdp.Ear(here.source)
        with Liar(first, f"uuid:{uuid(1)}") as liar:
            relay = here.relay("--description", "")
            alive = ear.wait_for(ALIVE, liar.udn)
            location = alive.location
            assert urllib.parse.urlsplit(location).hostname == here.edge.lan
            until(lambda: hears_pods(here), "the relay hears what pods announce")
            # What changes more than once in a second is announced as it then is, once.
            until(lambda: time.monotonic() > alive.at + 1, "a second is over")
            liar.announce(UPDATE)
            update = ear.wait_for(UPDATE, liar.udn)
            assert update.location == location
            assert update.headers["nextbootid.upnp.org"] == "2"
            began = time.monotonic()
            liar.announce(BYEBYE)
            gone = ear.wait_for(BYEBYE, liar.udn).at - began
            began = time.monotonic()
            liar.announce(ALIVE)
            assert ear.wait_for(ALIVE, liar.udn).location == location
            figures(f"a pod's own byebye is on the LAN after {1000 * gone:.0f} ms")
            here.library("Cinema").add("clip.mp4")
            cinema = here.minidlna(second, "Cinema", Library(here.folder / "Cinema"))
            assert ear.wait_for(ALIVE, cinema.udn).source[0] == here.edge.lan
            assert cinema.udn in ssdp.find(here.source, ssdp.MEDIA_SERVER, udns=[cinema.udn])
            assert relay.run.stop().code == 0


def test_pods_that_are_on_the_lan_themselves(here: Home, ear: ssdp.Ear) -> None:
    """As with macvlan pods: what they answer comes by the LAN's interface, and is believed."""
    on_lan = here.add_source()
    with Liar(on_lan, f"uuid:{uuid(1)}", address=on_lan.lan) as liar:
        SsdpRelay(here.edge, "-s", f"{on_lan.lan},{here.world.pods[0].pod_ip}", "--interface", "eth1")
        alive = ear.wait_for(ALIVE, liar.udn)
        assert urllib.parse.urlsplit(alive.location).hostname == here.edge.lan
        assert liar.udn in web.fetch(here.source, alive.location).text
        found = ssdp.find(here.source, liar.udn, udns=[liar.udn], destination=(here.edge.lan, ssdp.PORT))
        assert found[liar.udn].location == alive.location


def test_the_interface_goes_and_comes_with_another_address(here: Home, ear: ssdp.Ear) -> None:
    relay = here.relay()
    ear.wait_until(lambda _: all(is_all_of(ear.heard, ALIVE, udn) for udn in here.udns))
    before = {each.udn: each.location for each in ear.heard}
    here.world.detach(here.edge)
    relay.wait_for("interface_lost")
    ear.heard.clear()
    here.world.attach(here.edge)
    ear.wait_until(lambda _: all(is_all_of(ear.heard, ALIVE, udn) for udn in here.udns))
    assert {each.udn: each.location for each in ear.heard} == before
    found = ssdp.find(here.source, udns=here.udns)
    assert {udn: each.location for udn, each in found.items()} == before

    ear.heard.clear()
    other = "10.50.0.77"
    here.edge.ip(f"address del {here.edge.lan}/24 dev eth1", f"address add {other}/24 dev eth1")
    after = {udn: location.replace(here.edge.lan, other) for udn, location in before.items()}
    ear.wait_until(lambda _: after.items() <= {(each.udn, each.location) for each in ear.heard})
    assert all(is_all_of(ear.heard, BYEBYE, udn) for udn in here.udns), "the address of before is good for nothing"
    found = ssdp.find(here.source, udns=here.udns)
    assert {udn: each.location for udn, each in found.items()} == after
    assert {each.source for each in found.values()} == {(other, ssdp.PORT)}
    assert web.fetch(here.source, next(iter(after.values()))).status == 200


def test_a_link_that_is_down_is_said_and_all_is_announced_when_it_is_back(here: Home, ear: ssdp.Ear) -> None:
    relay = here.relay()
    ear.wait_until(lambda _: all(is_all_of(ear.heard, ALIVE, udn) for udn in here.udns))
    here.edge.ip("link set eth1 down")
    (lost,) = relay.wait_for("interface_lost")
    assert "eth1" in lost["reason"]
    until(lambda: "interface eth1 is down" in here.edge.get("/readyz"), "it is not ready")
    ear.heard.clear()
    here.edge.ip("link set eth1 up")
    ear.wait_until(lambda _: all(is_all_of(ear.heard, ALIVE, udn) for udn in here.udns))
    assert not [each for each in ear.heard if each.nts == BYEBYE]
    until(lambda: here.edge.get("/readyz") == "ok\n", "it is ready")


def test_a_service_that_names_the_relay_itself_or_nobody(here: Home) -> None:
    gallery = here.world.pods[1]
    relay = SsdpRelay(here.edge, "-s", f"{here.edge.lan},{gallery.pod_ip}", "--interface", "eth1")
    (left_out,) = relay.wait_for("endpoint_is_relay")
    assert left_out["endpoint"].startswith(here.edge.lan)
    until(lambda: relay.count("fanout_ssdp_devices") == 1, "the other is found")
    assert relay.count("fanout_ssdp_searches_total") == 0
    assert len(ssdp.find(here.source, udns=[here.servers["Gallery"].udn])) == 1
    assert relay.run.stop().code == 0

    here.rename()
    relay = here.relay()
    relay.wait_for("service_empty")
    here.rename(gallery)
    relay.wait_for("device_announced")
    assert len(relay.run.events("service_empty")) == 1


def test_sigterm_while_a_film_is_watched(here: Home, ear: ssdp.Ear) -> None:
    relay: SsdpRelay = here.relay()
    cinema, *_ = here.servers.values()
    location = ear.wait_for(ALIVE, cinema.udn).location
    assert isinstance(cinema, Minidlna)
    with Liar(here.add_pod(), f"uuid:{uuid(0xF)}", pages={"/film": film_without_end}) as liar:
        here.rename(cinema.pod, liar.pod)
        film = ear.wait_for(ALIVE, liar.udn).location.replace("description.xml", "film")
        with web.opened(here.source, film) as (_, watched), web.opened(here.source, location) as (_, response):
            assert len(watched.read(MIB)) == MIB
            began = time.monotonic()
            assert relay.run.stop().code == 0
            assert time.monotonic() - began < 5
            response.close()
            watched.close()
    ear.drain()
    assert is_all_of(ear.heard, BYEBYE, cinema.udn)
    said = Counter(each.usn for each in ear.heard if each.nts == BYEBYE)
    assert set(said.values()) == {2}, "once more, for a datagram to a group may be lost"


def film_without_end(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "video/mp4")
    handler.send_header("Content-Length", str(1 << 40))
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(MIB))
