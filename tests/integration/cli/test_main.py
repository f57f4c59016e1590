"""The command line as a whole: help, exit codes, what an unexpected error looks like."""

from __future__ import annotations

import shlex
import subprocess

import pytest

import fanout as package
from fanout.cli.main import main
from tests.support.cli import FANOUT, environment, fanout, invoke
from tests.support.waiting import PATIENCE

COMMANDS = ["send", "query", "resolve", "bench", "receive", "relay", "ssdp", "healthcheck", "doctor", "keygen", "local"]


def test_help_and_version() -> None:
    run = invoke("--help")
    assert run.code == 0
    assert all(command in run.out for command in COMMANDS)
    assert "0 all sent (or confirmed), 1 error, 2 usage, 3 no endpoints" in run.out
    assert invoke("--version") == fanout("--version") == (0, f"fanout {package.__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    for flag in ("-h", "--help"):
        run = invoke(command, flag)
        assert (run.code, run.err) == (0, "")
        assert run.out.startswith(f"Usage: fanout {command}")


@pytest.mark.parametrize("command", ["send", "query", "resolve", "bench", "receive", "healthcheck"])
def test_each_option_has_its_environment_variable(command: str) -> None:
    text = " ".join(invoke(command, "--help").out.split())
    options = {word.rstrip(",") for word in text.split() if word.startswith("--")} - {"--help"}
    assert options
    for option in options:
        if option.strip("-").replace("-", "").isalpha():
            assert f"FANOUT_{option.strip('-').replace('-', '_').upper()}" in text, option


def test_unknown_commands() -> None:
    assert "No such command 'broadcast'" in invoke("broadcast").assert_one_sentence(2)
    assert "--nonsense" in invoke("--nonsense").assert_one_sentence(2)


def test_an_output_that_cannot_be_written_is_one_sentence() -> None:
    with open("/dev/full", "wb") as full:
        command = [*FANOUT, "resolve", "-s", "10.0.0.1"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (1, b"fanout: No space left on device\n")


@pytest.mark.parametrize("arguments", [[], ["local"]])
def test_no_arguments_show_the_help(arguments: list[str]) -> None:
    run = invoke(*arguments)
    assert (run.code, run.out) == (2, "")
    assert len(run.err.splitlines()) > 10
    assert run.err.startswith("Usage: fanout ")


# What cannot be sent, whatever else there is: nobody may send to the broadcast address unasked.
UNSENDABLE = ["send", "-s", "255.255.255.255", "-m", "x"]


@pytest.mark.parametrize(
    ("arguments", "code", "closings"),
    [
        (UNSENDABLE, 4, [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]),
        (["send", "-s", "127.0.0.999", "-m", "x"], 2, ["2>&-", "<&- >&- 2>&-"]),
        (["resolve", "-s", "10.0.0.1"], 0, [">&-", "<&- >&- 2>&-"]),
        (["--help"], 0, [">&-"]),
        (["receive", "--host", "192.0.2.1"], 1, ["2>&-", "<&- >&- 2>&-"]),
    ],
)
def test_closed_standard_streams(arguments: list[str], code: int, closings: list[str]) -> None:
    for closing in closings:
        done = subprocess.run(
            f"{shlex.join([*FANOUT, *arguments])} {closing}",
            shell=True,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, closing
        assert len(done.stderr.splitlines()) <= (0 if "2>&-" in closing else 1), closing


def test_closed_standard_input_is_one_sentence() -> None:
    command = f"{shlex.join([*FANOUT, 'send', '-s', '127.0.0.1', '--lines'])} <&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (1, "fanout: cannot read from standard input: it is closed\n")


def test_completion_for_shells() -> None:
    run = fanout(_FANOUT_COMPLETE="bash_complete", COMP_WORDS="fanout se", COMP_CWORD="1")
    assert "send" in run.out


def test_an_internal_error_is_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("fanout.cli.commands.resolve.find_target", broken)
    assert main(["resolve", "-s", "10.0.0.1"]) == 1
    assert capsys.readouterr().err == (
        "fanout: internal error, please report it: ZeroDivisionError: oops (FANOUT_DEBUG=1 shows where)\n"
    )
    monkeypatch.setenv("FANOUT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["resolve", "-s", "10.0.0.1"])
