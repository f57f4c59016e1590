"""What the DLNA tests share: a street with liars, and the figures that they measured, printed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.system.dlna.street import Street
from tests.system.dlna.street import street as make_street


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    properties = [each for report in reports for each in getattr(report, "user_properties", [])]
    figures = dict.fromkeys(figure for name, figure in properties if name == "dlna_figure")
    if figures:
        terminalreporter.section("figures of the DLNA tests")
        for figure in figures:
            terminalreporter.line(figure)


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say what was measured, at the end of the run."""
    return partial(record_property, "dlna_figure")


@pytest.fixture(scope="module")
def module_street() -> Iterator[Street]:
    with make_street() as made:
        yield made


@pytest.fixture
def street(module_street: Street) -> Iterator[Street]:
    """A street whose liars and whose relay end with the test."""
    yield module_street
    module_street.clear()
