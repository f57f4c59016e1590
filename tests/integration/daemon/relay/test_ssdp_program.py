"""The app of `fanout relay ssdp` as a process: its log, its admin port, its end. The relay itself is scripted."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.admin import get
from tests.support.cli import Running, invoke, running
from tests.support.ports import free_port
from tests.support.terminal import terminal

SCRIPTED = """
import signal, sys, threading, types
from fanout.cli.main import run
from fanout.errors import SocketUnavailable
from fanout.ssdp.core.drop_reasons import HttpFailure, SsdpDrop
from fanout.ssdp.core.stats import DeviceStats, HttpCounts, SsdpStats

class Scripted:
    waiting, silence = None, 0.0

    def __init__(self, service, interface, **settings):
        assert (service, interface, settings["http_ports"]) == ("media", "eth0", "1-2")
        self._stopped = threading.Event()
        self._looks = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def serve(self):
        self._stopped.wait()

    def stop(self):
        self._stopped.set()

    @property
    def stats(self):
        return SsdpStats()

{script}

# In the place of the real one, for which aiohttp is imported.
sys.modules["fanout.ssdp.relay"] = types.SimpleNamespace(SsdpRelay=Scripted)
from fanout.daemon.relay import runner
runner.CHECK_INTERVAL = 0.02
run()
"""
NEEDED = ("relay", "ssdp", "-s", "media", "--interface", "eth0", "--http-ports", "1-2")


@contextmanager
def scripted(folder: Path, script: str = "", *arguments: str, admin_port: int | None = None) -> Iterator[Running]:
    """Run the app with a relay that does what is written here."""
    body = SCRIPTED.format(script="\n".join(f"    {line}" for line in script.splitlines()))
    admin = ("--admin-host", "127.0.0.1", "--admin-port", str(admin_port or free_port()))
    run = Running((*NEEDED, *admin, *arguments), folder, {}, program=[sys.executable, "-c", body])
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()


def ask(relay: Running, path: str) -> tuple[int, str]:
    return get(f"http://{relay.events('ssdp_relay_started')[0]['admin']}{path}")


def started(relay: Running) -> Running:
    relay.wait_until(lambda: relay.events("ssdp_relay_started"))
    return relay


def test_drops_and_failures_are_logged_by_reason_and_added_up_at_the_end(tmp_path: Path) -> None:
    growing = """
@property
def stats(self):
    self._looks += 1
    n = self._looks
    failures = {HttpFailure.CLIENT_GONE: n, HttpFailure.NO_POD: 2 * max(0, n - 3)}
    http = HttpCounts({1: n}, {1: 100 * n}, {2: n, 5: n}, failures, n, n, n)
    return SsdpStats([], n, 2 * n, 0, {"ssdp:alive": n}, n, {SsdpDrop.NOT_SSDP: 3 * n, SsdpDrop.NO_MX: 0}, http)
"""
    with scripted(tmp_path, growing) as relay:
        relay.wait_until(lambda: len(relay.events("http_failures")) > 3)
        run = relay.stop()
    assert (run.code, run.err) == (0, "")
    dropped = relay.events("searches_dropped")
    assert {(event["level"], str(event["dropped"])) for event in dropped} == {("warning", "{'not_ssdp': 3}")}
    failures = relay.events("http_failures")
    assert [(event["level"], event["failures"]) for event in failures[:2]] == [("info", {"client_gone": 1})] * 2
    assert ("warning", {"client_gone": 1, "no_pod": 2}) in [(each["level"], each["failures"]) for each in failures[2:]]
    (stopped,) = relay.events("ssdp_relay_stopped")
    looks = stopped["searches"]
    assert looks == 1 + len(dropped), "each look is told, the last one too"
    assert {**stopped, "timestamp": ""} == {
        **{key: stopped[key] for key in ("level", "event", "pod", "lost_lines")},
        "timestamp": "",
        "searches": looks, "answers": 2 * looks, "announcements": {"ssdp:alive": looks}, "foreign": looks,
        "dropped": {"not_ssdp": 3 * looks}, "requests": 2 * looks, "bytes": 100 * looks, "events": looks,
        "rewritten": looks, "left": looks, "failures": {"client_gone": looks, "no_pod": 2 * (looks - 3)},
    }  # fmt: skip


def test_it_says_at_the_start_what_it_does(tmp_path: Path) -> None:
    with scripted(tmp_path, "", "--description", "80/a", "--allow-source", "192.168.1.0/24") as relay:
        (event,) = started(relay).events("ssdp_relay_started")
        assert {key: event[key] for key in ("service", "interface", "http_ports", "descriptions", "allow_source")} == {
            "service": "media", "interface": "eth0", "http_ports": "1-2", "descriptions": ["80/a"],
            "allow_source": ["192.168.1.0/24"],
        }  # fmt: skip
        assert relay.stop().code == 0
    assert [event["event"] for event in relay.events()] == [
        "ssdp_relay_started", "ssdp_relay_draining", "ssdp_relay_stopped",
    ]  # fmt: skip


def test_it_is_not_ready_while_it_says_goodbye(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "goodbye")
    slow = f"""
def serve(self):
    self._stopped.wait()
    open({str(tmp_path / "goodbye")!r}).read()
"""
    with scripted(tmp_path, slow) as relay:
        started(relay)
        assert [ask(relay, path) for path in ("/readyz", "/livez")] == [(200, "ok\n")] * 2
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_until(lambda: relay.events("ssdp_relay_draining"))
        assert ask(relay, "/readyz") == (503, "draining\n")
        (tmp_path / "goodbye").write_text("")
        assert relay.end()[::2] == (0, "")


def test_kubernetes_is_told_how_it_is(tmp_path: Path) -> None:
    def say(waiting: str, silence: str) -> None:
        for name, text in (("waiting", waiting), ("silence", silence)):
            # Another file in its place: it is read all the time.
            (tmp_path / "new").write_text(text)
            (tmp_path / "new").rename(tmp_path / name)

    script = f"""
@property
def waiting(self):
    return open({str(tmp_path / "waiting")!r}).read() or None

@property
def silence(self):
    return float(open({str(tmp_path / "silence")!r}).read())
"""
    say("", "0.0")
    with scripted(tmp_path, script) as relay:
        port = str(started(relay).events("ssdp_relay_started")[0]["admin"]).rpartition(":")[2]
        for waiting, silence, path, answer in (
            ("interface eth9 is not there", "0.0", "/readyz", (503, "interface eth9 is not there\n")),
            ("interface eth9 is not there", "0.0", "/livez", (200, "ok\n")),
            ("", "3600.0", "/livez", (503, "it has not been checked for 3600 s\n")),
            ("", "3600.0", "/readyz", (200, "ok\n")),
        ):
            say(waiting, silence)
            assert ask(relay, path) == answer
            live = ["--live"] if path == "/livez" else []
            probe = invoke("healthcheck", "--host", "127.0.0.1", "--timeout", "60", *live, FANOUT_ADMIN_PORT=port)
            assert (probe.code, probe.out) == (0 if answer[0] == 200 else 1, answer[1])
        assert relay.stop().code == 0


def test_what_ends_it_is_one_sentence_behind_the_totals(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "end")
    broken = f"""
def serve(self):
    open({str(tmp_path / "end")!r}).read()
    raise SocketUnavailable("the interface is not what it was")
"""
    with scripted(tmp_path, broken) as relay:
        started(relay)
        (tmp_path / "end").write_text("")
        run = relay.end()
    assert run.assert_one_sentence(1) == "fanout: the interface is not what it was"
    assert relay.events()[-1]["event"] == "ssdp_relay_stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_is_not_lost(tmp_path: Path, number: int) -> None:
    opening = f"""
def __enter__(self):
    signal.pthread_kill(threading.main_thread().ident, {int(number)})
    return self
"""
    with scripted(tmp_path, opening) as relay:
        assert relay.end()[::2] == (0, "")
    assert [event["event"] for event in relay.events()][-2:] == ["ssdp_relay_draining", "ssdp_relay_stopped"]


def test_what_it_cannot_have_is_one_sentence(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        scripted(tmp_path, admin_port=server.getsockname()[1]) as relay,
    ):
        assert "admin port" in relay.end().assert_one_sentence(1)
    with scripted(tmp_path, "", "--log-file", "/nonexistent/log") as relay:
        assert "/nonexistent/log" in relay.end().assert_one_sentence(1)


REAL = ("relay", "ssdp", "-s", "10.0.0.1", "--interface", "nowhere0", "--http-ports", "1-2")


def test_an_interface_that_never_appears_is_one_sentence(tmp_path: Path) -> None:
    with running(tmp_path, *REAL, "--interface-timeout", "0", "--admin-port", "0") as relay:
        sentence = relay.end().assert_one_sentence(1)
    assert "there is no interface nowhere0 here" in sentence
    assert relay.events()[-1]["event"] == "ssdp_relay_stopped"


def test_an_interface_that_is_waited_for_is_said() -> None:
    port = str(free_port())
    admin = ("--admin-host", "127.0.0.1", "--admin-port", port)
    with terminal(*REAL, *admin) as screen:
        screen.wait_until(lambda: any(line.startswith("waiting ") for line in screen.lines))
        probe = invoke("healthcheck", "--host", "127.0.0.1", "--timeout", "60", FANOUT_ADMIN_PORT=port)
        assert (probe.code, "nowhere0" in probe.out) == (1, True)
        assert screen.stop(signal.SIGTERM) == 0
        (head,) = (index for index, line in enumerate(screen.lines) if line.startswith("STATE "))
        assert "there is no interface nowhere0 here" in "".join(screen.lines[head:])
