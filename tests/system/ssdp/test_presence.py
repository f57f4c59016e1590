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
from tests.system.ssdp.media import MIB, Library
from tests.system.ssdp.scripted_device import Handler, ScriptedDevice
from tests.system.ssdp.servers import uuid
from tests.system.ssdp.site import POD_NETWORK, Site, SsdpRelay, make_site

ALIVE, UPDATE, BYEBYE = "ssdp:alive", "ssdp:update", "ssdp:byebye"
NAMES_OF_A_MINIDLNA = 6
"""Root device, UDN, device type, and three services."""
FILM_SIZE = 1 << 40


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    """Two minidlnad behind a name."""
    with make_site(2) as made:
        for pod, name in zip(made.network.pods, ("Cinema", "Gallery"), strict=True):
            made.library(name).add("clip.wav")
            made.minidlna(pod, name, Library(made.folder / name))
        made.serve_names(*made.network.pods)
        yield made


@pytest.fixture
def site(module_site: Site) -> Iterator[Site]:
    """The two; what the test adds ends with it, and the Service has those two again."""
    usual = dict(module_site.servers)
    yield module_site
    module_site.end_relay(lasts=False)
    for name in module_site.servers.keys() - usual.keys():
        module_site.end_server(name)
    module_site.rename(*(server.pod for server in usual.values()))
    for host in (*module_site.network.sources, *module_site.network.pods):
        host.close_sockets()


@pytest.fixture
def relay(site: Site) -> SsdpRelay:
    """The relay that goes on, which knows the two."""
    relay = site.lasting_relay()
    until(lambda: site.edge.get("/readyz") == "ok\n", "it is ready")
    until(lambda: relay.count("fanout_ssdp_endpoints") == relay.count("fanout_ssdp_devices") == 2, "it has the two")
    assert ssdp.find(site.source, udns=site.udns).keys() == site.udns
    return relay


@pytest.fixture
def listener(site: Site) -> ssdp.NotifyListener:
    return ssdp.NotifyListener(site.source)


def is_all_of(heard: list[ssdp.Heard], nts: str, udn: str) -> bool:
    """Whether each name of a minidlnad was announced so."""
    return len({each.usn for each in heard if (each.nts, each.udn) == (nts, udn)}) == NAMES_OF_A_MINIDLNA


def wait_for_all(listener: ssdp.NotifyListener, nts: str, *udns: str) -> None:
    """Wait until each name of these minidlnad has been announced so."""
    listener.wait_until(lambda _: all(is_all_of(listener.heard, nts, udn) for udn in udns))


def test_pods_that_die_and_come_are_revoked_and_announced(site: Site, listener: ssdp.NotifyListener) -> None:
    require("gssdp-discover")
    cinema, gallery = site.servers.values()
    library = site.library("Hall")
    library.add("clip.wav")
    hall = site.minidlna(site.add_pod(), "Hall", library)
    site.rename(cinema.pod, gallery.pod, hall.pod)
    watcher = site.source.start("stdbuf", "-oL", "gssdp-discover", "-i", "eth0", "--message-type=all")
    relay = site.relay()
    wait_for_all(listener, ALIVE, *site.udns)
    locations = {each.udn: each.location for each in listener.heard}
    for each in listener.heard:
        assert each.source[0] == site.edge.lan
        assert each.headers["host"] == f"{ssdp.GROUP}:{ssdp.PORT}"
        assert POD_NETWORK not in str(each)
        assert int(each.headers["cache-control"].partition("=")[2]) >= 1800
        assert each.headers["server"]

    # One dies, and the Service knows.
    listener.heard.clear()
    site.kill(hall.pod)
    site.rename(cinema.pod, gallery.pod)
    wait_for_all(listener, BYEBYE, hall.udn)
    assert {each.udn for each in listener.heard if each.nts == BYEBYE} == {hall.udn}, "the others are not revoked"
    assert web.fetch(site.source, locations[hall.udn]).status == 503
    found = ssdp.find(site.source, udns=[cinema.udn, gallery.udn])
    assert found.keys() == {cinema.udn, gallery.udn}

    # It comes back elsewhere, as the same.
    listener.heard.clear()
    back = site.add_pod()
    assert back.pod_ip != hall.pod.pod_ip
    returned = site.minidlna(back, "Hall", library, number=int(hall.udn[5:13], 16))
    assert returned.udn == hall.udn
    site.rename(cinema.pod, gallery.pod, back)
    wait_for_all(listener, ALIVE, hall.udn)
    assert {each.location for each in listener.heard if each.nts == ALIVE} == {locations[hall.udn]}, "where it was"
    played = site.play(locations[hall.udn])
    assert {each["sha256"] for each in played["resources"]} >= library.digests

    # Another one, that was never there.
    listener.heard.clear()
    site.library("Attic").add("clip.wav")
    attic = site.minidlna(site.add_pod(), "Attic", Library(site.folder / "Attic"))
    site.rename(cinema.pod, gallery.pod, back, attic.pod)
    wait_for_all(listener, ALIVE, attic.udn)
    assert listener.heard[-1].location not in locations.values()

    # The relay is to stop.
    listener.heard.clear()
    assert relay.run.stop().code == 0
    wait_for_all(listener, BYEBYE, *site.udns)
    for udn in site.udns:
        root = f"USN:      {udn}::upnp:rootdevice"
        watcher.wait_until(lambda root=root: f"resource unavailable\n  {root}" in watcher.out)  # type: ignore[misc]
        assert f"resource available\n  {root}" in watcher.out
    assert POD_NETWORK not in watcher.out


def hears_pods(site: Site) -> bool:
    """Whether somebody on the edge is in the group on the pods' side."""
    of_eth0 = Path(f"/proc/{site.edge.pid}/net/igmp").read_text().partition("\teth0 ")[2]
    groups = itertools.takewhile(lambda line: line.startswith("\t"), of_eth0.splitlines()[1:])
    return any(line.split()[0] == socket.inet_aton(ssdp.GROUP)[::-1].hex().upper() for line in groups)


def test_what_the_pods_themselves_announce_is_announced_on_the_lan() -> None:
    """Where a pod network carries multicast, and no description is read."""
    with make_site(2, pod_multicast=True) as site:
        first, second = site.network.pods
        for pod in site.network.pods:
            pod.ip("route add 239.0.0.0/8 dev eth0")
        listener = ssdp.NotifyListener(site.source)
        with ScriptedDevice(first, f"uuid:{uuid(1)}") as device:
            relay = site.relay("--description", "")
            location = listener.wait_for(ALIVE, device.udn).location
            assert urllib.parse.urlsplit(location).hostname == site.edge.lan
            until(lambda: hears_pods(site), "the relay hears what pods announce")
            site.library("Cinema").add("clip.wav")
            cinema = site.minidlna(second, "Cinema", Library(site.folder / "Cinema"))
            assert listener.wait_for(ALIVE, cinema.udn).source[0] == site.edge.lan
            assert cinema.udn in ssdp.find(site.source, ssdp.MEDIA_SERVER, udns=[cinema.udn])

            def update() -> ssdp.Heard | None:
                # What changes more than once in a second is announced as it then is, once: it may be too soon.
                device.announce(UPDATE)
                return listener.hear(lambda each: (each.nts, each.udn) == (UPDATE, device.udn), 1.1)

            updated = until(update, "the update is announced")
            assert updated is not None
            assert updated.location == location
            assert updated.headers["nextbootid.upnp.org"] == "2"
            device.announce(BYEBYE)
            listener.wait_for(BYEBYE, device.udn)
            device.announce(ALIVE)
            assert listener.wait_for(ALIVE, device.udn).location == location
            assert relay.run.stop().code == 0


def test_pods_that_are_on_the_lan_themselves(site: Site, listener: ssdp.NotifyListener) -> None:
    """As with macvlan pods: what they answer comes by the LAN's interface, and is believed."""
    on_lan = site.add_source()
    with ScriptedDevice(on_lan, f"uuid:{uuid(1)}", address=on_lan.lan) as device:
        site.relay(service=f"{on_lan.lan},{site.network.pods[0].pod_ip}")
        alive = listener.wait_for(ALIVE, device.udn)
        assert urllib.parse.urlsplit(alive.location).hostname == site.edge.lan
        assert device.udn in web.fetch(site.source, alive.location).text
        found = ssdp.find(site.source, device.udn, udns=[device.udn], destination=(site.edge.lan, ssdp.PORT))
        assert found[device.udn].location == alive.location


def test_a_service_that_names_the_relay_itself(site: Site) -> None:
    gallery = site.servers["Gallery"]
    relay = site.relay(service=f"{site.edge.lan},{gallery.pod.pod_ip}")
    (left_out,) = relay.wait_for("endpoint_is_relay")
    assert left_out["endpoint"].startswith(site.edge.lan)
    until(lambda: relay.count("fanout_ssdp_devices") == 1, "the other is found")
    assert relay.count("fanout_ssdp_searches_total") == 0
    assert ssdp.find(site.source, udns=[gallery.udn]).keys() == {gallery.udn}
    assert relay.run.stop().code == 0


def test_a_service_that_names_nobody(site: Site, listener: ssdp.NotifyListener) -> None:
    site.end_relay()
    site.rename()
    relay = site.lasting_relay()
    relay.wait_for("service_empty")
    gallery = site.servers["Gallery"]
    site.rename(gallery.pod)
    listener.wait_for(ALIVE, gallery.udn)
    assert len(relay.run.events("service_empty")) == 1


def test_a_server_that_is_late_in_its_pod_is_announced_when_it_is_there(
    site: Site, relay: SsdpRelay, listener: ssdp.NotifyListener
) -> None:
    """The pod is in the Service before its server listens."""
    cinema, gallery = site.servers.values()
    pod = site.add_pod()
    site.rename(cinema.pod, gallery.pod, pod)
    until(lambda: relay.count("fanout_ssdp_endpoints") == 3, "the relay has the pod")
    assert relay.count("fanout_ssdp_devices") == 2
    late = site.minidlna(pod, "Late", cinema.library)
    listener.wait_for(ALIVE, late.udn)


def test_the_interface_goes_and_comes_with_another_address(
    site: Site, relay: SsdpRelay, listener: ssdp.NotifyListener
) -> None:
    before = {udn: each.location for udn, each in ssdp.find(site.source, udns=site.udns).items()}
    lost = len(relay.run.events("interface_lost"))
    site.network.detach(site.edge)
    relay.wait_for("interface_lost", lost + 1)
    listener.drain()
    listener.heard.clear()
    site.network.attach(site.edge)
    wait_for_all(listener, ALIVE, *site.udns)
    assert {each.udn: each.location for each in listener.heard} == before
    found = ssdp.find(site.source, udns=site.udns)
    assert {udn: each.location for udn, each in found.items()} == before

    listener.heard.clear()
    other = "10.50.0.77"
    site.edge.ip(f"address del {site.edge.lan}/24 dev eth1", f"address add {other}/24 dev eth1")
    try:
        after = {udn: location.replace(site.edge.lan, other) for udn, location in before.items()}
        listener.wait_until(lambda _: after.items() <= {(each.udn, each.location) for each in listener.heard})
        assert all(is_all_of(listener.heard, BYEBYE, udn) for udn in site.udns), "the old address is revoked"
        found = ssdp.find(site.source, udns=site.udns)
        assert {udn: each.location for udn, each in found.items()} == after
        assert {each.source for each in found.values()} == {(other, ssdp.PORT)}
        assert web.fetch(site.source, next(iter(after.values()))).status == 200
    finally:
        listening = len(relay.run.events("ssdp_listening"))
        site.edge.ip(f"address del {other}/24 dev eth1", f"address add {site.edge.lan}/24 dev eth1")
        relay.wait_for("ssdp_listening", listening + 1)


def test_a_link_that_is_down_is_said_and_all_is_announced_when_it_is_back(
    site: Site, relay: SsdpRelay, listener: ssdp.NotifyListener
) -> None:
    before = len(relay.run.events("interface_lost"))
    site.edge.ip("link set eth1 down")
    lost = relay.wait_for("interface_lost", before + 1)
    assert "eth1" in lost[-1]["reason"]
    until(lambda: "interface eth1 is down" in site.edge.get("/readyz"), "it is not ready")
    listener.drain()
    listener.heard.clear()
    site.edge.ip("link set eth1 up")
    wait_for_all(listener, ALIVE, *site.udns)
    assert not [each for each in listener.heard if each.nts == BYEBYE]
    until(lambda: site.edge.get("/readyz") == "ok\n", "it is ready")


def test_sigterm_while_a_film_is_watched(site: Site, relay: SsdpRelay, listener: ssdp.NotifyListener) -> None:
    """A film without end, whose player reads on and on: who waited for it would wait for ever."""
    cinema, gallery = site.servers.values()
    location = ssdp.find(site.source, udns=[cinema.udn])[cinema.udn].location
    with ScriptedDevice(site.add_pod(), f"uuid:{uuid(0xF)}", pages={"/film": film_without_end}) as device:
        site.rename(cinema.pod, gallery.pod, device.pod)
        film = listener.wait_for(ALIVE, device.udn).location.replace("description.xml", "film")
        with web.opened(site.source, film) as (_, watched), web.opened(site.source, location) as (_, response):
            assert len(watched.read(MIB)) == MIB
            with ThreadPoolExecutor(1) as thread:
                rest = thread.submit(read_to_the_end, watched)
                assert relay.run.stop().code == 0
                assert rest.result() < FILM_SIZE - MIB, "it was broken off"
            response.close()
            watched.close()

    udns = {cinema.udn, gallery.udn, device.udn}  # that a test before had others may be said late

    def said() -> Counter[str]:
        return Counter(each.usn for each in listener.heard if each.nts == BYEBYE and each.udn in udns)

    listener.wait_until(lambda _: is_all_of(listener.heard, BYEBYE, cinema.udn) and set(said().values()) == {2})
    listener.drain()
    assert set(said().values()) == {2}, "once more, for a datagram to a group may be lost"
    assert {each.udn for each in listener.heard if each.nts == BYEBYE} >= udns


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
