"""What `fanout send --confirm` and `fanout query` say of receipts, and what they show while they wait."""

from __future__ import annotations

import os
import re

import pytest

from fanout.cli.confirm_progress import ConfirmProgress, MessageInProgress
from fanout.cli.confirm_report import ConfirmTally, PodTally, lines, pod_line
from fanout.cli.target import TargetOptions, find_target
from fanout.model import Endpoint
from fanout.protocol.sending.receipt import Confirmation, Receipt, ReceiptStatus

HERE = Endpoint("10.0.0.7", 12000)


def test_pods_that_join_leave_and_fail_over_a_stream() -> None:
    tally = ConfirmTally()
    there = Receipt(HERE, ReceiptStatus.CONFIRMED, 0.002, 1)
    late = Endpoint("10.0.0.8", 12000)
    tally.add(Confirmation([there], 3, 0.002, 1.0, False))
    tally.add(Confirmation([there, Receipt(late, ReceiptStatus.FAILED, 0.1, 2, "no room")], 3, 0.1, 1.0, True))
    tally.add(
        Confirmation(
            [Receipt(HERE, ReceiptStatus.LEFT), Receipt(late, ReceiptStatus.CONFIRMED, 0.1, 1)], 3, 0.1, 1.0, True
        )
    )
    first, second = tally.pods
    assert (first.status, first.joined, first.messages, first.rtt) == (ReceiptStatus.LEFT, False, 3, 0.002)
    assert (second.status, second.joined, second.messages, second.reason) == (ReceiptStatus.FAILED, True, 2, "no room")
    assert (tally.messages, tally.size, tally.stale, tally.complete) == (3, 9, True, False)


@pytest.mark.parametrize(
    ("receipt", "line"),
    [
        (Receipt(HERE, ReceiptStatus.CONFIRMED, 0.0008, 2), "confirmed by 10.0.0.7:12000 in 0.80 ms (2 tries)"),
        (Receipt(HERE, ReceiptStatus.CONFIRMED, 0.0008, 1, joined=True), "... in 0.80 ms (joined meanwhile)"),
        (Receipt(HERE, ReceiptStatus.LEFT, None, 1), "left: 10.0.0.7:12000 did not answer (1 try), ... longer in DNS"),
        (Receipt(HERE, ReceiptStatus.DROPPED, None, 3, "odd"), "dropped: 10.0.0.7:12000: odd"),
        (Receipt(HERE, ReceiptStatus.DROPPED, None, 3, os.strerror(101)), "dropped: 10.0.0.7:12000: no route to ..."),
        (Receipt(HERE, ReceiptStatus.FAILED, 0.1, 3), "failed at 10.0.0.7:12000: it gives no reason"),
    ],
)  # fmt: skip
def test_lines(receipt: Receipt, line: str) -> None:
    pod = PodTally(receipt.endpoint, receipt.joined)
    pod.add(receipt)
    said = re.sub(r"\x1b\[\d*m", "", pod_line(pod, 2.0))
    start, _, end = line.partition("...")
    assert said.startswith(start)
    assert said.endswith(end)


def test_no_time_is_told_of_what_was_cut() -> None:
    receipt = Receipt(HERE, ReceiptStatus.CONFIRMED, 0.0667, 2)
    tally = ConfirmTally()
    tally.add(Confirmation([receipt], 300_000, 0.9, 1.0, False), is_cut=True)
    assert pod_line(tally.pods[0], 0.9) == f"confirmed by {HERE} (2 tries)"
    watch = MessageInProgress()
    watch.begin(is_cut=True)
    watch.note(receipt)
    target = find_target(TargetOptions(service="10.0.0.1"))
    assert ConfirmProgress(watch, target, 2.0, 1).picture(60, 40).plain.endswith(f"  {HERE}  confirmed, 2 tries")
    tally.add(Confirmation([receipt], 1, 0.9, 1.0, False))
    assert lines(tally) == [f"confirmed 2 messages by {HERE}"]
