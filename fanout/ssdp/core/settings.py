"""The settings of the SSDP relay: ports, networks, and where pods have device descriptions. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fanout.errors import InvalidInput
from fanout.model import Endpoint

HTTP_PORTS = "28200-28231"
DESCRIPTIONS = ("8200/rootDesc.xml",)
"""The description of minidlna, which takes no searches by unicast."""
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")
"""Default networks of clients (RFC 1918, RFC 3927)."""
PORTS_MAX = 1024
_PLACE = re.compile(r"([0-9]{1,5})(/[!-\"$-~]*)", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class DescriptionPlace:
    """Where pods have a device description."""

    port: int
    path: str
    """It begins with the slash."""

    @classmethod
    def parse(cls, text: str) -> DescriptionPlace:
        """Parse `8200/rootDesc.xml`; raise `InvalidInput`."""
        match = _PLACE.fullmatch(text) if isinstance(text, str) else None
        if match is None or not 1 <= int(match[1]) <= 65_535:
            raise InvalidInput(
                f"a description must be PORT/PATH such as {DESCRIPTIONS[0]}, %20 for a space; got {text!r}"
            )
        return cls(int(match[1]), match[2])

    def url(self, host: str) -> str:
        """Return its URL at the pod of that address."""
        return f"http://{Endpoint(host, self.port)}{self.path}"


def parse_ports(text: str) -> range:
    """Return the ports of `28200-28231`, or the one of `28200`; raise `InvalidInput`."""
    match = _RANGE.fullmatch(text) if isinstance(text, str) else None
    first = int(match[1]) if match else 0
    last = int(match[2] or first) if match else 0
    if not (1 <= first <= 65_535 and 1 <= last <= 65_535):
        raise InvalidInput(f"ports must be FIRST-LAST from 1 to 65535 such as {HTTP_PORTS}, or one port; got {text!r}")
    if last < first:
        raise InvalidInput(f"the range {text!r} must ascend: write {last}-{first}")
    if last - first >= PORTS_MAX:
        raise InvalidInput(f"ports must be at most {PORTS_MAX:,}; got {last - first + 1:,} ({text!r})")
    return range(first, last + 1)
