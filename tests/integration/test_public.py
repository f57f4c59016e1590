"""The public surface: pinned, typed, cheap to import; the parts for users' own tests."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fanout
from fanout.testing import MemoryTransport, ScriptedResolver


def test_the_public_names_are_these() -> None:
    assert fanout.__all__ == [
        "AsyncQuery", "AsyncReceiver", "AsyncSender", "Closed", "Confirmation", "DropReason", "Endpoint",
        "Family", "FanoutError", "Ingress", "IngressStats", "InvalidIngress", "InvalidInput",
        "InvalidService", "KeyUnavailable", "Message", "MessageTooLarge", "NoEndpoints", "Outcome",
        "Overflow", "PodStats", "Query", "Receipt", "ReceiptStatus", "ReceiveDrop", "Receiver",
        "ReceiverStats", "Relay", "RelayDrop", "RelayStats", "Reply", "Report", "ResolverUnavailable",
        "Sender", "SenderCounts", "SenderStats", "Service", "SocketUnavailable", "Status",
    ]  # fmt: skip
    for name in fanout.__all__:
        assert getattr(fanout, name).__name__ == name
    assert set(fanout.__all__) <= set(dir(fanout))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fanout.nonsense  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "steps",
    [
        {
            "import fanout": ["dns", "click", "structlog", "prometheus_client", "asyncio", "cryptography"],
            "fanout.Sender('10.0.0.1')": ["dns", "click", "structlog", "prometheus_client"],
        },
        {"import fanout.cli.commands.send": ["dns", "structlog", "prometheus_client", "asyncio", "cryptography"]},
    ],
)
def test_imports_are_late(steps: dict[str, list[str]]) -> None:
    code = "".join(f"{step}; print(*sys.modules)\n" for step in steps)
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, check=True)
    for forbidden, modules in zip(steps.values(), done.stdout.splitlines(), strict=True):
        assert set(forbidden).isdisjoint(modules.split())


def test_the_example_of_the_testing_module() -> None:
    transport = MemoryTransport()
    sender = fanout.Sender("headless-udp", resolver=ScriptedResolver("10.0.0.1,10.0.0.2"), transport=transport)
    with sender:
        report = sender.send(b"reload")
    assert transport.received("10.0.0.1") == [b"reload"]
    assert transport.received("10.0.0.2", 13000) == []
    assert report.complete
    with pytest.raises(ValueError, match="at least one"):
        ScriptedResolver()


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
