"""What one would write without fanout: an asyncio datagram protocol that logs each datagram as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys


class _LoggingProtocol(asyncio.DatagramProtocol):
    count = 0

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.count += 1
        event = {"event": "message_received", "source": f"{addr[0]}:{addr[1]}", "size": len(data)}
        logging.info("%s", json.dumps({**event, "payload": data.decode()}))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(_LoggingProtocol, local_addr=("127.0.0.1", 0))
    print(f"127.0.0.1:{transport.get_extra_info('sockname')[1]}", file=sys.stderr, flush=True)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    print(protocol.count, file=sys.stderr, flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    asyncio.run(_serve())
