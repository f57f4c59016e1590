"""How long one document of a media server keeps `fanout relay ssdp` from all else, whatever is in it."""

from __future__ import annotations

import contextlib
import functools
import gzip
import math
import time
from collections.abc import Callable

from benchmarks.rows import Row
from fanout.ssdp.core.body import DOCUMENT_MAX, BodyBuffer, TooLarge, Undecodable
from fanout.ssdp.core.urls import URLS_MAX, TooManyUrls, in_text
from fanout.ssdp.http.body_budget import READ_MAX

REPEATS = 3
ADDITIONS = 3_000_000
_POD = "10.60.0.11"
_PARTS = {
    "spaces": b" ",
    "zeros": b"\0",
    "no UTF-8": b"\xff",
    "beginnings of URLs": b"http://",
    "ends of schemes": b"://",
    "addresses that begin": b"http://[",
    "addresses that do not end": b"http://[" + b":" * 45 + b" ",
    "ports that are none": b"http://255.255.255.255:99999",
    "URLs": b"http://10.60.0.11:8200/",
    "URLs without a port here": b"http://10.60.0.11:9/",
    "URLs in UTF-16": b"h\0t\0t\0p\0:\0/\0/\0001\0",
    "a list of films": b"&lt;res&gt;http://10.60.0.11:8200/MediaItems/1.mp4&lt;/res&gt;",
}


def measure() -> list[Row]:
    """Rewrite and unpack the largest documents, made of the worst; what counts is the longest that the loop waits."""
    unit = _least(_add)
    rewriting = {
        name: max(_least(functools.partial(_rewrite, body)) for body in _bodies(part)) for name, part in _PARTS.items()
    }
    packed = {"a bomb": gzip.compress(bytes(1 << 28), 1), "empty parts": gzip.compress(b"", 0) * 200_000}
    unpacking = {name: _least_of_longest(each) for name, each in packed.items()}
    size = f"{DOCUMENT_MAX >> 20} MiB"
    return [_row(f"{done} a document of {size}, at most", times, unit)
            for done, times in (("rewrite", rewriting), ("unpack some of", unpacking))]  # fmt: skip


def _row(what: str, times: dict[str, float], unit: float) -> Row:
    worst = max(times, key=times.__getitem__)
    against = f"{ADDITIONS:,} additions in Python: {unit * 1e3:.0f} ms"
    return Row(what, f"{times[worst] * 1e3:.0f} ms ({worst})", against, times[worst] / unit, "<= 1")


def _bodies(part: bytes) -> list[bytes]:
    """Return the largest document of nothing else, and of as many of them as may be URLs."""
    size = DOCUMENT_MAX // len(part) // 8 * 8
    return [part * size, (part * min(size, URLS_MAX)).ljust(DOCUMENT_MAX)]


def _edge(host: str, port: int) -> str | None:
    if host != _POD:
        return None
    return "10.50.0.20:28203" if port == 8200 else ""


def _rewrite(body: bytes) -> None:
    with contextlib.suppress(TooManyUrls):
        in_text(body, "text/xml; charset=utf-16", _edge)


def _least_of_longest(packed: bytes) -> float:
    least = math.inf
    for _ in range(REPEATS):
        longest, gathered = 0.0, BodyBuffer(DOCUMENT_MAX, "gzip")
        with contextlib.suppress(TooLarge, Undecodable):
            for start in range(0, len(packed), READ_MAX):
                began = time.thread_time()
                try:
                    gathered.add(packed[start : start + READ_MAX])
                finally:
                    longest = max(longest, time.thread_time() - began)
        least = min(least, longest)
    return least


def _add() -> None:
    total = 0
    for number in range(ADDITIONS):
        total += number & 3


def _least(work: Callable[[], None]) -> float:
    """Return the least of some runs, in seconds of the processor's: others may have it meanwhile."""
    least = math.inf
    for _ in range(REPEATS):
        began = time.thread_time()
        work()
        least = min(least, time.thread_time() - began)
    return least
