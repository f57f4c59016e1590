"""A sender's frames."""

from __future__ import annotations

import pytest

from fanout.cli.options import DATAGRAM_LEAST, DATAGRAM_MOST
from fanout.sender.encoder import check_max_datagram


def test_the_bounds_of_datagrams_are_those_of_the_wire_format() -> None:
    assert check_max_datagram(DATAGRAM_LEAST) == 256
    assert check_max_datagram(DATAGRAM_MOST) == 65_435
    for wrong in (DATAGRAM_LEAST - 1, DATAGRAM_MOST + 1):
        with pytest.raises(ValueError, match="max_datagram"):
            check_max_datagram(wrong)
