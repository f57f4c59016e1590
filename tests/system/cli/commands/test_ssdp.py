"""`fanout ssdp search` on a LAN, and with a real media server."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fanout.ssdp.core import message
from fanout.ssdp.core.message import Advert, Search
from tests.support.cli import Run
from tests.support.lan import Lan, lan
from tests.support.ssdp_device import MEDIA_SERVER, UDN, names
from tests.support.waiting import until

_IP_RECVTTL = 12  # include/uapi/linux/in.h


@pytest.fixture(scope="module")
def world() -> Iterator[Lan]:
    with lan(2) as made:
        yield made


def on_edge(world: Lan, *arguments: str) -> Run:
    return world.edge.invoke("ssdp", "search", "--timeout", "1", *arguments)


def on_edge_until(world: Lan, is_enough: Callable[[Run], bool], *arguments: str) -> Run:
    """Search, again where the time was over before the device had answered or its description was read."""
    runs: list[Run] = []

    def search() -> bool:
        runs.append(on_edge(world, *arguments, "-o", "json"))
        return is_enough(runs[-1])

    until(search, lambda: runs[-1])
    return runs[-1]


def test_searches_go_two_hops_far_and_by_all_interfaces(world: Lan) -> None:
    """UPnP Device Architecture 1.1, 1.3.2."""
    heard = []
    for host, address in ((world.pods[1], world.pods[1].pod_ip), (world.source, world.source.lan)):
        listening = host.listen(message.GROUP, message.PORT)
        membership = socket.inet_aton(message.GROUP) + socket.inet_aton(address)
        listening.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        listening.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
        heard.append(listening)
    run = on_edge(world, "--st", "uuid:nobody")
    assert "on eth0 and eth1 within" in run.err
    for listening, address in zip(heard, (world.edge.pod_ip, world.edge.lan), strict=True):
        data, control, _, source = listening.recvmsg(4096, 64)
        assert source[0] == address
        assert int.from_bytes(control[0][2], sys.byteorder) == 2
        assert isinstance(message.parse(data), Search)
        listening.close()


def test_minidlna_is_found_by_the_group(world: Lan, tmp_path: Path) -> None:
    """It hears searches to the group alone."""
    pod = world.pods[0]
    (tmp_path / "media").mkdir()
    conf = tmp_path / "conf"
    conf.write_text(
        f"port=8200\nnetwork_interface=eth0\nmedia_dir={tmp_path}/media\ndb_dir={tmp_path}\nlog_dir={tmp_path}\n"
        f"friendly_name=a film & more\nuuid={UDN.removeprefix('uuid:')}\ninotify=no\n"
    )
    pod.start("minidlnad", "-S", "-f", str(conf), "-P", str(tmp_path / "pid"))
    pod.wait_for_listener(message.PORT)
    for arguments in ((), ("--interface", "eth0", "--st", MEDIA_SERVER)):
        run = on_edge_until(world, lambda run: run.code == 0 and names(run) != [None], *arguments)
        (found,) = run.json["devices"]
        assert found["friendly_name"] == "a film & more"
        assert found["location"] == f"http://{pod.pod_ip}:8200/rootDesc.xml"
        assert (found["udn"], found["device_type"], found["host"]) == (UDN, MEDIA_SERVER, pod.pod_ip)
        assert "MiniDLNA" in found["server"]
    run = on_edge(world, "--interface", "eth1")
    assert "no device answered on eth1 within 1 s" in run.assert_one_sentence(3)


def test_nobody_makes_it_ask_its_own_loopback(world: Lan) -> None:
    pod, edge = world.pods[1], world.edge
    victim = edge.tcp()
    victim.bind(("127.0.0.1", 9100))
    victim.listen()
    victim.setblocking(False)
    answering = pod.listen(pod.pod_ip, message.PORT)

    def answer() -> None:
        advert = Advert(message.ROOT_DEVICE, f"{UDN}::upnp:rootdevice", "http://127.0.0.1:9100/rootDesc.xml")
        data, address = answering.recvfrom(4096)
        while data:
            answering.sendto(message.answer(advert, message.ROOT_DEVICE), address)
            data, address = answering.recvfrom(4096)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        run = on_edge_until(world, lambda run: run.code == 0, "--host", pod.pod_ip)
    finally:
        edge.udp().sendto(b"", (pod.pod_ip, message.PORT))
        thread.join()
    assert names(run) == [None]
    with pytest.raises(BlockingIOError):
        victim.accept()


def test_interfaces_that_cannot_be_searched_on(world: Lan) -> None:
    edge = world.edge
    edge.ip("link add bare type veth peer name other", "link set bare up", "link set other up")
    try:
        run = on_edge(world, "--interface", "bare")
        assert "bare has no IPv4 address" in run.assert_one_sentence(1)
        edge.ip("address add 192.0.2.1/24 dev bare", "link set bare down")
        assert "bare is down: ip link set bare up" in on_edge(world, "--interface", "bare").assert_one_sentence(1)
        assert "there are lo, eth0, eth1, other, bare" in on_edge(world, "--interface", "eth9").assert_one_sentence(2)
        edge.ip("link set eth0 down", "link set eth1 down")
        assert "no interface with an IPv4 address is up" in on_edge(world).assert_one_sentence(1)
        assert "no route to that network" in on_edge(world, "--host", "192.0.2.9").assert_one_sentence(1)
    finally:
        edge.ip("link delete bare", "link set eth0 up", "link set eth1 up")
