"""What the tests of relays share: a module makes its world once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lan import Lan


@pytest.fixture
def world(module_world: Lan) -> Iterator[Lan]:
    """Nothing that a test has started is left for the next one."""
    yield module_world
    module_world.end_all()
