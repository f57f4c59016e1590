"""Why the relay for media servers answers, announces or carries nothing."""

from __future__ import annotations

from fanout.ssdp.core.drop_reasons import HttpFailure, SsdpDrop
from tests.support.documents import undocumented


def test_every_reason_is_documented_as_the_label_that_it_is() -> None:
    assert undocumented([*SsdpDrop, *HttpFailure]) == []
