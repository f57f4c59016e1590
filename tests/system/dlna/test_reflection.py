"""Searches from where no client is: nothing is sent to those that are named as their sources, and nothing grows."""

from __future__ import annotations

import socket
import sys
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.lan import Host
from tests.support.waiting import until
from tests.system.dlna import ssdp, web
from tests.system.dlna.media import MIB
from tests.system.dlna.world import Home, SsdpRelay, home

OUTSIDE = "8.8.8.8"
"""An address that a host on the LAN has, and that is not allowed."""
FOREIGN = "10.70.0"
"""The network of a third leg of the edge."""
_SPOOF = str(Path(__file__).with_name("spoof.py"))
_SECONDS, _RATE = 2, 10_000


@pytest.fixture(scope="module")
def here() -> Iterator[Home]:
    """A minidlnad and a gerbera; on the LAN a client, and an attacker to whom answers would find their way."""
    with home(2) as made:
        films = made.library("films")
        films.add("clip.mp4")
        made.minidlna(made.world.pods[0], "Cinema", films)
        music = made.library("music")
        music.add("tune.mp3")
        made.gerbera(made.world.pods[1], "Jukebox", music)
        attacker = made.add_source()
        attacker.ip(f"address add {OUTSIDE}/32 dev eth0")
        made.edge.ip("route add default dev eth1")
        yield made


@pytest.fixture(scope="module")
def stranger(here: Home) -> Iterator[Host]:
    """A host in a third network, to which the edge has a leg."""
    with tempfile.TemporaryDirectory(prefix="fanout-dlna-") as folder, Host("stranger", 30, Path(folder)) as made:
        made.ip(f"link add eth0 type veth peer name eth2 netns {here.edge.pid}")
        made.ip("link set eth0 up", f"address add {FOREIGN}.30/24 dev eth0", "route add default dev eth0")
        here.edge.ip("link set eth2 up", f"address add {FOREIGN}.20/24 dev eth2")
        here.edge.sysctl("net.ipv4.conf.eth2.rp_filter", 0)
        yield made


@pytest.fixture(scope="module")
def module_relay(here: Home) -> SsdpRelay:
    started = here.relay()
    until(lambda: finds_all(here), "all devices are found")
    return started


@pytest.fixture
def relay(here: Home, module_relay: SsdpRelay) -> Iterator[SsdpRelay]:
    yield module_relay
    assert module_relay.run.process.poll() is None
    for source in here.world.sources:
        source.end_all()


def wait_for_quiet(relay: SsdpRelay) -> None:
    until(lambda: relay.count("fanout_ssdp_sessions") == 0, "no search is under way")


def since(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    """Return what was counted since then."""
    return dict(+(Counter(now) - Counter(before)))


def finds_all(here: Home) -> bool:
    return set(ssdp.find(here.source, udns=here.udns, seconds=1.5)) == here.udns


def attacker(here: Home) -> Host:
    return here.world.sources[1]


def seen(relay: SsdpRelay) -> int:
    return relay.count("fanout_ssdp_searches_total")


def spoof(host: Host, destination: str, count: int, rate: float, *sources: str) -> None:
    """Send so many searches with such sources."""
    run = host.start(sys.executable, _SPOOF, destination, str(count), str(rate), *sources)
    assert run.process.wait(60) == 0, run.err


def assert_no_answer(asking: socket.socket, seconds: float = 1.4) -> None:
    """Nothing comes within MX and a bit."""
    assert ssdp.answers(asking, seconds=seconds) == []


def test_a_source_that_is_not_allowed_gets_no_answer(here: Home, relay: SsdpRelay) -> None:
    wait_for_quiet(relay)
    before, dropped = relay.count("fanout_ssdp_answers_total"), relay.drops()
    asking = ssdp.client(attacker(here), OUTSIDE)
    for destination in (ssdp.EVERYBODY, (here.edge.lan, ssdp.PORT)):
        for target in (ssdp.ALL, ssdp.ROOT_DEVICE):
            asking.sendto(ssdp.search(target), destination)
    assert_no_answer(asking)
    assert since(dropped, relay.drops()) == {"source_not_allowed": 4}
    assert relay.count("fanout_ssdp_answers_total") == before
    assert finds_all(here)


def test_an_allowed_source_is_what_was_said() -> None:
    """The same search is answered where its source is allowed: what is above was no accident."""
    with home(1) as other:
        films = other.library("films")
        films.add("clip.mp4")
        server = other.minidlna(other.world.pods[0], "Cinema", films)
        other.source.ip(f"address add {OUTSIDE}/32 dev eth0")
        other.edge.ip("route add default dev eth1")
        relay = other.relay("--allow-source", f"{OUTSIDE}/32")
        until(lambda: relay.count("fanout_ssdp_devices") == 1, "it is known")
        asking = ssdp.client(other.source, OUTSIDE)
        asking.sendto(ssdp.search(ssdp.ROOT_DEVICE), ssdp.EVERYBODY)
        assert {each.udn for each in ssdp.answers(asking, lambda heard: len(heard) == 1)} == {server.udn}
        assert ssdp.find(other.source, seconds=1.2) == {}
        assert relay.drops() == {"source_not_allowed": 1}


def test_sources_that_are_no_single_host_get_no_answer(here: Home, relay: SsdpRelay) -> None:
    """Most of these the kernel refuses before the relay would; what it lets through the relay does not answer."""
    wait_for_quiet(relay)
    before = relay.count("fanout_ssdp_answers_total")
    ears = [host.listen("0.0.0.0", 5999) for host in (here.source, here.edge)]
    sources = ("10.50.0.255:5999", "255.255.255.255:5999", "224.0.0.1:5999", "127.0.0.1:5999", f"{here.edge.lan}:5999")
    for destination in (here.edge.lan, ssdp.GROUP):
        spoof(attacker(here), destination, 30, 0, *sources, f"{ssdp.GROUP}:{ssdp.PORT}")
    for ear in ears:
        assert_no_answer(ear, 0.7)
    ears[1].close()
    assert relay.count("fanout_ssdp_answers_total") == before
    assert relay.count("fanout_ssdp_sessions") == 0


def test_source_ports_that_no_client_has_get_no_answer(here: Home, relay: SsdpRelay) -> None:
    wait_for_quiet(relay)
    before, dropped = relay.count("fanout_ssdp_answers_total"), relay.drops()
    victim = here.source
    ears = [victim.listen(victim.lan, port) for port in (53, 123, 1023)]
    for destination in (here.edge.lan, ssdp.GROUP):
        spoof(attacker(here), destination, 20, 0, *(f"{victim.lan}:{port}" for port in (0, 53, 123, 1023)))
    assert_no_answer(ears[0], 1.2)
    for ear in ears:
        assert_no_answer(ear, 0.01)
    assert relay.count("fanout_ssdp_answers_total") == before
    assert since(dropped, relay.drops()) == {"source_not_unicast": 40}


def test_a_source_in_the_pod_network_gets_no_answer_there(here: Home, relay: SsdpRelay) -> None:
    """It is a private address, so it may be a client's; but answers leave by the LAN's interface alone."""
    pod = here.world.pods[0]
    ear = pod.listen(pod.pod_ip, 5997)
    for destination in (here.edge.lan, ssdp.GROUP):
        spoof(attacker(here), destination, 5, 0, f"{pod.pod_ip}:5997", f"{here.edge.pod_ip}:5997")
    assert_no_answer(ear)


def test_announcements_in_the_name_of_a_pod_are_not_believed(here: Home, relay: SsdpRelay, tmp_path: Path) -> None:
    """What a pod announces comes from its network: on the LAN anybody may use its address."""
    server = here.servers["Cinema"]
    location = ssdp.find(here.source, udns=[server.udn])[server.udn].location
    ear = ssdp.Ear(here.source)
    lies = ("ssdp:byebye", ""), ("ssdp:alive", f"http://{server.pod.pod_ip}:22/"), ("ssdp:update", location)
    for nts, where in lies:
        lines = (
            "NOTIFY * HTTP/1.1",
            f"HOST: {ssdp.GROUP}:{ssdp.PORT}",
            "CACHE-CONTROL: max-age=1800",
            f"LOCATION: {where}",
            f"NT: {ssdp.ROOT_DEVICE}",
            f"NTS: {nts}",
            f"USN: {server.udn}::{ssdp.ROOT_DEVICE}",
        )
        said = tmp_path / "notify"
        said.write_bytes("\r\n".join((*lines, "", "")).encode())
        for destination in (ssdp.GROUP, here.edge.lan):
            spoof(attacker(here), destination, 3, 0, f"@{said}", f"{server.pod.pod_ip}:1900")
    assert ssdp.find(here.source, udns=[server.udn])[server.udn].location == location
    ear.drain()
    of_it = [each for each in ear.heard if each.source[0] == here.edge.lan and each.udn == server.udn]
    assert {(each.nts, each.location) for each in of_it} <= {("ssdp:alive", location)}


def test_answers_in_the_name_of_a_pod_are_not_believed(here: Home, relay: SsdpRelay, tmp_path: Path) -> None:
    """Sent to each port that a search may have been asked from, while one is under way."""
    server = here.servers["Cinema"]
    location = ssdp.find(here.source, udns=[server.udn])[server.udn].location
    lines = (
        "HTTP/1.1 200 OK",
        "CACHE-CONTROL: max-age=1800",
        f"LOCATION: http://{server.pod.pod_ip}:22/",
        f"ST: {ssdp.ROOT_DEVICE}",
        f"USN: {server.udn}::{ssdp.ROOT_DEVICE}",
    )
    said = tmp_path / "answer"
    said.write_bytes("\r\n".join((*lines, "", "")).encode())
    ports = (Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()).split()
    first, last = map(int, ports)
    asking = ssdp.client(attacker(here))
    dropped = relay.drops()
    asking.sendto(ssdp.search(ssdp.ROOT_DEVICE, 3), ssdp.EVERYBODY)
    spoof(
        attacker(here),
        f"{here.edge.lan}:{first}-{last}",
        last - first + 1,
        20_000,
        f"@{said}",
        f"{server.pod.pod_ip}:1900",
    )
    assert {each.location for each in ssdp.answers(asking, seconds=0.1) if each.udn == server.udn} <= {location}
    assert since(dropped, relay.drops())["not_asked"] >= 1, "they have come"
    assert ssdp.find(here.source, udns=[server.udn])[server.udn].location == location


def test_searches_from_the_pods_side_get_no_answer(here: Home, relay: SsdpRelay) -> None:
    pod = here.world.pods[0]
    wait_for_quiet(relay)
    before = relay.count("fanout_ssdp_answers_total")
    asking = pod.listen(pod.pod_ip, 0)
    for destination in (here.edge.pod_ip, here.edge.lan, ssdp.GROUP):
        asking.sendto(ssdp.search(ssdp.ALL), (destination, ssdp.PORT))
    assert {each.source[0] for each in ssdp.answers(asking, seconds=1.4)} <= {pod.pod_ip}, "its own server hears it"
    assert relay.count("fanout_ssdp_answers_total") == before
    assert relay.count("fanout_ssdp_sessions") == 0


def test_searches_from_a_third_interface_get_no_answer(here: Home, relay: SsdpRelay, stranger: Host) -> None:
    """Not by its address there, not by its address on the LAN, and not with the address of a client on the LAN."""
    wait_for_quiet(relay)
    before = relay.count("fanout_ssdp_answers_total")
    asking = stranger.listen(f"{FOREIGN}.30", 0)
    victim = ssdp.client(here.source)
    port = victim.getsockname()[1]
    for destination in (f"{FOREIGN}.20", here.edge.lan, ssdp.GROUP):
        asking.sendto(ssdp.search(ssdp.ALL), (destination, ssdp.PORT))
        spoof(stranger, destination, 10, 0, f"{here.source.lan}:{port}", f"{FOREIGN}.30:{asking.getsockname()[1]}")
    assert_no_answer(asking)
    assert_no_answer(victim, 0.1)
    assert relay.count("fanout_ssdp_answers_total") == before
    assert finds_all(here)


def test_http_is_for_clients_on_the_lan_alone(here: Home, relay: SsdpRelay, stranger: Host) -> None:
    location = next(iter(ssdp.find(here.source, udns=here.udns).values())).location
    assert web.fetch(here.source, location).status == 200
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
    assert not is_served(attacker(here), OUTSIDE, here.edge.lan)
    assert not is_served(stranger, f"{FOREIGN}.30", f"{FOREIGN}.20")
    pod = here.world.pods[0]
    assert not is_served(pod, pod.pod_ip, here.edge.pod_ip)
    assert not is_served(pod, pod.pod_ip, here.edge.lan), "though it comes to the LAN's address"
    assert since(failures, relay.http_failures()).get("source_not_allowed", 0) >= 1
    assert web.fetch(here.source, location).status == 200


def test_web_pages_reach_nothing_by_a_name_of_theirs(here: Home, relay: SsdpRelay) -> None:
    """DNS rebinding."""
    location = next(iter(ssdp.find(here.source, udns=here.udns).values())).location
    failures = relay.http_failures()
    assert web.fetch(here.source, location, headers={"Host": "attacker.example:28200"}).status == 403
    assert since(failures, relay.http_failures()) == {"wrong_host": 1}


def test_events_go_to_who_subscribed_and_to_nobody_else(here: Home, relay: SsdpRelay) -> None:
    """CallStranger, CVE-2020-12695."""
    jukebox = here.servers["Jukebox"]
    location = ssdp.find(here.source, udns=[jukebox.udn])[jukebox.udn].location
    events = f"{location.removesuffix('/description.xml')}/upnp/event/cds"
    victim = attacker(here)
    waits = victim.tcp()
    waits.bind((victim.lan, 7000))
    waits.listen()
    failures = relay.http_failures()
    for callback in (
        f"<http://{victim.lan}:7000/>",
        f"<http://{OUTSIDE}:7000/>",
        f"<http://{here.world.pods[0].pod_ip}:8200/>",
        "<http://127.0.0.1:8080/>",
    ):
        headers = {"NT": "upnp:event", "CALLBACK": callback, "TIMEOUT": "Second-300"}
        assert web.fetch(here.source, events, "SUBSCRIBE", headers).status == 412, callback
    assert since(failures, relay.http_failures()) == {"callback_refused": 4}
    assert relay.count("fanout_ssdp_subscriptions") == 0

    # Of several URLs the subscriber's own are taken; there nobody listens, and the other gets nothing all the same.
    several = f"<http://{victim.lan}:7000/><http://{here.source.lan}:7000/><http://{victim.lan}:7000/>"
    headers = {"NT": "upnp:event", "CALLBACK": several, "TIMEOUT": "Second-300"}
    answer = web.fetch(here.source, events, "SUBSCRIBE", headers)
    assert answer.status == 200
    until(lambda: relay.http_failures().get("event_lost"), "the event is lost")
    waits.settimeout(0.01)
    with pytest.raises(TimeoutError):
        waits.accept()
    sid = {"SID": answer.headers["SID"]}
    assert web.fetch(victim, events, "UNSUBSCRIBE", sid).status == 412, "it is not the victim's to end"
    assert web.fetch(here.source, events, "UNSUBSCRIBE", sid).status == 200
    assert relay.count("fanout_ssdp_subscriptions") == 0


@pytest.mark.alone
@pytest.mark.parametrize(
    ("to", "sources"),
    [
        ("10.50.0.20", ("8.0.0.0/8", OUTSIDE)),
        (ssdp.GROUP, ("10.50.0.0/24",)),
        ("10.50.0.20", ("10.50.0.11",)),
    ],
    ids=[
        "outside by unicast",
        "the LAN by multicast",
        "one client",
    ],
)
def test_ten_thousand_searches_a_second(
    here: Home, relay: SsdpRelay, to: str, sources: tuple[str, ...], figures: Callable[[str], None]
) -> None:
    """For seconds, with sources that never searched; a client is answered meanwhile or at least afterwards."""
    outside = ssdp.client(attacker(here), OUTSIDE)
    wait_for_quiet(relay)
    files, lines = relay.open_files, len(relay.run.events())
    spoof(attacker(here), to, 2000, 10_000, *sources)  # what is made once is made now
    answered, seen_before, dropped = relay.count("fanout_ssdp_answers_total"), seen(relay), relay.drops()
    resident = relay.resident
    began = time.monotonic()
    run = attacker(here).start(sys.executable, _SPOOF, to, str(_SECONDS * _RATE), str(_RATE), *sources)
    most_sessions = most_files = most_resident = 0
    while run.process.poll() is None:
        most_files = max(most_files, relay.open_files)
        most_resident = max(most_resident, relay.resident)
        most_sessions = max(most_sessions, relay.count("fanout_ssdp_sessions"))
        time.sleep(0.1)
    assert run.process.returncode == 0, run.err
    seconds = time.monotonic() - began
    until(lambda: finds_all(here), "a client gets its answers")
    recovered = time.monotonic() - began - seconds
    wait_for_quiet(relay)
    answers = relay.count("fanout_ssdp_answers_total") - answered
    drops = since(dropped, relay.drops())
    came = seen(relay) - seen_before
    figures(
        f"{_SECONDS * _RATE / seconds:,.0f} searches/s to {to} from {'+'.join(sources)}: {answers} answers, at most "
        f"{most_sessions} sessions, {most_files} open files (before: {files}), {most_resident / MIB:.0f} MiB (before: "
        f"{resident / MIB:.0f}); found again after {recovered:.2f} s; {came} searches came, dropped: {drops}"
    )
    assert came + drops.get("kernel_buffer", 0) >= _SECONDS * _RATE, "the flood has come"
    if OUTSIDE in sources:
        assert most_sessions == 0
        assert drops["source_not_allowed"] + drops.get("kernel_buffer", 0) >= _SECONDS * _RATE
        assert_no_answer(outside, 0.1)
    assert len(relay.run.events()) - lines < 50, "nobody is to read a line a search"
    if sources == (attacker(here).lan,):
        assert drops["over_limit"] + drops.get("kernel_buffer", 0) >= 0.8 * _SECONDS * _RATE
    assert relay.open_files <= files + 8
    assert relay.resident - resident < 16 * MIB


@pytest.mark.alone
def test_a_flood_where_few_files_may_be_open(here: Home) -> None:
    """Each search has a socket of its own, and a host may allow a process few: what is open goes on."""
    here.edge.end_all()
    relay = here.relay(within=("prlimit", "--nofile=100"))
    until(lambda: finds_all(here), "all devices are found")
    location = next(iter(ssdp.find(here.source, udns=here.udns).values())).location
    connection = web.connect(here.source, location)
    spoof(attacker(here), here.edge.lan, 3000, 5_000, "10.50.0.0/24")
    connection.request("GET", urllib.parse.urlsplit(location).path)
    assert connection.getresponse().read().startswith(b"<?xml")
    connection.close()
    until(lambda: finds_all(here), "a client gets its answers")
    assert web.fetch(here.source, location).status == 200
    assert relay.run.process.poll() is None
    assert "Traceback" not in relay.run.out + relay.run.err
    assert len(relay.run.events()) < 200
