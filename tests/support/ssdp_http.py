"""Pods that speak HTTP as they please, a relay's proxy, and clients: real sockets on loopback.

All of them are in one event loop, whose clock a test can put forward (`advance`). The relay's limits are set so far off
that nothing ends by them unless it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Self
from unittest import mock

import aiohttp
from multidict import CIMultiDict

from fanout.ssdp.core.drop_reasons import HttpFailure
from fanout.ssdp.core.port_map import PortMap
from fanout.ssdp.core.stats import HttpCounts
from fanout.ssdp.core.urls import Origin
from fanout.ssdp.http import body_budget, gena, proxy, server, splice, upstream
from fanout.ssdp.http.proxy import Proxy
from tests.support.event_loops import AheadLoop, advance
from tests.support.open_files import open_files
from tests.support.ports import free_port
from tests.support.waiting import give_turns, until_async

POD, OTHER_POD, RELAY, CLIENT, STRANGER = "127.0.0.11", "127.0.0.12", "127.0.0.20", "127.0.0.30", "127.0.0.66"

GET = f"GET / HTTP/1.1\r\nHost: {RELAY}\r\n\r\n".encode()
LARGE_HEAD = GET[:-2] + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 250) for number in range(60)) + b"\r\n"
"""Almost as large as a request's may be."""
FAR = 1e9
"""Seconds: what ends by a limit of the relay ends by no other, and only in a test that puts the clock forward."""
_LIMITS = {
    (module, name): getattr(module, name)
    for module, names in (
        (server, ("HEAD_TIMEOUT", "IDLE_TIMEOUT", "POD_TIMEOUT", "_LINGER", "_LAST_TURNS")),
        (gena, ("EVENT_TIMEOUT", "_PENDING")),
        (proxy, ("BODY_TIMEOUT", "DOCUMENT_TIMEOUT")),
        (splice, ("PATIENCE",)),
        (body_budget, ("PATIENCE",)),
        (upstream, ("ANSWER_TIMEOUT", "CONNECT_TIMEOUT", "DOCUMENT_TIMEOUT")),
    )
    for name in names
}
"""As the relay has them."""

BUFFER = 16_384
"""Bytes that the kernel keeps for a socket, where what does not fit is the subject: it would keep megabytes."""


async def advance_until(condition: Callable[[], object], seconds: float, what: str = "") -> None:
    """Put the clock forward by so much, again and again, until that is so: what waits for it may begin to only now."""

    def is_so() -> bool:
        if condition():
            return True
        advance(seconds)
        return False

    await until_async(is_so, what)


async def until_stopped(progress: Callable[[], int]) -> None:
    """Wait until something has begun and nothing has gone on for 200 turns of the loop: each would bring it further."""
    before = 0
    while before != progress() or not before:
        before = progress()
        await give_turns(200)


@contextlib.contextmanager
def limits_far_off() -> Iterator[None]:
    """Set the limits of the relay far off, but for those that a test has set already."""
    with contextlib.ExitStack() as stack:
        for (module, name), value in _LIMITS.items():
            if getattr(module, name) == value:
                stack.enter_context(mock.patch.object(module, name, FAR))
        yield


def keep_little(transport: asyncio.BaseTransport, size: int = BUFFER) -> None:
    """Have the kernel keep no more than so many bytes, or some times as many, of what is to be sent there."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


@dataclass
class Asked:
    """A request that came to a pod."""

    method: str
    path: str
    headers: CIMultiDict[str]
    body: bytes
    raw: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


Serve = Callable[[Asked], Awaitable[bytes | None]]


class Pod:
    """Answers each request with what `serve` returns, and hangs up; what it was asked is in `asked`."""

    def __init__(self, serve: Serve, host: str = POD) -> None:
        self.serve = serve
        self.host = host
        self.asked: list[Asked] = []
        self.ended = 0
        """Connections that are over."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self.host, 0, limit=1 << 22)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                asked = await read_request(reader, writer)
                self.asked.append(asked)
                answer = await self.serve(asked)
                if answer is not None:
                    writer.write(answer)
                    await writer.drain()
        finally:
            self.ended += 1
            self._tasks.discard(task)
            await hang_up(writer)


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked:
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw[:-4].decode("utf-8", "surrogateescape").split("\r\n")
    headers = CIMultiDict([(line.partition(":")[0], line.partition(":")[2].strip()) for line in lines])
    body = await reader.readexactly(int(headers.get("Content-Length", "0")))
    method, path, _ = first.split(" ", 2)
    return Asked(method, path, headers, body, raw, reader, writer)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()


@dataclass
class Reply:
    """What a client read."""

    status: int
    reason: str
    headers: CIMultiDict[str]
    body: bytes
    raw: bytes


@dataclass
class Relay:
    """A proxy with one place, for one pod, and what the tests count."""

    proxy: Proxy
    port_map: PortMap
    counts: HttpCounts
    port: int
    pods: set[str]
    allowed: set[str] = field(default_factory=lambda: {CLIENT, "127.0.0.31", RELAY})
    addresses: set[str] = field(default_factory=lambda: {RELAY})
    """Of the relay, that clients may come to."""

    @property
    def url(self) -> str:
        return f"http://{RELAY}:{self.port}"

    def failed(self, failure: HttpFailure) -> int:
        return self.counts.failures.get(failure, 0)

    async def connect(self, source: str = CLIENT) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(RELAY, self.port, local_addr=(source, 0), limit=1 << 22)

    async def say(self, request: bytes, *, source: str = CLIENT) -> Reply:
        """Say it in a connection of its own, and return the answer, up to its end."""
        reader, writer = await self.connect(source)
        try:
            writer.write(request)
            return await read_reply(reader, is_head=request.startswith(b"HEAD "))
        finally:
            await hang_up(writer)

    async def get(self, path: str = "/", *headers: str, method: str = "GET", **named: Any) -> Reply:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {RELAY}:{self.port}", "Connection: close", *headers, "", ""]
        return await self.say("\r\n".join(lines).encode(), **named)


async def connect_and_read_nothing(port: int, source: str = CLIENT) -> socket.socket:
    """Return the socket of a client that reads nothing, and for which the kernel keeps little."""
    opened = socket.socket()
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    opened.bind((source, 0))
    await asyncio.get_running_loop().sock_connect(opened, (RELAY, port))
    return opened


async def read_reply(reader: asyncio.StreamReader, *, is_head: bool = False) -> Reply:
    """Read one answer, as long as it says that it is; EOFError and ConnectionError where it is shorter."""
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw[:-4].decode("utf-8", "surrogateescape").split("\r\n")
    headers = CIMultiDict([(line.partition(": ")[0], line.partition(": ")[2]) for line in lines])
    _, status, reason = first.split(" ", 2)
    body = b""
    if is_head or status in ("204", "304") or status.startswith("1"):
        pass
    elif headers.get("Transfer-Encoding") == "chunked":
        chunks = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            chunks.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        body = b"".join(chunks)
    elif "Content-Length" in headers:
        body = await reader.readexactly(int(headers["Content-Length"]))
    else:
        body = await reader.read()
    return Reply(int(status), reason, headers, body, raw)


@contextlib.asynccontextmanager
async def relay(pod: Pod | Origin | None = None, *, ports: int = 12, keeps: int = 0) -> AsyncIterator[Relay]:
    """A proxy whose first port stands for that pod; for each client the kernel may have to keep no more than that."""

    class KeepsLittle(server.Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            keep_little(transport, keeps)
            super().connection_made(transport)

    with contextlib.ExitStack() as stack:
        stack.enter_context(limits_far_off())
        if keeps:
            stack.enter_context(mock.patch.object(server, "Connection", KeepsLittle))
        origin = Origin(pod.host, pod.port) if isinstance(pod, Pod) else pod or Origin(POD, 9)
        first = free_port()
        port_map = PortMap(first, first + ports)
        pods = {POD, OTHER_POD}
        made: list[Relay] = []
        counts = HttpCounts()
        proxy = Proxy(
            port_map,
            lambda host: host in pods,
            lambda peer, local: local in made[0].addresses and peer in made[0].allowed,
            counts,
        )
        try:
            port = port_map.claim(origin, "uuid:one")
            while port is not None and not proxy.listen(port):
                port_map.refuse(port)
                port = port_map.claim(origin, "uuid:one")
            assert port is not None
            made.append(Relay(proxy, port_map, counts, port, pods))
            yield made[0]
        finally:
            await proxy.close()


def client(source: str = CLIENT, **settings: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(local_addr=(source, 0), limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        **settings,
    )


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run it; no exception may be lost, no task and no file may be left."""
    problems: list[str] = []
    before = open_files()

    async def checked() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(str(context)))
        await test
        await give_turns()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"

    gc.freeze()  # to look for what the test has left takes less time than to look through everything
    try:
        with asyncio.Runner(loop_factory=AheadLoop) as runner:
            runner.run(checked())
        gc.collect()
    finally:
        gc.unfreeze()
    assert not problems, problems
    assert not (left := open_files() - before), f"files left open: {left}"


def http(body: bytes = b"", *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An answer with a Content-Length, of which a test may say what it likes."""
    size = len(body) if length is None else length
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {size}", *headers, "", ""]).encode() + body


def always(answer: bytes) -> Serve:
    async def serve(asked: Asked) -> bytes:
        return answer

    return serve
