"""What is shown of confirmed messages while they are under way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fanout.cli.confirm_progress import ConfirmProgress, MessageInProgress
from fanout.cli.target import TargetOptions, find_target
from fanout.model import Endpoint
from fanout.protocol.sending.receipt import Receipt, ReceiptStatus


def receipts(count: int, status: ReceiptStatus) -> Iterator[Receipt]:
    for number in range(count):
        yield Receipt(Endpoint(f"10.0.{status is ReceiptStatus.SILENT:d}.{number}", 12000), status, 0.001, 1)


@pytest.mark.parametrize(("confirmed", "silent", "height", "rows"), [(3, 2, 40, 6), (90, 4, 40, 5), (9, 90, 12, 11)])
def test_the_display_is_bounded_by_the_terminal(confirmed: int, silent: int, height: int, rows: int) -> None:
    watch = MessageInProgress()
    watch.begin()
    for receipt in (*receipts(confirmed, ReceiptStatus.CONFIRMED), *receipts(silent, ReceiptStatus.SILENT)):
        watch.note(receipt)
    target = find_target(TargetOptions(service="10.0.0.1"))
    shown = ConfirmProgress(watch, target, 2.0, 1).picture(60, height).plain.splitlines()
    assert len(shown) == rows <= height
    assert shown[0].startswith(f"{confirmed} of {confirmed + silent} endpoints confirmed")
    assert max(map(len, shown)) <= 60
    assert sum("waiting" in line for line in shown) == min(silent, height - 3)
