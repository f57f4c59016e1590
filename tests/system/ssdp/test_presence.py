"""What is there is announced on the LAN, and what has gone is revoked: by a nameserver whose answers change."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.needs import require
from tests.support.waiting import until
from tests.system.ssdp import ssdp, web
from tests.system.ssdp.liar import Handler, Liar
from tests.system.ssdp.media import MIB, Library
from tests.system.ssdp.servers import uuid
from tests.system.ssdp.world import POD_NETWORK, Home, SsdpRelay, home

ALIVE, UPDATE, BYEBYE = "ssdp:alive", "ssdp:update", "ssdp:byebye"
NAMES_OF_A_MINIDLNA = 6
"""Root device, UDN, device type, and three services."""
FILM_SIZE = 1 << 40


@pytest.fixture(scope="module")
def module_home() -> Iterator[Home]:
    """Two minidlnad behind a name."""
    with home(2) as made:
        for pod, name in zip(made.world.pods, ("Cinema", "Gallery"), strict=True):
            made.library(name).add("clip.wav")
            made.minidlna(pod, name, Library(made.folder / name))
        made.serve_names(*made.world.pods)
        yield made


@pytest.fixture
def here(module_home: Home) -> Iterator[Home]:
    """The two; what the test adds ends with it, and the Service has those two again."""
    usual = dict(module_home.servers)
    yield module_home
    module_home.end_relay(goes_on=False)
    for name in module_home.servers.keys() - usual.keys():
        module_home.end_server(name)
    module_home.rename(*(server.pod for server in usual.values()))
    for host in (*module_home.world.sources, *module_home.world.pods):
        host.close_sockets()


@pytest.fixture
def relay(here: Home) -> SsdpRelay:
    """The relay that goes on, which knows the two."""
    relay = here.relay_that_goes_on()
    until(lambda: here.edge.get("/readyz") == "ok\n", "it is ready")
    until(lambda: relay.count("fanout_ssdp_endpoints") == relay.count("fanout_ssdp_devices") == 2, "it has the two")
    assert ssdp.find(here.source, udns=here.udns).keys() == here.udns
    return relay


@pytest.fixture
def ear(here: Home) -> ssdp.Ear:
    return ssdp.Ear(here.source)


def is_all_of(heard: list[ssdp.Heard], nts: str, udn: str) -> bool:
    """Whether each name of a minidlnad was announced so."""
    return len({each.usn for each in heard if (each.nts, each.udn) == (nts, udn)}) == NAMES_OF_A_MINIDLNA


def wait_for_all(ear: ssdp.Ear, nts: str, *udns: str) -> None:
    """Wait until each name of these minidlnad has been announced so."""
    ear.wait_until(lambda _: all(is_all_of(ear.heard, nts, udn) for udn in udns))


def test_pods_that_die_and_come_are_revoked_and_announced(here: Home, ear: ssdp.Ear) -> None:
    require("gssdp-discover")
    cinema, gallery = here.servers.values()
    library = here.library("Hall")
    library.add("clip.wav")
    hall = here.minidlna(here.add_pod(), "Hall", library)
    here.rename(cinema.pod, gallery.pod, hall.pod)
    watcher = here.source.start("stdbuf", "-oL", "gssdp-discover", "-i", "eth0", "--message-type=all")
    relay = here.relay()
    wait_for_all(ear, ALIVE, *here.udns)
    locations = {each.udn: each.location for each in ear.heard}
    for each in ear.heard:
        assert each.source[0] == here.edge.lan
        assert each.headers["host"] == f"{ssdp.GROUP}:{ssdp.PORT}"
        assert POD_NETWORK not in str(each)
        assert int(each.headers["cache-control"].partition("=")[2]) >= 1800
        assert each.headers["server"]

    # One dies, and the Service knows.
    ear.heard.clear()
    here.kill(hall.pod)
    here.rename(cinema.pod, gallery.pod)
    wait_for_all(ear, BYEBYE, hall.udn)
    assert {each.udn for each in ear.heard if each.nts == BYEBYE} == {hall.udn}, "the others are not revoked"
    assert web.fetch(here.source, locations[hall.udn]).status == 503
    found = ssdp.find(here.source, udns=[cinema.udn, gallery.udn])
    assert found.keys() == {cinema.udn, gallery.udn}

    # It comes back elsewhere, as the same.
    ear.heard.clear()
    back = here.add_pod()
    assert back.pod_ip != hall.pod.pod_ip
    returned = here.minidlna(back, "Hall", library, number=int(hall.udn[5:13], 16))
    assert returned.udn == hall.udn
    here.rename(cinema.pod, gallery.pod, back)
    wait_for_all(ear, ALIVE, hall.udn)
    assert {each.location for each in ear.heard if each.nts == ALIVE} == {locations[hall.udn]}, "where it was before"
    played = here.play(locations[hall.udn])
    assert {each["sha256"] for each in played["resources"]} >= library.digests

    # Another one, that was never there.
    ear.heard.clear()
    here.library("Attic").add("clip.wav")
    attic = here.minidlna(here.add_pod(), "Attic", Library(here.folder / "Attic"))
    here.rename(cinema.pod, gallery.pod, back, attic.pod)
    wait_for_all(ear, ALIVE, attic.udn)
    assert ear.heard[-1].location not in locations.values()

    # The relay is to stop.
    ear.heard.clear()
    assert relay.run.stop().code == 0
    wait_for_all(ear, BYEBYE, *here.udns)
    for udn in here.udns:
        root = f"USN:      {udn}::upnp:rootdevice"
        watcher.wait_until(lambda root=root: f"resource unavailable\n  {root}" in watcher.out)  # type: ignore[misc]
        assert f"resource available\n  {root}" in watcher.out
    assert POD_NETWORK not in watcher.out


def hears_pods(here: Home) -> bool:
    """Whether somebody on the edge is in the group on the pods' side."""
    of_eth0 = Path(f"/proc/{here.edge.pid}/net/igmp").read_text().partition("\teth0 ")[2]
    groups = itertools.takewhile(lambda line: line.startswith("\t"), of_eth0.splitlines()[1:])
    return any(line.split()[0] == socket.inet_aton(ssdp.GROUP)[::-1].hex().upper() for line in groups)


def test_what_the_pods_themselves_announce_is_announced_on_the_lan() -> None:
    """Where a pod network carries multicast, and no description is read."""
    with home(2, pod_multicast=True) as here:
        first, second = here.world.pods
        for pod in here.world.pods:
            pod.ip("route add 239.0.0.0/8 dev eth0")
        ear = ssdp.Ear(here.source)
        with Liar(first, f"uuid:{uuid(1)}") as liar:
            relay = here.relay("--description", "")
            location = ear.wait_for(ALIVE, liar.udn).location
            assert urllib.parse.urlsplit(location).hostname == here.edge.lan
            until(lambda: hears_pods(here), "the relay hears what pods announce")
            here.library("Cinema").add("clip.wav")
            cinema = here.minidlna(second, "Cinema", Library(here.folder / "Cinema"))
            assert ear.wait_for(ALIVE, cinema.udn).source[0] == here.edge.lan
            assert cinema.udn in ssdp.find(here.source, ssdp.MEDIA_SERVER, udns=[cinema.udn])

            def update() -> ssdp.Heard | None:
                # What changes more than once in a second is announced as it then is, once: it may be too soon.
                liar.announce(UPDATE)
                return ear.hear(lambda each: (each.nts, each.udn) == (UPDATE, liar.udn), 1.1)

            updated = until(update, "the update is announced")
            assert updated is not None
            assert updated.location == location
            assert updated.headers["nextbootid.upnp.org"] == "2"
            liar.announce(BYEBYE)
            ear.wait_for(BYEBYE, liar.udn)
            liar.announce(ALIVE)
            assert ear.wait_for(ALIVE, liar.udn).location == location
            assert relay.run.stop().code == 0


def test_pods_that_are_on_the_lan_themselves(here: Home, ear: ssdp.Ear) -> None:
    """As with macvlan pods: what they answer comes by the LAN's interface, and is believed."""
    on_lan = here.add_source()
    with Liar(on_lan, f"uuid:{uuid(1)}", address=on_lan.lan) as liar:
        here.relay(service=f"{on_lan.lan},{here.world.pods[0].pod_ip}")
        alive = ear.wait_for(ALIVE, liar.udn)
        assert urllib.parse.urlsplit(alive.location).hostname == here.edge.lan
        assert liar.udn in web.fetch(here.source, alive.location).text
        found = ssdp.find(here.source, liar.udn, udns=[liar.udn], destination=(here.edge.lan, ssdp.PORT))
        assert found[liar.udn].location == alive.location


def test_a_service_that_names_the_relay_itself(here: Home) -> None:
    gallery = here.servers["Gallery"]
    relay = here.relay(service=f"{here.edge.lan},{gallery.pod.pod_ip}")
    (left_out,) = relay.wait_for("endpoint_is_relay")
    assert left_out["endpoint"].startswith(here.edge.lan)
    until(lambda: relay.count("fanout_ssdp_devices") == 1, "the other is found")
    assert relay.count("fanout_ssdp_searches_total") == 0
    assert ssdp.find(here.source, udns=[gallery.udn]).keys() == {gallery.udn}
    assert relay.run.stop().code == 0


def test_a_service_that_names_nobody(here: Home, ear: ssdp.Ear) -> None:
    here.end_relay()
    here.rename()
    relay = here.relay_that_goes_on()
    relay.wait_for("service_empty")
    gallery = here.servers["Gallery"]
    here.rename(gallery.pod)
    ear.wait_for(ALIVE, gallery.udn)
    assert len(relay.run.events("service_empty")) == 1


def test_a_server_that_is_late_in_its_pod_is_announced_when_it_is_there(
    here: Home, relay: SsdpRelay, ear: ssdp.Ear
) -> None:
    """The pod is in the Service before its server listens."""
    cinema, gallery = here.servers.values()
    pod = here.add_pod()
    here.rename(cinema.pod, gallery.pod, pod)
    until(lambda: relay.count("fanout_ssdp_endpoints") == 3, "the relay has the pod")
    assert relay.count("fanout_ssdp_devices") == 2
    late = here.minidlna(pod, "Late", cinema.library)
    ear.wait_for(ALIVE, late.udn)


def test_the_interface_goes_and_comes_with_another_address(here: Home, relay: SsdpRelay, ear: ssdp.Ear) -> None:
    before = {udn: each.location for udn, each in ssdp.find(here.source, udns=here.udns).items()}
    lost = len(relay.run.events("interface_lost"))
    here.world.detach(here.edge)
    relay.wait_for("interface_lost", lost + 1)
    ear.drain()
    ear.heard.clear()
    here.world.attach(here.edge)
    wait_for_all(ear, ALIVE, *here.udns)
    assert {each.udn: each.location for each in ear.heard} == before
    found = ssdp.find(here.source, udns=here.udns)
    assert {udn: each.location for udn, each in found.items()} == before

    ear.heard.clear()
    other = "10.50.0.77"
    here.edge.ip(f"address del {here.edge.lan}/24 dev eth1", f"address add {other}/24 dev eth1")
    try:
        after = {udn: location.replace(here.edge.lan, other) for udn, location in before.items()}
        ear.wait_until(lambda _: after.items() <= {(each.udn, each.location) for each in ear.heard})
        assert all(is_all_of(ear.heard, BYEBYE, udn) for udn in here.udns), "the address of before is good for nothing"
        found = ssdp.find(here.source, udns=here.udns)
        assert {udn: each.location for udn, each in found.items()} == after
        assert {each.source for each in found.values()} == {(other, ssdp.PORT)}
        assert web.fetch(here.source, next(iter(after.values()))).status == 200
    finally:
        listening = len(relay.run.events("ssdp_listening"))
        here.edge.ip(f"address del {other}/24 dev eth1", f"address add {here.edge.lan}/24 dev eth1")
        relay.wait_for("ssdp_listening", listening + 1)


def test_a_link_that_is_down_is_said_and_all_is_announced_when_it_is_back(
    here: Home, relay: SsdpRelay, ear: ssdp.Ear
) -> None:
    before = len(relay.run.events("interface_lost"))
    here.edge.ip("link set eth1 down")
    lost = relay.wait_for("interface_lost", before + 1)
    assert "eth1" in lost[-1]["reason"]
    until(lambda: "interface eth1 is down" in here.edge.get("/readyz"), "it is not ready")
    ear.drain()
    ear.heard.clear()
    here.edge.ip("link set eth1 up")
    wait_for_all(ear, ALIVE, *here.udns)
    assert not [each for each in ear.heard if each.nts == BYEBYE]
    until(lambda: here.edge.get("/readyz") == "ok\n", "it is ready")


def test_sigterm_while_a_film_is_watched(here: Home, relay: SsdpRelay, ear: ssdp.Ear) -> None:
    """A film without end, whose player reads on and on: who waited for it would wait for ever."""
    cinema, gallery = here.servers.values()
    location = ssdp.find(here.source, udns=[cinema.udn])[cinema.udn].location
    with Liar(here.add_pod(), f"uuid:{uuid(0xF)}", pages={"/film": film_without_end}) as liar:
        here.rename(cinema.pod, gallery.pod, liar.pod)
        film = ear.wait_for(ALIVE, liar.udn).location.replace("description.xml", "film")
        with web.opened(here.source, film) as (_, watched), web.opened(here.source, location) as (_, response):
            assert len(watched.read(MIB)) == MIB
            with ThreadPoolExecutor(1) as thread:
                rest = thread.submit(read_to_the_end, watched)
                assert relay.run.stop().code == 0
                assert rest.result() < FILM_SIZE - MIB, "it was broken off"
            response.close()
            watched.close()

    udns = {cinema.udn, gallery.udn, liar.udn}  # that a test before had others may be said late

    def said() -> Counter[str]:
        return Counter(each.usn for each in ear.heard if each.nts == BYEBYE and each.udn in udns)

    ear.wait_until(lambda _: is_all_of(ear.heard, BYEBYE, cinema.udn) and set(said().values()) == {2})
    ear.drain()
    assert set(said().values()) == {2}, "once more, for a datagram to a group may be lost"
    assert {each.udn for each in ear.heard if each.nts == BYEBYE} >= udns


def read_to_the_end(response: http.client.HTTPResponse) -> int:
    """Return how many bytes there were."""
    size = 0
    with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
        while piece := response.read1(MIB):
            size += len(piece)
    return size


def film_without_end(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "video/mp4")
    handler.send_header("Content-Length", str(FILM_SIZE))
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(MIB))
