"""Carries HTTP between clients on the LAN and the pods that their devices are in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from fanout.limiter import LineLimiter
from fanout.net import explain
from fanout.ssdp import documents, heads, rewrite
from fanout.ssdp.documents import DOCUMENT_MAX, TooLarge, Undecodable
from fanout.ssdp.door import LINE_MAX, Connection, Door
from fanout.ssdp.places import Origin, Places
from fanout.ssdp.pump import ClientGone, PodBroke, pump
from fanout.ssdp.reasons import HttpFailure
from fanout.ssdp.rewrite import Authority
from fanout.ssdp.stats import HttpCounts

log = logging.getLogger("fanout")

BODY_MAX = 1024 * 1024
"""Bytes of a request's body."""
BODY_TIMEOUT = 10.0
"""Seconds that it may take to arrive."""
DOCUMENT_TIMEOUT = 60.0
"""Seconds that a document may take, from the pod and to the client each."""
PATIENCE = aiohttp.ClientTimeout(total=None, sock_connect=3.0, sock_read=30.0)
"""For a pod to take a connection, and for each thing that it says."""
PUMP_MIN = 256 * 1024
"""Bytes from which on a body is pumped."""
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "SUBSCRIBE", "UNSUBSCRIBE")
_SKIPPED = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)  # the library would add them
_CLAIMS = 4  # ports that are tried for one server that a document names
_LARGE = 1024 * 1024  # bytes from which on documents are read one after the other
_RETRY_AFTER = 2
_LINES = 5.0


class Refused(Exception):
    """A request that is answered by the relay itself, with a sentence."""

    def __init__(self, status: int, failure: HttpFailure, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.failure = failure


class Proxy:
    """Serves the ports of `places`, each of which stands for one HTTP server of a pod.

    `is_pod` says whether an address is that of a pod of the Service: no other is ever connected to. `is_allowed` says
    whether an address of a client is served, `is_here` whether an address of this host is one that clients may come
    to. `on_claim` is called with a port that a document of a pod makes necessary; it listens, and says whether it can.

    A request goes to the pod in a connection of its own, and redirects are the client's. URLs of pods are rewritten in
    headers and in documents (XML, HTML, playlists), which are read whole for that; a range of a document is answered
    with all of it. Everything else is passed on untouched, as fast as the client takes it. Where a pod breaks off, so
    does the client's connection: nothing is cut short that looks whole.

    One event loop, one thread.
    """

    def __init__(
        self,
        places: Places,
        is_pod: Callable[[str], bool],
        is_allowed: Callable[[str], bool],
        is_here: Callable[[str], bool],
        counts: HttpCounts,
        *,
        on_claim: Callable[[int], bool],
    ) -> None:
        self._places = places
        self._is_pod = is_pod
        self._is_allowed = is_allowed
        self._is_here = is_here
        self._counts = counts
        self._on_claim = on_claim
        self._door = Door(self._is_welcome, self._serve, counts)
        self._session: aiohttp.ClientSession | None = None
        self._large = asyncio.Lock()
        self._lines = LineLimiter(_LINES)
        self._is_closing = False

    async def open(self) -> None:
        """Begin, in the running event loop."""
        self._session = aiohttp.ClientSession(
            # A pod may be another one by the next time, and minidlna keeps no connection anyway.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=PATIENCE,
            auto_decompress=False,
            max_line_size=LINE_MAX,
            max_field_size=LINE_MAX,
        )
        self._door.open()

    async def close(self) -> None:
        """Close all ports and end all connections."""
        self._is_closing = True
        await self._door.close()
        if self._session is not None:
            await self._session.close()

    def listen(self, port: int) -> bool:
        """Serve that port from now on; False where another program has it."""
        return self._door.listen(port)

    def _is_welcome(self, peer: str, local: str) -> bool:
        return self._is_client(peer, local) or self._is_pod(peer)

    def _is_client(self, peer: str, local: str) -> bool:
        return self._is_here(local) and self._is_allowed(peer)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - narrows the type
        connection.is_busy, connection.waits_since = True, None
        self._counts.requests[connection.port] += 1
        try:
            try:
                return await self._answer(request, connection)
            except Refused as refused:
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
            self._counts.failures[HttpFailure.CLIENT_GONE] += not self._is_closing
            raise
        finally:
            connection.is_busy = False

    async def _answer(self, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        if sum(len(name) + len(value) for name, value in request.raw_headers) > heads.HEAD_MAX:
            raise Refused(431, HttpFailure.REQUEST_TOO_LARGE, f"more than {heads.HEAD_MAX} bytes of headers")
        hosts = request.headers.getall(hdrs.HOST, [])
        if len(hosts) > 1 or not all(map(heads.is_literal, hosts)):
            raise Refused(403, HttpFailure.WRONG_HOST, "name the relay by its address, in Host too")
        if not self._is_client(connection.peer, connection.local):
            raise Refused(403, HttpFailure.SOURCE_NOT_ALLOWED, "pods tell of events here, and nothing else")
        if request.method not in METHODS:
            raise Refused(405, HttpFailure.WRONG_METHOD, f"there are {', '.join(METHODS)}")
        origin = self._places.target(connection.port)
        if origin is None or not self._is_pod(origin.host):
            raise Refused(503, HttpFailure.NO_POD, "the device is not there now")
        path = heads.target(request.raw_path)
        if path is None:
            raise Refused(400, HttpFailure.BAD_REQUEST, "the target of a request is a path")
        body = await self._body(request)
        headers = heads.carried(request.headers.items(), "host", "content-length", "accept-encoding", "expect")
        return await self._forward(request, connection, origin, path, headers, body)

    async def _body(self, request: web.BaseRequest) -> bytes:
        """Return the body of a request, which is whole before a pod hears of it."""
        if (request.content_length or 0) > BODY_MAX:
            raise Refused(413, HttpFailure.REQUEST_TOO_LARGE, f"more than {BODY_MAX} bytes")
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # an answer is still to come
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                return await documents.read(request.content.readany, BODY_MAX)
        except TooLarge as error:
            raise Refused(413, HttpFailure.REQUEST_TOO_LARGE, str(error)) from error
        except TimeoutError as error:
            raise Refused(408, HttpFailure.TOO_SLOW, f"the body took more than {BODY_TIMEOUT:g} s") from error
        except web.RequestPayloadError as error:
            raise Refused(400, HttpFailure.BAD_REQUEST, "the body is broken") from error

    async def _forward(
        self,
        request: web.BaseRequest,
        connection: Connection,
        origin: Origin,
        path: str,
        headers: list[tuple[str, str]],
        body: bytes,
    ) -> web.StreamResponse:
        answer = await self._ask(request.method, origin, path, headers, body)
        try:
            is_document = rewrite.is_document(answer.headers.get(hdrs.CONTENT_TYPE, ""))
            if is_document and answer.status == 206:
                # The offsets are those of what the pod has: the client gets all of it (RFC 9110, 14.2).
                answer.close()
                headers = [(name, value) for name, value in headers if name.lower() not in ("range", "if-range")]
                answer = await self._ask(request.method, origin, path, headers, body)
                is_document = rewrite.is_document(answer.headers.get(hdrs.CONTENT_TYPE, ""))
            is_document = is_document and documents.can_unpack(answer.headers.get(hdrs.CONTENT_ENCODING, ""))
            if is_document:
                return await self._send_document(request, connection, answer)
            return await self._send_stream(request, connection, answer)
        finally:
            answer.close()

    async def _ask(
        self, method: str, origin: Origin, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> aiohttp.ClientResponse:
        """Return the pod's answer, of which the head has arrived."""
        assert self._session is not None  # noqa: S101 - narrows the type
        authority = heads.authority(origin.host, origin.port)
        try:
            answer = await self._session.request(
                method,
                URL(f"http://{authority}{path}", encoded=True),
                headers=CIMultiDict([*headers, (hdrs.HOST, authority), (hdrs.ACCEPT_ENCODING, "identity")]),
                data=body or None,
                allow_redirects=False,
                skip_auto_headers=_SKIPPED,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Refused(502, HttpFailure.POD_UNREACHABLE, explain.exception(error)) from error
        except TimeoutError as error:
            sentence = f"{authority} said nothing for {PATIENCE.sock_read:g} s"
            raise Refused(504, HttpFailure.POD_BROKE, sentence) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Refused(502, HttpFailure.POD_BROKE, f"{authority}: {explain.exception(error)}") from error
        if answer.status < 200:
            answer.close()
            raise Refused(502, HttpFailure.POD_BROKE, f"{authority} answers {answer.status}, which nobody asked for")
        return answer

    async def _send_document(
        self, request: web.BaseRequest, connection: Connection, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        authority = self._authority(connection.local)
        without = [hdrs.CONTENT_LENGTH, hdrs.CONTENT_ENCODING, hdrs.ACCEPT_RANGES, hdrs.CONTENT_MD5]
        head = self._head(answer, authority, *(name.lower() for name in without))
        if request.method == "HEAD" or answer.status in (204, 304):
            return await self._finish(request, connection, head)
        body = await self._document(answer)
        rewritten = rewrite.in_text(body, answer.headers.get(hdrs.CONTENT_TYPE, ""), authority)
        self._counts.rewritten += rewritten.changed
        self._counts.left += rewritten.left
        head.content_length = len(rewritten.body)
        answer.close()
        try:
            async with asyncio.timeout(DOCUMENT_TIMEOUT):
                return await self._finish(request, connection, head, rewritten.body)
        except TimeoutError as error:
            raise ClientGone(f"it did not take a document within {DOCUMENT_TIMEOUT:g} s") from error

    async def _document(self, answer: aiohttp.ClientResponse) -> bytes:
        encoding = answer.headers.get(hdrs.CONTENT_ENCODING, "")
        size = answer.content_length
        async with contextlib.AsyncExitStack() as stack:
            try:
                if size is not None and size > DOCUMENT_MAX:
                    raise TooLarge(f"{size} bytes")
                async with asyncio.timeout(DOCUMENT_TIMEOUT):
                    if size is None or size > _LARGE or encoding:
                        await stack.enter_async_context(self._large)
                    body = await documents.read(lambda: _piece(answer), DOCUMENT_MAX)
                    return documents.unpack(body, encoding, DOCUMENT_MAX)
            except TooLarge as error:
                sentence = f"{answer.url} is a document of {error}, of which {DOCUMENT_MAX} are read"
                raise Refused(502, HttpFailure.DOCUMENT_TOO_LARGE, sentence) from error
            except (Undecodable, PodBroke) as error:
                raise Refused(502, HttpFailure.POD_BROKE, f"{answer.url}: {error}") from error
            except TimeoutError as error:
                sentence = f"{answer.url} took more than {DOCUMENT_TIMEOUT:g} s"
                raise Refused(504, HttpFailure.POD_BROKE, sentence) from error

    async def _send_stream(
        self, request: web.BaseRequest, connection: Connection, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        head = self._head(answer, self._authority(connection.local))
        self._counts.statuses[head.status // 100] += 1
        await head.prepare(request)
        rest = answer.content_length if hdrs.TRANSFER_ENCODING not in answer.headers else None
        if request.method != "HEAD" and answer.status not in (204, 304):
            if rest is not None and rest >= PUMP_MIN and answer.connection is not None:
                await self._pump(request, connection, head, answer, rest)
            else:
                while piece := await _piece(answer):
                    await head.write(piece)
                    self._counts.bytes[connection.port] += len(piece)
        await head.write_eof()
        return head

    async def _pump(
        self,
        request: web.BaseRequest,
        connection: Connection,
        head: web.StreamResponse,
        answer: aiohttp.ClientResponse,
        rest: int,
    ) -> None:
        """Carry a body past the library, which has copied the beginning of it already."""
        upstream = answer.connection.transport if answer.connection is not None else None
        downstream = request.transport
        if downstream is None:
            raise ClientGone("it went before the answer")
        downstream.set_write_buffer_limits(0)  # then a drain is until the kernel has it all
        piece = _there(answer, upstream)
        while True:
            await head.write(piece)  # the head as well, which an empty piece sends
            rest -= len(piece)
            self._counts.bytes[connection.port] += len(piece)
            piece = _there(answer, upstream)
            if not piece:
                break
        await request.writer.drain()
        if rest:
            await self._pump_rest(connection, upstream, downstream, rest)
        downstream.set_write_buffer_limits()

    async def _pump_rest(
        self, connection: Connection, upstream: asyncio.Transport | None, downstream: asyncio.Transport, rest: int
    ) -> None:
        def sent(size: int) -> None:
            self._counts.bytes[connection.port] += size

        if upstream is None or upstream.is_closing():
            raise PodBroke(f"it ended {rest} bytes early")
        if downstream.is_closing():
            raise ClientGone("it went before the answer")
        # Of their own, as the loop does not wait for those of its transports.
        source: socket.socket = upstream.get_extra_info("socket").dup()
        with source:
            sink: socket.socket = downstream.get_extra_info("socket").dup()
            with sink:
                await pump(source, sink, rest, sent)

    def _head(self, answer: aiohttp.ClientResponse, authority: Authority, *without: str) -> web.StreamResponse:
        headers: CIMultiDict[str] = CIMultiDict()
        for name, value in heads.carried(answer.headers.items(), *without):
            rewritten = rewrite.in_value(value, authority)
            self._counts.rewritten += rewritten != value
            headers.add(name, rewritten)
        if answer.method == "HEAD" and rewrite.is_document(answer.headers.get(hdrs.CONTENT_TYPE, "")):
            headers.popall(hdrs.CONTENT_LENGTH, None)
        return web.StreamResponse(status=answer.status, reason=heads.reason(answer.reason), headers=headers)

    async def _finish(
        self, request: web.BaseRequest, connection: Connection, head: web.StreamResponse, body: bytes = b""
    ) -> web.StreamResponse:
        self._counts.statuses[head.status // 100] += 1
        await head.prepare(request)
        await head.write_eof(body)
        self._counts.bytes[connection.port] += len(body)
        return head

    def _authority(self, edge: str) -> Authority:
        """Return what to put in the place of pods' addresses for a client that came to `edge`."""

        def instead(host: str, port: int) -> str | None:
            if not self._is_pod(host):
                return None
            origin = Origin(host, port)
            found = self._places.known(origin) or self._claim(origin)
            return "" if found is None else heads.authority(edge, found)

        return instead

    def _claim(self, origin: Origin) -> int | None:
        for _ in range(_CLAIMS):
            port = self._places.other(origin)
            if port is None or self._on_claim(port):
                return port
            self._places.refuse(port)
        return None

    async def _refuse(self, request: web.BaseRequest, connection: Connection, refused: Refused) -> web.StreamResponse:
        self._fail(refused.failure, connection, str(refused))
        response = web.StreamResponse(status=refused.status)
        response.content_type = "text/plain"
        if refused.failure is HttpFailure.NO_POD:
            response.headers[hdrs.RETRY_AFTER] = str(_RETRY_AFTER)
        if refused.failure is HttpFailure.WRONG_METHOD:
            response.headers[hdrs.ALLOW] = ", ".join(METHODS)
        if not request.content.is_eof():
            response.force_close()
        body = b"" if request.method == "HEAD" else f"{refused}\n".encode()
        response.content_length = len(body)
        return await self._finish(request, connection, response, body)

    def _fail(self, failure: HttpFailure, connection: Connection, sentence: str) -> None:
        self._counts.failures[failure] += 1
        if self._lines.allow(monotonic()):
            values: dict[str, Any] = {
                "reason": str(failure),
                "source": connection.peer,
                "port": connection.port,
                "sentence": sentence,
                "suppressed": self._lines.take_suppressed(),
            }
            log.warning(
                "http_failed: %(reason)s, from %(source)s to port %(port)d: %(sentence)s "
                "(%(suppressed)d such lines left out before)",
                values,
            )


def _there(answer: aiohttp.ClientResponse, upstream: asyncio.Transport | None) -> bytes:
    """Return what the library has read of a body, and let it read no more."""
    try:
        piece = answer.content.read_nowait()
    except (aiohttp.ClientError, OSError) as error:
        raise PodBroke(explain.exception(error)) from error
    if upstream is not None:
        upstream.pause_reading()
    return piece


async def _piece(answer: aiohttp.ClientResponse) -> bytes:
    """Return some of a body once there is any, nothing at its end."""
    try:
        return await answer.content.readany()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise PodBroke(explain.exception(error)) from error
