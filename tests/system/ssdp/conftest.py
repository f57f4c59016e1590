"""What the DLNA tests share: a street with liars."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.ssdp.street import Street
from tests.system.ssdp.street import street as make_street


@pytest.fixture(scope="package")
def package_street() -> Iterator[Street]:
    with make_street() as made:
        yield made


@pytest.fixture
def street(package_street: Street) -> Iterator[Street]:
    """A street whose liars end with the test."""
    yield package_street
    package_street.clear()
