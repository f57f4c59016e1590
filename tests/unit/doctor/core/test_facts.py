"""How a datagram on the wire fits an ingress."""

from __future__ import annotations

import pytest

from fanout.doctor.core.facts import Match, Seen, match
from fanout.model import Endpoint
from fanout.relay.core.ingress import Ingress

GROUP = Ingress.parse("mcast://224.0.67.67:5001@eth1", service="pods")
FROM_ONE = Ingress.parse("mcast://10.0.0.12,224.0.67.67:5001@eth1", service="pods")
BROADCAST = Ingress.parse("broadcast://:9999@eth1", service="pods")
PORTS = Ingress.parse("udp://0.0.0.0:5004-5007", service="pods")
SOURCE = Endpoint("10.0.0.12", 4000)
SEEN = Seen("eth1", SOURCE, Endpoint("224.0.67.67", 5001), 1328, 1)


@pytest.mark.parametrize(
    ("ingress", "seen", "expected"),
    [
        (GROUP, SEEN, Match.FITS),
        (GROUP, SEEN._replace(interface="eth0"), Match.OTHER_INTERFACE),
        (GROUP, SEEN._replace(destination=Endpoint("224.0.67.67", 5002)), Match.OTHER_PORT),
        (GROUP, SEEN._replace(interface="eth0", destination=Endpoint("224.0.67.67", 5002)), None),
        (GROUP, SEEN._replace(destination=Endpoint("224.0.0.251", 5001)), None),
        (FROM_ONE, SEEN, Match.FITS),
        (FROM_ONE, SEEN._replace(source=Endpoint("10.0.0.13", 4000)), Match.OTHER_SOURCE),
        (BROADCAST, Seen("eth1", SOURCE, Endpoint("10.0.0.255", 9999), 1, 1, True), Match.FITS),
        (BROADCAST, Seen("eth1", SOURCE, Endpoint("10.0.0.7", 9999), 1, 1), None),
        (PORTS, Seen("eth0", SOURCE, Endpoint("10.0.0.7", 5007), 1, 1), Match.FITS),
        (PORTS, Seen("eth0", SOURCE, Endpoint("10.0.0.7", 5008), 1, 1), None),
        (PORTS, Seen("eth0", SOURCE, Endpoint("10.0.0.255", 5007), 1, 1, True), None),
    ],
)
def test_how_a_datagram_on_the_wire_fits_an_ingress(ingress: Ingress, seen: Seen, expected: Match | None) -> None:
    assert match(ingress, seen) is expected
