"""`SsdpRelay` as far as no LAN is needed: what it takes and waits for, how it ends. More is in tests/system/dlna."""

from __future__ import annotations

from typing import Any

import pytest

from fanout import InvalidInput
from fanout.ssdp.relay import SsdpRelay

PODS = "10.60.0.11,10.60.0.12"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"service": ""}, "Service name"),
        ({"interface": ""}, "interface"),
        ({"interface": "a" * 16}, "interface"),
        ({"interface": "eth0/1"}, "interface"),
        ({"interface": "lo"}, "leads to no LAN"),
        ({"service": "10.0.0.1,239.1.1.1"}, "239.1.1.1 is no pod's"),
        ({"service": "255.255.255.255"}, "no pod's"),
        ({"http_ports": "0-1"}, "no range of ports"),
        ({"http_ports": "70000"}, "no range of ports"),
        ({"http_ports": "9-8"}, "upside down"),
        ({"http_ports": "1-65535"}, "1,024 are the most"),
        ({"http_ports": (1, 2)}, "no range of ports"),
        ({"descriptions": "8200/d.xml"}, "are lists"),
        ({"descriptions": ["d.xml"]}, "no PORT/PATH"),
        ({"descriptions": ["0/d.xml"]}, "no PORT/PATH"),
        ({"descriptions": ["80/a b"]}, "no PORT/PATH"),
        ({"descriptions": [None]}, "no PORT/PATH"),
        ({"allow_source": "10.0.0.0/8"}, "are lists"),
        ({"allow_source": ["10.0.0.1/8"]}, "no network"),
        ({"allow_source": []}, "nobody would be served"),
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
