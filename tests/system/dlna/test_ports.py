"""The relay's HTTP ports: the same for the same device, and a clear word where there is none."""

from __future__ import annotations

import socket
import urllib.parse
from collections.abc import Iterator

import pytest

from tests.support.waiting import until
from tests.system.dlna import ssdp, web
from tests.system.dlna.world import FIRST_PORT, LAST_PORT, Home, home


@pytest.fixture(scope="module")
def module_home() -> Iterator[Home]:
    with home(2) as made:
        for pod, name in zip(made.world.pods, ("Cinema", "Gallery"), strict=True):
            films = made.library(name)
            films.add("clip.mp4")
            made.minidlna(pod, name, films)
        yield made


@pytest.fixture
def here(module_home: Home) -> Iterator[Home]:
    yield module_home
    module_home.edge.end_all()
    module_home.source.close_sockets()


def locations(here: Home) -> dict[str, str]:
    """Return where all media servers are, once they are."""
    found: dict[str, ssdp.Heard] = {}

    def has_all() -> bool:
        found.update(ssdp.find(here.source, udns=here.udns, seconds=1))
        return found.keys() == here.udns

    until(has_all, "all are found")
    return {udn: each.location for udn, each in found.items()}


def port_of(location: str) -> int:
    port = urllib.parse.urlsplit(location).port
    assert port
    return port


def test_a_relay_that_starts_again_has_devices_where_they_were(here: Home) -> None:
    """Even one that was killed while clients were connected: their connections linger."""
    relay = here.relay()
    before = locations(here)
    kept = [web.connect(here.source, location) for location in before.values()]
    for connection in kept:
        connection.request("GET", "/rootDesc.xml")
        assert connection.getresponse().read()
    relay.run.process.kill()
    relay.run.process.wait()
    again = here.relay()
    assert locations(here) == before
    for connection in kept:
        connection.close()
    again.run.stop()
    assert here.relay().run.process.poll() is None
    assert locations(here) == before


def test_a_port_that_another_program_has(here: Home) -> None:
    relay = here.relay()
    udn, before = next(iter(locations(here).items()))
    others = {each: where for each, where in locations(here).items() if each != udn}
    relay.run.stop()
    taken = here.edge.tcp()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("0.0.0.0", port_of(before)))
    taken.listen()
    relay = here.relay()
    after = locations(here)
    assert FIRST_PORT <= port_of(after[udn]) <= LAST_PORT
    assert port_of(after[udn]) != port_of(before)
    assert {each: after[each] for each in others} == others
    assert udn in web.fetch(here.source, after[udn]).text
    (said,) = relay.wait_for("http_port_taken")
    assert str(port_of(before)) in said["sentence"]


def test_more_devices_than_ports(here: Home) -> None:
    relay = here.relay("--http-ports", f"{FIRST_PORT}-{FIRST_PORT}")
    until(lambda: ssdp.find(here.source, udns=here.udns, seconds=0.5), "one is found")
    (said,) = relay.wait_for("no_http_port")
    found = ssdp.find(here.source, udns=here.udns, seconds=1.5)
    ((udn, heard),) = found.items()
    assert said["udn"] in here.udns - {udn}
    assert port_of(heard.location) == FIRST_PORT
    assert udn in web.fetch(here.source, heard.location).text
    assert relay.drops()["no_port"] >= 1


def test_clients_that_hold_connections_shut_out_nobody_else(here: Home) -> None:
    other = here.add_source()
    relay = here.relay()
    location = next(iter(locations(here).values()))
    held = [web.connect(here.source, location) for _ in range(40)]
    refused = 0
    for connection in held:
        try:
            connection.request("GET", "/rootDesc.xml")
            assert connection.getresponse().read()
        except OSError:
            refused += 1
    assert refused == 40 - 32, "a client may have 32"
    assert relay.http_failures()["too_many_connections"] == refused
    assert web.fetch(other, location).status == 200
    for connection in held:
        connection.close()
    until(lambda: relay.count("fanout_ssdp_http_connections") == 0, "all are closed")
    assert web.fetch(here.source, location).status == 200
