"""The relay app as a process: its log, its admin port, its table, its end."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Running, invoke, strict_json
from tests.support.console import Console, console
from tests.support.ports import free_port
from tests.support.relay_processes import ask, name, pause, ready, relaying, resume, send
from tests.support.terminal import terminal

HOUR = "3600"


@pytest.fixture(scope="module")
def inside() -> Iterator[Console]:
    """Runs what ends by itself."""
    with console() as made:
        yield made


def stop_twice(relay: Running, number: int) -> None:
    """Tell it to end, and again while it drains: it has an hour for that, and ends at once."""
    relay.process.send_signal(number)
    relay.wait_until(lambda: "relay_draining" in relay.out)
    assert relay.stop(number).code == 0


def test_it_starts_forwards_drains_and_says_what_it_did(tmp_path: Path, pod: socket.socket) -> None:
    port = free_port()
    url = f"udp://127.0.0.1:{port}"
    with relaying(tmp_path, "-s", name(pod), "--listen", url, "--drain", HOUR) as relay:
        relay.wait_until(lambda: "pod_joined" in relay.out)
        assert [event["event"] for event in relay.events()][:3] == ["ingress_listening", "relay_started", "pod_joined"]
        send(port, b"one", b"", b"\x00" * 60_000)
        assert [len(pod.recv(65_536)) for _ in range(3)] == [3, 0, 60_000]
        ready(relay)
        assert ask(relay, "/livez") == (200, "ok\n")
        labels = f'{{ingress="{url}",service="{name(pod)}"}}'
        relay.wait_until(lambda: f"fanout_relay_forwarded_total{labels} 3.0\n" in ask(relay, "/metrics")[1])
        metrics = ask(relay, "/metrics")[1]
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_until(lambda: "relay_draining" in relay.out)
        assert ask(relay, "/readyz") == (503, "draining\n")
        send(port, b"late")
        assert pod.recv(65_536) == b"late"
        run = relay.stop()
    assert (run.code, run.err) == (0, "")
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


def test_healthcheck_asks_where_the_relay_was_told_to_serve(tmp_path: Path, pod: socket.socket) -> None:
    admin = {"FANOUT_ADMIN_HOST": "127.0.0.9", "FANOUT_ADMIN_PORT": str(free_port())}
    patient = ("healthcheck", "--timeout", "60")
    ingress = ("-s", name(pod), "--listen", f"udp://127.0.0.1:{free_port()}")
    with relaying(tmp_path, *ingress, "--drain", HOUR, **admin) as relay:
        relay.wait_until(lambda: invoke(*patient, **admin).code == 0)
        host, port = admin.values()
        assert relay.events("relay_started")[0]["admin"] == f"{host}:{port}"
        assert f"http://localhost:{port}" in invoke(*patient, FANOUT_ADMIN_PORT=port).assert_one_sentence(1)
        stop_twice(relay, signal.SIGTERM)


def test_an_interface_that_never_appears_is_one_sentence(pod: socket.socket, inside: Console) -> None:
    url = "mcast://224.0.67.67:5001@nowhere0"
    arguments = ("-s", name(pod), "--listen", url, "--interface-timeout", "0.1", "--admin-port", "0")
    run = inside.fanout("relay", *arguments, within=("unittest.mock:patch", ["fanout.relay.relay._CHECK", 0.01]))
    sentence = run.assert_one_sentence(1)
    assert url in sentence
    assert "there is no interface nowhere0 here" in sentence
    events = [strict_json(line) for line in run.out.splitlines()]
    # Once; and again, with the names of those that are there, where interfaces of this machine come and go meanwhile.
    assert {event["ingress"] for event in events if event["event"] == "ingress_waiting"} == {url}
    assert events[-1]["event"] == "relay_stopped"


def test_drops_and_refusals_are_logged_as_counts(tmp_path: Path, pod: socket.socket) -> None:
    refusing, open_to_all, to_nobody = free_port(), free_port(), free_port()
    config = tmp_path / "relay.yaml"
    config.write_text(
        f"service: {name(pod)}\n"
        "ingresses:\n"
        f"  - listen: udp://127.0.0.1:{refusing}\n"
        "    allow_source: [10.0.0.0/8]\n"
        f"  - listen: udp://127.0.0.1:{open_to_all}\n"
        f"  - listen: udp://127.0.0.1:{to_nobody}\n"
        f"    service: 127.0.0.1:{free_port()}\n"
    )
    with relaying(tmp_path, "--config", str(config), "--drain", HOUR) as relay:
        ready(relay)
        pause(relay)
        for _ in range(20):
            send(refusing, b"x", b"y")
            send(open_to_all, b"z")
        resume(relay)

        def dropped() -> int:
            return sum(event["dropped"]["source_not_allowed"] for event in relay.events("datagrams_dropped"))

        relay.wait_until(lambda: dropped() == 40)

        def is_refused() -> bool:
            send(to_nobody, b"x")
            return bool(relay.events("copies_refused"))

        relay.wait_until(is_refused)
        stop_twice(relay, signal.SIGINT)
    lines = relay.events("datagrams_dropped")
    assert {event["ingress"] for event in lines} == {f"udp://127.0.0.1:{refusing}"}
    assert dropped() == 40
    assert len(lines) <= 2, "what came at once, and between two looks at most"
    (stopped,) = relay.events("relay_stopped")
    assert stopped["dropped"] == {"source_not_allowed": 40}
    assert sum(event["count"] for event in relay.events("copies_refused")) == stopped["refused"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_it_shows_ingresses_and_pods(pod: socket.socket, number: int) -> None:
    port, admin = free_port(), free_port()
    arguments = ("--listen", f"udp://127.0.0.1:{port}", "--listen", "mcast://224.0.67.67:5001@nowhere0")
    serve = ("--admin-host", "127.0.0.1", "--admin-port", str(admin), "--interface-timeout", HOUR)
    with terminal("relay", "-s", name(pod), *arguments, *serve) as screen:
        screen.wait_until(lambda: any(line.startswith("127.0.0.1 ") for line in screen.lines))
        status, why = ask(admin, "/readyz")
        assert (status, "nowhere0" in why) == (503, True)
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


def test_what_it_cannot_have_is_one_sentence(pod: socket.socket, inside: Console) -> None:
    listen = ("--listen", f"udp://127.0.0.1:{free_port()}")
    taken = f"udp://{name(pod)}"
    run = inside.fanout("relay", "-s", "10.0.0.1", "--listen", taken, "--admin-port", "0")
    assert taken in run.assert_one_sentence(1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        admin = ("--admin-host", "127.0.0.1", "--admin-port", str(server.getsockname()[1]))
        run = inside.fanout("relay", "-s", name(pod), *listen, *admin)
        assert "admin port" in run.assert_one_sentence(1)
        assert "pod_joined" not in run.out, "it never was one of this relay"
    for path in ("/nonexistent/log", "/dev/full"):
        log = ("--admin-port", "0", "--log-file", path)
        assert path in inside.fanout("relay", "-s", name(pod), *listen, *log).assert_one_sentence(1)
