"""The sockets of an ingress: what each kind is bound to, and what is said where one cannot be opened."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest

from fanout.errors import SocketUnavailable
from fanout.net import interfaces
from fanout.net.multicast import InterfaceNotReady
from fanout.relay.core.ingress import Ingress
from fanout.relay.ingress_socket import describe, open_port
from tests.support.pods import Pod

LOOPBACK = ipaddress.ip_address("127.0.0.1")


def ingress(url: str) -> Ingress:
    return Ingress.parse(url, service="pods")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("udp://127.0.0.1:1", "127.0.0.1"),
        ("udp://127.0.0.1:1@lo", "127.0.0.1"),
        ("mcast://239.1.1.1:1@lo", "239.1.1.1"),
        ("broadcast://:1@lo", "0.0.0.0"),
    ],
)
def test_each_kind_is_bound_to_its_address_and_does_not_block(url: str, host: str) -> None:
    with open_port(ingress(url), 0) as opened:
        assert opened.getsockname()[0] == host
        with pytest.raises(BlockingIOError):
            opened.recv(1)


def test_an_interface_that_is_missing_may_appear() -> None:
    with pytest.raises(InterfaceNotReady, match=r"^ingress udp://:1@nowhere0: there is no interface nowhere0 here \("):
        open_port(ingress("udp://:1@nowhere0"), 1)


def test_an_address_that_its_interface_lacks_may_appear() -> None:
    with pytest.raises(InterfaceNotReady, match=r"ingress udp://198.51.100.7:1@lo: .* that address"):
        open_port(ingress("udp://198.51.100.7:1@lo"), 0)


def test_an_address_that_the_host_lacks_does_not() -> None:
    with pytest.raises(SocketUnavailable, match=r"ingress udp://198.51.100.7:1: .* that address") as refused:
        open_port(ingress("udp://198.51.100.7:1"), 0)
    assert not isinstance(refused.value, InterfaceNotReady)


def test_a_port_in_use_is_refused_with_the_name_of_the_ingress(pods: Callable[..., list[Pod]]) -> None:
    (pod,) = pods(1)
    with pytest.raises(SocketUnavailable, match=f"^ingress udp://{pod.endpoint}: .*the port is in use"):
        open_port(ingress(f"udp://{pod.endpoint}"), pod.endpoint.port)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("udp://:1", "listens on all addresses"),
        ("udp://127.0.0.1:1", "listens on 127.0.0.1"),
        ("udp://:1@lo", "listens on lo (127.0.0.1)"),
    ],
)
def test_it_says_where_it_listens(url: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "addresses", lambda name=None: [LOOPBACK])
    assert describe(ingress(url)) == says


@pytest.mark.parametrize(
    ("url", "route", "says"),
    [
        ("mcast://239.1.1.1:1@lo", None, "joined 239.1.1.1 on lo (127.0.0.1); there is no route to the group"),
        ("mcast://239.1.1.1:1@lo", ("eth0", "10.0.0.1"),
         "joined 239.1.1.1 on lo (127.0.0.1); the route to the group is by eth0 (10.0.0.1)"),
        ("mcast://10.0.0.9,239.1.1.1:1@lo", ("eth0", "10.0.0.1"),
         "joined 239.1.1.1 from 10.0.0.9 on lo (127.0.0.1); the route to 10.0.0.9 is by eth0 (10.0.0.1)"),
        ("mcast://[ff15::67]:1@lo", None, "joined ff15::67 on lo (no IPv6 address); there is no route to the group"),
    ],
)  # fmt: skip
def test_it_says_which_group_it_joined_and_the_route(
    url: str, route: tuple[str, str] | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interfaces, "addresses", lambda name=None: [LOOPBACK])
    monkeypatch.setattr(interfaces, "route", lambda address, scope: route)
    assert describe(ingress(url)) == says
