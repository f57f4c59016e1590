"""How much memory the relay's HTTP ports take at most: in a process of its own, with an eighth of all its limits."""

from __future__ import annotations

import asyncio
import contextlib

from fanout.ssdp.core.drop_reasons import HttpFailure
from tests.support.ssdp_http import (
    GET,
    LARGE_HEAD,
    RELAY,
    Asked,
    Pod,
    connect_and_read_nothing,
    hang_up,
    http,
    read_reply,
    run,
)
from tests.support.ssdp_process import CLIENTS, DOCUMENT_MAX, EACH, SHARE, URLS_MAX, Alone, Relays, State

XML = "Content-Type: text/xml"
KINDS = ("documents", "urls", "films", "chunks", "bodies", "heads")
REQUESTS = {
    "bodies": f"POST / HTTP/1.1\r\nHost: {RELAY}\r\nContent-Length: 1048576\r\n\r\n".encode() + bytes(1 << 20),
    "heads": LARGE_HEAD * 20,
}
PIECES = [bytes(100_000)] * 40
"""Of a film: far more than the relay would ever hold for one client."""


class FloodedPod(Pod):
    """Sends without end, or nothing."""

    def __init__(self, kind: str) -> None:
        super().__init__(self._answer)
        self.kind = kind
        self.sent = 0

    async def _answer(self, asked: Asked) -> bytes | None:
        if asked.path == "/first":
            return http(b"<a>http://127.0.0.11:9/</a>", XML)
        if self.kind == "documents":
            return http(b"<a>".ljust(DOCUMENT_MAX), XML)
        if self.kind == "urls":
            return http(b"http://127.0.0.11:9/ " * URLS_MAX, XML)
        if self.kind in ("films", "chunks"):
            framing = "Content-Length: 10000000000" if self.kind == "films" else "Transfer-Encoding: chunked"
            asked.writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n{framing}\r\n\r\n".encode())
            for piece in PIECES:
                asked.writer.write(piece if self.kind == "films" else b"%x\r\n%s\r\n" % (len(piece), piece))
                await asked.writer.drain()
                self.sent += 1
        await asked.reader.read()
        return None


def test_the_relay_stays_small() -> None:
    """As many connections as there may be, of clients that read nothing, to pods that send without end, or nothing.

    It stays below 150 MiB: what it takes in addition with an eighth of its limits is an eighth.
    """

    async def test() -> None:
        async with Relays() as relays:
            for kind in KINDS:
                async with FloodedPod(kind) as pod, relays.relay_to(pod.port) as alone:
                    await serve_one(alone)
                    before = (await alone.state()).now
                    more = (await flooded(pod, alone)).most - before
                    assert before + SHARE * more < 150 << 20, kind

    run(test())


async def serve_one(alone: Alone) -> None:
    """Have the relay import and make what it needs for whatever it serves."""
    reader, writer = await asyncio.open_connection(RELAY, alone.port, local_addr=(CLIENTS[0], 0))
    writer.write(GET.replace(b"/", b"/first", 1))
    assert (await read_reply(reader)).status == 200
    await hang_up(writer)


async def flooded(pod: FloodedPod, alone: Alone) -> State:
    """Return how the relay is once all clients have said what they have to say, and none of them gets on."""
    pod.asked.clear()
    before = await alone.state()
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(await connect_and_read_nothing(alone.port, source))
            for source in CLIENTS
            for _ in range(EACH)
        ]
        loop = asyncio.get_running_loop()
        request = REQUESTS.get(pod.kind, GET)
        saying = [asyncio.create_task(loop.sock_sendall(each, request)) for each in opened]
        quiet, sent = 0, -1
        while True:
            state = await alone.state()
            quiet, sent = (quiet + 1 if pod.sent == sent else 0), pod.sent
            answered = state.answered - before.answered
            if {
                "documents": answered == len(opened),
                "urls": answered == len(opened),
                "films": len(pod.asked) == len(opened) and quiet > 50,
                "chunks": len(pod.asked) == len(opened) and quiet > 50,
                "bodies": answered + len(pod.asked) == len(opened),
                "heads": state.failures.get(HttpFailure.REQUEST_TOO_LARGE) == len(opened) and not state.connections,
            }[pod.kind]:
                break
        for task in saying:
            task.cancel()
        await asyncio.gather(*saying, return_exceptions=True)
    return state
