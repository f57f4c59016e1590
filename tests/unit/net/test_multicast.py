"""How long an ingress waits for its interface, and what it says meanwhile."""

from __future__ import annotations

import math

import pytest

from fanout.errors import InvalidInput, SocketUnavailable
from fanout.net.multicast import InterfaceNotReady, InterfaceState

LATE = InterfaceNotReady("there is no interface eth1 here")


def test_it_waits_for_an_interface_until_the_time_is_up() -> None:
    state = InterfaceState(10.0)
    assert state.waiting == "not opened yet"
    assert state.failed(LATE, 100.0)
    assert not state.failed(LATE, 105.0), "the reason is the same"
    assert state.failed(InterfaceNotReady("it has no address"), 110.0)
    assert state.waiting == "it has no address"
    with pytest.raises(SocketUnavailable, match=r"there is no interface eth1 here \(waited 10 s\)"):
        state.failed(LATE, 110.1)


def test_what_waiting_does_not_change_is_raised_at_once() -> None:
    refused = SocketUnavailable("the port is in use")
    with pytest.raises(SocketUnavailable) as raised:
        InterfaceState(10.0).failed(refused, 0.0)
    assert raised.value is refused


def test_once_it_has_listened_it_waits_for_ever() -> None:
    state = InterfaceState(10.0)
    state.opened()
    assert (state.has_listened, state.waiting) == (True, None)
    assert state.failed(SocketUnavailable("the port is in use"), 0.0)
    assert not state.failed(SocketUnavailable("the port is in use"), 1e9)
    state.opened()
    assert state.waiting is None


def test_the_time_may_be_none_or_endless() -> None:
    state = InterfaceState(0)
    assert state.failed(LATE, 100.0)
    with pytest.raises(SocketUnavailable, match="waited 0 s"):
        state.failed(LATE, 100.1)
    assert InterfaceState(math.inf).failed(LATE, 1e9)
    with pytest.raises(InvalidInput, match="interface_timeout must be a number of seconds of at least 0; got -1"):
        InterfaceState(-1)
