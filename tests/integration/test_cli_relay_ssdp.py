"""`fanout relay ssdp` as a process: its errors, its help, its completion."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fanout.ssdp.settings import PRIVATE
from tests.support.cli import fanout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-s", "a..b", "--interface", "eth0"), "'a..b'"),
        (("-s", "10.0.0.300", "--interface", "eth0"), "10.0.0.300"),
        (("-s", " ", "--interface", "eth0"), "ervice"),
        (("-s", "a", "--interface", "an/interface"), "an/interface"),
        (("-s", "a", "--interface", "longer-than-interfaces-are"), "longer-than"),
        (("-s", "a", "--interface", "eth0", "--nameserver", "nowhere:x"), "nowhere"),
    ],
)
def test_what_the_library_refuses_is_one_sentence_of_the_process(arguments: tuple[str, ...], says: str) -> None:
    assert says in fanout("relay", "ssdp", *arguments, "--admin-port", "0").assert_one_sentence(2)


def test_help() -> None:
    run = fanout("relay", "--help")
    assert (run.code, run.err) == (0, "")
    assert "Commands:\n  ssdp " in run.out
    assert fanout("relay", "-s", "a", "--help", "ssdp").out == run.out
    for flag in ("-h", "--help"):
        run = fanout("relay", "ssdp", flag, FANOUT_TO_PORT="nonsense")
        assert (run.code, run.err) == (0, "")
        assert run.out.startswith("Usage: fanout relay ssdp [OPTIONS]\n")
    text = " ".join(run.out.split())
    options = {word.rstrip(".,") for word in text.split() if word.startswith("--")} - {"--help"}
    assert {"--service", "--interface", "--http-ports", "--description", "--allow-source"} <= options
    for option in options:
        assert f"FANOUT_{option.strip('-').replace('-', '_').upper()}" in text, option
    assert all(network in text for network in PRIVATE)


def test_completion_knows_the_subcommand() -> None:
    run = fanout(_FANOUT_COMPLETE="bash_complete", COMP_WORDS="fanout relay ", COMP_CWORD="2")
    assert "plain,ssdp" in run.out.splitlines()
    run = fanout(_FANOUT_COMPLETE="bash_complete", COMP_WORDS="fanout relay ssdp --http", COMP_CWORD="3")
    assert run.out.splitlines() == ["plain,--http-ports"]


def test_neither_help_nor_the_other_relay_waits_for_the_packages() -> None:
    """aiohttp takes longer to import than most commands run."""
    check = "import sys; from fanout.cli import main; main(sys.argv[1:]); sys.exit('aiohttp' in sys.modules)"
    for arguments in (["relay", "--help"], ["relay", "ssdp", "--help"], ["relay", "--listen", "nonsense", "-s", "a"]):
        done = subprocess.run([sys.executable, "-c", check, *arguments], capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, (arguments, done.stderr)
