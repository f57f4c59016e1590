"""Validation of the options of senders, receivers and relays: one rule for each kind. Pure."""

from __future__ import annotations

import os
import sys

from fanout.errors import InvalidInput

_SHOWN_MAX = 120  # characters of a refused value; valid ones are shorter
_INTERFACE_MAX = 15  # bytes: IFNAMSIZ without the final NUL (include/uapi/linux/if.h)


def whole_number(name: str, value: object, *, least: int, most: int | None = None, unit: str = "") -> int:
    """Return a whole number within its bounds; raise `InvalidInput`, for a bool too."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most):
        return value
    bounds = f"of at least {least:,}" if most is None else f"from {least:,} to {most:,}"
    raise InvalidInput(f"{name} must be a number{unit and f' of {unit}'} {bounds}; got {shown(value)}")


def positive_number(
    name: str, value: object, *, most: float = sys.float_info.max, unit: str = "", allow_zero: bool = False
) -> float:
    """Return a number above 0 (or from 0, with `allow_zero`) up to `most`; raise `InvalidInput`, for a bool too.

    Infinity is refused, unless `most` is infinite.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        is_enough = value >= 0 if allow_zero else value > 0
        if is_enough and value <= most:
            return value
    least = "of at least 0" if allow_zero else "above 0"
    bounds = least if most >= sys.float_info.max else f"{least}, up to {most:,}"
    raise InvalidInput(f"{name} must be a number{unit and f' of {unit}'} {bounds}; got {shown(value)}")


def key_path(value: object) -> str | None:
    """Return the path of a key file, or None where none is given; raise `InvalidInput`."""
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if isinstance(path, str):
        return path
    raise InvalidInput(f"key_file must be the path of the file that holds the keys; got {value!r}")


def cluster_label(value: object, key_file: object) -> str:
    """Return the cluster label of sealed messages; raise `InvalidInput`, also for a label without a key file.

    A label that is not UTF-8, from the environment for instance, keeps its bytes (PEP 383).
    """
    try:
        if not isinstance(value, str):
            raise TypeError
        value.encode("utf-8", "surrogateescape")
    except (TypeError, UnicodeEncodeError):
        raise InvalidInput(f"cluster must be a string, the same as that of the senders; got {value!r}") from None
    if value and key_file is None:
        raise InvalidInput(f"cluster needs key_file: give both; got cluster {value!r} alone")
    return value


def is_interface_name(text: str) -> bool:
    """Whether an interface can have that name (net/core/dev.c, dev_valid_name); `ip link` shows eth1 as eth1@if7."""
    is_name = text.isprintable() and text not in ("", ".", "..") and not any(c in "/:@" or c.isspace() for c in text)
    return is_name and len(text.encode()) <= _INTERFACE_MAX


def shown(value: object) -> str:
    """Return a refused value for an error message, shortened where it is long."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN_MAX else f"{value[:_SHOWN_MAX]}...")
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of thousands of digits
        text = ""
    return text if 0 < len(text) <= _SHOWN_MAX else f"a value of type {type(value).__name__}"


def printable(text: str, instead: str = "?") -> str:
    """Return untrusted text with `instead` for each character that a terminal or a log line must not get.

    `isprintable` is False for controls, line separators, and what changes the direction of a line.
    """
    return text if text.isprintable() else "".join(each if each.isprintable() else instead for each in text)
