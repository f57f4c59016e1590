"""Why a receiver hands nothing over."""

from __future__ import annotations

from fanout.protocol.drop_reasons import ReceiveDrop
from tests.support.documents import undocumented


def test_every_reason_is_documented_as_the_label_that_it_is() -> None:
    assert undocumented(ReceiveDrop) == []
