"""The relay app as a process: its log, its admin port, its table, its end."""

from __future__ import annotations

import re
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from fanout.metrics import RelayCollector
from fanout.relay.reasons import RelayDrop
from fanout.relay.stats import IngressStats, PodStats, RelayStats
from fanout.report import DropReason
from tests.support.cli import Running, fanout, running
from tests.support.ports import free_port
from tests.support.terminal import terminal


@pytest.fixture
def pod() -> Iterator[socket.socket]:
    """A socket that gets what the relay forwards."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.settimeout(5)
        yield opened


def name(opened: socket.socket) -> str:
    return f"127.0.0.1:{opened.getsockname()[1]}"


def send(port: int, *payloads: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        for payload in payloads:
            opened.sendto(payload, ("127.0.0.1", port))


def get(relay: Running, path: str) -> tuple[int, str]:
    url = f"http://{relay.events('relay_started')[0]['admin']}{path}"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@contextmanager
def relaying(folder: Path, *arguments: str) -> Iterator[Running]:
    """Run `fanout relay` with an admin port of its own."""
    with running(folder, "relay", "--admin-host", "127.0.0.1", "--admin-port", str(free_port()), *arguments) as relay:
        relay.wait_until(lambda: "relay_started" in relay.out)
        yield relay


def ready(relay: Running) -> Running:
    relay.wait_until(lambda: get(relay, "/readyz") == (200, "ok\n"))
    return relay


def test_it_starts_forwards_drains_and_says_what_it_did(tmp_path: Path, pod: socket.socket) -> None:
    port = free_port()
    url = f"udp://127.0.0.1:{port}"
    with relaying(tmp_path, "-s", name(pod), "--listen", url, "--drain", "1") as relay:
        send(port, b"one", b"", b"\x00" * 60_000)
        assert [len(pod.recv(65_536)) for _ in range(3)] == [3, 0, 60_000]
        ready(relay)
        assert get(relay, "/livez") == (200, "ok\n")
        metrics = get(relay, "/metrics")[1]
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_until(lambda: "relay_draining" in relay.out)
        assert get(relay, "/readyz") == (503, "draining\n")
        send(port, b"late")
        assert pod.recv(65_536) == b"late"
        run = relay.end()
    assert (run.code, run.err) == (0, "")
    labels = f'{{ingress="{url}",service="{name(pod)}"}}'
    for line in (
        f"fanout_relay_datagrams_total{labels} 3.0",
        f"fanout_relay_bytes_total{labels} 60003.0",
        f"fanout_relay_forwarded_total{labels} 3.0",
        f"fanout_relay_waiting{labels} 0.0",
        "fanout_relay_copies_sent_total 3.0",
    ):
        assert f"{line}\n" in metrics
    started, stopped = relay.events("relay_started")[0], relay.events("relay_stopped")[0]
    assert (started["ingresses"], started["services"]) == ([url], [name(pod)])
    assert {key: stopped[key] for key in ("datagrams", "bytes", "forwarded", "dropped", "sent", "refused")} == {
        "datagrams": 4, "bytes": 60_007, "forwarded": 4, "dropped": {}, "sent": 4, "refused": 0,
    }  # fmt: skip
    assert [event["event"] for event in relay.events()][-2:] == ["relay_draining", "relay_stopped"]


def test_it_tells_of_pods_once_it_has_told_of_itself(tmp_path: Path, pod: socket.socket) -> None:
    with relaying(tmp_path, "-s", name(pod), "--listen", f"udp://127.0.0.1:{free_port()}") as relay:
        relay.wait_until(lambda: "pod_joined" in relay.out)
        assert [event["event"] for event in relay.events()][:3] == ["ingress_listening", "relay_started", "pod_joined"]


def test_healthcheck_asks_where_the_relay_was_told_to_serve(tmp_path: Path, pod: socket.socket) -> None:
    port, host = str(free_port()), "127.0.0.9"
    ingress = ("-s", name(pod), "--listen", f"udp://127.0.0.1:{free_port()}")
    with running(tmp_path, "relay", *ingress, FANOUT_ADMIN_HOST=host, FANOUT_ADMIN_PORT=port) as relay:
        relay.wait_until(lambda: fanout("healthcheck", FANOUT_ADMIN_HOST=host, FANOUT_ADMIN_PORT=port).code == 0)
        assert relay.events("relay_started")[0]["admin"] == f"{host}:{port}"
        assert f"http://localhost:{port}" in fanout("healthcheck", FANOUT_ADMIN_PORT=port).assert_one_sentence(1)


def test_what_the_kernel_holds_at_the_end_is_forwarded(tmp_path: Path, pod: socket.socket) -> None:
    port = free_port()
    pod.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    with relaying(tmp_path, "-s", name(pod), "--listen", f"udp://127.0.0.1:{port}") as relay:
        ready(relay)
        relay.process.send_signal(signal.SIGSTOP)
        send(port, *(b"%d" % number for number in range(150)))
        relay.process.send_signal(signal.SIGTERM)
        relay.process.send_signal(signal.SIGCONT)
        assert relay.end().code == 0
    pod.settimeout(0.5)
    assert [int(pod.recv(100)) for _ in range(150)] == list(range(150))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_drain_at_once(tmp_path: Path, pod: socket.socket, number: int) -> None:
    with relaying(tmp_path, "-s", name(pod), "--listen", f"udp://127.0.0.1:{free_port()}", "--drain", "60") as relay:
        relay.process.send_signal(number)
        relay.wait_until(lambda: "relay_draining" in relay.out)
        started = time.monotonic()
        assert relay.stop(number).code == 0
        assert time.monotonic() - started < 5


def test_it_goes_on_after_it_was_stopped_for_a_while(tmp_path: Path, pod: socket.socket) -> None:
    """By the shell's job control, or with its whole machine: no signal has told it to end."""
    port = free_port()
    with relaying(tmp_path, "-s", name(pod), "--listen", f"udp://127.0.0.1:{port}") as relay:
        ready(relay)
        for _ in range(2):
            relay.process.send_signal(signal.SIGSTOP)
            time.sleep(1.2)
            relay.process.send_signal(signal.SIGCONT)
            time.sleep(0.3)
            send(port, b"after")
            assert pod.recv(100) == b"after"
        assert relay.events("relay_draining") == []
        assert relay.stop().code == 0


def test_an_interface_that_never_appears_is_one_sentence(tmp_path: Path, pod: socket.socket) -> None:
    url = "mcast://224.0.67.67:5001@nowhere0"
    with relaying(tmp_path, "-s", name(pod), "--listen", url, "--interface-timeout", "2") as relay:
        status, why = get(relay, "/readyz")
        assert (status, "nowhere0" in why) == (503, True)
        run = relay.end()
    sentence = run.assert_one_sentence(1)
    assert url in sentence
    assert "there is no interface nowhere0 here" in sentence
    assert relay.events("ingress_waiting")[0]["ingress"] == url
    assert relay.events()[-1]["event"] == "relay_stopped"


def test_drops_are_logged_once_a_second_by_ingress_and_reason(tmp_path: Path, pod: socket.socket) -> None:
    refusing, open_to_all = free_port(), free_port()
    config = tmp_path / "relay.yaml"
    config.write_text(
        f"service: {name(pod)}\n"
        "ingresses:\n"
        f"  - listen: udp://127.0.0.1:{refusing}\n"
        "    allow_source: [10.0.0.0/8]\n"
        f"  - listen: udp://127.0.0.1:{open_to_all}\n"
    )
    with relaying(tmp_path, "--config", str(config)) as relay:
        ready(relay)
        began = time.monotonic()
        for _ in range(20):
            send(refusing, b"x", b"y")
            send(open_to_all, b"z")
            time.sleep(0.1)
        seconds = time.monotonic() - began
        assert relay.stop().code == 0
    dropped = relay.events("datagrams_dropped")
    assert {event["ingress"] for event in dropped} == {f"udp://127.0.0.1:{refusing}"}
    assert sum(event["dropped"]["source_not_allowed"] for event in dropped) == 40
    assert 2 <= len(dropped) <= seconds + 2
    assert relay.events("relay_stopped")[0]["dropped"] == {"source_not_allowed": 40}


def test_a_refusing_pod_is_logged_as_a_count(tmp_path: Path) -> None:
    port, closed = free_port(), free_port()
    with relaying(tmp_path, "-s", f"127.0.0.1:{closed}", "--listen", f"udp://127.0.0.1:{port}") as relay:
        ready(relay)
        for _ in range(5):
            send(port, b"x")
            time.sleep(0.05)
        relay.wait_until(lambda: relay.events("copies_refused"))
        assert relay.stop().code == 0
    counted = sum(event["count"] for event in relay.events("copies_refused"))
    assert counted == relay.events("relay_stopped")[0]["refused"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_it_shows_ingresses_and_pods(pod: socket.socket, number: int) -> None:
    port = free_port()
    arguments = ("--listen", f"udp://127.0.0.1:{port}", "--listen", "mcast://224.0.67.67:5001@nowhere0")
    with terminal("relay", "-s", name(pod), *arguments, "--admin-port", "0") as screen:
        screen.wait_until(lambda: any(line.startswith("127.0.0.1 ") for line in screen.lines))
        send(port, *[b"x" * 100] * 10)
        screen.wait_until(lambda: any(re.match(r"127\.0\.0\.1 .* 1\.0 kB +0 +0$", line) for line in screen.lines))
        assert screen.stop(number) == 0
        printed, lines = bytes(screen.printed), [line.rstrip() for line in screen.lines]
    assert printed.rfind(b"\x1b[?25h") > printed.rfind(b"\x1b[?25l") > 0, "the cursor is visible"
    (head,) = (index for index, line in enumerate(lines) if line.startswith("INGRESS "))
    assert lines[head + 1].startswith(f"udp://127.0.0.1:{port} ")
    assert re.search(r" listening .* 1\.0 kB +0$", lines[head + 1])
    assert re.search(r"^mcast://224.0.67.67:5001@nowhere0 .* waiting ", lines[head + 2])
    assert "there is no interface nowhere0 here" in "".join(lines[head + 3 :])
    assert all(any(event in line for line in lines[:head]) for event in ("relay_started", "relay_stopped"))


def test_what_it_cannot_have_is_one_sentence(pod: socket.socket) -> None:
    listen = ("--listen", f"udp://127.0.0.1:{free_port()}")
    taken = f"udp://{name(pod)}"
    assert taken in fanout("relay", "-s", "10.0.0.1", "--listen", taken, "--admin-port", "0").assert_one_sentence(1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        admin = ("--admin-host", "127.0.0.1", "--admin-port", str(server.getsockname()[1]))
        run = fanout("relay", "-s", name(pod), *listen, *admin)
        assert "admin port" in run.assert_one_sentence(1)
        assert "pod_joined" not in run.out, "it never was one of this relay"
    for path in ("/nonexistent/log", "/dev/full"):
        log = ("--admin-port", "0", "--log-file", path)
        assert path in fanout("relay", "-s", name(pod), *listen, *log).assert_one_sentence(1)


def test_metrics_have_all_reasons_and_no_address_of_a_pod() -> None:
    stats = RelayStats(
        [
            IngressStats("mcast://224.0.67.67:5001@eth1", "headless-udp", None, 7, 700, 5, {RelayDrop.OVER_LIMIT: 2}),
            IngressStats("udp://:5004", "cameras", "interface eth2 is not there"),
        ],
        [PodStats(f"10.128.0.{number}", "headless-udp", 5) for number in range(3)],
        sent=15,
        refused=1,
        dropped={DropReason.NO_BUFFER: 4},
        answer_age=2.5,
        resolver_failures=6,
    )
    registry = CollectorRegistry()
    registry.register(RelayCollector(lambda: stats))
    text = generate_latest(registry).decode()
    first = 'ingress="mcast://224.0.67.67:5001@eth1"'
    for line in (
        f'fanout_relay_datagrams_total{{{first},service="headless-udp"}} 7.0',
        f'fanout_relay_bytes_total{{{first},service="headless-udp"}} 700.0',
        f'fanout_relay_forwarded_total{{{first},service="headless-udp"}} 5.0',
        f'fanout_relay_dropped_total{{{first},reason="over_limit",service="headless-udp"}} 2.0',
        f'fanout_relay_waiting{{{first},service="headless-udp"}} 0.0',
        'fanout_relay_waiting{ingress="udp://:5004",service="cameras"} 1.0',
        "fanout_relay_copies_sent_total 15.0",
        "fanout_relay_copies_refused_total 1.0",
        'fanout_relay_copies_dropped_total{reason="no_buffer"} 4.0',
        'fanout_relay_endpoints{service="headless-udp"} 3.0',
        'fanout_relay_endpoints{service="cameras"} 0.0',
        "fanout_relay_answer_age_seconds 2.5",
        "fanout_relay_resolver_failures_total 6.0",
    ):
        assert f"{line}\n" in text
    for reason in RelayDrop:
        assert text.count(f'reason="{reason}",service=') == 2
    for why in DropReason:
        assert text.count(f'fanout_relay_copies_dropped_total{{reason="{why}"}}') == 1
    assert "10.128" not in text
    stats.answer_age = None
    assert "answer_age" not in generate_latest(registry).decode()
