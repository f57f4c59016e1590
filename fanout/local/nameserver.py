"""The embedded nameserver: UDP and TCP on one port of 127.0.0.1, for one zone."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from fanout.errors import SocketUnavailable
from fanout.local.core.zone import Zone, respond
from fanout.model import Endpoint

HOST = "127.0.0.1"
_ATTEMPTS = 16
_MAX_CONNECTIONS = 64
_BATCH = 64
"""Datagrams to answer before other work gets its turn."""
_IDLE_TIMEOUT = 10.0
"""Seconds in which a TCP client must have sent a whole query, and taken the answer."""


class Nameserver:
    """Answers from `zone`, which may be replaced at any time; the next query sees the new one.

    Start it with `await Nameserver.start(zone)`, end it with `await close()`. A TCP connection may carry any
    number of queries; one that is idle, or sends something else, is cut off, and so is a 65th.
    """

    def __init__(self, zone: Zone, udp: socket.socket, *, idle_timeout: float) -> None:
        self.zone = zone
        self.endpoint: Endpoint = Endpoint(*udp.getsockname())
        self._udp = udp
        self._idle_timeout = idle_timeout
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @classmethod
    async def start(cls, zone: Zone, *, idle_timeout: float = _IDLE_TIMEOUT) -> Nameserver:
        """Listen on a free port of 127.0.0.1; raise `SocketUnavailable`."""
        udp, tcp = _bind_pair()
        nameserver = cls(zone, udp, idle_timeout=idle_timeout)
        udp.setblocking(False)
        asyncio.get_running_loop().add_reader(udp, nameserver._answer_datagrams)
        nameserver._server = await asyncio.start_server(nameserver._accept, sock=tcp)
        return nameserver

    async def close(self) -> None:
        """Stop answering, and cut off the TCP connections."""
        asyncio.get_running_loop().remove_reader(self._udp)
        self._udp.close()
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _answer_datagrams(self) -> None:
        for _ in range(_BATCH):
            try:
                query, peer = self._udp.recvfrom(65_535)
            except OSError:
                return  # nothing left; or an error of an earlier answer, and the next call goes on
            response = respond(query, self.zone)
            if response is not None:
                # A client that is gone, or a full buffer: as on a network, the answer is lost, and is asked again.
                with suppress(OSError):
                    self._udp.sendto(response, peer)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS:
            writer.close()
            return
        connection = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # With no write buffer, drain() returns once the kernel has the whole answer: nothing is left to flush.
        writer.transport.set_write_buffer_limits(0)
        with suppress(OSError, EOFError, TimeoutError):
            try:
                while True:
                    async with asyncio.timeout(self._idle_timeout):
                        size = int.from_bytes(await reader.readexactly(2))
                        response = respond(await reader.readexactly(size), self.zone, over_tcp=True)
                        if response is None:
                            return
                        writer.write(len(response).to_bytes(2) + response)
                        await writer.drain()
            finally:
                writer.transport.abort()


def _bind_pair() -> tuple[socket.socket, socket.socket]:
    """Return a UDP and a TCP socket bound to one port: the kernel picks UDP's, and TCP's may be taken."""
    for _ in range(_ATTEMPTS):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            udp.bind((HOST, 0))
            tcp.bind(udp.getsockname())
        except OSError as error:
            udp.close()
            tcp.close()
            problem = error
        else:
            return udp, tcp
    raise SocketUnavailable(
        f"no port of {HOST} is free for the nameserver over both UDP and TCP: {problem.strerror}"
    ) from problem
