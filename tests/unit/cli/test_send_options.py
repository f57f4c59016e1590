"""What `fanout send` was given, as values."""

from __future__ import annotations

import pytest

from fanout.cli.options import PatienceOptions, SealOptions
from fanout.cli.send_options import PaceOptions, SendOptions
from fanout.cli.target import TargetOptions

PACE = PaceOptions(interval=None, rate=None, bandwidth=None, burst=256, settle=0.0)


@pytest.mark.parametrize(
    ("changes", "seconds"), [({}, 0.0), ({"interval": 2.0}, 2.0), ({"rate": 4.0}, 0.25), ({"interval": 0.0}, 0.0)]
)
def test_confirmed_messages_keep_their_distance(changes: dict[str, float], seconds: float) -> None:
    assert PACE._replace(**changes).least_interval == seconds  # type: ignore[arg-type]


def given(**changes: object) -> SendOptions:
    options = SendOptions(
        target=TargetOptions(service="10.0.0.1"), pace=PACE, patience=PatienceOptions(2.0, None),
        seal=SealOptions(key_file=None, cluster=""), message="x", path=None, lines=False, repeats=3, confirm=False,
        numbered=False, max_datagram=None, allow_empty=False, output="text", quiet=False, dry_run=False,
    )  # fmt: skip
    return options._replace(**changes)  # type: ignore[arg-type]


def test_messages_are_framed_where_an_option_needs_it() -> None:
    assert not given().is_framed
    for changes in ({"confirm": True}, {"numbered": True}, {"max_datagram": 1200}, {"seal": SealOptions("key", "")}):
        assert given(**changes).is_framed


def test_the_number_of_messages_is_unknown_where_lines_are_read() -> None:
    assert given().messages == 3
    assert given(message=None, lines=True, repeats=1).messages is None
