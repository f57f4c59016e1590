"""A nameserver whose answers change: `python -m benchmarks.changing_nameserver TTL`.

It answers for a headless Service that has no pod at first, and prints its endpoint. `pods ADDRESS...` lets the Service
have these, and is answered by the time at which it has (nanoseconds of CLOCK_MONOTONIC).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from fanout.local.core import zone
from fanout.local.core.zone import Pod, Zone
from fanout.local.nameserver import Nameserver

NAME = f"{Zone().name}."


async def _serve() -> None:
    nameserver = await Nameserver.start(Zone())
    print(json.dumps(str(nameserver.endpoint)), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        _, *addresses = line.split()
        pods = [Pod(f"pod-{number}", address) for number, address in enumerate(addresses)]
        nameserver.zone = nameserver.zone.with_pods(pods)
        print(json.dumps(time.monotonic_ns()), flush=True)


if __name__ == "__main__":
    zone.DNS_TTL = int(sys.argv[1])
    asyncio.run(_serve())
