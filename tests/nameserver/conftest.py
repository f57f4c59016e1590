"""A nameserver for each module, and the reason where there is none.

Where knotd (or, for a few tests, a namespace of the test's own) cannot be had, the tests are skipped and the reason
is printed; FANOUT_REQUIRE=nameserver turns that into failures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NoReturn

import pytest

from tests.nameserver.knot import Knot, Records, program
from tests.nameserver.namespace import Namespace, why_no_namespace

_REASONS = pytest.StashKey[dict[str, None]]()
_FIGURES = pytest.StashKey[list[str]]()


def _unavailable(config: pytest.Config, reason: str) -> NoReturn:
    if "nameserver" in os.environ.get("FANOUT_REQUIRE", "").split(","):
        pytest.fail(f"nameserver tests are required, and {reason}", pytrace=False)
    config.stash.setdefault(_REASONS, {})[reason] = None
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _REASONS in config.stash:
        terminalreporter.section("nameserver tests were skipped", yellow=True)
        for reason in config.stash[_REASONS]:
            terminalreporter.line(f"Not tested with a real nameserver: {reason}")
    if _FIGURES in config.stash:
        terminalreporter.section("figures of the nameserver tests")
        for figure in config.stash[_FIGURES]:
            terminalreporter.line(figure)


@pytest.fixture
def nft(pytestconfig: pytest.Config) -> str:
    """The program that loads firewall rules."""
    found = program("nft")
    if found is None:
        _unavailable(pytestconfig, "nft is missing (Debian, Ubuntu: apt install nftables)")
    return found


@pytest.fixture
def figures(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Say what was measured, at the end of the run."""
    return pytestconfig.stash.setdefault(_FIGURES, []).append


@pytest.fixture(scope="session")
def knotd(pytestconfig: pytest.Config) -> str:
    """The program."""
    found = program("knotd")
    if found is None:
        _unavailable(pytestconfig, "knotd is missing (Debian, Ubuntu: apt install knot)")
    return found


@pytest.fixture(scope="module")
def start_knot(knotd: str) -> Iterator[Callable[..., Knot]]:
    """Start a nameserver with these records; it is ended after the module, whatever became of its tests."""
    with ExitStack() as stack:

        def start(records: Records, *, origin: str = "cluster.local.") -> Knot:
            return stack.enter_context(Knot(records, origin=origin))

        yield start


@pytest.fixture(scope="module")
def namespace(knotd: str, pytestconfig: pytest.Config) -> Iterator[Namespace]:
    """A network of its own, with nothing but loopback, and a resolv.conf of its own."""
    reason = why_no_namespace()
    if reason is not None:
        _unavailable(pytestconfig, reason)
    with Namespace() as made:
        yield made
