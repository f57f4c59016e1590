"""`fanout relay ssdp`: its errors, its help, its completion."""

from __future__ import annotations

import json
import subprocess
import sys

from fanout.ssdp.core.settings import PRIVATE
from tests.support.cli import Run, environment, fanout, invoke
from tests.support.tree import ROOT
from tests.support.waiting import PATIENCE

REFUSED = [
    (("-s", "a..b", "--interface", "eth0"), "'a..b'"),
    (("-s", "10.0.0.300", "--interface", "eth0"), "10.0.0.300"),
    (("-s", " ", "--interface", "eth0"), "ervice"),
    (("-s", "a", "--interface", "an/interface"), "an/interface"),
    (("-s", "a", "--interface", "longer-than-interfaces-are"), "longer-than"),
    (("-s", "a", "--interface", "eth0", "--nameserver", "nowhere:x"), "nowhere"),
]
RUN_ALL = """
import json, sys
from tests.support.cli import invoke
print(json.dumps([invoke(*arguments) for arguments in json.load(sys.stdin)]))
"""


def test_what_the_library_refuses_is_one_sentence() -> None:
    """All in one process: the app blocks signals, and logs in a way of its own."""
    runs = [["relay", "ssdp", *arguments, "--admin-port", "0"] for arguments, _ in REFUSED]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(runs),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=PATIENCE,
        check=True,
    )
    for (_, says), run in zip(REFUSED, json.loads(done.stdout), strict=True):
        assert says in Run(*run).assert_one_sentence(2)


def test_help() -> None:
    run = invoke("relay", "--help")
    assert (run.code, run.err) == (0, "")
    assert "Commands:\n  ssdp " in run.out
    assert invoke("relay", "-s", "a", "--help", "ssdp").out == run.out
    for flag in ("-h", "--help"):
        run = invoke("relay", "ssdp", flag, FANOUT_TO_PORT="nonsense")
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
    check = """
import sys
from fanout.cli.main import main
for arguments in (["relay", "--help"], ["relay", "ssdp", "--help"], ["relay", "--listen", "nonsense", "-s", "a"]):
    main(arguments)
    if "aiohttp" in sys.modules:
        sys.exit(f"imported by {arguments}")
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
