"""Searches from where no client is: nothing is sent to those that are named as their sources, and nothing grows."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fanout.acl import SOURCES_MAX
from tests.support.lan import Host, receive, waiting
from tests.support.waiting import until
from tests.system.ssdp import ssdp, web
from tests.system.ssdp.site import Site, SsdpRelay, make_site, since
from tests.system.ssdp.spoof import SEARCHES, spoof

OUTSIDE = "8.8.8.8"
"""An address that a host on the LAN has, and that is not allowed."""
FOREIGN = "10.70.0"
"""The network of a third leg of the edge."""
ASKED_FROM = range(40_000, 41_000)
"""The ports that the edge's system lends."""
FEW_FILES = 100
AT_ONCE = 250
"""Datagrams that every receive buffer has room for."""


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    """A minidlnad and a gerbera; on the LAN a client, and an attacker to whom answers would find their way."""
    with make_site(2) as made:
        films = made.library("films")
        films.add("clip.wav")
        made.minidlna(made.network.pods[0], "Cinema", films)
        music = made.library("music")
        music.add("tune.wav")
        made.gerbera(made.network.pods[1], "Jukebox", music)
        attacker = made.add_source()
        attacker.ip(f"address add {OUTSIDE}/32 dev eth0")
        made.edge.ip("route add default dev eth1")
        made.edge.sysctl("net.ipv4.ip_local_port_range", f"{ASKED_FROM[0]} {ASKED_FROM[-1]}")
        yield made


@pytest.fixture
def site(module_site: Site) -> Iterator[Site]:
    yield module_site
    module_site.end_relay(lasts=False)
    for host in module_site.network.hosts:
        host.close_sockets()


@pytest.fixture(scope="module")
def stranger(module_site: Site) -> Iterator[Host]:
    """A host in a third network, to which the edge has a leg."""
    edge = module_site.edge
    with tempfile.TemporaryDirectory(prefix="fanout-dlna-") as folder, Host("stranger", 30, Path(folder)) as made:
        made.ip(f"link add eth0 type veth peer name eth2 netns {edge.pid}")
        made.ip("link set eth0 up", f"address add {FOREIGN}.30/24 dev eth0", "route add default dev eth0")
        edge.ip("link set eth2 up", f"address add {FOREIGN}.20/24 dev eth2")
        edge.sysctl("net.ipv4.conf.eth2.rp_filter", 0)
        yield made


@pytest.fixture
def relay(site: Site) -> Iterator[SsdpRelay]:
    """The relay that goes on, which knows all devices."""
    relay = site.lasting_relay()
    until(lambda: relay.count("fanout_ssdp_devices") == len(site.udns), "all devices are known")
    yield relay
    assert relay.run.process.poll() is None


def attacker(site: Site) -> Host:
    return site.network.sources[1]


def wait_for_quiet(relay: SsdpRelay) -> None:
    until(lambda: relay.count("fanout_ssdp_sessions") == 0, "no search is under way")


@contextlib.contextmanager
def unanswered(site: Site, relay: SsdpRelay, *, or_more: bool = False, **drops: int) -> Iterator[None]:
    """What is sent meanwhile is answered to nobody, and so many are dropped for these reasons.

    Two searches for nothing are sent behind it, to the group and to the relay alone: once these are dropped, it is
    known what became of all that came before.
    """
    wait_for_quiet(relay)
    answers, dropped = relay.count("fanout_ssdp_answers_total"), relay.drops()
    yield
    behind = ssdp.client(attacker(site))
    for destination in (ssdp.EVERYBODY, (site.edge.lan, ssdp.PORT)):
        behind.sendto(ssdp.search(""), destination)
    until(lambda: since(dropped, relay.drops()).get("no_target") == 2, "what comes behind is dropped")
    now = since(dropped, relay.drops())
    if or_more:
        assert now.keys() <= {"no_target", "source_not_allowed", "source_not_unicast"}
        now = {reason: min(now.get(reason, 0), count) for reason, count in drops.items()} | {"no_target": 2}
    assert now == drops | {"no_target": 2}
    assert relay.count("fanout_ssdp_sessions") == 0
    assert relay.count("fanout_ssdp_answers_total") == answers


def assert_arrived(sending: socket.socket, edge: Host, address: str) -> None:
    """What was sent to that address of the edge before has arrived."""
    listening = edge.listen(address, 1901)
    sending.sendto(b"the last", (address, 1901))
    assert receive(listening, 1) == [b"the last"]


def test_a_source_that_is_not_allowed_gets_no_answer(site: Site, relay: SsdpRelay) -> None:
    asking = ssdp.client(attacker(site), OUTSIDE)
    with unanswered(site, relay, source_not_allowed=4):
        for destination in (ssdp.EVERYBODY, (site.edge.lan, ssdp.PORT)):
            for target in (ssdp.ALL, ssdp.ROOT_DEVICE):
                asking.sendto(ssdp.search(target), destination)
    assert waiting(asking) == []


def test_sources_that_are_no_single_host_get_no_answer(site: Site, relay: SsdpRelay) -> None:
    """Most of these the kernel refuses before the relay would; what it lets through the relay does not answer."""
    listeners = [host.listen("0.0.0.0", 5999) for host in (site.source, site.edge)]
    sources = ("10.50.0.255:5999", "255.255.255.255:5999", "224.0.0.1:5999", "127.0.0.1:5999", f"{site.edge.lan}:5999")
    with unanswered(site, relay, or_more=True):
        for destination in (site.edge.lan, ssdp.GROUP):
            spoof(attacker(site), destination, 30, *sources, f"{ssdp.GROUP}:{ssdp.PORT}")
    for listener in listeners:
        assert waiting(listener) == []


def test_source_ports_that_no_client_has_get_no_answer(site: Site, relay: SsdpRelay) -> None:
    victim = site.source
    listeners = [victim.listen(victim.lan, port) for port in (53, 123, 1023)]
    with unanswered(site, relay, source_not_unicast=40):
        for destination in (site.edge.lan, ssdp.GROUP):
            spoof(attacker(site), destination, 20, *(f"{victim.lan}:{port}" for port in (0, 53, 123, 1023)))
    for listener in listeners:
        assert waiting(listener) == []


def test_a_source_in_the_pod_network_gets_no_answer_there(site: Site, relay: SsdpRelay) -> None:
    """It is a private address, so it may be a client's; but answers leave by the LAN's interface alone."""
    pod = site.network.pods[0]
    listener = pod.listen(pod.pod_ip, 5997)
    with unanswered(site, relay, or_more=True, source_not_allowed=10):
        for destination in (site.edge.lan, ssdp.GROUP):
            spoof(attacker(site), destination, 10, f"{pod.pod_ip}:5997", f"{site.edge.pod_ip}:5997")
    assert waiting(listener) == []


def test_searches_from_the_pods_side_get_no_answer(site: Site, relay: SsdpRelay) -> None:
    pod = site.network.pods[0]
    asking = pod.listen(pod.pod_ip, 0)
    with unanswered(site, relay):
        for destination in (site.edge.pod_ip, site.edge.lan, ssdp.GROUP):
            asking.sendto(ssdp.search(ssdp.ALL), (destination, ssdp.PORT))
        assert_arrived(asking, site.edge, site.edge.pod_ip)
    assert {each.source[0] for each in ssdp.have_come(asking)} <= {pod.pod_ip}, "its own server hears it"


def test_searches_from_a_third_interface_get_no_answer(site: Site, relay: SsdpRelay, stranger: Host) -> None:
    """Not by its address there, not by its address on the LAN, and not with the address of a client on the LAN."""
    asking = stranger.listen(f"{FOREIGN}.30", 0)
    victim = ssdp.client(site.source)
    port = victim.getsockname()[1]
    with unanswered(site, relay):
        for destination in (f"{FOREIGN}.20", site.edge.lan, ssdp.GROUP):
            asking.sendto(ssdp.search(ssdp.ALL), (destination, ssdp.PORT))
            spoof(stranger, destination, 10, f"{site.source.lan}:{port}", f"{FOREIGN}.30:{asking.getsockname()[1]}")
        assert_arrived(asking, site.edge, f"{FOREIGN}.20")
    assert waiting(asking) == waiting(victim) == []


def flood(site: Site, relay: SsdpRelay, *sources: str, payloads: Sequence[bytes]) -> None:
    """Send some datagrams with such sources, and wait until it is known what became of each."""

    def known() -> int:
        return relay.count("fanout_ssdp_searches_total") + relay.drops().get("kernel_buffer", 0)

    before = known()
    spoof(attacker(site), site.edge.lan, AT_ONCE, *sources, payloads=payloads)
    until(lambda: known() >= before + AT_ONCE, "all have come")


def test_a_flood_from_outside_is_dropped_and_leaves_nothing(site: Site, relay: SsdpRelay) -> None:
    """More sources than are remembered; one of them is there, and gets nothing."""
    wait_for_quiet(relay)
    outside = ssdp.client(attacker(site), OUTSIDE)
    files, lines, dropped = relay.open_files, len(relay.run.events()), relay.drops()
    times = 2 * SOURCES_MAX // AT_ONCE + 2
    for number in range(times):
        network = f"8.{number}.0.0/16"
        flood(site, relay, network, f"{OUTSIDE}:{outside.getsockname()[1]}", payloads=SEARCHES)
    until(lambda: sum(since(dropped, relay.drops()).values()) == times * AT_ONCE, "all are dropped")
    assert since(dropped, relay.drops()).keys() <= {"source_not_allowed", "kernel_buffer"}
    assert relay.count("fanout_ssdp_sessions") == 0
    assert waiting(outside) == []
    until(lambda: relay.open_files <= files, "no file is left open")
    assert len(relay.run.events()) - lines < 50, "nobody is to read a line a search"


def test_a_client_that_floods_is_limited_and_the_others_are_not(site: Site, relay: SsdpRelay) -> None:
    lines, dropped = len(relay.run.events()), relay.drops()

    def is_limited() -> bool:
        flood(site, relay, attacker(site).lan, payloads=[b"no SSDP"])
        return since(dropped, relay.drops()).get("over_limit", 0) > 0

    until(is_limited, "it is too often")
    assert ssdp.find(site.source, udns=site.udns).keys() == site.udns
    assert since(dropped, relay.drops()).keys() <= {"not_ssdp", "over_limit", "kernel_buffer"}
    assert len(relay.run.events()) - lines < 50
    # It is answered when it has been quiet for a moment.
    assert ssdp.find(attacker(site), udns=site.udns).keys() == site.udns


def test_announcements_in_the_name_of_a_pod_are_not_believed(site: Site, relay: SsdpRelay) -> None:
    """What a pod announces comes from its network: on the LAN anybody may use its address."""
    server = site.servers["Cinema"]
    location = ssdp.find(site.source, udns=[server.udn])[server.udn].location
    listener = ssdp.NotifyListener(site.source)
    forged = ("ssdp:byebye", ""), ("ssdp:alive", f"http://{server.pod.pod_ip}:22/"), ("ssdp:update", location)
    for nts, where in forged:
        lines = (
            "NOTIFY * HTTP/1.1",
            f"HOST: {ssdp.GROUP}:{ssdp.PORT}",
            "CACHE-CONTROL: max-age=1800",
            f"LOCATION: {where}",
            f"NT: {ssdp.ROOT_DEVICE}",
            f"NTS: {nts}",
            f"USN: {server.udn}::{ssdp.ROOT_DEVICE}",
        )
        said = "\r\n".join((*lines, "", "")).encode()
        for destination in (ssdp.GROUP, site.edge.lan):
            spoof(attacker(site), destination, 3, f"{server.pod.pod_ip}:1900", payloads=[said])
    for to in (ssdp.EVERYBODY, (site.edge.lan, ssdp.PORT)):
        found = ssdp.find(site.source, udns=[server.udn], destination=to)
        assert found[server.udn].location == location
    listener.drain()
    of_it = [each for each in listener.heard if each.source[0] == site.edge.lan and each.udn == server.udn]
    assert {(each.nts, each.location) for each in of_it} <= {("ssdp:alive", location)}


def test_answers_in_the_name_of_a_pod_are_not_believed(site: Site, relay: SsdpRelay) -> None:
    """Sent to each port that a search may have been asked from, while one is under way."""
    server = site.servers["Cinema"]
    location = ssdp.find(site.source, udns=[server.udn])[server.udn].location
    lines = (
        "HTTP/1.1 200 OK",
        "CACHE-CONTROL: max-age=1800",
        f"LOCATION: http://{server.pod.pod_ip}:22/",
        f"ST: {ssdp.ROOT_DEVICE}",
        f"USN: {server.udn}::{ssdp.ROOT_DEVICE}",
    )
    said = "\r\n".join((*lines, "", "")).encode()
    asking = ssdp.client(attacker(site))

    def are_refused() -> bool:
        dropped = relay.drops()
        asking.sendto(ssdp.search(ssdp.ROOT_DEVICE), ssdp.EVERYBODY)
        spoof(
            *(attacker(site), site.edge.lan, len(ASKED_FROM), f"{server.pod.pod_ip}:1900"),
            payloads=[said],
            ports=ASKED_FROM,
        )
        # The sockets that the relay itself asks the two pods by refuse it, and at least one of a search's.
        return since(dropped, relay.drops()).get("not_asked", 0) >= 2 + 1

    until(are_refused, "they come while a search is under way")
    assert ssdp.find(site.source, udns=[server.udn])[server.udn].location == location
    assert {each.location for each in ssdp.have_come(asking) if each.udn == server.udn} <= {location}


def test_http_is_for_clients_on_the_lan_alone(site: Site, relay: SsdpRelay, stranger: Host) -> None:
    location = next(iter(ssdp.find(site.source, udns=site.udns).values())).location
    assert web.fetch(site.source, location).status == 200
    port = urllib.parse.urlsplit(location).port
    assert port

    def is_served(host: Host, own: str, to: str) -> bool:
        with host.tcp() as asking:
            asking.bind((own, 0))
            try:
                asking.connect((to, port))
                asking.sendall(f"GET /rootDesc.xml HTTP/1.1\r\nHost: {to}:{port}\r\nConnection: close\r\n\r\n".encode())
                return b"<root" in b"".join(iter(lambda: asking.recv(65_536), b""))
            except ConnectionError:
                return False

    failures = relay.http_failures()
    assert not is_served(attacker(site), OUTSIDE, site.edge.lan)
    assert not is_served(stranger, f"{FOREIGN}.30", f"{FOREIGN}.20")
    pod = site.network.pods[0]
    assert not is_served(pod, pod.pod_ip, site.edge.pod_ip)
    assert not is_served(pod, pod.pod_ip, site.edge.lan), "though it comes to the LAN's address"
    assert since(failures, relay.http_failures()).get("source_not_allowed", 0) >= 1
    assert web.fetch(site.source, location).status == 200


def test_web_pages_reach_nothing_by_a_name_of_theirs(site: Site, relay: SsdpRelay) -> None:
    """DNS rebinding."""
    location = next(iter(ssdp.find(site.source, udns=site.udns).values())).location
    failures = relay.http_failures()
    assert web.fetch(site.source, location, headers={"Host": "attacker.example:28200"}).status == 403
    assert since(failures, relay.http_failures()) == {"wrong_host": 1}


def test_events_go_to_who_subscribed_and_to_nobody_else(site: Site, relay: SsdpRelay) -> None:
    """CallStranger, CVE-2020-12695."""
    jukebox = site.servers["Jukebox"]
    location = ssdp.find(site.source, udns=[jukebox.udn])[jukebox.udn].location
    events = f"{location.removesuffix('/description.xml')}/upnp/event/cds"
    victim = attacker(site)
    waits = victim.tcp()
    waits.bind((victim.lan, 7000))
    waits.listen()
    failures = relay.http_failures()
    for callback in (
        f"<http://{victim.lan}:7000/>",
        f"<http://{OUTSIDE}:7000/>",
        f"<http://{site.network.pods[0].pod_ip}:8200/>",
        "<http://127.0.0.1:8080/>",
    ):
        headers = {"NT": "upnp:event", "CALLBACK": callback, "TIMEOUT": "Second-300"}
        assert web.fetch(site.source, events, "SUBSCRIBE", headers).status == 412, callback
    assert since(failures, relay.http_failures()) == {"callback_refused": 4}
    assert relay.count("fanout_ssdp_subscriptions") == 0

    # Of several URLs the subscriber's own are taken; there nobody listens, and the other gets nothing all the same.
    several = f"<http://{victim.lan}:7000/><http://{site.source.lan}:7000/><http://{victim.lan}:7000/>"
    headers = {"NT": "upnp:event", "CALLBACK": several, "TIMEOUT": "Second-300"}
    answer = web.fetch(site.source, events, "SUBSCRIBE", headers)
    assert answer.status == 200
    until(lambda: relay.http_failures().get("event_lost"), "the event is lost")
    waits.setblocking(False)
    with pytest.raises(BlockingIOError):
        waits.accept()
    sid = {"SID": answer.headers["SID"]}
    assert web.fetch(victim, events, "UNSUBSCRIBE", sid).status == 412, "it is not the victim's to end"
    assert web.fetch(site.source, events, "UNSUBSCRIBE", sid).status == 200
    assert relay.count("fanout_ssdp_subscriptions") == 0


def test_an_allowed_source_is_what_was_said(site: Site) -> None:
    """The same search is answered where its source is allowed: what is above was no accident."""
    relay = site.relay("--allow-source", f"{OUTSIDE}/32")
    until(lambda: relay.count("fanout_ssdp_devices") == len(site.udns), "all devices are known")
    refused = ssdp.client(site.source)
    refused.sendto(ssdp.search(ssdp.ROOT_DEVICE), ssdp.EVERYBODY)
    until(lambda: relay.drops() == {"source_not_allowed": 1}, "it is dropped")
    asking = ssdp.client(attacker(site), OUTSIDE)
    asking.sendto(ssdp.search(ssdp.ROOT_DEVICE), ssdp.EVERYBODY)
    assert {each.udn for each in ssdp.answers(asking, len(site.udns))} == site.udns
    assert waiting(refused) == []
    assert relay.drops() == {"source_not_allowed": 1}


def test_a_flood_where_few_files_may_be_open(site: Site) -> None:
    """Each search has a socket of its own, and a host may allow a process few: what is open goes on."""
    relay = site.relay(within=("prlimit", f"--nofile={FEW_FILES}"))
    location = next(iter(ssdp.find(site.source, udns=site.udns).values())).location
    connection = web.connect(site.source, location)
    lines, dropped, searches = len(relay.run.events()), relay.drops(), relay.count("fanout_ssdp_searches_total")
    count = 4 * FEW_FILES
    relay.pause()
    for destination in (site.edge.lan, ssdp.GROUP):
        spoof(*(attacker(site), destination, count // 2, "10.50.0.128/25"), payloads=[ssdp.search(ssdp.ROOT_DEVICE, 5)])
    relay.resume()
    connection.request("GET", urllib.parse.urlsplit(location).path)
    assert connection.getresponse().read().startswith(b"<?xml")
    connection.close()

    def have_come() -> bool:
        assert relay.count("fanout_ssdp_sessions") <= FEW_FILES // 2, "half of the files are for what is played"
        came = relay.count("fanout_ssdp_searches_total") - searches
        return came + since(dropped, relay.drops()).get("kernel_buffer", 0) >= count

    until(have_come, "the flood has come")
    assert since(dropped, relay.drops())["too_many_searches"] > 0
    assert ssdp.find(site.source, udns=site.udns).keys() == site.udns
    assert web.fetch(site.source, location).status == 200
    assert relay.run.process.poll() is None
    assert "Traceback" not in relay.run.out + relay.run.err
    assert len(relay.run.events()) - lines < 50
