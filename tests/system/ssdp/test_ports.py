"""The relay's HTTP ports: the same for the same device, and a clear word where there is none."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.waiting import until
from tests.system.ssdp import ssdp, web
from tests.system.ssdp.site import FIRST_PORT, LAST_PORT, Site, make_site


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    with make_site(2) as made:
        for pod, name in zip(made.network.pods, ("Cinema", "Gallery"), strict=True):
            films = made.library(name)
            films.add("clip.wav")
            made.minidlna(pod, name, films)
        yield made


@pytest.fixture
def site(module_site: Site) -> Iterator[Site]:
    yield module_site
    module_site.end_relay(lasts=False)
    for host in (module_site.edge, *module_site.network.sources):
        host.close_sockets()


def locations(site: Site) -> dict[str, str]:
    """Return where all media servers are, once they are."""
    found = ssdp.find(site.source, udns=site.udns)
    assert found.keys() == site.udns
    return {udn: each.location for udn, each in found.items()}


def test_a_relay_that_starts_again_has_devices_where_they_were(site: Site) -> None:
    """Even one that was killed while clients were connected: their connections linger."""
    relay = site.lasting_relay()
    before = locations(site)
    kept = [web.connect(site.source, location) for location in before.values()]
    for connection in kept:
        connection.request("GET", "/rootDesc.xml")
        assert connection.getresponse().read()
    relay.end()
    again = site.relay()
    assert locations(site) == before
    for connection in kept:
        connection.close()
    assert again.run.stop().code == 0
    site.lasting_relay()
    assert locations(site) == before


def test_a_port_that_another_program_has(site: Site) -> None:
    relay = site.lasting_relay()
    (udn, before), *rest = locations(site).items()
    others = dict(rest)
    relay.run.stop()
    taken = site.edge.tcp()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("0.0.0.0", web.port_of(before)))
    taken.listen()
    relay = site.relay()
    after = locations(site)
    assert FIRST_PORT <= web.port_of(after[udn]) <= LAST_PORT
    assert web.port_of(after[udn]) != web.port_of(before)
    assert {each: after[each] for each in others} == others
    assert udn in web.fetch(site.source, after[udn]).text
    (said,) = relay.wait_for("http_port_taken")
    assert str(web.port_of(before)) in said["sentence"]


def test_more_devices_than_ports(site: Site) -> None:
    relay = site.relay("--http-ports", f"{FIRST_PORT}-{FIRST_PORT}")
    (said,) = relay.wait_for("no_http_port")
    (udn,) = site.udns - {said["udn"]}
    asking = ssdp.client(site.source)
    asking.sendto(ssdp.search(ssdp.ROOT_DEVICE), ssdp.EVERYBODY)
    (heard,) = ssdp.answers(asking, 1)
    assert (heard.udn, web.port_of(heard.location)) == (udn, FIRST_PORT)
    until(lambda: relay.count("fanout_ssdp_sessions") == 0, "nobody is answered any more")
    assert ssdp.have_come(asking) == []
    assert udn in web.fetch(site.source, heard.location).text
    assert relay.drops()["no_port"] >= 1


def test_clients_that_hold_connections_shut_out_nobody_else(site: Site) -> None:
    other = site.add_source()
    relay = site.lasting_relay()
    location = next(iter(locations(site).values()))
    refusals = relay.http_failures().get("too_many_connections", 0)
    held = []
    refused = 0
    for _ in range(40):
        held.append(web.connect(site.source, location))
        try:
            held[-1].request("GET", "/rootDesc.xml")
            assert held[-1].getresponse().read()
        except OSError:
            refused += 1
    assert refused == 40 - 32, "a client may have 32"
    assert relay.http_failures()["too_many_connections"] == refusals + refused
    assert web.fetch(other, location).status == 200
    for connection in held:
        connection.close()
    until(lambda: relay.count("fanout_ssdp_http_connections") == 0, "all are closed")
    assert web.fetch(site.source, location).status == 200
