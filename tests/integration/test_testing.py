"""The parts for users' own tests."""

from __future__ import annotations

import pytest

import fanout
from fanout.testing import MemoryTransport, ScriptedResolver


def test_the_example_of_the_testing_module() -> None:
    transport = MemoryTransport()
    sender = fanout.Sender("headless-udp", resolver=ScriptedResolver("10.0.0.1,10.0.0.2"), transport=transport)
    with sender:
        report = sender.send(b"reload")
    assert transport.received("10.0.0.1") == [b"reload"]
    assert transport.received("10.0.0.2", 13000) == []
    assert report.complete
    with pytest.raises(ValueError, match="at least one"):
        ScriptedResolver()
