"""The queries that every receiver answers by itself."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from fanout.daemon.receiver.builtin_queries import BuiltinQueries
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.receiver.core.stats import ReceiverStats


def test_info_fits_into_what_an_unsealed_question_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("POD_NAME", "POD_NAMESPACE", "NODE_NAME"):
        monkeypatch.setenv(variable, "x" * 63)
    monkeypatch.setenv("POD_IP", "fd00:1111:2222:3333:4444:5555:6666:7777")
    numbers: dict[str, Any] = {one.name: 10**8 for one in fields(ReceiverStats) if one.name != "refused"}
    many = ReceiverStats(**numbers, refused=dict.fromkeys(ReceiveDrop, 10**5))
    info = BuiltinQueries().answer(b"info", many)
    assert info is not None
    assert len(info) <= 1192
    assert json.loads(info)["counters"]["refused"]["unsealed"] == 10**5
