"""What is counted of this host."""

from __future__ import annotations

import pytest

from fanout.doctor import host, kernel


@pytest.mark.parametrize(("counted", "overflows"), [({"RcvbufErrors": 3, "InCsumErrors": 1}, 3), ({}, None)])
def test_overflows_are_unknown_where_the_kernel_does_not_count_them(
    monkeypatch: pytest.MonkeyPatch, counted: dict[str, int], overflows: int | None
) -> None:
    monkeypatch.setattr(kernel, "counters", lambda: counted)
    assert host.overflows() == overflows
