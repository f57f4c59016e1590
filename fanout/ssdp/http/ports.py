"""Finds a port of the relay that can be had. Pure."""

from __future__ import annotations

from collections.abc import Callable


def opened(claim: Callable[[], int | None], listen: Callable[[int], bool], refuse: Callable[[int], None]) -> int | None:
    """Return the first port that `claim` gives and that `listen` can open; None once it gives none.

    It is told of the others (`refuse`), which other programs have, so that it gives another one.
    """
    while (port := claim()) is not None:
        if listen(port):
            return port
        refuse(port)
    return None
