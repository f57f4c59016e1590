"""What all tests share: profiles of Hypothesis, no thread left behind, pods that are real sockets, loud skips.

Tests that need what a machine may lack (`containers`, `kubectl`, `nameserver`, `tools`) are skipped there
(`tests.support.needs`), and the reasons are printed at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.cli import FOREIGN
from tests.support.handler_pods import Ask, ask_async, ask_sync
from tests.support.limits import SOON, dns_lifetime, setting
from tests.support.needs import NEEDS, require_address, required
from tests.support.pods import Pod, at_one_port
from tests.support.ports import free_ports, refusing
from tests.support.senders import Shell, send_async, send_sync
from tests.support.waiting import until

# No deadline: an example takes as long as the machine lets it. `make test` tries the same few examples each time;
# FANOUT_HYPOTHESIS=thorough, as in .ci/run, tries many more, and others each time. `make fuzz` goes on from there.
hypothesis.settings.register_profile(
    "quick", deadline=None, max_examples=50, stateful_step_count=30, derandomize=True, database=None
)
hypothesis.settings.register_profile(
    "thorough", deadline=None, max_examples=1000, stateful_step_count=30, print_blob=True
)
hypothesis.settings.register_profile(
    "exhaustive", deadline=None, max_examples=10_000, stateful_step_count=30, print_blob=True
)
_SETTINGS = ("FANOUT_BASE_IMAGE", "FANOUT_HYPOTHESIS", "FANOUT_REQUIRE")

# What a contributor's shell sets for fanout and for terminals is none of the tests'.
for _name in [name for name in os.environ if name.startswith(FOREIGN) and name not in _SETTINGS]:
    del os.environ[_name]
os.environ["TERM"] = "xterm"

# A job in the background of a shell ignores SIGINT, one under nohup SIGHUP, and what they start would do so as well. A
# signal that is caught has its default again in a new program: this process goes on ignoring it, the tests' do not.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


def pytest_configure() -> None:
    """Take what the environment asks for; what it cannot be is a usage error."""
    profile = os.environ.get("FANOUT_HYPOTHESIS", "quick")
    try:
        hypothesis.settings.load_profile(profile)
    except hypothesis.errors.InvalidArgument:
        raise pytest.UsageError(f"FANOUT_HYPOTHESIS is {profile!r}: it is quick, thorough or exhaustive") from None
    if unknown := required() - set(NEEDS):
        names = ", ".join(sorted(unknown))
        raise pytest.UsageError(f"FANOUT_REQUIRE has {names}: there are {', '.join(NEEDS)}, with commas between")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not tested, and why; what a worker knows is in its reports."""
    skipped = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])]
    reasons = Counter(reason.removeprefix("Skipped: ") for reason in skipped)
    if reasons:
        terminalreporter.section("not tested on this machine", yellow=True)
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{count} test{'s' if count > 1 else ''}: {reason}")


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Test by test; but what uses the images in one process, which builds them once."""

    def _split_scope(self, nodeid: str) -> str:
        return "containers" if nodeid.startswith("tests/system/containers/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Scheduling:
    return _Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Write out what a hostile test has logged and UTF-8 cannot say: on its way from a worker it would end the run."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, (list, tuple)):
        return type(value)(map(_encodable, value))
    return {key: _encodable(each) for key, each in value.items()} if isinstance(value, dict) else value


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """A refresher that was stopped ends within the lifetime of its question."""
    yield

    def left() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("fanout-")]

    until(lambda: not left(), lambda: f"threads left behind: {left()}")


@pytest.fixture
def pods() -> Iterator[Callable[..., list[Pod]]]:
    """Make so many pods on one free port of 127.0.0.11, 127.0.0.12, ..., or on the addresses given."""
    with contextlib.ExitStack() as stack:

        def make(count: int = 2, *, hosts: list[str] | None = None) -> list[Pod]:
            hosts = hosts or [f"127.0.0.{11 + number}" for number in range(count)]
            for host in hosts:
                require_address(host)
            return stack.enter_context(at_one_port(hosts))

        yield make


@pytest.fixture(params=[send_sync, send_async], ids=["Sender", "AsyncSender"])
def send(request: pytest.FixtureRequest) -> Shell:
    shell: Shell = request.param
    return shell


@pytest.fixture(params=[ask_sync, ask_async], ids=["Sender", "AsyncSender"])
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


@pytest.fixture
def closed_port() -> int:
    """A port on which nothing listens, nor on the fifteen after it, until the test does."""
    return free_ports(16)[0]


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which nothing can listen: what is sent there is refused."""
    with refusing("127.0.0.1") as port:
        yield port


@pytest.fixture
def refusing_nameserver(refusing_port: int) -> Iterator[str]:
    """A nameserver that refuses what it is asked: this process does not ask it for long."""
    with setting(dns_lifetime(0.02)):
        yield f"127.0.0.1:{refusing_port}"


@pytest.fixture
def dns_is_asked_soon() -> Iterator[None]:
    """Ask again as soon as an answer's TTL says, be that none, and after a failure or an empty answer."""
    with setting(SOON):
        yield


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_text(os.urandom(32).hex())
    return str(path)
