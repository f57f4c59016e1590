"""The live table of `fanout receive`."""

from __future__ import annotations

from fanout.daemon.core import receiver_table
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.receiving.dedup import SenderCounts
from fanout.receiver.core.stats import ReceiverStats


def test_the_receivers_table_says_what_came_of_whom() -> None:
    before = ReceiverStats(datagrams=100, bytes=1000)
    after = ReceiverStats(datagrams=300, bytes=26_000, queue_depth=9, kernel_drops=5, refused={ReceiveDrop.UNSEALED: 6})
    (port,) = receiver_table.tables("[::]:12000", before, after, 1.0, [], 20)
    assert port.rows == [("[::]:12000", "200", "200 kbit/s", "300", "26.0 kB", "9", "6 unsealed, 5 kernel_buffer")]
    senders = [SenderCounts(f"{number:016x}", number % 2 == 0, 100 + number, 0, 0, 0) for number in range(20)]
    senders[7] = SenderCounts(f"{7:016x}", True, 1, 5, 5, 0)
    senders[9] = SenderCounts(f"{9:016x}", True, 1, 5, 2, 4)
    _, of = receiver_table.tables("[::]:12000", before, after, 1.0, senders, 20)
    assert of.texts + of.numbers == ("SENDER", "SEALED", "MESSAGES", "SKIPPED", "REORDERED", "DUPLICATES")
    assert of.rows[0] == (f"{9:016x}", "yes", "1", "5", "2", "4")
    assert [row[2] for row in of.rows[1:]] == [f"{100 + number}" for number in range(19, 10, -1)]
    assert of.more == "and 10 more senders"
