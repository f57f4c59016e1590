"""Where a control point searches, and when that fails."""

from __future__ import annotations

import errno
from ipaddress import IPv4Interface
from typing import Any

import pytest

from fanout.errors import InvalidInput, SocketUnavailable
from fanout.net import interfaces
from fanout.ssdp import control_point
from fanout.ssdp.control_point import ways


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with interfaces of each kind."""
    networks = {
        "lo": [IPv4Interface("127.0.0.1/8")],
        "eth0": [IPv4Interface("192.168.1.2/24"), IPv4Interface("192.168.1.3/24")],
        "eth1": [],
        "down0": [IPv4Interface("10.0.0.2/24")],
    }
    monkeypatch.setattr(interfaces, "names", lambda: list(networks))
    monkeypatch.setattr(interfaces, "index", lambda name: 1 if name in networks else None)
    monkeypatch.setattr(interfaces, "networks", networks.__getitem__)
    monkeypatch.setattr(interfaces, "is_up", lambda name: name != "down0")


def test_all_interfaces_that_are_up_are_searched_but_loopback() -> None:
    assert ways() == {"eth0": "192.168.1.2"}
    assert ways("lo") == {"lo": "127.0.0.1"}


def test_without_any_interface_a_device_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "is_up", lambda name: False)
    with pytest.raises(SocketUnavailable, match=r"no interface with an IPv4 address is up; name a device with --host"):
        ways()


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("eth7", InvalidInput, "there is no interface 'eth7': there are lo, eth0, eth1, down0"),
        ("", InvalidInput, "there is no interface '': there are lo"),
        ("eth1", SocketUnavailable, "interface eth1 has no IPv4 address"),
        ("down0", SocketUnavailable, "interface down0 is down: ip link set down0 up"),
    ],
)
def test_an_interface_that_cannot_be_searched_on_is_one_sentence(name: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        ways(name)


class SendingSocket:
    """In the place of a socket that sends, or fails to."""

    def __init__(self, error: int = 0) -> None:
        self.error = error

    def sendto(self, *_: Any) -> int:
        if self.error:
            raise OSError(self.error, "no")
        return 1


def test_a_search_has_failed_once_it_leaves_by_no_interface() -> None:
    works: Any = SendingSocket()
    fails: Any = SendingSocket(errno.EPERM)
    address = ("239.255.255.250", 1900)
    control_point._send(b"x", [(fails, address), (works, address)])
    with pytest.raises(SocketUnavailable, match=r"cannot send a search to 239\.255\.255\.250: "):
        control_point._send(b"x", [(fails, address)])
