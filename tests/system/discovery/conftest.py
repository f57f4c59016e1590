"""A nameserver for each module.

Where knotd (or, for a few tests, a namespace of the test's own) cannot be had, the tests are skipped loudly
(`tests.support.needs`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.knot import Knot, Records
from tests.support.limits import PATIENT, SOON, setting
from tests.support.namespace import Namespace, why_no_namespace
from tests.support.needs import require, unavailable


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """A nameserver that answers may take as long as it likes; what changes is seen soon."""
    with setting({**PATIENT, **SOON}):
        yield


@pytest.fixture
def nft() -> str:
    """The program that loads firewall rules."""
    return require("nft", needed="nameserver")


@pytest.fixture(scope="session")
def knotd() -> str:
    """The program."""
    return require("knotd", needed="nameserver")


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
