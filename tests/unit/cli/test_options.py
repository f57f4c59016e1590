"""What options take, whatever command they are of."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.cli.options import DATAGRAM_LEAST, DATAGRAM_MOST, Bandwidth, FiniteRange, SealOptions, option
from fanout.sender.encoder import check_max_datagram


@pytest.mark.parametrize(
    ("text", "bits"),
    [("800", 800.0), ("64k", 64e3), ("10M", 10e6), ("1.5G", 1.5e9), (".5 t", 5e11), ("1.", 1.0), (7.5, 7.5)],
)
def test_bits_a_second_are_decimal(text: object, bits: float) -> None:
    assert Bandwidth().convert(text, None, None) == pytest.approx(bits)


@given(st.text() | st.sampled_from(["1e6", "inf", "nan", "10Mi", "0", "-1k", "1000T", "1_000", "", "M"]))
def test_whatever_is_typed_is_a_rate_or_refused(text: str) -> None:
    try:
        bits = Bandwidth().convert(text, None, None)
    except click.BadParameter as refusal:
        refused = refusal
    else:
        assert 0 < bits < 1e15
        return
    assert "bits a second" in refused.message


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "x", "-1", "11"])
def test_a_number_is_finite_and_within_its_range(text: str) -> None:
    kind = FiniteRange(0, 10)
    assert kind.convert("2.5", None, None) == 2.5
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)


def test_an_option_has_an_environment_variable_of_its_long_name() -> None:
    @click.command()
    @option("-k", "--key-file/--no-key-file")
    def command(key_file: bool) -> None: ...

    (parameter,) = command.params
    assert parameter.envvar == "FANOUT_KEY_FILE"


def test_a_label_of_the_environment_is_for_those_who_have_keys() -> None:
    assert SealOptions(key_file="key", cluster="east").label == "east"
    assert SealOptions(key_file=None, cluster="east").label == ""


def test_the_bounds_of_datagrams_are_those_of_the_wire_format() -> None:
    assert check_max_datagram(DATAGRAM_LEAST) == 256
    assert check_max_datagram(DATAGRAM_MOST) == 65_435
    for wrong in (DATAGRAM_LEAST - 1, DATAGRAM_MOST + 1):
        with pytest.raises(ValueError, match="max_datagram"):
            check_max_datagram(wrong)
