"""The names of log events."""

from __future__ import annotations

from fanout.daemon.common import events
from tests.support.documents import undocumented


def test_every_event_is_documented_by_its_name() -> None:
    names = {name: value for name, value in vars(events).items() if name.isupper()}
    assert names
    assert {name.lower() for name in names} == set(names.values())
    assert undocumented(names.values()) == []
