"""The relay's HTTP ports: the same for the same device, and a clear word where there is none."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.waiting import until
from tests.system.ssdp import ssdp, web
from tests.system.ssdp.world import FIRST_PORT, LAST_PORT, Home, home


@pytest.fixture(scope="module")
def module_home() -> Iterator[Home]:
    with home(2) as made:
        for pod, name in zip(made.world.pods, ("Cinema", "Gallery"), strict=True):
            films = made.library(name)
            films.add("clip.wav")
            made.minidlna(pod, name, films)
        yield made


@pytest.fixture
def here(module_home: Home) -> Iterator[Home]:
    yield module_home
    module_home.end_relay(goes_on=False)
    for host in (module_home.edge, *module_home.world.sources):
        host.close_sockets()


def locations(here: Home) -> dict[str, str]:
    """Return where all media servers are, once they are."""
    found = ssdp.find(here.source, udns=here.udns)
    assert found.keys() == here.udns
    return {udn: each.location for udn, each in found.items()}


def test_a_relay_that_starts_again_has_devices_where_they_were(here: Home) -> None:
    """Even one that was killed while clients were connected: their connections linger."""
    relay = here.relay_that_goes_on()
    before = locations(here)
    kept = [web.connect(here.source, location) for location in before.values()]
    for connection in kept:
        connection.request("GET", "/rootDesc.xml")
        assert connection.getresponse().read()
    relay.end()
    again = here.relay()
    assert locations(here) == before
    for connection in kept:
        connection.close()
    assert again.run.stop().code == 0
    here.relay_that_goes_on()
    assert locations(here) == before


def test_a_port_that_another_program_has(here: Home) -> None:
    relay = here.relay_that_goes_on()
    (udn, before), *rest = locations(here).items()
    others = dict(rest)
    relay.run.stop()
    taken = here.edge.tcp()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("0.0.0.0", web.port_of(before)))
    taken.listen()
    relay = here.relay()
    after = locations(here)
    assert FIRST_PORT <= web.port_of(after[udn]) <= LAST_PORT
    assert web.port_of(after[udn]) != web.port_of(before)
    assert {each: after[each] for each in others} == others
    assert udn in web.fetch(here.source, after[udn]).text
    (said,) = relay.wait_for("http_port_taken")
    assert str(web.port_of(before)) in said["sentence"]


def test_more_devices_than_ports(here: Home) -> None:
    relay = here.relay("--http-ports", f"{FIRST_PORT}-{FIRST_PORT}")
    (said,) = relay.wait_for("no_http_port")
    (udn,) = here.udns - {said["udn"]}
    asking = ssdp.client(here.source)
    asking.sendto(ssdp.search(ssdp.ROOT_DEVICE), ssdp.EVERYBODY)
    (heard,) = ssdp.answers(asking, 1)
    assert (heard.udn, web.port_of(heard.location)) == (udn, FIRST_PORT)
    until(lambda: relay.count("fanout_ssdp_sessions") == 0, "nobody is answered any more")
    assert ssdp.have_come(asking) == []
    assert udn in web.fetch(here.source, heard.location).text
    assert relay.drops()["no_port"] >= 1


def test_clients_that_hold_connections_shut_out_nobody_else(here: Home) -> None:
    other = here.add_source()
    relay = here.relay_that_goes_on()
    location = next(iter(locations(here).values()))
    refusals = relay.http_failures().get("too_many_connections", 0)
    held = []
    refused = 0
    for _ in range(40):
        held.append(web.connect(here.source, location))
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
    assert web.fetch(here.source, location).status == 200
