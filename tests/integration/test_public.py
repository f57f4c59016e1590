"""The public surface: pinned, typed, cheap to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fanout


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
