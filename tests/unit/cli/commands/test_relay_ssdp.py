"""`fanout relay ssdp`: what its options say, its place behind `fanout relay`, and its answer to bad input."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest

import fanout.daemon.relay.program
import fanout.daemon.relay.ssdp_program
from fanout.cli.main import main
from fanout.daemon.relay.ssdp_program import SsdpSettings
from fanout.ssdp.core.settings import DESCRIPTIONS, HTTP_PORTS, PRIVATE

PORTS = "ports must be FIRST-LAST from 1 to 65535 such as 28200-28231, or one port; got "
PLACE = "a description must be PORT/PATH such as 8200/rootDesc.xml, %20 for a space; got "
NEEDED = ("-s", "media", "--interface", "eth0")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SsdpSettings]]:
    """The settings with which the app would have run."""
    runs: list[SsdpSettings] = []
    monkeypatch.setattr(fanout.daemon.relay.ssdp_program, "run", runs.append)
    monkeypatch.setattr(
        fanout.daemon.relay.program, "run", lambda settings: pytest.fail(f"the other relay: {settings}")
    )
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield runs
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def settings(started: list[SsdpSettings], *arguments: str) -> SsdpSettings:
    assert main(["relay", "ssdp", *arguments]) == 0
    return started.pop()


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["relay", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_defaults_are_those_of_the_library(started: list[SsdpSettings]) -> None:
    assert settings(started, *NEEDED) == SsdpSettings(
        service="media", interface="eth0", http_ports=HTTP_PORTS, descriptions=DESCRIPTIONS, allow_source=PRIVATE,
        family="any", nameserver=None, allow_loopback=False, interface_timeout=60.0, admin_host=None, admin_port=8080,
        drain=0.0, log_level="info", log_format="auto", log_file=None,
    )  # fmt: skip


def test_options(started: list[SsdpSettings]) -> None:
    said = settings(
        started,
        *NEEDED,
        "--http-ports", "5000-6023",
        "--description", "8200/rootDesc.xml", "--description", "49152/a%20b?x=y", "--description", "80/",
        "--allow-source", "192.168.1.0/24", "--allow-source", "192.168.7.9",
        "--family", "ipv4", "--nameserver", "10.0.0.53", "--allow-loopback", "--interface-timeout", "5",
        "--admin-host", "127.0.0.1", "--admin-port", "0", "--log-level", "error",
    )  # fmt: skip
    assert said.http_ports == "5000-6023"
    assert said.descriptions == ("8200/rootDesc.xml", "49152/a%20b?x=y", "80/")
    assert said.allow_source == ("192.168.1.0/24", "192.168.7.9")
    assert (said.family, said.nameserver, said.allow_loopback) == ("ipv4", "10.0.0.53", True)
    assert (said.interface_timeout, said.admin_host, said.admin_port) == (5.0, "127.0.0.1", 0)
    assert settings(started, *NEEDED, "--http-ports", "8201").http_ports == "8201"
    assert settings(started, *NEEDED, "--description", "").descriptions == ()


def test_the_environment_serves_both_relays(started: list[SsdpSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SERVICE": "media", "INTERFACE": "eth0", "HTTP_PORTS": "1-2", "DESCRIPTION": "1/a 2/b",
        "ALLOW_SOURCE": "10.0.0.0/8 192.168.0.0/16", "NAMESERVER": "10.0.0.53", "ADMIN_PORT": "99", "FAMILY": "ipv4",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"FANOUT_{name}", value)
    # What is of the relay for datagrams is not looked at.
    for name in ("LISTEN", "TO_PORT", "LIMIT", "CONFIG", "DRAIN", "LOOP_GUARD"):
        monkeypatch.setenv(f"FANOUT_{name}", "nonsense")
    said = settings(started)
    assert (said.service, said.interface, said.http_ports) == ("media", "eth0", "1-2")
    assert (said.descriptions, said.allow_source) == (("1/a", "2/b"), ("10.0.0.0/8", "192.168.0.0/16"))
    assert (said.nameserver, said.admin_port, said.family, said.drain) == ("10.0.0.53", 99, "ipv4", 0.0)
    assert settings(started, "-s", "other", "--description", "3/c").descriptions == ("3/c",)


def test_an_empty_description_in_the_environment_is_none(
    started: list[SsdpSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FANOUT_DESCRIPTION", "")
    assert settings(started, *NEEDED).descriptions == ()
    assert settings(started, *NEEDED, "--description", "3/c").descriptions == ("3/c",)


def test_signals_wait_for_the_app(started: list[SsdpSettings]) -> None:
    settings(started, *NEEDED)
    assert {signal.SIGTERM, signal.SIGINT} <= signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-s", "a", "ssdp"], "--service must follow ssdp: write fanout relay ssdp --service"),
        (["-s", "ssdp", "ssdp", "--interface", "eth0"], "--service must follow ssdp"),
        (["--admin-port=0", "ssdp", *NEEDED], "--admin-port must follow ssdp"),
        (
            ["--listen", "udp://:1", "ssdp", *NEEDED],
            "--listen is not an option of fanout relay ssdp",
        ),
        (["--loop-guard", "ssdp", *NEEDED], "--loop-guard is not an option of fanout relay ssdp"),
        (["sdsp"], "No such command 'sdsp'"),
        (["-s", "a", "sdsp", "--interface", "eth0"], "No such command 'sdsp'"),
        (["-s", "ssdp"], "give at least one --listen INGRESS, or --config FILE"),
    ],
)
def test_options_before_the_subcommand_say_where_they_belong(
    started: list[SsdpSettings], capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert says in complaint(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--interface", "eth0"), "'-s' / '--service'"),
        (("-s", "a"), "'--interface'"),
        (("-s", "a", "--interface", "eth0", "--listen", "udp://:1"), "No such option '--listen'"),
        ((*NEEDED, "more"), "unexpected extra argument"),
        *(
            ((*NEEDED, "--http-ports", ports), says)
            for ports, says in (
                ("", PORTS), ("0", PORTS), ("-5", PORTS), ("5-", PORTS),
                ("1-2-3", PORTS), ("1-65536", PORTS), ("\u0661", PORTS), ("1e3", PORTS),
                ("99999999999", PORTS), ("5-1", "the range '5-1' must ascend: write 1-5"),
                ("1-1025", "ports must be at most 1,024; got 1,025"),
                ("8000-8100", "--admin-port must not be one of --http-ports; got 8080"),
            )
        ),
        *(
            ((*NEEDED, f"--description={description}"), says)
            for description, says in (
                ("8200", PLACE), ("/rootDesc.xml", PLACE),
                ("0/a", PLACE), ("65536/a", PLACE), ("http://10.0.0.7:8200/a", PLACE),
                (" ", PLACE), ("8200/a b", PLACE), ("8200/\n", PLACE),
                ("8200/\x1b[2J", PLACE), ("8200/ä", PLACE), ("8200/a#b", PLACE),
            )
        ),
        ((*NEEDED, "--description", "1/a", "--description", ""), "'' means none at all: leave it out"),
        ((*NEEDED, "--allow-source", "10.0.0.1/8"), "no bits set beyond the mask; got '10.0.0.1/8'"),
        ((*NEEDED, "--allow-source", "lan"), "no bits set beyond the mask; got 'lan'"),
        ((*NEEDED, "--allow-source", ""), "beyond the mask; got ''"),
        ((*NEEDED, "--allow-source", "10.0.0.0/8", "--allow-source", "::ffff:a00:0/104"), "must be written as IPv4"),
        ((*NEEDED, "--family", "ipx"), "--family"),
        ((*NEEDED, "--interface-timeout", "nan"), "must be a finite number; got nan"),
        ((*NEEDED, "--admin-port", "70000"), "--admin-port"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(
    started: list[SsdpSettings], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    line = complaint(capsys, "ssdp", *arguments)
    assert says in line
    assert line.isprintable()
    assert not started


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PORTS", "x"),
        ("DESCRIPTION", "x"),
        ("ALLOW_SOURCE", "x"),
        ("ALLOW_SOURCE", " "),
        ("FAMILY", "x"),
        ("INTERFACE_TIMEOUT", "x"),
    ],
)  # fmt: skip
def test_a_bad_environment_is_one_sentence(
    started: list[SsdpSettings],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(f"FANOUT_{name}", value)
    assert f"FANOUT_{name}" in complaint(capsys, "ssdp", *NEEDED)


@pytest.mark.parametrize("package", ["aiohttp", "defusedxml"])
def test_without_the_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    for name in [name for name in sys.modules if name.startswith(("fanout.ssdp", "fanout.daemon.relay", package))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        assert main(["relay", "ssdp", *NEEDED]) == 1
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert capsys.readouterr().err == (
        f"fanout: the relay for SSDP needs the {package} package: pip install {package}\n"
    )
