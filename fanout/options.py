"""What the options of senders, receivers and relays must be: one rule for each kind, whoever takes it. Pure."""

from __future__ import annotations

import os
import sys

from fanout.errors import InvalidInput

_SHOWN_MAX = 120  # characters of what is refused; what is right is shorter
_INTERFACE_MAX = 15  # bytes: IFNAMSIZ less the zero (include/uapi/linux/if.h)


def whole_number(name: str, value: object, *, least: int, most: int | None = None, unit: str = "") -> int:
    """Return a whole number within its bounds; raise `InvalidInput`. A bool is none."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most):
        return value
    bounds = f"of at least {least:,}" if most is None else f"from {least:,} to {most:,}"
    raise InvalidInput(f"{name} must be a number{unit and f' of {unit}'} {bounds}; got {value!r}")


def positive_number(
    name: str, value: object, *, most: float = sys.float_info.max, unit: str = "", allow_zero: bool = False
) -> float:
    """Return a number above 0, or from 0 on, up to `most`; raise `InvalidInput`. A bool is none.

    Infinity is refused, unless it is the most.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        is_enough = value >= 0 if allow_zero else value > 0
        if is_enough and value <= most:
            return value
    least = "of at least 0" if allow_zero else "above 0"
    bounds = least if most >= sys.float_info.max else f"{least}, up to {most:,}"
    raise InvalidInput(f"{name} must be a number{unit and f' of {unit}'} {bounds}; got {value!r}")


def key_path(value: object) -> str | None:
    """Return the path of a key file, if one is given; raise `InvalidInput` for what is no path."""
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if isinstance(path, str):
        return path
    raise InvalidInput(f"key_file must be the path of the file that holds the keys; got {value!r}")


def cluster_label(value: object, key_file: object) -> str:
    """Return the label that sealed messages carry; raise `InvalidInput` for what is none, or where there is no key.

    A label that came in as bytes of no UTF-8, from the environment for one, is those bytes (PEP 383).
    """
    try:
        if not isinstance(value, str):
            raise TypeError
        value.encode("utf-8", "surrogateescape")
    except (TypeError, UnicodeEncodeError):
        raise InvalidInput(f"cluster must be a string, the same as that of the senders; got {value!r}") from None
    if value and key_file is None:
        raise InvalidInput(f"cluster needs a key_file, for only sealed messages carry it; got {value!r} alone")
    return value


def is_interface_name(text: str) -> bool:
    """Whether an interface may have that name (net/core/dev.c, dev_valid_name); `ip link` writes eth1 as eth1@if7."""
    is_name = text.isprintable() and text not in ("", ".", "..") and not any(c in "/:@" or c.isspace() for c in text)
    return is_name and len(text.encode()) <= _INTERFACE_MAX


def shown(value: object) -> str:
    """Return what is refused as a sentence has it, however long it is."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN_MAX else f"{value[:_SHOWN_MAX]}...")
    is_short = isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64)
    return repr(value) if is_short else f"a value of type {type(value).__name__}"
