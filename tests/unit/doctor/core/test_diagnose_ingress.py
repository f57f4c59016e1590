"""What `fanout doctor` makes of what came to an ingress, or did not, cause by cause."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fanout.doctor.core import diagnose_ingress
from fanout.doctor.core.facts import CheckStatus, Heard, IngressFacts, InterfaceFacts, Match, Seen
from fanout.model import Endpoint
from fanout.relay.core.ingress import Ingress
from tests.support.doctor_checks import assert_said

GROUP = Ingress.parse("mcast://224.0.67.67:5001@eth1", service="pods")
FROM_ONE = Ingress.parse("mcast://10.0.0.12,224.0.67.67:5001@eth1", service="pods")
GROUP_6 = Ingress.parse("mcast://[ff15::67]:5001@eth1", service="pods")
BROADCAST = Ingress.parse("broadcast://:9999@eth1", service="pods")
PORTS = Ingress.parse("udp://0.0.0.0:5004-5007", service="pods")
SOURCE = Endpoint("10.0.0.12", 4000)
SEEN = Seen("eth1", SOURCE, Endpoint("224.0.67.67", 5001), 1328, 1)
QUIET = IngressFacts(
    GROUP, 10.0,
    InterfaceFacts(addresses=("10.0.0.7",), own_addresses=("127.0.0.1", "10.0.0.7"), igmp_version="V3"),
    described="joined 224.0.67.67 on eth1 (10.0.0.7)", joined=True, seen={},
)  # fmt: skip


def changed(facts: IngressFacts, **changes: Any) -> IngressFacts:
    """Return the facts with others in their place, of the ingress or of its interface."""
    of_interface = {name: changes.pop(name) for name in list(changes) if hasattr(facts.interface, name)}
    return replace(facts, interface=replace(facts.interface, **of_interface), **changes)


DROPPED = changed(QUIET, seen={Match.FITS: SEEN}, way_back="eth1")


def test_an_ingress_that_hears() -> None:
    check = diagnose_ingress.listened(changed(QUIET, heard=Heard(SOURCE, 5001, 1328, 0.21)))
    assert_said(
        check, CheckStatus.OK, "mcast://224.0.67.67:5001@eth1", "1,328 bytes from 10.0.0.12:4000", "joined 224.0.67.67"
    )
    assert check.details["heard"] == {"source": "10.0.0.12:4000", "port": 5001, "size": 1328, "seconds": 0.21}


def test_an_ingress_that_cannot_be_listened_to() -> None:
    check = diagnose_ingress.listened(
        changed(QUIET, refused=f"ingress {GROUP}: there is no interface eth1 here", joined=None)
    )
    assert_said(check, CheckStatus.PROBLEM, "mcast://224.0.67.67:5001@eth1: there is no interface eth1 here")
    assert check.sentence.count("mcast://") == 1


def test_a_port_in_use_is_well_where_its_program_is_sent_datagrams() -> None:
    taken = changed(QUIET, ingress=PORTS, refused="cannot listen on UDP 0.0.0.0:5004: the port is in use", in_use=True)
    assert_said(diagnose_ingress.listened(taken), CheckStatus.PROBLEM, "the port is in use", "if it is the relay")
    seen = Seen("eth0", SOURCE, Endpoint("10.0.0.7", 5004), 1328, 64)
    assert_said(
        diagnose_ingress.listened(changed(taken, seen={Match.FITS: seen})),
        CheckStatus.OK,
        "10.0.0.12:4000",
        "has the port",
    )


@pytest.mark.parametrize(
    ("facts", "parts"),
    [
        (changed(QUIET, is_up=False), ["eth1 is down or has no carrier", "ip link set eth1 up"]),
        (changed(QUIET, joined=False), ["does not list 224.0.67.67"]),
        (
            changed(DROPPED, reverse_filter=1, way_back="eth0", grown={"IPReversePathFilter": 10}),
            [
                "came in by eth1, and this host dropped it",
                "the route back to 10.0.0.12 is by eth0, and rp_filter=1 (strict) drops such packets (10 meanwhile)",
                "ip route add 10.0.0.12 dev eth1",
                "net.ipv4.conf.eth1.rp_filter=2",
            ],
        ),
        (
            changed(DROPPED, reverse_filter=2, way_back=None),
            ["no route leads back to 10.0.0.12, and rp_filter=2 (loose)", "rp_filter=0"],
        ),
        (changed(DROPPED, own_addresses=("10.0.0.12",)), ["10.0.0.12 is an address of this host"]),
        (changed(DROPPED, grown={"InCsumErrors": 10}), ["checksums", "ethtool -K eth1"]),
        (changed(DROPPED, reverse_filter=2, way_back="eth0"), ["rp_filter does not explain it", "nft list ruleset"]),
        (
            changed(QUIET, seen={Match.OTHER_PORT: SEEN._replace(destination=Endpoint("224.0.67.67", 5002))}),
            ["to 224.0.67.67:5002: the port is another one", "was port 5002 meant?"],
        ),
        (
            changed(QUIET, seen={Match.OTHER_INTERFACE: SEEN._replace(interface="eth0")}),
            ["came in by eth0", "was interface @eth0 meant?"],
        ),
        (
            changed(QUIET, ingress=FROM_ONE, seen={Match.OTHER_SOURCE: SEEN._replace(source=Endpoint("10.0.0.13", 1))}),
            ["the source is not 10.0.0.12", "was source 10.0.0.13 meant?"],
        ),
        (
            changed(QUIET, grown={"received": 20, "received_multicast": 8}),
            [
                "nothing came for it within 10 s, nor did eth1 get anything of the kind",
                "eth1 got 20 packets of any kind, 8 of them multicast",
                "TTL",
                "querier",
                "Of a macvlan, its parent",
            ],
        ),
        (
            changed(QUIET, seen=None, reverse_filter=1, grown={"IPReversePathFilter": 10, "IgnoredMulti": 7}),
            ["without CAP_NET_RAW", "rp_filter dropped 10", "rp_filter=2", "7 multicast datagrams found no program"],
        ),
        (changed(QUIET, seen=None, grown={"IgnoredMulti": 7}), ["7 multicast datagrams found no program"]),
        (changed(QUIET, missed=3), ["nor did eth1 get anything of the kind (3 packets came too fast to look at)"]),
        (changed(QUIET, grown={"RcvbufErrors": 4}), ["full receive buffers cost 4 datagrams"]),
        (changed(QUIET, addresses=()), ["eth1 has no IPv4 address"]),
        (changed(QUIET, ingress=GROUP_6, addresses=()), ["eth1 has no IPv6 address"]),
        (changed(QUIET, ingress=FROM_ONE, igmp_version="V2"), ["IGMPv2", "cannot select a source", "IGMPv3"]),
        (changed(QUIET, ingress=FROM_ONE, igmp_version="V2", forced_version=2), ["force_igmp_version=0"]),
        (changed(QUIET, igmp_version="V2", forced_version=2), ["force_igmp_version is 2", "speak that version"]),
        (changed(QUIET, ingress=GROUP_6, forced_version=1), ["force_mld_version is 1"]),
        (
            changed(QUIET, reverse_filter=1, default_interface="eth0"),
            ["rp_filter is strict on eth1, and the default route is by eth0"],
        ),
        (changed(QUIET, ingress=BROADCAST), ["routers do not forward broadcasts"]),
        (changed(QUIET, ingress=PORTS), ["nor did any interface get", "firewall or NetworkPolicy"]),
    ],
)  # fmt: skip
def test_why_an_ingress_is_silent(facts: IngressFacts, parts: list[str]) -> None:
    assert_said(diagnose_ingress.listened(facts), CheckStatus.PROBLEM, str(facts.ingress), *parts)


def test_loose_rp_filter_is_no_advice_where_it_is_loose_already() -> None:
    check = diagnose_ingress.listened(changed(QUIET, seen=None, reverse_filter=2, grown={"IPReversePathFilter": 10}))
    assert not any("rp_filter=2" in hint for hint in check.hints)
