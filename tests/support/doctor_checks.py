"""What a check of `fanout doctor` says."""

from __future__ import annotations

from fanout.doctor.core.facts import Check, CheckStatus


def assert_said(check: Check, status: CheckStatus, *parts: str) -> None:
    """Assert the status, and that sentence and hints say these things."""
    said = "\n".join([check.sentence, *check.hints])
    assert check.status is status, said
    for part in parts:
        assert part in said
