"""What options must be: what one of senders, receivers and relays takes, the others take."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import InvalidInput
from fanout.options import cluster_label, key_path, positive_number, whole_number

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=120),
    st.binary(max_size=20),
    st.lists(st.integers(-999, 999), max_size=20),
    st.complex_numbers(),
)


@given(ANYTHING)
def test_a_whole_number_is_one_within_its_bounds_and_all_else_is_refused_in_one_sentence(value: object) -> None:
    if type(value) is int and 1 <= value <= 64:
        assert whole_number("workers", value, least=1, most=64) == value
        return
    with pytest.raises(InvalidInput) as refused:
        whole_number("workers", value, least=1, most=64)
    assert str(refused.value) == f"workers must be a number from 1 to 64; got {value!r}"


@given(ANYTHING)
def test_a_positive_number_is_finite_and_no_bool(value: object) -> None:
    if type(value) in (int, float) and 0 < value <= sys.float_info.max:  # type: ignore[operator]
        assert positive_number("rate", value) == value
        return
    with pytest.raises(InvalidInput) as refused:
        positive_number("rate", value)
    assert str(refused.value) == f"rate must be a number above 0; got {value!r}"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("x" * 100_000, "got '" + "x" * 120 + "...'"),
        (b"x" * 100_000, "got a value of type bytes"),
        ([1] * 100_000, "got a value of type list"),
        (10**5000, "got a value of type int"),
        ([10**5000], "got a value of type list"),
    ],
    ids=["text", "bytes", "list", "int", "list of an int"],
)
def test_a_refused_value_is_shortened(value: object, says: str) -> None:
    for check in (
        lambda: whole_number("workers", value, least=1, most=64),
        lambda: positive_number("rate", value, most=9),
    ):
        with pytest.raises(InvalidInput) as refused:
            check()
        assert str(refused.value).endswith(says)


def test_zero_and_infinity_where_they_are_allowed() -> None:
    assert positive_number("interface_timeout", 0, allow_zero=True) == 0
    assert positive_number("interface_timeout", math.inf, most=math.inf) == math.inf
    with pytest.raises(InvalidInput, match=r"interface_timeout must be a number of seconds of at least 0; got -0\.1"):
        positive_number("interface_timeout", -0.1, most=math.inf, unit="seconds", allow_zero=True)
    with pytest.raises(InvalidInput, match="timeout must be a number of seconds above 0, up to 86,400; got 86401"):
        positive_number("timeout", 86_401, most=86_400, unit="seconds")


@given(ANYTHING)
def test_a_key_file_is_a_path(value: object) -> None:
    if value is None or isinstance(value, str):
        assert key_path(value) == value
        return
    with pytest.raises(InvalidInput, match="key_file must be the path"):
        key_path(value)


def test_a_key_file_may_be_a_path_object() -> None:
    assert key_path(Path("/etc/fanout/key")) == "/etc/fanout/key"


@given(st.text())
def test_a_label_is_any_text_that_bytes_can_be(label: str) -> None:
    assert cluster_label(label, "key") == label


def test_a_label_that_came_in_as_bytes_of_no_utf8_is_taken() -> None:
    label = b"\xff".decode("utf-8", "surrogateescape")
    assert cluster_label(label, "key") == label


@pytest.mark.parametrize("label", [None, b"east", 7, "\ud800"])
def test_a_label_that_is_no_text_is_refused(label: object) -> None:
    with pytest.raises(InvalidInput, match="cluster must be a string, the same as that of the senders") as refused:
        cluster_label(label, "key")
    assert str(refused.value).endswith(f"got {label!r}")


def test_a_label_needs_a_key() -> None:
    assert cluster_label("", None) == ""
    with pytest.raises(InvalidInput, match=r"^cluster needs key_file: give both; got cluster 'east' alone$"):
        cluster_label("east", None)
