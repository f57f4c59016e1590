"""`Confirmation`: the receipts of all pods, by what became of them."""

from __future__ import annotations

import pytest

from fanout.model import Endpoint
from fanout.protocol.sending.receipt import Confirmation, Receipt, ReceiptStatus


def confirmation(*statuses: ReceiptStatus, joined: bool = False) -> Confirmation:
    receipts = [
        Receipt(Endpoint(f"10.0.0.{number}", 12_000), status, joined=joined) for number, status in enumerate(statuses)
    ]
    return Confirmation(receipts, 6, 0.0125, 1.5, False)


def test_each_status_has_its_receipts() -> None:
    found = confirmation(*ReceiptStatus, ReceiptStatus.SILENT)
    by_name = {
        "confirmed": found.confirmed,
        "failed": found.failed,
        "refused": found.refused,
        "dropped": found.dropped,
        "silent": found.silent,
        "left": found.left,
    }
    assert list(by_name) == list(ReceiptStatus)
    for status, receipts in by_name.items():
        assert [receipt.status for receipt in receipts] == [status] * (2 if status == "silent" else 1)
    assert found.joined == ()
    assert confirmation(ReceiptStatus.SILENT, joined=True).joined[0].status is ReceiptStatus.SILENT


@pytest.mark.parametrize(
    ("statuses", "is_complete"),
    [
        ("confirmed", True),
        ("confirmed left", True),
        ("", False),
        ("left", False),
        *((f"confirmed {other}", False) for other in ("failed", "refused", "dropped", "silent")),
    ],
)
def test_it_is_complete_where_every_pod_that_did_not_leave_has_confirmed(statuses: str, is_complete: bool) -> None:
    assert confirmation(*map(ReceiptStatus, statuses.split())).complete is is_complete


def test_it_is_written_as_its_counts() -> None:
    found = confirmation(ReceiptStatus.SILENT, ReceiptStatus.CONFIRMED, ReceiptStatus.SILENT)
    assert repr(found) == "<Confirmation of 6 bytes: 1 confirmed, 2 silent; 0.013 s>"
