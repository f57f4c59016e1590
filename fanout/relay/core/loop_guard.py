"""Recognizes what comes back to a relay in a loop. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

LOOP_PAYLOADS = 65_536
"""Payloads that are remembered."""
LOOP_SECONDS = 5.0
"""Seconds that each is remembered."""


class LoopGuard:
    """Remembers payloads that were forwarded within the last 5 s, and their sources.

    What a device repeats comes from the same source again; what another relay sends back comes from that relay.
    So a payload that is known from another source has gone in a circle, and was forwarded already.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[int, tuple[Hashable, float]] = OrderedDict()

    def is_loop(self, payload: bytes, source: Hashable, now: float) -> bool:
        """Return whether the payload was forwarded when it came from another source; remember it otherwise.

        A source is an address and its port: on one host there may be a device's program and another relay.
        """
        seen = self._seen
        key = hash(payload)  # keyed by a secret of this process: nobody can make two payloads collide
        known = seen.get(key)
        if known is not None and known[0] != source and now - known[1] <= LOOP_SECONDS:
            return True
        seen[key] = (source, now)
        seen.move_to_end(key)
        while len(seen) > LOOP_PAYLOADS or now - next(iter(seen.values()))[1] > LOOP_SECONDS:
            seen.popitem(last=False)
        return False
