"""`fanout doctor` on real networks: what it says is the cause is the cause."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fanout.model import Endpoint
from tests.support import handler_pods
from tests.support.cli import FANOUT, Run, Running, invoke, receiving
from tests.support.console import Console, Within, console
from tests.support.doctor_timing import FOR_LONG, patience
from tests.support.limits import dns_lifetime, setting
from tests.support.namespace import Namespace, cabled_hosts
from tests.support.needs import require
from tests.support.pods import Pod
from tests.support.waiting import until

HERE, THERE, ELSEWHERE = "10.81.0.1", "10.81.0.2", "10.99.0.2"
GROUP, PORT = "224.0.67.67", 5001
INGRESS = f"mcast://{GROUP}:{PORT}@eth0"
SOURCE = 4000
"""The port of the first flow's source; that of the next is the next."""
SEEN = "tests.support.doctor_timing:until_seen"
COUNTED = "tests.support.doctor_timing:until_counted"
WAITING_FOR = "tests.support.doctor_timing:patience"
_SIOCGIFINDEX = 0x8933  # include/uapi/linux/sockios.h
_DEAF = """
import socket, sys
deaf = socket.socket(type=socket.SOCK_DGRAM)
deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
deaf.bind(("", 7))
print(flush=True)
sys.stdin.read()
"""


def checks(run: Run, check: str) -> list[dict[str, Any]]:
    """What the checks of that name came to; the exit code is 0 where all, of any name, are well.

    They are not all well on a machine with a small net.core.rmem_max, nor beside another test that floods.
    """
    found = run.json["checks"]
    assert run.code == any(each["status"] != "ok" for each in found), run
    return [each for each in found if each["check"] == check]


def only(run: Run, check: str) -> dict[str, Any]:
    (found,) = checks(run, check)
    return found


def said(check: dict[str, Any]) -> str:
    return "\n".join([check["sentence"], *check["hints"]])


Hosts = tuple[Namespace, Namespace]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Two hosts on a LAN; the second one has addresses to which the first has no route."""
    with cabled_hosts(HERE, THERE) as (here, there):
        there.run("ip", "address", "add", f"{ELSEWHERE}/24", "dev", "eth0")
        for host, address in ((here, HERE), (there, THERE)):
            host.run("ip", "address", "replace", f"{address}/24", "broadcast", "10.81.0.255", "dev", "eth0")
        for host, address in ((here, "fd81::1"), (there, "fd81::2")):
            host.run("ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad")
        there.run("ip", "route", "add", "default", "dev", "eth0")
        yield here, there


@pytest.fixture(scope="module")
def inside(hosts: Hosts) -> Iterator[Console]:
    """Runs `fanout` in the first host."""
    with console(*hosts[0].command) as made:
        yield made


@contextlib.contextmanager
def sending(there: Namespace, *flows: tuple[str, str, int]) -> Iterator[None]:
    """Send datagrams of each flow (source, destination, port) from another host, over and over."""
    with contextlib.ExitStack() as stack:
        sources = []
        for number, (source, destination, port) in enumerate(flows):
            family = socket.AF_INET6 if ":" in source else socket.AF_INET
            opened = stack.enter_context(there.open_socket(family, socket.SOCK_DGRAM))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            opened.bind((source, SOURCE + number))
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index(opened, "eth0"))
            else:
                opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
            sources.append((opened, (destination, port)))
        over = threading.Event()

        def send() -> None:
            while not over.wait(0.01):
                for opened, destination in sources:
                    opened.sendto(bytes(100), destination)

        thread = threading.Thread(target=send)
        stack.callback(thread.join)
        stack.callback(over.set)
        thread.start()
        yield


def index(opened: socket.socket, interface: str) -> int:
    """Return the number of an interface in a socket's network."""
    asked = struct.pack("16si12x", interface.encode(), 0)
    found: int = struct.unpack("16si12x", fcntl.ioctl(opened, _SIOCGIFINDEX, asked))[1]
    return found


def listen(
    inside: Console, *ingresses: str, wait: float = FOR_LONG, within: Within | None = None
) -> list[dict[str, Any]]:
    """Return what was said of each ingress, once something has come to all of them or the waiting is over."""
    options = [word for ingress in ingresses for word in ("--listen", ingress)]
    run = inside.fanout("doctor", *options, "--wait", str(wait), "-o", "json", within=within)
    assert run.err == ""
    return checks(run, "ingress")


def test_a_receiver_that_answers_is_well(tmp_path: Path) -> None:
    with receiving(tmp_path) as (receiver, endpoint):
        with patience():
            run = invoke("doctor", "-s", endpoint, "-o", "json")
        assert run.err == ""
        assert not [check for check in run.json["checks"] if check["status"] == "problem"]
        assert "1 endpoint" in only(run, "resolve")["sentence"]
        assert "the pod answers a probe" in only(run, "reach")["sentence"]
        assert "65,507 bytes stay in one piece; a probe of that size came back" in only(run, "mtu")["sentence"]
        assert "message_received" not in receiver.out


def test_pods_that_refuse_or_are_silent(pods: Callable[..., list[Pod]], closed_port: int) -> None:
    (plain,) = pods(1)
    with handler_pods.pods(lambda message: None) as [receiver]:
        service = f"{receiver.address},{plain.endpoint},127.0.0.1:{closed_port}"

        def ask() -> Run | None:
            """Return what was said, once the pod that answers has done so in time."""
            with patience(small=(0.05,) * 6):
                run = invoke("doctor", "-s", service, "-o", "json")
            return run if len(checks(run, "reach")) == 3 else None

        run = until(ask, "the pod that answers is heard")
    assert run is not None
    assert run.code == 1
    answers, refuses, silent = checks(run, "reach")
    assert "1 of 3 pods" in answers["sentence"]
    assert f"127.0.0.1:{closed_port}: nothing listens on that port there" in refuses["sentence"]
    assert silent["sentence"].startswith(f"{plain.endpoint}: 6 probes left this host")
    assert "NetworkPolicy" in said(silent)
    assert [check["status"] for check in (answers, refuses, silent)] == ["ok", "problem", "problem"]


def test_a_nameserver_that_is_not_there(closed_port: int) -> None:
    with setting(dns_lifetime(0.2)):
        unresolved = invoke("doctor", "-s", "headless-udp", "--nameserver", f"127.0.0.1:{closed_port}")
    assert (unresolved.code, unresolved.err) == (1, "")
    problem = r"^problem  resolve: cannot resolve headless-udp A .*no answer within 0.2 s"
    assert re.search(problem, unresolved.out, re.MULTILINE)
    assert "reach:" not in unresolved.out


def test_every_kind_of_ingress(hosts: Hosts) -> None:
    here, there = hosts
    flows = {
        "mcast://224.0.67.67:5001@eth0": (THERE, GROUP, 5001),
        f"mcast://{THERE},224.0.67.67:5002@eth0": (THERE, GROUP, 5002),
        "mcast://[ff15::67]:5003@eth0": ("fd81::2", "ff15::67", 5003),
        "broadcast://:5004@eth0": (THERE, "255.255.255.255", 5004),
        "broadcast://:5005@eth0": (THERE, "10.81.0.255", 5005),
        "udp://0.0.0.0:5006-5008": (THERE, HERE, 5007),
        "udp://:5009": (THERE, HERE, 5009),
        "udp://:5010@eth0": ("fd81::2", "fd81::1", 5010),
    }
    options = [word for ingress in flows for word in ("--listen", ingress)]
    with sending(there, *flows.values()):
        run = here.fanout("doctor", *options, "--wait", str(FOR_LONG), "-o", "json")
    assert run.err == ""
    found = checks(run, "ingress")
    for number, (check, (ingress, (source, _, port))) in enumerate(zip(found, flows.items(), strict=True)):
        assert check["status"] == "ok", check
        assert f"{ingress}: 100 bytes from {Endpoint(source, SOURCE + number)} on port {port}" in check["sentence"]
    assert f"joined {GROUP} on eth0 ({HERE})" in found[0]["sentence"]
    assert [check["details"]["joined"] for check in found] == [True] * 3 + [None] * 5


def test_why_ingresses_are_silent(hosts: Hosts, inside: Console) -> None:
    here, there = hosts
    here.run("ip", "link", "add", "leg", "type", "veth", "peer", "name", "cut")
    flows = [(THERE, GROUP, PORT + 1), (THERE, "224.0.67.68", PORT), (THERE, HERE, PORT + 2)]
    silent = {
        INGRESS: [f"from {THERE}:4000", f"to {GROUP}:{PORT + 1}: the port is another one"],
        f"mcast://10.81.0.9,224.0.67.68:{PORT}@eth0": [f"from {THERE}:4001", "the source is not 10.81.0.9"],
        f"broadcast://:{PORT + 2}@eth0": ["nothing came for it", "routers do not forward broadcasts"],
        f"mcast://224.0.67.69:{PORT}@eth0": ["nor did eth0 get anything of the kind", "does the source send"],
        f"mcast://{GROUP}:{PORT}@eth7": ["there is no interface eth7 here"],
        f"mcast://{GROUP}:{PORT}@leg": ["leg is down or has no carrier"],
    }
    try:
        with sending(there, *flows):
            found = listen(inside, *silent, within=(SEEN, (SOURCE, SOURCE + 1, SOURCE + 2)))
    finally:
        here.run("ip", "link", "del", "leg")
    for check, (ingress, parts) in zip(found, silent.items(), strict=True):
        assert check["status"] == "problem"
        for part in (ingress, *parts):
            assert part in said(check)


def test_drops_while_it_looks(hosts: Hosts, inside: Console) -> None:
    here, there = hosts
    with subprocess.Popen([*here.command, sys.executable, "-c", _DEAF], stdin=-1, stdout=-1) as never_reads:
        assert never_reads.stdout is not None
        assert never_reads.stdout.readline() == b"\n"
        with sending(there, *[(THERE, HERE, 7)] * 5):
            options = ("--listen", INGRESS, "--wait", str(FOR_LONG), "-o", "json")
            run = inside.fanout("doctor", *options, within=(COUNTED, ["RcvbufErrors"]))
    (drops,) = checks(run, "receive drops")
    assert drops["status"] == "warning"
    assert drops["details"]["meanwhile"] > 0
    assert "cost" in drops["sentence"]
    assert "--receive-buffer" in said(drops)
    after = only(inside.fanout("doctor", "-o", "json"), "receive drops")
    assert after["status"] == "ok", "what was is no present ill"
    assert after["details"]["RcvbufErrors"] > 0


@contextlib.contextmanager
def receiving_in(host: Namespace, folder: Path) -> Iterator[None]:
    """Run `fanout receive` in a host."""
    arguments = ("receive", "--admin-port", "0", "--drain", "0")
    receiver = Running(arguments, folder, {}, program=[*host.command, *FANOUT])
    try:
        receiver.wait_until(lambda: "receiver_started" in receiver.out)
        yield
    finally:
        receiver.process.kill()
        receiver.process.wait()


@contextlib.contextmanager
def reverse_filter(host: Namespace, mode: int) -> Iterator[None]:
    path = "/proc/sys/net/ipv4/conf/eth0/rp_filter"
    host.run("sh", "-c", f"echo {mode} >{path}")
    try:
        yield
    finally:
        host.run("sh", "-c", f"echo 0 >{path}")


@pytest.mark.parametrize(("mode", "word"), [(1, "strict"), (2, "loose")])
def test_rp_filter_drops_a_source_without_a_route(hosts: Hosts, inside: Console, mode: int, word: str) -> None:
    here, there = hosts
    with reverse_filter(here, mode), sending(there, (ELSEWHERE, GROUP, PORT)):
        (check,) = listen(inside, INGRESS, within=(SEEN, [SOURCE]))
        assert f"no route leads back to {ELSEWHERE}, and rp_filter={mode} ({word}) drops" in check["sentence"]
        advice = f"ip route add {ELSEWHERE} dev eth0"
        assert any(advice in hint for hint in check["hints"])
        here.run(*advice.split())
        try:
            (check,) = listen(inside, INGRESS)
        finally:
            here.run("ip", "route", "del", ELSEWHERE, "dev", "eth0")
    assert check["status"] == "ok", "the advice helps"


def test_rp_filter_drops_a_source_whose_way_back_is_another(hosts: Hosts, inside: Console) -> None:
    here, there = hosts
    here.run("ip", "link", "add", "pods", "type", "veth", "peer", "name", "pods-peer")
    try:
        for link in ("pods", "pods-peer"):
            here.run("ip", "link", "set", link, "up")
        here.run("ip", "address", "add", "10.82.0.1/24", "dev", "pods")
        here.run("ip", "route", "add", "default", "dev", "pods")
        with reverse_filter(here, 1), sending(there, (ELSEWHERE, GROUP, PORT)):
            (check,) = listen(inside, INGRESS, within=(SEEN, [SOURCE]))
            assert f"the route back to {ELSEWHERE} is by pods, and rp_filter=1 (strict)" in check["sentence"]
            assert any("net.ipv4.conf.eth0.rp_filter=2" in hint for hint in check["hints"])
        with reverse_filter(here, 2), sending(there, (ELSEWHERE, GROUP, PORT)):
            (check,) = listen(inside, INGRESS)
        assert check["status"] == "ok", "the advice helps"
    finally:
        here.run("ip", "link", "del", "pods")


def test_without_the_right_to_look_at_the_wire_counters_tell(hosts: Hosts) -> None:
    here, there = hosts
    require("setpriv")
    with (
        console(*here.command, "setpriv", "--bounding-set=-net_raw") as unprivileged,
        reverse_filter(here, 1),
        sending(there, (ELSEWHERE, GROUP, PORT)),
    ):
        options = ("--listen", INGRESS, "--wait", str(FOR_LONG))
        done = unprivileged.fanout("doctor", *options, within=(COUNTED, ["IPReversePathFilter"]))
    assert done.code == 1
    assert "without CAP_NET_RAW only counters tell" in done.out
    assert re.search(r"rp_filter dropped [1-9]\d* packets meanwhile", done.out)


def test_a_firewall_that_drops(hosts: Hosts, inside: Console) -> None:
    here, there = hosts
    require("nft")
    rules = "table inet deaf {\nchain input {\ntype filter hook input priority 0;\nudp dport 5001 drop\n}\n}\n"
    subprocess.run([*here.command, "nft", "-f", "-"], input=rules, text=True, check=True)
    try:
        with sending(there, (THERE, GROUP, PORT)):
            (check,) = listen(inside, INGRESS, within=(SEEN, [SOURCE]))
    finally:
        here.run("nft", "delete", "table", "inet", "deaf")
    assert "came in by eth0, and this host dropped it" in check["sentence"]
    assert "nft list ruleset" in said(check)


def test_a_port_that_another_program_has(hosts: Hosts, inside: Console) -> None:
    here, there = hosts
    with here.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HERE, PORT))
        (check,) = listen(inside, f"udp://0.0.0.0:{PORT}", wait=0.01)
        assert "the port is in use" in check["sentence"]
        with sending(there, (THERE, HERE, PORT)):
            (check,) = listen(inside, f"udp://0.0.0.0:{PORT}")
    assert check["status"] == "ok"
    assert "for the program that has the port" in check["sentence"]


def test_a_path_that_swallows_large_datagrams(hosts: Hosts, inside: Console, tmp_path: Path) -> None:
    _, there = hosts
    with receiving_in(there, tmp_path):
        path = only(inside.fanout("doctor", "-s", THERE, "-o", "json", within=(WAITING_FOR, [])), "mtu")
        assert "by eth0" in path["sentence"]
        assert path["details"] == {
            "interface": "eth0", "mtu": 1500, "payload": 1472, "passed": True, "endpoints": [f"{THERE}:12000"],
        }  # fmt: skip
        ipv6 = inside.fanout("doctor", "-s", "fd81::2", "-o", "json", within=(WAITING_FOR, []))
        assert only(ipv6, "mtu")["details"]["payload"] == 1452
        there.run("ip", "link", "set", "eth0", "mtu", "1400")
        try:
            swallowed = (WAITING_FOR, [[FOR_LONG], [0.1, 0.1]])
            run = inside.fanout("doctor", "-s", THERE, "-o", "json", within=swallowed)
        finally:
            there.run("ip", "link", "set", "eth0", "mtu", "1500")
    assert only(run, "mtu")["status"] == "problem"
    assert "probes of that size got no answer, but small ones did" in only(run, "mtu")["sentence"]


def test_a_thousand_ports_beside_pods() -> None:
    own = f"127.{1 + os.getpid() % 250}.{1 + os.getpid() // 250 % 250}.1"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    try:
        with handler_pods.pods(lambda message: None) as [receiver], patience():
            options = ("--listen", f"udp://{own}:2000-3023", "--wait", "0.01", "-o", "json")
            run = invoke("doctor", "-s", str(receiver.address), *options)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert only(run, "reach")["status"] == only(run, "mtu")["status"] == "ok"
    assert "nothing came for it within" in only(run, "ingress")["sentence"]
