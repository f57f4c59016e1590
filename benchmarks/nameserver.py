"""A nameserver process with COUNT pods on loopback: `python -m benchmarks.nameserver COUNT`, prints its endpoint."""

from __future__ import annotations

import asyncio
import sys

from fanout.local.core.zone import Pod, Zone
from fanout.local.nameserver import Nameserver


async def _serve(count: int) -> None:
    pods = [Pod(f"pod-{number}", f"127.0.1.{number + 1}") for number in range(count)]
    nameserver = await Nameserver.start(Zone().with_pods(pods))
    print(nameserver.endpoint, flush=True)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
