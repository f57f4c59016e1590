"""Why a relay does not forward."""

from __future__ import annotations

from fanout.relay.core.drop_reasons import RelayDrop
from tests.support.documents import undocumented


def test_every_reason_is_documented_as_the_label_that_it_is() -> None:
    assert undocumented(RelayDrop) == []
