"""The settings of `fanout local up`, and their limits."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from fanout.model import DEFAULT_PORT

MAX_REPLICAS = 100
"""Each is a process of its own, of about 30 MB."""

MAX_DRAIN = 60.0
STOP_GRACE = 5.0
"""Seconds past the drain time that a receiver has to end before it is killed."""
STATUS_TIMEOUT = 30.0
"""Seconds after which a supervisor that does not say its status hangs: it takes milliseconds on a machine that runs."""
STOP_TIMEOUT = MAX_DRAIN + 3 * STOP_GRACE
"""Seconds after which a command that ends pods is not waited for any longer."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """The Service to run."""

    replicas: int = 2
    port: int = DEFAULT_PORT
    drain: float = 0.5
    """Seconds that a receiver goes on receiving after SIGTERM."""
    watched: tuple[int, ...] = ()
    """Processes whose end ends the Service."""

    def to_json(self) -> str:
        """Return the settings as one argument of a process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LocalSettings:
        """Return the settings that `to_json` gave."""
        return cls(**json.loads(text))


def ready_timeout(replicas: int) -> float:
    """Return the seconds that N pods may take to become ready: they start side by side.

    On a machine that is busy; a pod that cannot start ends, and is not waited for so long.
    """
    return 60.0 + replicas
