"""What a relay knows of itself: its addresses, its ports, and where its copies come from."""

from __future__ import annotations

import pytest

from fanout.model import Endpoint
from fanout.net import interfaces
from fanout.relay.core.ingress import Ingress
from fanout.relay.self_filter import SelfFilter


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The addresses of this host."""
    addresses = {"10.0.0.1", "10.0.0.2", "127.0.0.1"}
    monkeypatch.setattr(interfaces, "is_local", lambda host: host in addresses)
    return addresses


@pytest.mark.usefixtures("here")
def test_what_is_sent_to_an_ingress_of_its_own_is_known() -> None:
    listening = ("udp://10.0.0.1:5000", "udp://:6000-6003", "mcast://224.0.67.67:7000@eth1")
    own = SelfFilter([Ingress.parse(each, service="pods") for each in listening])
    assert own.is_ingress(Endpoint("10.0.0.1", 5000))
    assert own.is_ingress(Endpoint("10.0.0.2", 6003))
    assert not own.is_ingress(Endpoint("10.0.0.2", 5000)), "it listens on another address"
    assert not own.is_ingress(Endpoint("10.0.0.1", 6004))
    assert not own.is_ingress(Endpoint("10.0.0.9", 6000)), "that is another host"
    assert not own.is_ingress(Endpoint("10.0.0.1", 7000)), "nobody is sent there but by the group"


@pytest.mark.usefixtures("here")
def test_what_it_has_sent_is_known_by_its_source_however_that_is_written() -> None:
    own = SelfFilter([])
    assert not own.has_sent("10.0.0.1", 41_000)
    own.send_from([Endpoint("10.0.0.1", 41_000), Endpoint("10.0.0.1", 41_001)])
    assert own.ports == {41_000, 41_001}
    assert own.has_sent("10.0.0.1", 41_000)
    assert own.has_sent("::ffff:10.0.0.1", 41_001)
    assert not own.has_sent("10.0.0.2", 41_000)
    own.send_from([])
    assert not own.has_sent("10.0.0.1", 41_000)


def test_an_address_that_has_gone_is_found_out_when_it_looks_anew(here: set[str]) -> None:
    own = SelfFilter([])
    own.send_from([Endpoint("10.0.0.1", 41_000)])
    assert not own.has_moved()
    here.remove("10.0.0.1")
    assert own.is_here("10.0.0.1"), "it was here when it looked"
    assert own.has_moved()
    assert not own.is_here("10.0.0.1")
