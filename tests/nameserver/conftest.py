"""A nameserver for each module.

Where knotd (or, for a few tests, a namespace of the test's own) cannot be had, the tests are skipped loudly
(`tests.conftest.unavailable`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import unavailable
from tests.nameserver.knot import Knot, Records, program
from tests.namespace import Namespace, why_no_namespace

_FIGURES = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _FIGURES in config.stash:
        terminalreporter.section("figures of the nameserver tests")
        for figure in config.stash[_FIGURES]:
            terminalreporter.line(figure)


@pytest.fixture
def nft() -> str:
    """The program that loads firewall rules."""
    found = program("nft")
    if found is None:
        unavailable("nameserver", "nft is missing (Debian, Ubuntu: apt install nftables)")
    return found


@pytest.fixture
def figures(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Say what was measured, at the end of the run."""
    return pytestconfig.stash.setdefault(_FIGURES, []).append


@pytest.fixture(scope="session")
def knotd() -> str:
    """The program."""
    found = program("knotd")
    if found is None:
        unavailable("nameserver", "knotd is missing (Debian, Ubuntu: apt install knot)")
    return found


@pytest.fixture(scope="module")
def start_knot(knotd: str) -> Iterator[Callable[..., Knot]]:
    """Start a nameserver with these records; it is ended after the module, whatever became of its tests."""
    with ExitStack() as stack:

        def start(records: Records, *, origin: str = "cluster.local.") -> Knot:
            return stack.enter_context(Knot(records, origin=origin))

        yield start


@pytest.fixture(scope="module")
def namespace(knotd: str) -> Iterator[Namespace]:
    """A network of its own, with nothing but loopback, and a resolv.conf of its own."""
    reason = why_no_namespace()
    if reason is not None:
        unavailable("nameserver", reason)
    with Namespace() as made:
        yield made
