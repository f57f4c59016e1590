"""The relay's HTTP ports: who may connect, how many at a time, and how long a client may take for a request."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from time import monotonic

from aiohttp import hdrs, web

from fanout import errno_text
from fanout.limiter import LimitedLogger
from fanout.model import Endpoint, unmapped
from fanout.ssdp.core.drop_reasons import HttpFailure
from fanout.ssdp.core.headers import PSEUDONYM
from fanout.ssdp.core.stats import HttpCounts
from fanout.ssdp.http.body_budget import CONNECTION_BUFFER, SmallReadSocket

log: logging.Logger = logging.getLogger("fanout")

CONNECTIONS_MAX = 256
CONNECTIONS_OF_ONE_MAX = 32
HEAD_TIMEOUT = 10.0
"""Seconds for the head of a request to arrive."""
IDLE_TIMEOUT = 60.0
"""Seconds that a connection is kept between two requests."""
POD_TIMEOUT = 90.0
"""Both of these for pods: minidlna connects for an event, and sends it once something else wakes it up, or never."""
LINE_MAX = 8190
"""Bytes of a request's first line, and of one header."""
HEADERS_MAX = 64
AHEAD_MAX = 64 * 1024
"""Bytes that a client may send before its previous request is answered."""
_LINGER = 2.0  # seconds for a client to finish a request that was refused, so that it reads the reason
_BACKLOG = 128
_AT_ONCE = 64  # connections that are accepted at one port before others have a turn
_PAUSE = 1.0  # seconds without accepting any, when too many files are open
_LOOK = 0.5  # seconds between two checks for connections that take too long
_LAST_TURNS = 2.0  # seconds for connections to end
_RESET = struct.pack("ii", 1, 0)  # struct linger (man 7 socket)
_LINES = 5.0
TAKEN_TIME = 30.0
"""Seconds after which a port that another program had is tried again."""

Serve = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HttpServer:
    """Listens on TCP ports, and serves peers that are `is_client` (their address, and the local one) or `is_pod`.

    Refused peers are counted in `counts`. When a client closes its connection, `serve` is cancelled. Needs a running
    event loop.
    """

    def __init__(
        self, is_client: Callable[[str, str], bool], is_pod: Callable[[str], bool], serve: Serve, counts: HttpCounts
    ) -> None:
        self._is_client = is_client
        self._is_pod = is_pod
        self._counts = counts
        self._listeners: dict[int, socket.socket] = {}
        self._taken: dict[int, float] = {}
        """When each port that another program had may be tried again."""
        self._of_client: Counter[str] = Counter()
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._warn_refused = LimitedLogger(log.warning, _LINES)
        self._warn_taken = LimitedLogger(log.warning, _LINES)
        self._log_broken = LimitedLogger(log.error, _LINES)
        self._loop = asyncio.get_running_loop()
        self._server = web.Server(serve, handler_cancellation=True)
        self._look = self._loop.call_later(_LOOK, self._end_late)

    async def close(self) -> None:
        """Close all ports and abort all connections."""
        self._look.cancel()
        for listener in self._listeners.values():
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        deadline = self._loop.time() + _LAST_TURNS
        while (self._connections or self._tasks or self._server.connections) and self._loop.time() < deadline:
            for connection in list(self._connections):
                connection.end()
            await asyncio.sleep(0.001)

    def listen(self, port: int) -> bool:
        """Listen on that port of all addresses; return False where another program has it."""
        if port in self._listeners:
            return True
        now = monotonic()
        if now < self._taken.get(port, now):
            return False
        try:
            listener = _bind(port)
        except OSError as error:
            self._taken[port] = now + TAKEN_TIME
            sentence = errno_text.binding(Endpoint("::", port), error.errno or 0, protocol="TCP")
            self._warn_taken(now, "http_port_taken: %(sentence)s", {"sentence": sentence})
            return False
        self._taken.pop(port, None)
        self._listeners[port] = listener
        self._loop.add_reader(listener.fileno(), self._accept, listener, port)
        return True

    def _accept(self, listener: socket.socket, port: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.warning("http_port_pauses: %(sentence)s", {"sentence": errno_text.leaving(error.errno)})
                    self._loop.remove_reader(listener.fileno())
                    self._loop.call_later(_PAUSE, self._resume, listener, port)
                    return
                continue  # that connection was broken before it was accepted (man 2 accept)
            peer, local = plain(address[0]), plain(accepted.getsockname()[0])
            refusal = self._refusal(peer, local)
            if refusal is not None:
                self._refused(refusal, peer, port)
                accepted.close()
                continue
            accepted.setblocking(False)
            connection = self._connection(peer, local, port)
            task = self._loop.create_task(self._admit(connection, SmallReadSocket(fileno=accepted.detach())))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _resume(self, listener: socket.socket, port: int) -> None:
        if self._listeners.get(port) is listener:
            self._loop.add_reader(listener.fileno(), self._accept, listener, port)

    def _refusal(self, peer: str, local: str) -> HttpFailure | None:
        if not self._is_client(peer, local) and not self._is_pod(peer):
            return HttpFailure.SOURCE_NOT_ALLOWED
        if self._of_client.total() >= CONNECTIONS_MAX or self._of_client[peer] >= CONNECTIONS_OF_ONE_MAX:
            return HttpFailure.TOO_MANY_CONNECTIONS
        return None

    def _refused(self, refusal: HttpFailure, peer: str, port: int) -> None:
        self._counts.failures[refusal] += 1
        self._warn_refused(
            monotonic(),
            "http_refused: %(reason)s, from %(source)s to port %(port)d",
            {"reason": str(refusal), "source": peer, "port": port},
        )

    def _connection(self, peer: str, local: str, port: int) -> Connection:
        self._of_client[peer] += 1
        self._counts.connections = self._of_client.total()
        is_pod = self._is_pod(peer)
        connection = Connection(
            self._server, self._loop, peer, local, port, is_pod, self._gone, self._counts, self._log_broken
        )
        self._connections.add(connection)
        return connection

    async def _admit(self, connection: Connection, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted)
        except OSError:
            accepted.close()
            self._gone(connection)

    def _gone(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._of_client -= Counter((connection.peer,))
        self._counts.connections = self._of_client.total()

    def _end_late(self) -> None:
        """End the connections that take too long."""
        now = self._loop.time()
        for connection in list(self._connections):
            if connection.waits_since is not None and now - connection.waits_since > connection.patience:
                if not connection.is_silent:  # browsers open some in advance, and send nothing on them
                    self._refused(HttpFailure.TOO_SLOW, connection.peer, connection.port)
                connection.end()
        self._look = self._loop.call_later(_LOOK, self._end_late)


class Connection(web.RequestHandler):
    """One connection of a client, or of a pod that sends an event."""

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        peer: str,
        local: str,
        port: int,
        is_pod: bool,
        gone: Callable[[Connection], None],
        counts: HttpCounts,
        log_broken: LimitedLogger,
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=POD_TIMEOUT if is_pod else IDLE_TIMEOUT,
            access_log=None,  # type: ignore[arg-type]
            max_line_size=LINE_MAX,
            max_field_size=LINE_MAX,
            max_headers=HEADERS_MAX,
            lingering_time=_LINGER,
            read_bufsize=CONNECTION_BUFFER,
            auto_decompress=False,
        )
        self.peer = peer
        self.local = local
        self.port = port
        self.patience: float = POD_TIMEOUT if is_pod else HEAD_TIMEOUT
        """Seconds that the head of a request may take."""
        self.waits_since: float | None = loop.time()
        """When the wait for the head of a request began; None where there is none."""
        self.is_silent: bool = True
        """Whether nothing has arrived yet."""
        self.request: web.BaseRequest | None = None
        """The request that is being served."""
        self._ahead = 0
        self._now = loop.time
        self._gone = gone
        self._counts = counts
        self._log_broken = log_broken

    def data_received(self, data: bytes) -> None:
        """Record when a head begins, and how much arrives ahead of an answer."""
        self.is_silent = False
        if self.request is None:
            if self.waits_since is None:
                self.waits_since = self._now()
        elif self.request.content.is_eof():
            self._ahead += len(data)
            if self._ahead > AHEAD_MAX:
                self._counts.failures[HttpFailure.REQUEST_TOO_LARGE] += 1
                self.end()
                return
        super().data_received(data)

    def begin(self, request: web.BaseRequest) -> None:
        """Record that a request is being served."""
        self.request, self.waits_since, self._ahead = request, None, 0

    def connection_lost(self, exc: BaseException | None) -> None:
        """Record that the connection has ended."""
        self.waits_since = None
        self._gone(self)
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer invalid HTTP, without the traceback that aiohttp would log."""
        if isinstance(exc, ConnectionError):
            raise exc
        if status == 400:
            self._counts.failures[HttpFailure.BAD_REQUEST] += 1
        else:
            self._log_broken(
                monotonic(),
                "http_broke: %(error)s, for %(source)s at port %(port)d",
                {
                    "error": errno_text.exception(exc) if exc is not None else status,
                    "source": self.peer,
                    "port": self.port,
                },
            )
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was already sent")
        response = web.Response(status=status, text="not an HTTP request\n" if status == 400 else "")
        response.headers[hdrs.SERVER] = PSEUDONYM
        response.force_close()
        self._counts.statuses[status // 100] += 1
        return response

    def end(self) -> None:
        """Close the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def break_off(self) -> None:
        """Reset the connection, so that the client cannot mistake what it has for the whole body."""
        if self.transport is not None:
            opened = self.transport.get_extra_info("socket")
            if opened is not None:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()


def plain(host: str) -> str:
    """Return an address without its scope, and an IPv4-mapped one as IPv4."""
    return str(unmapped(ipaddress.ip_address(host.partition("%")[0])))


def _bind(port: int) -> socket.socket:
    """Return a socket that listens on all addresses, of both families where the system has both."""
    try:
        return _listening(socket.AF_INET6, ("::", port))
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
    return _listening(socket.AF_INET, ("0.0.0.0", port))


def _listening(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
