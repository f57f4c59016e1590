"""`SsdpRelay` as far as no LAN is needed: what it takes and waits for, how it ends. More is in tests/system/ssdp."""

from __future__ import annotations

from typing import Any

import pytest

from fanout import InvalidInput
from fanout.ssdp import relay as ssdp_relay
from fanout.ssdp.core import message
from fanout.ssdp.core.announcer import Announce
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.responder import SearchReply
from fanout.ssdp.lan import Lan
from fanout.ssdp.relay import SsdpRelay

PODS = "10.60.0.11,10.60.0.12"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"service": ""}, "Service name"),
        ({"interface": ""}, "interface"),
        ({"interface": "a" * 16}, "interface"),
        ({"interface": "eth0/1"}, "interface"),
        ({"interface": "lo"}, "interface must be that of a LAN; got .lo., the loopback interface"),
        ({"service": "10.0.0.1,239.1.1.1"}, "an endpoint must be a pod's address.*; got 239.1.1.1"),
        ({"service": "255.255.255.255"}, "an endpoint must be a pod's address"),
        ({"http_ports": "0-1"}, "ports must be FIRST-LAST from 1 to 65535"),
        ({"http_ports": "70000"}, "ports must be FIRST-LAST from 1 to 65535"),
        ({"http_ports": "9-8"}, "the range .9-8. must ascend: write 8-9"),
        ({"http_ports": "1-65535"}, "ports must be at most 1,024; got 65,535"),
        ({"http_ports": (1, 2)}, "ports must be FIRST-LAST from 1 to 65535"),
        ({"descriptions": "8200/d.xml"}, "must be lists of strings"),
        ({"descriptions": ["d.xml"]}, "a description must be PORT/PATH"),
        ({"descriptions": ["0/d.xml"]}, "a description must be PORT/PATH"),
        ({"descriptions": ["80/a b"]}, "a description must be PORT/PATH"),
        ({"descriptions": [None]}, "a description must be PORT/PATH"),
        ({"allow_source": "10.0.0.0/8"}, "must be lists of strings"),
        ({"allow_source": ["10.0.0.1/8"]}, "allowed source must be an address, or a network"),
        ({"allow_source": []}, "allow_source must name at least one network"),
        ({"family": "ipv5"}, "family"),
        ({"interface_timeout": -1}, "interface_timeout"),
        ({"interface_timeout": float("nan")}, "interface_timeout"),
        ({"interface_timeout": "x"}, "interface_timeout"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        SsdpRelay(**{"service": PODS, "interface": "eth0", **wrong})


def test_one_that_was_stopped_before_it_began_returns_at_once() -> None:
    relay = SsdpRelay(PODS, "nosuch0")
    relay.stop()
    relay.serve()


def test_what_the_kernel_does_not_take_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[bytes, tuple[str, int]]] = []

    class Picky(Lan):
        is_open = True

        def send(self, data: bytes, client: tuple[str, int] = (message.GROUP, message.PORT)) -> bool:
            sent.append((data, client))
            return len(sent) > 2

    monkeypatch.setattr(ssdp_relay, "Lan", Picky)
    relay, client = SsdpRelay(PODS, "eth0"), ("192.168.1.5", 40_000)
    relay._carry_out([Announce(b"a"), SearchReply(b"b", client), Announce(b"c"), SearchReply(b"d", client)])
    group = (message.GROUP, message.PORT)
    assert sent == [(b"a", group), (b"b", client), (b"c", group), (b"d", client)]
    assert relay.stats.dropped == {SsdpDrop.NOT_SENT: 2}
    assert relay.stats.answers == 1


def test_what_cannot_be_sent_without_a_lan_is_no_loss() -> None:
    relay = SsdpRelay(PODS, "eth0")
    relay._carry_out([Announce(b"a")])
    assert relay.stats.dropped == {}
