"""Ingresses: their URLs, and which of them one relay can have together."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.acl import parse_network
from fanout.errors import InvalidIngress, InvalidInput
from fanout.relay.core.ingress import PORTS_MAX, Ingress, IngressKind, check

NO_GROUP = "group must be a multicast address (224.0.0.0/4, ff00::/8); got 10.0.0.12: for a source"
NOT_A_NAME = "interface must be a name such as eth1, as `ls /sys/class/net` lists it; got "
FIRST_OF_FOUR = r"to_port \(--to-port\), the first of 4 ports in a row, must be a number from 1 to 65,532"
ONE_FAMILY = "source and group must be of one address family; got 10.0.0.12 and ff35::67"

GOOD = [
    ("udp://0.0.0.0:5004", Ingress(IngressKind.UDP, "0.0.0.0", 5004, 5004, service="a")),
    ("udp://:5004@eth1", Ingress(IngressKind.UDP, "", 5004, 5004, "eth1", service="a")),
    ("udp://[::]:32546-32550", Ingress(IngressKind.UDP, "::", 32546, 32550, service="a")),
    ("udp://[fe80::1]:5004@eth1", Ingress(IngressKind.UDP, "fe80::1", 5004, 5004, "eth1", service="a")),
    ("mcast://224.0.67.67:5001@eth1", Ingress(IngressKind.MULTICAST, "224.0.67.67", 5001, 5001, "eth1", service="a")),
    (
        "mcast://10.0.0.12,224.0.67.67:5001@eth1",
        Ingress(IngressKind.MULTICAST, "224.0.67.67", 5001, 5001, "eth1", "10.0.0.12", "a"),
    ),
    (
        "mcast://[fd00::12],[ff35::67]:5001-5002@net1.100",
        Ingress(IngressKind.MULTICAST, "ff35::67", 5001, 5002, "net1.100", "fd00::12", "a"),
    ),
    ("broadcast://:9999@eth0", Ingress(IngressKind.BROADCAST, "", 9999, 9999, "eth0", service="a")),
]
INTERFACES = st.sampled_from(["eth1", "net1.100", "lo", "wlan-é", "a" * 15])


@st.composite
def urls(draw: st.DrawFn) -> str:
    first = draw(st.integers(1, 65_535))
    last = draw(st.integers(first, min(65_535, first + PORTS_MAX - 1)))
    ports = draw(st.sampled_from([f"{first}", f"{first}-{last}", f"{first:05}"]))
    interface = draw(INTERFACES)
    kind = draw(st.sampled_from(list(IngressKind)))
    if kind is IngressKind.BROADCAST:
        return f"broadcast://:{ports}@{interface}"
    version = draw(st.sampled_from([4, 6]))
    if kind is IngressKind.MULTICAST:
        group = draw(st.ip_addresses(network="224.0.0.0/4" if version == 4 else "ff00::/8"))
        source = draw(st.ip_addresses(network="10.0.0.0/8" if version == 4 else "fd00::/8"))
        with_source = draw(st.booleans())
        return f"mcast://{f'{bracketed(source)},' if with_source else ''}{bracketed(group)}:{ports}@{interface}"
    host = draw(st.ip_addresses(network="10.0.0.0/8" if version == 4 else "2001:db8::/32"))
    shown = draw(st.sampled_from(["", "0.0.0.0", "[::]", bracketed(host), bracketed(host).upper()]))
    return f"udp://{shown}:{ports}" + draw(st.sampled_from(["", f"@{interface}"]))


def bracketed(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return f"[{address.exploded}]" if address.version == 6 else str(address)


def parse(url: str) -> Ingress:
    return Ingress.parse(url, service="a")


def refusal(call: Callable[[], object]) -> str:
    """What is wrong with the input, and nothing but that; empty where nothing is."""
    try:
        call()
    except InvalidInput as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("url", "ingress"), GOOD, ids=[url for url, _ in GOOD])
def test_every_kind_of_ingress(url: str, ingress: Ingress) -> None:
    assert parse(url) == ingress
    assert str(ingress) == url


@given(urls())
def test_the_url_of_an_ingress_is_read_as_the_same_ingress(url: str) -> None:
    ingress = parse(url)
    assert parse(str(ingress)) == ingress
    assert ingress.is_ipv6 == (":" in ingress.host)
    assert len(ingress.ports) <= PORTS_MAX


@given(
    st.text()
    | st.from_regex(r"(udp|mcast|broadcast)://[0-9a-f:.,%\[\]-]*:[0-9-]*(@.*)?")
    | urls().map(lambda url: url[:-2]),
    st.text() | st.integers() | st.floats() | st.booleans() | st.none(),
    st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=3),
    st.lists(st.text(max_size=8) | st.integers(), max_size=2),
)
def test_whatever_is_said_it_is_an_ingress_or_one_sentence(
    url: str, limit: object, to_port: object, allow_source: list[str]
) -> None:
    said_of_it: dict[str, Any] = {"to_port": to_port, "allow_source": allow_source, "limit": limit}
    said = refusal(lambda: Ingress.parse(url, service="a", **said_of_it))
    assert said.isprintable()
    assert len(said) < 600


@given(st.text(st.sampled_from("udpmcast://[]@,.:-0129afé% \n"), max_size=40) | urls().map(lambda url: url[:-2]))
def test_what_is_accepted_means_the_same_once_more(url: str) -> None:
    if not refusal(lambda: parse(url)):
        assert parse(str(parse(url))) == parse(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "the URL must be udp://ADDRESS:PORT[@INTERFACE], mcast://"),
        ("udp://", "the URL must be udp://ADDRESS:PORT[@INTERFACE], mcast://"),
        ("http://0.0.0.0:80", "the URL must be udp://ADDRESS:PORT[@INTERFACE], mcast://"),
        ("UDP://0.0.0.0:80", "the URL must be udp://ADDRESS:PORT[@INTERFACE], mcast://"),
        ("udp://::1:5004", "the URL must be udp://ADDRESS:PORT[@INTERFACE], mcast://"),
        ("udp://0.0.0.0:5004\n", "port must be 1 to 65535, or FIRST-LAST; got "),
        ("udp://0.0.0.0:0", "port must be 1 to 65535, or FIRST-LAST; got "),
        ("udp://0.0.0.0:65536", "port must be 1 to 65535, or FIRST-LAST; got "),
        ("udp://0.0.0.0:٥٠٠٤", "port must be 1 to 65535, or FIRST-LAST; got "),
        ("udp://0.0.0.0:99999999999999999999", "port must be 1 to 65535, or FIRST-LAST; got "),
        ("udp://0.0.0.0:-", "port must be 1 to 65535, or FIRST-LAST; got "),
        ("udp://0.0.0.0:5-4", "the range 5-4 must ascend: write 4-5"),
        ("udp://0.0.0.0:1-65535", "the range must be at most 1,024 ports, a socket each; got 65,535"),
        ("udp://1.2.3:5004", "address must be an IP address, IPv6 in brackets; got "),
        ("udp://camera.lan:5004", "address must be an IP address, IPv6 in brackets; got "),
        ("udp://[fe80::1%eth1]:5004", "name the interface after the port (@eth1), not after a %"),
        ("udp://[fe80::1%\n\x1b[31m]:5004", "name the interface after the port (@eth1), not after a %"),
        ("udp://[fe80::1]:5004", "add @eth1"),
        ("udp://224.0.67.67:5004", "224.0.67.67 is a group: write mcast://224.0.67.67:5004@"),
        ("udp://255.255.255.255:5004", "255.255.255.255 is broadcast: write broadcast://:5004@"),
        ("udp://10.0.0.1,10.0.0.2:5004", "only mcast:// takes a source: use allow_source (--allow-source) instead"),
        ("udp://:5004@", NOT_A_NAME),
        ("udp://:5004@eth1@if7", NOT_A_NAME),
        ("udp://:5004@eth1:1", NOT_A_NAME),
        ("udp://:5004@a/b", NOT_A_NAME),
        ("udp://:5004@..", NOT_A_NAME),
        ("udp://:5004@eth 1", NOT_A_NAME),
        ("udp://:5004@eth\udcff", NOT_A_NAME),
        ("udp://:5004@sixteencharacter", NOT_A_NAME),
        ("udp://:5004@ééééééééé", NOT_A_NAME),
        ("mcast://224.0.67.67:5001", "the URL must name an interface: add @eth1"),
        ("mcast://:5001@eth1", "address must be an IP address, IPv6 in brackets; got "),
        ("mcast://10.0.0.12:5001@eth1", NO_GROUP),
        ("mcast://224.0.67.67,10.0.0.12:5001@eth1", NO_GROUP),
        ("mcast://10.0.0.12,[ff35::67]:5001@eth1", ONE_FAMILY),
        ("mcast://127.0.0.1,224.0.67.67:5001@eth1", "source must be a unicast address other than loopback; got "),
        ("mcast://224.0.0.1,224.0.67.67:5001@eth1", "source must be a unicast address other than loopback; got "),
        ("mcast://,224.0.67.67:5001@eth1", "address must be an IP address, IPv6 in brackets; got "),
        ("broadcast://:9999", "the URL must name an interface: add @eth1"),
        ("broadcast://10.255.255.255:9999@eth0", "write broadcast://:9999@eth0"),
        ("x" * 100_000, "the URL must be udp://ADDRESS:PORT[@INTERFACE], mcast://"),
    ],
)  # fmt: skip
def test_what_is_no_ingress_is_told_what_to_write(url: str, says: str) -> None:
    with pytest.raises(InvalidIngress, match=r"^ingress '") as caught:
        parse(url)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"service": ""}, "Service name"),
        ({"service": "10.0.0.256"}, "endpoint must be an IP address .*; got '10.0.0.256'"),
        ({"service": None}, "Service name"),
        ({"to_port": 0}, f"{FIRST_OF_FOUR}; got 0"),
        ({"to_port": True}, f"{FIRST_OF_FOUR}; got True"),
        (
            {"to_port": 5004.0},
            rf"{FIRST_OF_FOUR}; got 5004\.0",
        ),
        ({"to_port": 65_533}, f"{FIRST_OF_FOUR}; got 65533"),
        ({"to_port": 10**9999}, "of type int"),
        ({"limit": 0}, "limit must be a number of datagrams a second above 0, up to 1,000,000,000; got 0"),
        ({"limit": float("nan")}, "limit must be a number of datagrams a second above 0, up to 1,000,000,000; got nan"),
        ({"limit": float("inf")}, "limit must be a number of datagrams a second above 0, up to 1,000,000,000; got inf"),
        ({"limit": True}, "limit must be a number of datagrams a second above 0, up to 1,000,000,000; got True"),
        ({"limit": 10**9999}, "of type int"),
        ({"allow_source": "10.0.0.0/8"}, "allow_source must be a list of networks; got '10.0.0.0/8'"),
        ({"allow_source": ["10.0.0.1/8"]}, "no bits set beyond the mask; got '10.0.0.1/8'"),
        ({"allow_source": ["::ffff:10.0.0.0/104"]}, "must be written as IPv4"),
        ({"allow_source": ["fe80::%eth0/64"]}, "allowed source must be .*; got 'fe80::%eth0/64'"),
        ({"allow_source": [10]}, "allowed source must be an address, or a network .*; got 10"),
    ],
)
def test_what_belongs_to_an_ingress(settings: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidIngress, match=f"^ingress 'udp://:5004-5007': .*{says}"):
        Ingress.parse("udp://:5004-5007", **{"service": "a", **settings})  # type: ignore[arg-type]


def test_a_url_is_a_text() -> None:
    with pytest.raises(InvalidIngress, match="must be a URL; got bytes"):
        parse(b"udp://:5004")  # type: ignore[arg-type]


def test_a_mapped_address_is_the_ipv4_address_in_it() -> None:
    assert str(parse("udp://[::ffff:10.0.0.1]:5004")) == "udp://10.0.0.1:5004"
    assert str(parse("mcast://[::ffff:224.0.67.67]:5001@eth1")) == "mcast://224.0.67.67:5001@eth1"


def test_ports_go_to_the_same_at_the_pods_or_all_in_step() -> None:
    same, shifted = parse("udp://:5004-5007"), Ingress.parse("udp://:5004-5007", service="a", to_port=40_000)
    assert [same.port_at_pods(port) for port in same.ports] == [5004, 5005, 5006, 5007]
    assert [shifted.port_at_pods(port) for port in shifted.ports] == [40_000, 40_001, 40_002, 40_003]


@given(st.text(max_size=30) | st.integers() | st.none())
def test_a_network_or_one_sentence(text: object) -> None:
    said = refusal(lambda: parse_network(text))
    assert said.isprintable()
    if not said:
        assert parse_network(str(parse_network(text))) == parse_network(text)


COLLIDING = [
    ("udp://0.0.0.0:5004", "udp://0.0.0.0:5004"),
    ("udp://:5004", "udp://10.0.0.1:5004"),
    ("udp://:5004", "udp://[fd00::1]:5004"),
    ("udp://0.0.0.0:5004", "udp://10.0.0.1:5000-5010"),
    ("udp://[::]:5004", "udp://[fd00::1]:5004"),
    ("udp://0.0.0.0:5004@eth0", "udp://0.0.0.0:5004"),
    ("udp://0.0.0.0:9999", "broadcast://:9999@eth0"),
    ("udp://:9999@eth0", "broadcast://:9999@eth0"),
    ("udp://:5001", "mcast://224.0.67.67:5001@eth1"),
    ("udp://0.0.0.0:5001@eth0", "mcast://224.0.67.67:5001@eth1"),
    ("udp://[::]:5001", "mcast://[ff15::67]:5001@eth1"),
    ("mcast://224.0.67.67:5001@eth1", "mcast://224.0.67.67:5000-5002@eth1"),
    ("mcast://224.0.67.67:5001@eth1", "mcast://10.0.0.12,224.0.67.67:5001@eth1"),
    ("mcast://10.0.0.12,224.0.67.67:5001@eth1", "mcast://10.0.0.12,224.0.67.67:5001@eth1"),
    ("broadcast://:9999@eth0", "broadcast://:9999@eth0"),
]
TOGETHER = [
    ("udp://0.0.0.0:5004", "udp://0.0.0.0:5005"),
    ("udp://0.0.0.0:5004", "udp://[::]:5004"),
    ("udp://0.0.0.0:5004", "udp://[fd00::1]:5004"),
    ("udp://10.0.0.1:5004", "udp://10.0.0.2:5004"),
    ("udp://0.0.0.0:5004@eth0", "udp://0.0.0.0:5004@eth1"),
    ("udp://0.0.0.0:9999@eth1", "broadcast://:9999@eth0"),
    ("udp://[::]:9999", "broadcast://:9999@eth0"),
    ("udp://10.0.0.1:5001", "mcast://224.0.67.67:5001@eth1"),
    ("udp://0.0.0.0:5001", "mcast://[ff15::67]:5001@eth1"),
    ("mcast://224.0.67.67:5001@eth1", "mcast://224.0.67.68:5001@eth1"),
    ("mcast://224.0.67.67:5001@eth1", "mcast://224.0.67.67:5001@eth2"),
    ("mcast://10.0.0.12,224.0.67.67:5001@eth1", "mcast://10.0.0.13,224.0.67.67:5001@eth1"),
    ("mcast://224.0.67.67:9999@eth0", "broadcast://:9999@eth0"),
    ("broadcast://:9999@eth0", "broadcast://:9999@eth1"),
]


@pytest.mark.parametrize(("one", "other"), COLLIDING)
def test_two_that_collide_are_both_named(one: str, other: str) -> None:
    for first, second in ((one, other), (other, one)):
        with pytest.raises(InvalidIngress) as caught:
            check([parse("udp://10.9.9.9:1"), parse(first), parse(second)])
        assert str(caught.value).startswith(f"ingress '{second}' collides with '{first}': ")


@pytest.mark.parametrize(("one", "other"), TOGETHER)
def test_two_that_can_be_together(one: str, other: str) -> None:
    check([parse(one), parse(other)])
    check([parse(other), parse(one)])


def test_a_relay_has_one_ingress_at_least_and_a_bounded_number_of_ports() -> None:
    with pytest.raises(InvalidIngress, match="a relay must have at least one ingress"):
        check([])
    most = [parse(f"udp://:1-{PORTS_MAX // 2}"), parse(f"udp://:{PORTS_MAX + 1}-{PORTS_MAX + PORTS_MAX // 2}")]
    check(most)
    with pytest.raises(
        InvalidIngress,
        match=r"^a relay must listen on at most 1,024 ports, a socket each; 'udp://:9' makes it 1,025",
    ):
        check([*most, parse("udp://:9")])


def test_a_thousand_groups_on_one_port() -> None:
    check([parse(f"mcast://239.0.{group // 250}.{group % 250}:5001@eth1") for group in range(PORTS_MAX)])


def test_a_group_goes_to_several_services_and_to_each_once() -> None:
    url = "mcast://239.1.1.1:5001@eth1"
    check([Ingress.parse(url, service=service) for service in ("a", "b")])
    with pytest.raises(InvalidIngress, match="the pods would get each datagram twice: leave one out"):
        check([Ingress.parse(url, service="a", to_port=port) for port in (None, 6000)])


@pytest.mark.parametrize("service", ["224.0.67.67", "10.0.0.1,239.1.1.1:5", "[ff15::67]", "255.255.255.255"])
def test_no_group_is_a_pod(service: str) -> None:
    with pytest.raises(InvalidIngress, match="an endpoint must be a pod's address, neither multicast nor broadcast"):
        Ingress.parse("udp://:5000", service=service)
