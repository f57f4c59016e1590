"""Media servers in pods are found and played from the LAN, by programs that know nothing of the relay."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.cli import Run
from tests.support.lan import receive, waiting
from tests.support.waiting import until
from tests.system.ssdp import ssdp, web
from tests.system.ssdp.media import MIB
from tests.system.ssdp.servers import MINIDLNA_PORT
from tests.system.ssdp.site import FIRST_PORT, LAST_PORT, POD_NETWORK, Site, SsdpRelay, make_site

CINEMA, GALLERY, JUKEBOX = "Cinema", "Gallery & Söhne", "Jukebox"
CLIENTS, SOCKETS, ROUNDS = 10, 5, 4
"""A control point searches from a new port each time: five at once, four times, make twenty searches of a client."""


@pytest.fixture(scope="module")
def played() -> Iterator[Site]:
    """Two minidlnad and a gerbera with different files; on the LAN, three hosts."""
    with make_site(3) as made:
        cinema, gallery, jukebox = made.network.pods
        films, pictures, music = map(made.library, ("films", "pictures", "music"))
        films.add("long film.mp4", tail=4 * MIB)
        films.add("short.mp4")
        films.add("poster.jpg")
        pictures.add("holiday.jpg")
        pictures.add("voice.mp3")
        music.add("tune.mp3")
        music.add("video.mp4", tail=3 * MIB)
        made.minidlna(cinema, CINEMA, films)
        made.minidlna(gallery, "Gallery &amp; Söhne", pictures)
        made.servers[GALLERY] = made.servers.pop("Gallery &amp; Söhne")
        made.gerbera(jukebox, JUKEBOX, music)
        made.add_source()
        made.add_source()
        yield made


@pytest.fixture(scope="module")
def relay(played: Site) -> Iterator[SsdpRelay]:
    """The relay, once it knows the devices of all pods; what real programs do is nothing that it complains about."""
    started = played.relay()
    assert set(ssdp.find(played.source, udns=played.udns)) == played.udns
    yield started
    assert set(started.drops()) <= {"no_mx"}
    assert set(started.http_failures()) <= {"client_gone"}, "ffprobe reads no more than it needs"
    assert started.run.process.poll() is None
    assert not [each for each in started.run.events() if each["level"] in ("warning", "error")]


def is_on_edge(site: Site, location: str) -> bool:
    url = urllib.parse.urlsplit(location)
    return url.hostname == site.edge.lan and url.port is not None and FIRST_PORT <= url.port <= LAST_PORT


def locations(site: Site) -> dict[str, str]:
    """Return the LOCATION of each media server by its name."""
    found = ssdp.find(site.source, udns=site.udns)
    return {name: found[server.udn].location for name, server in site.servers.items()}


def run_until(site: Site, is_enough: Callable[[Run], object], *command: str) -> Run:
    """Run a program on the LAN, again where its own patience was not enough; return what it has printed."""
    done: list[Run] = []

    def run() -> bool:
        done.append(site.run_on_lan(*command))
        return bool(is_enough(done[-1]))

    until(run, lambda: done[-1])
    return done[-1]


def test_the_lan_reaches_no_pod_and_the_pod_network_carries_no_multicast(played: Site) -> None:
    """Without this, what follows would prove nothing."""
    for server in played.servers.values():
        origin = urllib.parse.urlsplit(server.location)
        assert origin.hostname
        assert origin.port
        with played.edge.tcp() as from_edge:
            from_edge.connect((origin.hostname, origin.port))
        with played.source.tcp() as from_lan, pytest.raises(OSError, match="unreachable"):
            from_lan.connect((origin.hostname, origin.port))
    asking = played.edge.listen(played.edge.pod_ip, 0)
    pods = []
    for pod in played.network.pods:
        listening = pod.listen("0.0.0.0", 5998)
        membership = socket.inet_aton(ssdp.GROUP) + socket.inet_aton(pod.pod_ip)
        listening.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        pods.append((pod.pod_ip, listening))
    asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(played.edge.pod_ip))
    asking.sendto(b"to all", (ssdp.GROUP, 5998))
    for address, listening in pods:
        asking.sendto(b"to one", (address, 5998))
        assert receive(listening, 1) == [b"to one"]
        assert waiting(listening) == []


def test_gssdp_discover_finds_all(played: Site, relay: SsdpRelay) -> None:
    run = played.source.start("stdbuf", "-oL", "gssdp-discover", "-i", "eth0", "--target=upnp:rootdevice")
    expected = {f"{udn}::upnp:rootdevice" for udn in played.udns}
    run.wait_until(lambda: set(re.findall(r"USN: +(\S+)\n.*Location: +\S+\n", run.out)) == expected)
    run.stop()
    assert POD_NETWORK not in run.out
    found = re.findall(r"Location: +(\S+)\n", run.out)
    assert len(set(found)) == 3
    assert all(is_on_edge(played, location) for location in found)


def test_nmap_finds_the_devices_by_the_address_of_the_edge(played: Site, relay: SsdpRelay) -> None:
    """Its script shows the answer that came first, of however many."""
    run = run_until(
        played,
        # It has read the description.
        lambda run: re.search(r"^\|.*Name: (Cinema|Gallery|Jukebox)", run.out, re.MULTILINE),
        *("nmap", "-n", "-Pn", "-sU", "-p1900", "-v", "--script", "upnp-info"),
        *("--script-args", "upnp-info.override=false", played.edge.lan),
    )
    assert "1900/udp open " in run.out
    assert POD_NETWORK not in run.out
    shown = re.findall(r"^\|.*Location: (\S+)$", run.out, re.MULTILINE)
    assert shown
    assert all(is_on_edge(played, location) for location in shown)


def test_nmap_finds_the_devices_by_the_group(played: Site, relay: SsdpRelay) -> None:
    located = re.compile(r"^\|.*Location: (\S+)$", re.MULTILINE)
    run = run_until(
        played,
        lambda run: located.search(run.out),
        *("nmap", "-n", "-e", "eth0", "--script", "broadcast-upnp-info"),
    )
    assert POD_NETWORK not in run.out
    assert all(is_on_edge(played, location) for location in located.findall(run.out))


@pytest.fixture(scope="module")
def films(played: Site, relay: SsdpRelay) -> dict[str, dict[str, Any]]:
    """What a control point got of each media server."""
    return {name: played.play(location) for name, location in locations(played).items()}


@pytest.mark.parametrize("name", [CINEMA, GALLERY, JUKEBOX])
def test_a_control_point_browses_and_plays_all_that_there_is(
    played: Site, films: dict[str, dict[str, Any]], name: str
) -> None:
    server, found = played.servers[name], films[name]
    assert (found["udn"], found["name"]) == (server.udn, name)
    by_digest = {resource["sha256"]: resource for resource in found["resources"]}
    for medium in server.library:
        resource = by_digest[medium.sha256]
        assert resource["partial"] == 206
        first, last = resource["first"], resource["last"]
        assert resource["range"] == f"bytes {first}-{last}/{len(medium.bytes)}"
        assert resource["part"] == hashlib.sha256(medium.bytes[first : last + 1]).hexdigest()
    assert all(is_on_edge(played, resource["url"]) for resource in found["resources"])
    assert not [text for text in found["heard"] if POD_NETWORK in text]
    assert len({urllib.parse.urlsplit(resource["url"]).port for resource in found["resources"]}) == 1


def test_each_device_is_its_own_and_has_nothing_of_the_others(played: Site, relay: SsdpRelay) -> None:
    ports = {urllib.parse.urlsplit(location).port for location in locations(played).values()}
    assert len(ports) == 3


@pytest.fixture(scope="module")
def film(played: Site, films: dict[str, dict[str, Any]]) -> tuple[str, bytes]:
    """The URL of the long film, and what it is."""
    (url,) = {each["url"] for each in films[CINEMA]["resources"] if each["title"] == "long film"}
    return url, (played.servers[CINEMA].library.folder / "long film.mp4").read_bytes()


def test_many_players_at_once(played: Site, relay: SsdpRelay, film: tuple[str, bytes]) -> None:
    """Eight, on three hosts: each gets the whole film."""
    url, bytes_of_it = film
    with ThreadPoolExecutor(8) as threads:
        pages = list(threads.map(lambda number: web.fetch(played.network.sources[number % 3], url), range(8)))
    assert all(page.body == bytes_of_it for page in pages)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("HEAD", {}),
        ("GET", {"Range": "bytes=0-0"}),
        ("GET", {"Range": "bytes=0-1"}),
        ("GET", {"Range": "bytes=-500"}),
        ("GET", {"Range": "bytes=4194000-"}),
        ("GET", {"Range": "bytes=1000000-4000000"}),
        ("GET", {"Range": "bytes=99999999-"}),
        ("GET", {"Range": "bytes=5-2"}),
        ("GET", {"Range": "bytes=0-99", "getcontentFeatures.dlna.org": "1", "transferMode.dlna.org": "Streaming"}),
        ("GET", {"transferMode.dlna.org": "Interactive"}),
        ("GET", {"TimeSeekRange.dlna.org": "npt=1.0-"}),
        ("HEAD", {"getCaptionInfo.sec": "1"}),
    ],
)
def test_players_are_told_what_the_pod_says(
    played: Site, relay: SsdpRelay, film: tuple[str, bytes], method: str, headers: dict[str, str]
) -> None:
    """Compared with what it says to the edge."""
    url, _ = film
    direct = f"http://{played.servers[CINEMA].pod.pod_ip}:{MINIDLNA_PORT}{urllib.parse.urlsplit(url).path}"
    for through, to_pod in ((url, direct), (f"{url}x", f"{direct}x")):
        got = web.fetch(played.source, through, method, headers)
        expected = web.fetch(played.edge, to_pod, method, headers)
        assert got.status == expected.status
        assert got.body == expected.body
        assert end_to_end(got) == end_to_end(expected)


def end_to_end(page: web.Page) -> dict[str, str]:
    """Return the headers that are not of the connection, and do not change with the time."""
    return {name: value for name, value in page.headers.items() if name not in ("Connection", "Keep-Alive", "Date")}


def test_a_connection_is_kept_though_the_server_keeps_none(
    played: Site, relay: SsdpRelay, film: tuple[str, bytes]
) -> None:
    """minidlnad ends each of its own."""
    url, bytes_of_it = film
    connection = web.connect(played.source, url)
    own = connection.sock
    for first in range(0, 1000, 100):
        connection.request("GET", urllib.parse.urlsplit(url).path, headers={"Range": f"bytes={first}-{first + 99}"})
        with connection.getresponse() as response:
            assert response.read() == bytes_of_it[first : first + 100]
        assert connection.sock is own, "it is the same"
    connection.close()


def test_ffprobe_plays_a_video(played: Site, relay: SsdpRelay, film: tuple[str, bytes]) -> None:
    url, _ = film
    show = ("-show_entries", "stream=codec_type,width,height,nb_read_frames", "-count_frames", "-of", "json")
    run = played.run_on_lan("ffprobe", "-v", "error", *show, url)
    assert (run.code, run.err) == (0, "")
    (stream,) = json.loads(run.out)["streams"]
    assert (stream["codec_type"], stream["width"], stream["height"]) == ("video", 160, 120)
    assert stream["nb_read_frames"] == "30"


def test_the_search_command_lists_all_with_their_names(played: Site, relay: SsdpRelay) -> None:
    expected = {name: (played.servers[name].udn, location) for name, location in locations(played).items()}

    def search() -> bool:
        run = played.source.invoke(
            *("ssdp", "search", "--interface", "eth0", "--timeout", "1", "--st", ssdp.MEDIA_SERVER, "-o", "json")
        )
        found = {each["friendly_name"]: (each["udn"], each["location"]) for each in run.json["devices"]}
        return run.code == 0 and found == expected

    until(search, f"it lists {expected}")


def test_a_device_is_found_by_each_of_its_names(played: Site, relay: SsdpRelay) -> None:
    where = {played.servers[name].udn: location for name, location in locations(played).items()}
    for target in (ssdp.MEDIA_SERVER, ssdp.CONTENT_DIRECTORY, ssdp.ROOT_DEVICE, *played.udns):
        udns = {target} if target in played.udns else played.udns
        for destination in (ssdp.EVERYBODY, (played.edge.lan, ssdp.PORT)):
            found = ssdp.find(played.source, target, udns=udns, destination=destination)
            assert set(found) == udns
            for udn, heard in found.items():
                expected = udn if target == udn else f"{udn}::{target}"
                assert (heard.first_line, heard.target, heard.usn) == ("HTTP/1.1 200 OK", target, expected)
                assert (heard.location, heard.source) == (where[udn], (played.edge.lan, ssdp.PORT))
                assert int(heard.headers["cache-control"].partition("=")[2]) >= 1
                assert "ext" in heard.headers
                assert heard.headers["server"]


def test_nobody_answers_for_what_is_not_there(played: Site, relay: SsdpRelay) -> None:
    before = relay.count("fanout_ssdp_searches_total")
    asking = ssdp.client(played.source)
    for target in ("urn:schemas-upnp-org:device:MediaRenderer:1", "uuid:none", "upnp:nothing"):
        asking.sendto(ssdp.search(target), ssdp.EVERYBODY)
    until(lambda: relay.count("fanout_ssdp_searches_total") >= before + 3, "they have come")
    until(lambda: relay.count("fanout_ssdp_sessions") == 0, "nobody is answered any more")
    assert ssdp.have_come(asking) == []


def test_ten_clients_that_search_at_once_get_their_own_answers_alone(played: Site, relay: SsdpRelay) -> None:
    """Each has targets of its own, twenty times each, so that an answer for another would be told by its ST."""
    targets = [
        *(server.udn for server in played.servers.values()),
        ssdp.MEDIA_SERVER,
        ssdp.ROOT_DEVICE,
        ssdp.CONTENT_DIRECTORY,
        "urn:schemas-upnp-org:service:ConnectionManager:1",
    ]
    before = relay.count("fanout_ssdp_searches_total")
    clients = [[ssdp.client(played.network.sources[number % 3]) for _ in range(SOCKETS)] for number in range(CLIENTS)]

    def search(number: int) -> list[ssdp.Heard]:
        """Search, and return as many answers as there are to be."""
        target = targets[number % len(targets)]
        destination = (played.edge.lan, ssdp.PORT) if number % 2 else ssdp.EVERYBODY
        heard = []
        for _ in range(ROUNDS):
            for each in clients[number]:
                each.sendto(ssdp.search(target, 1), destination)
            for each in clients[number]:
                heard += ssdp.answers(each, 1 if target in played.udns else len(played.udns))
        return heard

    with ThreadPoolExecutor(CLIENTS) as threads:
        answers = list(threads.map(search, range(CLIENTS)))
    until(lambda: relay.count("fanout_ssdp_sessions") == 0, "nobody is answered any more")
    for number, heard in enumerate(answers):
        target = targets[number % len(targets)]
        for each in clients[number]:
            heard += ssdp.have_come(each)
        wanted = {target} if target in played.udns else played.udns
        assert Counter((each.target, each.udn, each.source) for each in heard) == {
            (target, udn, (played.edge.lan, ssdp.PORT)): SOCKETS * ROUNDS for udn in wanted
        }
    assert relay.count("fanout_ssdp_searches_total") == before + CLIENTS * SOCKETS * ROUNDS


def test_events_reach_the_subscriber(played: Site, relay: SsdpRelay) -> None:
    """By gerbera's: Debian's minidlnad 1.3.0 connects to its subscribers, and then says nothing to them."""
    found = played.follow(locations(played)[JUKEBOX])
    assert "SystemUpdateID" in found["changes"]
    assert found["renewed"] == found["sid"]
    assert 0 < found["renewed_timeout"] <= found["timeout"]
    assert found["after_unsubscription"] == 412
    assert not [text for text in found["heard"] if POD_NETWORK in text]
    assert relay.count("fanout_ssdp_events_total") >= 1
    until(lambda: relay.count("fanout_ssdp_subscriptions") == 0, "no subscription is left")
