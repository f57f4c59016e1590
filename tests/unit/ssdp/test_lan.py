"""The interface that leads to the LAN: what may be answered there, and why it cannot be opened."""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import IPv4Interface
from typing import Any

import pytest

from fanout.errors import SocketUnavailable
from fanout.net import interfaces
from fanout.net.multicast import InterfaceNotReady
from fanout.ssdp import lan as module
from fanout.ssdp.lan import Lan


class Joined:
    """The place of a socket that is in the group."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Joined:
    """A LAN that is there, but for sockets."""
    made = Joined()
    monkeypatch.setattr(interfaces, "index", lambda name: 7)
    monkeypatch.setattr(interfaces, "names", lambda: ["lo", "eth0"])
    monkeypatch.setattr(interfaces, "is_up", lambda name: True)
    monkeypatch.setattr(interfaces, "networks", lambda name: [IPv4Interface("192.168.1.2/24")])
    monkeypatch.setattr(module, "open_group", lambda *_: made)
    return made


def refusal(kind: type[SocketUnavailable]) -> str:
    lan = Lan("eth1", ())
    with pytest.raises(kind) as refused:
        lan.open()
    assert not lan.is_open
    assert not lan.send(b"x"), "nothing is sent without a LAN"
    return str(refused.value)


@pytest.mark.usefixtures("joined")
def test_an_interface_that_is_not_there_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "index", lambda name: None)
    assert refusal(InterfaceNotReady) == "there is no interface eth1 here (there are lo, eth0)"


@pytest.mark.usefixtures("joined")
def test_an_interface_that_is_down_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "is_up", lambda name: False)
    assert "`ip link set eth1 up`" in refusal(InterfaceNotReady)


def test_an_interface_without_an_address_is_waited_for(joined: Joined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "networks", lambda name: [])
    assert "has no IPv4 address (yet)" in refusal(InterfaceNotReady)
    assert joined.is_closed


@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EADDRINUSE, "another program has UDP port 1900 for itself: end it (ss -lunp 'sport = :1900' names it)"),
        (errno.EACCES, "Permission denied (EACCES)"),
        (None, "the group is full"),
    ],
)
def test_a_group_that_cannot_be_joined_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, number: int | None, says: str
) -> None:
    def refuse(*_: object) -> None:
        cause = None if number is None else OSError(number, os.strerror(number))
        raise SocketUnavailable("the group is full") from cause

    monkeypatch.setattr(module, "open_group", refuse)
    assert refusal(SocketUnavailable) == f"cannot listen for SSDP on interface eth1: {says}"


def test_a_port_that_cannot_be_bound_leaves_nothing_open(joined: Joined, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Joined):
        def setblocking(self, _: bool) -> None: ...
        def setsockopt(self, *_: object) -> None:
            raise OSError(errno.EPERM, "no")

    made: list[Refusing] = []

    def make(*_: object) -> Any:
        made.append(Refusing())
        return made[-1]

    monkeypatch.setattr(socket, "socket", make)
    assert refusal(SocketUnavailable).endswith("Operation not permitted (EPERM)")
    assert joined.is_closed
    assert made[0].is_closed


def opened() -> Lan:
    """A LAN as it is once it was opened, without its sockets."""
    lan = Lan("eth1", ())
    lan._addresses, lan._broadcasts, lan._index = frozenset({"192.168.1.2"}), frozenset({"192.168.1.255"}), 7
    return lan


@pytest.mark.parametrize(
    ("host", "port", "may"),
    [
        ("192.168.1.5", 40_000, True),
        ("192.168.1.5", 1024, True),
        ("192.168.1.5", 1023, False),
        ("192.168.1.255", 40_000, False),
        ("255.255.255.255", 40_000, False),
        ("239.255.255.250", 40_000, False),
        ("0.0.0.0", 40_000, False),
        ("127.0.0.1", 40_000, False),
        ("240.0.0.1", 40_000, False),
    ],
)
def test_only_one_host_and_a_port_of_its_own_is_answered(host: str, port: int, may: bool) -> None:
    assert opened().may_answer((host, port)) is may


def test_the_way_to_a_host_is_asked_for_once_until_it_may_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {"192.168.1.5": "192.168.1.2", "10.60.0.11": "10.60.0.20"}
    asked: list[str] = []

    def source(host: str) -> str | None:
        asked.append(host)
        return ways.get(host)

    monkeypatch.setattr(interfaces, "source", source)
    monkeypatch.setattr(module, "_ROUTES_MAX", 3)
    lan = opened()
    assert [lan.leads_to(host) for host in ("192.168.1.5", "10.60.0.11", "10.9.9.9")] == [True, False, False]
    ways["10.60.0.11"] = "192.168.1.2"
    assert not lan.leads_to("10.60.0.11")
    assert len(asked) == 3
    assert lan.may_come_from("10.60.0.11", 8), "another interface"
    assert not lan.may_come_from("10.60.0.11", 7)
    lan.forget_routes()
    assert lan.leads_to("10.60.0.11")
    for number in range(10):
        lan.leads_to(f"10.1.1.{number}")
    assert len(lan._routes) <= 3
