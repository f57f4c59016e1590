"""`fanout doctor` on real networks: what it says is the cause is the cause."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fanout.model import Endpoint
from tests.support.cli import FANOUT, Run, Running, environment, fanout, receiving
from tests.support.namespace import Namespace, cabled_hosts
from tests.support.needs import program, unavailable
from tests.support.pods import Pod
from tests.system.nameserver.asking import together

HERE, THERE, ELSEWHERE = "10.81.0.1", "10.81.0.2", "10.99.0.2"
GROUP, PORT = "224.0.67.67", 5001
INGRESS = f"mcast://{GROUP}:{PORT}@eth0"
_SENDER = """
import json, socket, sys, time
sockets = []
for source, destination, port in json.loads(sys.argv[1]):
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    sending = socket.socket(family, socket.SOCK_DGRAM)
    sending.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sending.bind((source, 4000 + len(sockets)))
    if family == socket.AF_INET6:
        sending.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
    else:
        sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
    sockets.append((sending, (destination, port)))
print("ready", flush=True)
while True:
    for sending, destination in sockets:
        sending.sendto(bytes(100), destination)
    time.sleep(0.02)
"""
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


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    """Two hosts on a LAN; the second one has addresses to which the first has no route."""
    with cabled_hosts(HERE, THERE) as (here, there):
        there.run("ip", "address", "add", f"{ELSEWHERE}/24", "dev", "eth0")
        for host, address in ((here, HERE), (there, THERE)):
            host.run("ip", "address", "replace", f"{address}/24", "broadcast", "10.81.0.255", "dev", "eth0")
        for host, address in ((here, "fd81::1"), (there, "fd81::2")):
            host.run("ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad")
        there.run("ip", "route", "add", "default", "dev", "eth0")
        yield here, there


@contextlib.contextmanager
def sending(there: Namespace, *flows: tuple[str, str, int]) -> Iterator[None]:
    """Send datagrams from another host, fifty a second of each (source, destination, port): 4000 and up send."""
    command = [*there.command, sys.executable, "-c", _SENDER, json.dumps(flows)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


def listen(here: Namespace, *ingresses: str, wait: float = 0.8) -> list[dict[str, Any]]:
    """Return what was said of each ingress."""
    options = [word for ingress in ingresses for word in ("--listen", ingress)]
    run = here.fanout("doctor", *options, "--wait", str(wait), "-o", "json")
    assert run.err == ""
    return checks(run, "ingress")


def test_a_receiver_that_answers_is_well(tmp_path: Path) -> None:
    with receiving(tmp_path) as (receiver, endpoint):
        run = fanout("doctor", "-s", endpoint, "-o", "json")
        assert run.err == ""
        assert not [check for check in run.json["checks"] if check["status"] == "problem"]
        assert "1 endpoint" in only(run, "resolve")["sentence"]
        assert "the pod answers a probe" in only(run, "reach")["sentence"]
        assert "65,507 bytes stay in one piece; a probe of that size came back" in only(run, "mtu")["sentence"]
        assert "message_received" not in receiver.out


def test_pods_that_refuse_or_are_silent_and_a_nameserver_that_does_not_answer(
    tmp_path: Path, pods: Callable[..., list[Pod]], closed_port: int
) -> None:
    (plain,) = pods(1)
    with receiving(tmp_path) as (_, endpoint):
        service = f"{endpoint},{plain.endpoint},127.0.0.1:{closed_port}"
        run, unresolved = together(
            ["doctor", "-s", service, "-o", "json"],
            ["doctor", "-s", "headless-udp", "--nameserver", f"127.0.0.1:{closed_port}"],
        )
    assert run.code == 1
    answers, refuses, silent = checks(run, "reach")
    assert "1 of 3 pods" in answers["sentence"]
    assert f"127.0.0.1:{closed_port}: nothing listens on that port there" in refuses["sentence"]
    assert silent["sentence"].startswith(f"{plain.endpoint}: 6 probes left this host")
    assert "NetworkPolicy" in said(silent)
    assert [check["status"] for check in (answers, refuses, silent)] == ["ok", "problem", "problem"]
    assert (unresolved.code, unresolved.err) == (1, "")
    problem = r"^problem  resolve: cannot resolve headless-udp A .*no answer within 2 s"
    assert re.search(problem, unresolved.out, re.MULTILINE)
    assert "reach:" not in unresolved.out


def test_every_kind_of_ingress(hosts: tuple[Namespace, Namespace]) -> None:
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
    with sending(there, *flows.values()):
        found = listen(here, *flows, wait=5)
    for number, (check, (ingress, (source, _, port))) in enumerate(zip(found, flows.items(), strict=True)):
        assert check["status"] == "ok", check
        assert f"{ingress}: 100 bytes from {Endpoint(source, 4000 + number)} on port {port}" in check["sentence"]
    assert f"joined {GROUP} on eth0 ({HERE})" in found[0]["sentence"]
    assert [check["details"]["joined"] for check in found] == [True] * 3 + [None] * 5


def test_why_ingresses_are_silent(hosts: tuple[Namespace, Namespace]) -> None:
    here, there = hosts
    here.run("ip", "link", "add", "leg", "type", "veth", "peer", "name", "cut")
    flows = [(THERE, GROUP, PORT + 1), (THERE, "224.0.67.68", PORT), (THERE, HERE, PORT + 2)]
    silent = {
        INGRESS: [f"from {THERE}:4000", f"to {GROUP}:{PORT + 1}: the port is another one"],
        f"mcast://10.81.0.9,224.0.67.68:{PORT}@eth0": [f"from {THERE}:4001", "the source is not 10.81.0.9"],
        f"broadcast://:{PORT + 2}@eth0": ["nothing came for it", "Routers do not forward broadcasts"],
        f"mcast://224.0.67.69:{PORT}@eth0": ["nor did eth0 get anything of the kind", "does the source send"],
        f"mcast://{GROUP}:{PORT}@eth7": ["there is no interface eth7 here"],
        f"mcast://{GROUP}:{PORT}@leg": ["leg is down or has no carrier"],
    }
    try:
        with sending(there, *flows):
            found = listen(here, *silent)
    finally:
        here.run("ip", "link", "del", "leg")
    for check, (ingress, parts) in zip(found, silent.items(), strict=True):
        assert check["status"] == "problem"
        for part in (ingress, *parts):
            assert part in said(check)


def test_drops_while_it_looks(hosts: tuple[Namespace, Namespace]) -> None:
    here, there = hosts
    with subprocess.Popen([*here.command, sys.executable, "-c", _DEAF], stdin=-1, stdout=-1) as never_reads:
        assert never_reads.stdout is not None
        assert never_reads.stdout.readline() == b"\n"
        with sending(there, *[(THERE, HERE, 7)] * 5):
            run = here.fanout("doctor", "--listen", INGRESS, "--wait", "0.5", "-o", "json")
    (drops,) = checks(run, "receive drops")
    assert drops["status"] == "warning"
    assert drops["details"]["meanwhile"] > 0
    assert "cost" in drops["sentence"]
    assert "--receive-buffer" in said(drops)
    after = only(here.fanout("doctor", "-o", "json"), "receive drops")
    assert after["status"] == "ok", "what was is no present ill"
    assert after["details"]["RcvbufErrors"] > 0


@contextlib.contextmanager
def receiving_in(host: Namespace, folder: Path, port: int) -> Iterator[None]:
    """Run `fanout receive` in a host."""
    arguments = ("receive", "--port", str(port), "--admin-port", "0", "--drain", "0")
    receiver = Running(arguments, folder, {}, None, program=[*host.command, *FANOUT])
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
def test_rp_filter_drops_a_source_without_a_route(hosts: tuple[Namespace, Namespace], mode: int, word: str) -> None:
    here, there = hosts
    with reverse_filter(here, mode), sending(there, (ELSEWHERE, GROUP, PORT)):
        (check,) = listen(here, INGRESS)
        assert f"no route leads back to {ELSEWHERE}, and rp_filter={mode} ({word}) drops" in check["sentence"]
        advice = f"ip route add {ELSEWHERE} dev eth0"
        assert any(advice in hint for hint in check["hints"])
        here.run(*advice.split())
        try:
            (check,) = listen(here, INGRESS)
        finally:
            here.run("ip", "route", "del", ELSEWHERE, "dev", "eth0")
    assert check["status"] == "ok", "the advice helps"


def test_rp_filter_drops_a_source_whose_way_back_is_another(hosts: tuple[Namespace, Namespace]) -> None:
    here, there = hosts
    here.run("ip", "link", "add", "pods", "type", "veth", "peer", "name", "pods-peer")
    try:
        for link in ("pods", "pods-peer"):
            here.run("ip", "link", "set", link, "up")
        here.run("ip", "address", "add", "10.82.0.1/24", "dev", "pods")
        here.run("ip", "route", "add", "default", "dev", "pods")
        with reverse_filter(here, 1), sending(there, (ELSEWHERE, GROUP, PORT)):
            (check,) = listen(here, INGRESS)
            assert f"the route back to {ELSEWHERE} is by pods, and rp_filter=1 (strict)" in check["sentence"]
            assert any("net.ipv4.conf.eth0.rp_filter=2" in hint for hint in check["hints"])
        with reverse_filter(here, 2), sending(there, (ELSEWHERE, GROUP, PORT)):
            (check,) = listen(here, INGRESS)
        assert check["status"] == "ok", "the advice helps"
    finally:
        here.run("ip", "link", "del", "pods")


def test_without_the_right_to_look_at_the_wire_counters_tell(hosts: tuple[Namespace, Namespace]) -> None:
    here, there = hosts
    if program("setpriv") is None:
        unavailable("tools", "the program setpriv is missing (Debian, Ubuntu: apt install util-linux)")
    with reverse_filter(here, 1), sending(there, (ELSEWHERE, GROUP, PORT)):
        done = subprocess.run(
            [*here.command, "setpriv", "--bounding-set=-net_raw",
             *FANOUT, "doctor", "--listen", INGRESS, "--wait", "0.5"],
            capture_output=True, text=True, env=environment(), timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "without CAP_NET_RAW only counters tell" in done.stdout
    assert re.search(r"rp_filter dropped [1-9]\d* packets meanwhile", done.stdout)


def test_a_firewall_that_drops(hosts: tuple[Namespace, Namespace]) -> None:
    here, there = hosts
    if program("nft") is None:
        unavailable("tools", "the program nft is missing (Debian, Ubuntu: apt install nftables)")
    rules = "table inet deaf {\nchain input {\ntype filter hook input priority 0;\nudp dport 5001 drop\n}\n}\n"
    subprocess.run([*here.command, "nft", "-f", "-"], input=rules, text=True, check=True)
    try:
        with sending(there, (THERE, GROUP, PORT)):
            (check,) = listen(here, INGRESS)
    finally:
        here.run("nft", "delete", "table", "inet", "deaf")
    assert "came in by eth0, and this host dropped it" in check["sentence"]
    assert "nft list ruleset" in said(check)


def test_a_port_that_another_program_has(hosts: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, there = hosts
    with receiving_in(here, tmp_path, PORT):
        (check,) = listen(here, f"udp://0.0.0.0:{PORT}", wait=0.2)
        assert "the port is in use" in check["sentence"]
        with sending(there, (THERE, HERE, PORT)):
            (check,) = listen(here, f"udp://0.0.0.0:{PORT}")
    assert check["status"] == "ok"
    assert "for the program that has the port" in check["sentence"]


def test_a_way_that_swallows_large_datagrams(hosts: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, there = hosts
    with receiving_in(there, tmp_path, 12000):
        way = only(here.fanout("doctor", "-s", THERE, "-o", "json"), "mtu")
        assert "by eth0" in way["sentence"]
        assert way["details"] == {
            "interface": "eth0", "mtu": 1500, "payload": 1472, "passed": True, "endpoints": [f"{THERE}:12000"],
        }  # fmt: skip
        assert only(here.fanout("doctor", "-s", "fd81::2", "-o", "json"), "mtu")["details"]["payload"] == 1452
        there.run("ip", "link", "set", "eth0", "mtu", "1400")
        try:
            run = here.fanout("doctor", "-s", THERE, "-o", "json")
        finally:
            there.run("ip", "link", "set", "eth0", "mtu", "1500")
    assert only(run, "mtu")["status"] == "problem"
    assert "probes of that size got no answer, small ones did" in only(run, "mtu")["sentence"]


def test_a_thousand_ports_beside_pods(tmp_path: Path) -> None:
    roomy = ["sh", "-c", 'ulimit -Sn 4096 && exec "$@"', "sh"]
    with receiving(tmp_path) as (_, endpoint):
        done = subprocess.run(
            [*roomy, *FANOUT, "doctor", "-s", endpoint, "--listen", "udp://127.0.0.99:20000-21023", "--wait", "0.5",
             "-o", "json"],
            capture_output=True, text=True, env=environment(), timeout=60, check=False,
        )  # fmt: skip
    run = Run(done.returncode, done.stdout, done.stderr)
    assert only(run, "reach")["status"] == only(run, "mtu")["status"] == "ok"
    assert "nothing came for it within" in only(run, "ingress")["sentence"]
