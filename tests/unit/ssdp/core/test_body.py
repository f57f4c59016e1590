"""Documents that come in pieces, packed or not, are gathered whole and within bounds."""

from __future__ import annotations

import gzip
import zlib

import pytest

from fanout.ssdp.core.body import MEMBERS_MAX, BodyBuffer, TooLarge, Undecodable, can_unpack, is_packed

TEXT = b"<a>" + b"x" * 90 + b"</a>"
PACKED = {
    "": ("", TEXT),
    "gzip": ("gzip", gzip.compress(TEXT)),
    "two parts": ("x-gzip", gzip.compress(TEXT[:7]) + gzip.compress(TEXT[7:])),
    "padded": ("gzip", gzip.compress(TEXT) + bytes(9)),
    "deflate": ("deflate", zlib.compress(TEXT)),
    "raw deflate": ("deflate", zlib.compress(TEXT)[2:-4]),
}


def gather(encoding: str, body: bytes, size: int, *, most: int = 1000) -> BodyBuffer:
    gathered = BodyBuffer(most, encoding)
    for start in range(0, len(body), size):
        gathered.add(body[start : start + size])
    return gathered


@pytest.mark.parametrize(("encoding", "body"), PACKED.values(), ids=PACKED)
def test_it_comes_in_pieces_of_any_size(encoding: str, body: bytes) -> None:
    for size in (1, 2, 3, 7, len(body)):
        assert gather(encoding, body, size).whole() == TEXT


@pytest.mark.parametrize(("encoding", "body"), PACKED.values(), ids=PACKED)
def test_it_has_a_bound(encoding: str, body: bytes) -> None:
    most = max(len(body), len(TEXT))
    assert gather(encoding, body, 2, most=most).whole() == TEXT
    with pytest.raises(TooLarge):
        gather(encoding, body, 2, most=most - 1)


def test_what_is_cut_off_or_no_such_thing_is_not_taken() -> None:
    for encoding in ("gzip", "deflate"):
        whole = gzip.compress(TEXT) if encoding == "gzip" else zlib.compress(TEXT)
        for stop in range(1, len(whole) - 1):
            with pytest.raises(Undecodable):
                gather(encoding, whole[:stop], 5).whole()
        with pytest.raises(Undecodable):
            gather(encoding, b"\xff" * 20, 5)
        assert gather(encoding, b"", 1).whole() == b""


def test_it_has_few_parts() -> None:
    part = gzip.compress(b"x")
    assert gather("gzip", part * MEMBERS_MAX, 50, most=10_000).whole() == b"x" * MEMBERS_MAX
    with pytest.raises(Undecodable, match=f"more than {MEMBERS_MAX} parts"):
        gather("gzip", part * (MEMBERS_MAX + 1), 50, most=10_000)


@pytest.mark.parametrize(
    ("encoding", "can", "packed"),
    [
        ("", True, False),
        ("identity", True, False),
        (" GZIP ", True, True),
        ("x-gzip", True, True),
        ("deflate", True, True),
        ("br", False, False),
        ("gzip, gzip", False, False),
    ],
)
def test_which_encodings_can_be_gathered(encoding: str, can: bool, packed: bool) -> None:
    assert (can_unpack(encoding), is_packed(encoding)) == (can, packed)


def test_its_length_is_that_of_what_was_unpacked() -> None:
    gathered = BodyBuffer(1000, "gzip")
    assert len(gathered) == 0
    gathered.add(gzip.compress(TEXT))
    assert len(gathered) == len(TEXT)
