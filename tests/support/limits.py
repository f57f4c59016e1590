"""The product's own limits, set otherwise: out of the way of a test, or so short that they run out at once.

A limit is named by a module that uses it, and its place there: what has been imported by name is not where it came
from. `setting` changes them in this process, `variables` in a process and all that it starts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.startup.sitecustomize import VARIABLE, put

Limits = Mapping[str, float]


def dns_lifetime(seconds: float) -> Limits:
    """How long a question to DNS may take where nobody says: the resolver of a command, or of a sender."""
    return {"fanout.discovery.dns:DnsResolver.__init__.__kwdefaults__.lifetime": seconds}


PATIENT: Limits = dns_lifetime(60.0)
"""A nameserver that answers may take as long as it likes."""
SOON: Limits = {
    "fanout.discovery.core.endpoints:TTL_MIN": 0.02,
    "fanout.discovery.core.endpoints:TTL_UNKNOWN": 0.02,
    "fanout.discovery.core.endpoints:RETRY_MIN": 0.02,
    "fanout.discovery.core.endpoints:RETRY_MAX": 0.05,
    "fanout.discovery.core.endpoints:CONFIRM_AFTER": 0.02,
    "fanout.cli.target:CONFIRM_AFTER": 0.02,
}
"""DNS is asked again soon, where its TTL is 0: a change is followed without a wait of a second."""
UNHURRIED: Limits = {"fanout.relay.relay:_STOP_FORWARD": 3600.0, "fanout.relay.core.loop_guard:LOOP_SECONDS": 3600.0}
"""A relay may take long to forward what it holds at its end, and knows loops however long they take."""


@contextlib.contextmanager
def setting(limits: Limits) -> Iterator[None]:
    """Change limits of this process, and restore them."""
    before = {limit: put(limit, value) for limit, value in limits.items()}
    try:
        yield
    finally:
        for limit, value in before.items():
            put(limit, value)


def variables(limits: Limits) -> dict[str, str]:
    """Return the environment in which each process has these limits, as soon as it has imported what has them."""
    folder = str(Path(__file__).with_name("startup"))
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")])),
        VARIABLE: " ".join(f"{limit}={value}" for limit, value in limits.items()),
    }
