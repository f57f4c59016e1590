"""Carries HTTP between clients on the LAN and the pods of devices."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from aiohttp import HttpVersion11, hdrs, web

from fanout.limiter import LimitedLogger
from fanout.ssdp.core import urls
from fanout.ssdp.core.body import BodyBuffer, TooLarge
from fanout.ssdp.core.drop_reasons import HttpFailure
from fanout.ssdp.core.headers import (
    HEAD_MAX,
    PSEUDONYM,
    TRANSFORMED,
    absolute,
    carried,
    is_literal,
    reason,
    target,
    via,
)
from fanout.ssdp.core.port_map import PortMap
from fanout.ssdp.core.stats import HttpCounts
from fanout.ssdp.core.urls import TooManyUrls
from fanout.ssdp.http import gena
from fanout.ssdp.http.body_budget import BodyBudget, BodyReservation, Busy
from fanout.ssdp.http.gena import Events
from fanout.ssdp.http.server import Connection, HttpServer
from fanout.ssdp.http.splice import ClientGone, PodBroke, pump
from fanout.ssdp.http.upstream import (
    DOCUMENT_TIMEOUT,
    PIECE,
    ForwardedRequest,
    PodAnswer,
    RequestRefused,
    ResponseRewriter,
    Upstream,
)

log: logging.Logger = logging.getLogger("fanout")

BODY_MAX = 1024 * 1024
"""Bytes of a request's body."""
BODY_TIMEOUT = 10.0
"""Seconds for that to arrive."""
PUMP_MIN = 256 * 1024
"""Bytes of the smallest body that is carried from socket to socket (`splice`)."""
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "SUBSCRIBE", "UNSUBSCRIBE")
_ALLOWED = ", ".join(METHODS)
_RETRY_AFTER = 2
_TICK = 1.0  # seconds between two checks for expired subscriptions
_LINES = 5.0
_EMPTY = (204, 304)
_OF_THE_RELAY = ("host", "content-length", "accept-encoding", "expect")  # it writes its own


class Proxy:
    """Serves the ports of `port_map`, each of which leads to one HTTP server of a pod. Needs a running event loop.

    `is_pod` says whether an address is a pod of the Service: requests go to no other. `is_client` says whether a
    client is served, by its address and the address of this host that it has connected to.

    URLs of pods are rewritten in headers and in documents (XML, HTML, playlists), which are read whole for that; a
    client that asks for a range of a document gets all of it. Everything else passes untouched, as fast as the client
    reads it. Where a pod breaks off, so does the client's connection: no truncated body looks whole. Redirects are
    left to the client. Events of pods go to their subscribers (see `gena`).
    """

    def __init__(
        self,
        port_map: PortMap,
        is_pod: Callable[[str], bool],
        is_client: Callable[[str, str], bool],
        counts: HttpCounts,
    ) -> None:
        self._port_map = port_map
        self._is_pod = is_pod
        self._is_client = is_client
        self._counts = counts
        self._server = HttpServer(is_client, is_pod, self._serve, counts)
        self._rewriter = ResponseRewriter(port_map, is_pod, self._server.listen, counts)
        self._budget = BodyBudget()
        self._upstream = Upstream()
        self._events = Events(self._upstream, counts)
        self._warn_failed = LimitedLogger(log.warning, _LINES)
        self._is_closing = False
        self._expire_events()

    async def close(self) -> None:
        """Close all ports and end all connections."""
        self._is_closing = True
        self._tick.cancel()
        await self._server.close()
        await self._upstream.close()

    def listen(self, port: int) -> bool:
        """Serve a port from now on; return False where another program has it."""
        return self._server.listen(port)

    def _expire_events(self) -> None:
        self._events.expire()
        self._tick = asyncio.get_running_loop().call_later(_TICK, self._expire_events)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - narrows the type
        connection.begin(request)
        self._counts.requests[connection.port] += 1
        try:
            try:
                return await self._answer(request, connection)
            except RequestRefused as refused:
                return await self._refuse(request, connection, refused)
        except PodBroke as error:
            self._fail(HttpFailure.POD_BROKE, connection, str(error))
            connection.break_off()
            raise ConnectionResetError from error
        except (ClientGone, ConnectionError) as error:
            self._counts.failures[HttpFailure.CLIENT_GONE] += 1
            connection.break_off()
            raise ConnectionResetError from error
        except asyncio.CancelledError:
            if not self._is_closing:
                self._counts.failures[HttpFailure.CLIENT_GONE] += 1
            raise
        finally:
            connection.request = None

    async def _answer(self, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        if sum(len(name) + len(value) for name, value in request.raw_headers) > HEAD_MAX:
            raise RequestRefused(431, HttpFailure.REQUEST_TOO_LARGE, f"more than {HEAD_MAX} bytes of headers")
        raw, hosts = request.raw_path, request.headers.getall(hdrs.HOST, [])
        whole = absolute(raw)
        if whole is not None:  # Host is ignored then (RFC 9112, 3.2.2)
            hosts, raw = [whole[0]], whole[1]
        if len(hosts) > 1 or not all(map(is_literal, hosts)):
            raise RequestRefused(403, HttpFailure.WRONG_HOST, "Host must be the relay's IP address")
        path = target(raw)
        if raw == "*" and request.method == "OPTIONS":  # about the server as a whole (RFC 9110, 9.3.7)
            head = web.StreamResponse(headers={hdrs.ALLOW: _ALLOWED, hdrs.CONTENT_LENGTH: "0"})
            return await self._finish(request, connection, head)
        if path is None:
            raise RequestRefused(400, HttpFailure.BAD_REQUEST, "the target of a request must be a path")
        if request.method == "NOTIFY" and self._is_pod(connection.peer):
            return await self._notify(request, connection, path)
        if not self._is_client(connection.peer, connection.local):
            raise RequestRefused(403, HttpFailure.SOURCE_NOT_ALLOWED, "pods may only send events here")
        if request.method not in METHODS:
            raise RequestRefused(405, HttpFailure.WRONG_METHOD, f"the method must be one of {_ALLOWED}")
        origin = self._port_map.target(connection.port)
        if origin is None or not self._is_pod(origin.host):
            raise RequestRefused(503, HttpFailure.NO_POD, "the device is not there now")
        with self._budget.for_one(connection.peer) as reservation:
            body = await self._body(request, reservation)
            exchange = ForwardedRequest(request, connection, origin, path, _carried(request), body)
            if request.method == "SUBSCRIBE":
                return await self._subscribe(exchange)
            if request.method == "UNSUBSCRIBE":
                self._events.unsubscribe(connection, exchange.headers)
            return await self._forward(exchange)

    async def _body(self, request: web.BaseRequest, reservation: BodyReservation) -> bytes:
        """Return the whole body of a request: only then is it forwarded."""
        if (request.content_length or 0) > BODY_MAX:
            raise RequestRefused(413, HttpFailure.REQUEST_TOO_LARGE, f"more than {BODY_MAX} bytes")
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.version >= HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # that was not the answer
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                return await reservation.fill(
                    BodyBuffer(BODY_MAX), request.content_length or 0, request.content.readany
                )
        except Busy as error:
            raise RequestRefused(503, HttpFailure.BUSY, str(error)) from error
        except TooLarge as error:
            raise RequestRefused(413, HttpFailure.REQUEST_TOO_LARGE, str(error)) from error
        except TimeoutError as error:
            raise RequestRefused(408, HttpFailure.TOO_SLOW, f"the body took more than {BODY_TIMEOUT:g} s") from error
        except web.RequestPayloadError as error:
            raise RequestRefused(400, HttpFailure.BAD_REQUEST, "the body is broken") from error

    async def _forward(self, exchange: ForwardedRequest) -> web.StreamResponse:
        answer = await self._upstream.ask(exchange)
        try:
            if answer.status == 206 and answer.is_document:
                # Its offsets do not apply to the rewritten document: the whole is a valid answer (RFC 9110, 14.2).
                answer.close()
                exchange.headers = [pair for pair in exchange.headers if pair[0].lower() not in ("range", "if-range")]
                answer = await self._upstream.ask(exchange)
            if answer.is_document:
                return await self._send_document(exchange, answer)
            return await self._send_stream(exchange, answer, self._head(answer, exchange.connection))
        finally:
            answer.close()

    async def _begin(self, request: web.BaseRequest, head: web.StreamResponse) -> None:
        self._counts.statuses[head.status // 100] += 1
        head.headers.setdefault(hdrs.SERVER, PSEUDONYM)
        await head.prepare(request)

    async def _send_document(self, exchange: ForwardedRequest, answer: PodAnswer) -> web.StreamResponse:
        head = self._head(answer, exchange.connection, *TRANSFORMED)
        if exchange.request.method == "HEAD" or answer.status in _EMPTY:
            return await self._finish(exchange.request, exchange.connection, head)
        with self._budget.for_one(exchange.connection.peer) as reservation:
            body = await self._document(answer, exchange.connection.local, reservation)
            head.content_length = len(body)
            try:
                async with asyncio.timeout(DOCUMENT_TIMEOUT):
                    return await self._finish(exchange.request, exchange.connection, head, body)
            except TimeoutError as error:
                raise ClientGone(f"the client did not read a document within {DOCUMENT_TIMEOUT:g} s") from error

    async def _document(self, answer: PodAnswer, edge: str, reservation: BodyReservation) -> bytes:
        """Return a pod's document as the client gets it, and reserve memory for it."""
        whole = await self._upstream.document(answer, reservation)
        answer.close()
        try:
            body = await self._rewriter.body(whole, answer.headers.get(hdrs.CONTENT_TYPE, ""), edge)
            await reservation.grow(len(body))
        except TooManyUrls as error:
            raise RequestRefused(502, HttpFailure.DOCUMENT_TOO_LARGE, f"{answer.url} has {error}") from error
        except Busy as error:
            raise RequestRefused(503, HttpFailure.BUSY, f"{answer.url}: {error}") from error
        reservation.shrink(len(body))
        return body

    async def _send_stream(
        self, exchange: ForwardedRequest, answer: PodAnswer, head: web.StreamResponse
    ) -> web.StreamResponse:
        port = exchange.connection.port
        await self._begin(exchange.request, head)
        if exchange.request.method != "HEAD" and answer.status not in _EMPTY:
            if answer.size is not None and answer.size >= PUMP_MIN:
                await self._pump(exchange, answer, head, answer.size)
            else:
                while piece := await answer.piece():
                    await head.write(piece)
                    self._counts.bytes[port] += len(piece)
        await head.write_eof()
        return head

    async def _pump(self, exchange: ForwardedRequest, answer: PodAnswer, head: web.StreamResponse, rest: int) -> None:
        """Carry a body past aiohttp, which has read its beginning already."""

        def sent(size: int) -> None:
            self._counts.bytes[exchange.connection.port] += size

        downstream = exchange.request.transport
        if downstream is None or downstream.is_closing():
            raise ClientGone("the client left before the answer")
        downstream.set_write_buffer_limits(0)  # drain() then waits until the kernel has it all
        piece = answer.so_far()
        while True:
            await head.write(piece)  # sends the head, even if the piece is empty
            sent(len(piece))
            rest -= len(piece)
            piece = answer.so_far()
            if not piece:
                break
        await exchange.request.writer.drain()
        if rest:
            upstream = answer.transport
            if upstream is None:
                raise PodBroke(f"it ended {rest} bytes early")
            if downstream.is_closing():
                raise ClientGone("the client left during the body")
            # Duplicates: the event loop does not let others wait for a socket of one of its transports.
            with upstream.get_extra_info("socket").dup() as source, downstream.get_extra_info("socket").dup() as sink:
                await pump(source, sink, rest, sent)
        downstream.set_write_buffer_limits()

    async def _subscribe(self, exchange: ForwardedRequest) -> web.StreamResponse:
        subscription, exchange.headers = self._events.subscribe(exchange.connection, exchange.origin, exchange.headers)
        try:
            answer = await self._upstream.ask(exchange)
        except RequestRefused:
            self._events.answered(subscription, 0, "", None)
            raise
        try:
            head = self._head(answer, exchange.connection)
            sid, timeout = answer.headers.get(gena.SID, "").strip(), answer.headers.get("TIMEOUT")
            granted = self._events.answered(subscription, answer.status, sid, timeout)
            if granted is not None:
                head.headers["TIMEOUT"] = granted
            return await self._send_stream(exchange, answer, head)
        finally:
            answer.close()

    async def _notify(self, request: web.BaseRequest, connection: Connection, path: str) -> web.StreamResponse:
        """Carry a pod's event to its subscriber."""
        subscription = self._events.addressed(connection, path)
        with self._budget.for_one(connection.peer) as reservation:
            body = await self._body(request, reservation)
            content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
            if urls.is_document(content_type):
                try:
                    body = await self._rewriter.body(body, content_type, subscription.edge)
                except TooManyUrls as error:
                    raise RequestRefused(413, HttpFailure.DOCUMENT_TOO_LARGE, f"an event with {error}") from error
            status = await self._events.deliver(subscription, _carried(request), body)
        head = web.StreamResponse(status=status, headers={hdrs.CONTENT_LENGTH: "0"})
        return await self._finish(request, connection, head)

    def _head(self, answer: PodAnswer, connection: Connection, *without: str) -> web.StreamResponse:
        """Return the head of a pod's answer as the client gets it."""
        pairs = carried(answer.headers.items(), *without)
        headers = self._rewriter.headers(pairs, connection.local)
        return web.StreamResponse(status=answer.status, reason=reason(answer.reason), headers=headers)

    async def _finish(
        self, request: web.BaseRequest, connection: Connection, head: web.StreamResponse, body: bytes = b""
    ) -> web.StreamResponse:
        """Send a whole answer."""
        await self._begin(request, head)
        pieces = memoryview(body)
        for start in range(0, len(body), PIECE):
            piece = pieces[start : start + PIECE]
            await head.write(piece)
            self._counts.bytes[connection.port] += len(piece)
        await head.write_eof()
        return head

    async def _refuse(
        self, request: web.BaseRequest, connection: Connection, refused: RequestRefused
    ) -> web.StreamResponse:
        """Answer a refused request."""
        if refused.failure is not None:
            self._fail(refused.failure, connection, str(refused))
        head = web.StreamResponse(status=refused.status)
        head.content_type = "text/plain"
        if refused.status == 503:
            head.headers[hdrs.RETRY_AFTER] = str(_RETRY_AFTER)
        if refused.failure is HttpFailure.WRONG_METHOD:
            head.headers[hdrs.ALLOW] = _ALLOWED
        if not request.content.is_eof():
            head.force_close()
        body = f"{refused}\n".encode()
        head.content_length = len(body)
        return await self._finish(request, connection, head, b"" if request.method == "HEAD" else body)

    def _fail(self, failure: HttpFailure, connection: Connection, sentence: str) -> None:
        self._counts.failures[failure] += 1
        self._warn_failed(
            monotonic(),
            "http_failed: %(reason)s, from %(source)s to port %(port)d: %(sentence)s",
            {"reason": str(failure), "source": connection.peer, "port": connection.port, "sentence": sentence},
        )


def _carried(request: web.BaseRequest) -> list[tuple[str, str]]:
    """Return the end-to-end headers of a request."""
    return [*carried(request.headers.items(), *_OF_THE_RELAY), via(request.version)]
