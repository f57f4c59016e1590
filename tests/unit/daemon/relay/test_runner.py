"""What a relay's program logs of counts: what has been added."""

from __future__ import annotations

from fanout.daemon.relay.runner import since
from fanout.relay.core.drop_reasons import RelayDrop


def test_the_increase_is_of_what_has_grown_alone() -> None:
    before = {RelayDrop.LOOP: 3, RelayDrop.OWN: 2}
    after = {RelayDrop.LOOP: 5, RelayDrop.OWN: 2, RelayDrop.OVER_LIMIT: 7}
    assert since(before, after) == {"loop": 2, "over_limit": 7}
    assert since(after, after) == {}
    assert since({}, before) == {"loop": 3, "own": 2}
