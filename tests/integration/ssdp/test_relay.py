"""`SsdpRelay` served by a thread, and without the interface that it waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from fanout import Closed, InvalidInput, SocketUnavailable
from fanout.ssdp import relay as ssdp_relay
from fanout.ssdp.relay import SsdpRelay
from tests.support.waiting import PATIENCE, until

PODS = "10.60.0.11,10.60.0.12"


def test_it_waits_for_its_interface_and_says_so() -> None:
    with SsdpRelay(PODS, "nosuch0") as relay:
        assert "there is no interface nosuch0 here" in str(relay.waiting)
        assert relay.stats.devices == []
        assert relay.stats.endpoints in (0, 2)
        assert relay.silence == 0.0


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssdp_relay, "_LOOK", 0.01)
    relay = SsdpRelay(PODS, "nosuch0", interface_timeout=0.1)
    with pytest.raises(SocketUnavailable, match=r"nosuch0.*waited 0\.1 s"):
        relay.serve()
    with pytest.raises(Closed):
        relay.open()


def served(relay: SsdpRelay, meanwhile: Callable[[], None]) -> None:
    """Let the relay serve in a thread of its own, and end it."""
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            relay.serve()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        until(lambda: relay.silence > 0 or not thread.is_alive())
        meanwhile()
    finally:
        relay.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert errors == []


def test_it_is_served_once_and_ends_from_any_thread() -> None:
    relay = SsdpRelay(PODS, "nosuch0")

    def meanwhile() -> None:
        with pytest.raises(InvalidInput, match="already served by another thread"):
            relay.serve()
        silences = [relay.silence]

        def goes_round() -> bool:
            silences.append(relay.silence)
            return silences[-1] < silences[-2]

        until(goes_round, "it goes round again and again")

    served(relay, meanwhile)
    relay.close()
    relay.stop()
