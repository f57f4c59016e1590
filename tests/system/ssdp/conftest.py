"""What the DLNA tests share: a LAN segment with a media server that works, and devices that misbehave."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.ssdp.segment import Segment, make_segment


@pytest.fixture(scope="package")
def package_segment() -> Iterator[Segment]:
    with make_segment() as made:
        yield made


@pytest.fixture
def segment(package_segment: Segment) -> Iterator[Segment]:
    """A segment whose scripted devices end with the test."""
    yield package_segment
    package_segment.clear()
