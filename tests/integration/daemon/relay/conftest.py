"""What the tests of relays' programs share."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.waiting import PATIENCE


@pytest.fixture
def pod() -> Iterator[socket.socket]:
    """A socket that gets what the relay forwards."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.settimeout(PATIENCE)
        yield opened
