"""Metrics of a sender and a receiver at work."""

from __future__ import annotations

import fanout
from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.receiver.sync import Receiver
from fanout.testing import MemoryTransport
from tests.support.frame_client import asking


def test_metrics_have_no_label_made_of_an_address() -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    from fanout.metrics import ReceiverCollector, SenderCollector

    registry = CollectorRegistry()
    sender = fanout.Sender("10.9.8.7", transport=MemoryTransport())
    receiver = fanout.Receiver(0)
    registry.register(SenderCollector(lambda: sender.stats))
    registry.register(ReceiverCollector(lambda: receiver.stats))
    with sender:
        sender.send(b"payload")
        text = generate_latest(registry).decode()
    assert "fanout_copies_sent_total 1.0" in text
    assert "fanout_endpoints 1.0" in text
    assert "fanout_answer_age_seconds" in text
    assert 'fanout_copies_dropped_total{reason="no_buffer"} 0.0' in text
    assert 'fanout_receiver_dropped_total{reason="kernel_buffer"} 0.0' in text
    assert 'fanout_receiver_dropped_total{reason="queue_full"} 0.0' in text
    assert "10.9.8.7" not in text


def test_all_reasons_are_metrics() -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    from fanout.metrics import ReceiverCollector

    registry = CollectorRegistry()
    with Receiver(0, host="127.0.0.1") as receiver, asking(receiver.address) as asker:
        registry.register(ReceiverCollector(lambda: receiver.stats))
        asker.send(frame.MAGIC + b"\x09" + bytes(30))
        asker.ask(1, b"x")
        messages = iter(receiver)
        receiver.handler_failed(next(messages), ValueError("x"))
        text = generate_latest(registry).decode()
    for reason in ReceiveDrop:
        count = 1.0 if reason is ReceiveDrop.UNKNOWN_VERSION else 0.0
        assert f'fanout_receiver_dropped_total{{reason="{reason}"}} {count}' in text
    assert "fanout_receiver_failed_total 1.0" in text
    assert f"{asker.sender:016x}" not in text
