"""Requests to pods and, with events, to subscribers; the answers of pods, and the relay's URLs in them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from fanout import errno_text
from fanout.model import Endpoint
from fanout.ssdp.core import urls
from fanout.ssdp.core.body import DOCUMENT_MAX, BodyBuffer, TooLarge, Undecodable, can_unpack, is_packed
from fanout.ssdp.core.drop_reasons import HttpFailure
from fanout.ssdp.core.port_map import PortMap
from fanout.ssdp.core.stats import HttpCounts
from fanout.ssdp.core.urls import Authority, Origin
from fanout.ssdp.http.body_budget import CONNECTION_BUFFER, BodyReservation, Busy, SmallReadSocket
from fanout.ssdp.http.server import LINE_MAX, Connection
from fanout.ssdp.http.splice import PodBroke

CONNECT_TIMEOUT = 3.0
ANSWER_TIMEOUT = 30.0
"""Seconds for a pod to answer, and for each piece of its body."""
DOCUMENT_TIMEOUT = 60.0
"""Seconds for a document to arrive from the pod, and to be sent to the client."""
PIECE = 64 * 1024
"""Bytes of a body that are sent at a time: aiohttp copies them."""
_CLAIMS_MAX = 16  # servers of pods that one document can add; finding a port for each takes time
_SKIPPED = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)  # aiohttp would add them


class RequestRefused(Exception):
    """A request that the relay answers itself, with a sentence; `failure` is None where it is not counted."""

    def __init__(self, status: int, failure: HttpFailure | None, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.failure = failure


@dataclass(slots=True)
class ForwardedRequest:
    """A client's request that is forwarded to a pod."""

    request: web.BaseRequest
    connection: Connection
    origin: Origin
    path: str
    headers: list[tuple[str, str]]
    body: bytes


class Upstream:
    """Sends requests, each in a connection of its own. Needs a running event loop.

    The next request may be for another pod, and minidlna does not keep connections anyway. Redirects are not followed,
    cookies are not kept, and bodies are not decompressed.
    """

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=ANSWER_TIMEOUT),
            auto_decompress=False,
            read_bufsize=CONNECTION_BUFFER,
            max_line_size=LINE_MAX,
            max_field_size=LINE_MAX,
        )

    async def close(self) -> None:
        """Abort all requests."""
        await self._session.close()

    async def request(
        self, method: str, origin: Origin, path: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> aiohttp.ClientResponse:
        """Return an answer, once its head has arrived, to be closed; raises what aiohttp does."""
        authority = str(Endpoint(*origin))
        length = [(hdrs.CONTENT_LENGTH, str(len(body)))] if body else []
        return await self._session.request(
            method,
            URL(f"http://{authority}{path}", encoded=True),
            headers=CIMultiDict([(hdrs.HOST, authority), *headers, *length]),
            data=_pieces(body) if body else None,
            allow_redirects=False,
            skip_auto_headers=_SKIPPED,
        )

    async def ask(self, exchange: ForwardedRequest) -> PodAnswer:
        """Return a pod's answer, once its head has arrived, to be closed; raise `RequestRefused`."""
        there = str(Endpoint(*exchange.origin))
        headers = [*exchange.headers, (hdrs.ACCEPT_ENCODING, "identity")]
        try:
            response = await self.request(
                exchange.request.method, exchange.origin, exchange.path, headers, exchange.body
            )
        except aiohttp.ConnectionTimeoutError as error:
            sentence = f"{there} accepted no connection within {CONNECT_TIMEOUT:g} s"
            raise RequestRefused(502, HttpFailure.POD_UNREACHABLE, sentence) from error
        except aiohttp.ClientConnectorError as error:
            sentence = f"cannot reach {there}: {os.strerror(error.os_error.errno or 0)}"
            raise RequestRefused(502, HttpFailure.POD_UNREACHABLE, sentence) from error
        except TimeoutError as error:
            sentence = f"{there} sent nothing for {ANSWER_TIMEOUT:g} s"
            raise RequestRefused(504, HttpFailure.POD_BROKE, sentence) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise RequestRefused(502, HttpFailure.POD_BROKE, f"{there}: {errno_text.exception(error)}") from error
        if response.status < 200:
            response.close()
            raise RequestRefused(502, HttpFailure.POD_BROKE, f"{there} answers with an unrequested {response.status}")
        answer = PodAnswer(response)
        if not answer.codings <= {"chunked"}:
            answer.close()
            raise RequestRefused(502, HttpFailure.POD_BROKE, f"{there} compresses its answer, unrequested")
        return answer

    async def document(self, answer: PodAnswer, reservation: BodyReservation) -> bytes:
        """Return a whole document, decompressed, and reserve memory for it; raise `RequestRefused`."""
        try:
            if answer.size is not None and answer.size > DOCUMENT_MAX:
                raise TooLarge(f"{answer.size} bytes")
            # A compressed document can be of any size.
            size = DOCUMENT_MAX if is_packed(answer.encoding) else answer.size or 0
            async with asyncio.timeout(DOCUMENT_TIMEOUT):
                return await reservation.fill(BodyBuffer(DOCUMENT_MAX, answer.encoding), size, answer.piece)
        except Busy as error:
            raise RequestRefused(503, HttpFailure.BUSY, f"{answer.url}: {error}") from error
        except TooLarge as error:
            sentence = f"{answer.url} must be at most {DOCUMENT_MAX} bytes; got {error}"
            raise RequestRefused(502, HttpFailure.DOCUMENT_TOO_LARGE, sentence) from error
        except (Undecodable, PodBroke) as error:
            raise RequestRefused(502, HttpFailure.POD_BROKE, f"{answer.url}: {error}") from error
        except TimeoutError as error:
            sentence = f"{answer.url} took more than {DOCUMENT_TIMEOUT:g} s"
            raise RequestRefused(504, HttpFailure.POD_BROKE, sentence) from error


class PodAnswer:
    """A pod's answer: its head, and its body as it arrives. To be closed."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        connection = response.connection
        self._protocol = None if connection is None else connection.protocol
        self.status: int = response.status
        self.reason: str | None = response.reason
        self.headers: Mapping[str, str] = response.headers
        self.url: str = str(response.url)
        self.encoding: str = response.headers.get(hdrs.CONTENT_ENCODING, "")
        given = ",".join(response.headers.getall(hdrs.TRANSFER_ENCODING, [])).lower()
        self.codings: set[str] = {each.strip() for each in given.split(",")} - {"", "identity"}
        """Transfer codings (RFC 9112, 7)."""
        self.size: int | None = None if hdrs.TRANSFER_ENCODING in response.headers else response.content_length
        """Bytes of the body; None where the pod does not say."""

    @property
    def is_document(self) -> bool:
        """Whether URLs in its body are rewritten."""
        content_type = self.headers.get(hdrs.CONTENT_TYPE, "")
        return urls.is_document(content_type) and can_unpack(self.encoding)

    @property
    def transport(self) -> asyncio.Transport | None:
        """The connection that the rest of the body arrives on; None where all of it has arrived."""
        connection = self._response.connection
        transport = None if connection is None else connection.transport
        return None if transport is None or transport.is_closing() else transport

    async def piece(self) -> bytes:
        """Return the next piece of the body, empty at its end; raise `PodBroke`."""
        try:
            piece = await self._response.content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise PodBroke(errno_text.exception(error)) from error
        # aiohttp takes a reset for the end of a body that is as long as the connection lasts.
        problem = None if piece or self._protocol is None else self._protocol.exception()
        if isinstance(problem, aiohttp.ClientOSError):
            raise PodBroke(errno_text.exception(problem))
        return piece

    def so_far(self) -> bytes:
        """Return the part of the body that was read already, and stop reading; raise `PodBroke`."""
        try:
            piece = self._response.content.read_nowait()
        except (aiohttp.ClientError, OSError) as error:
            raise PodBroke(errno_text.exception(error)) from error
        transport = self.transport
        if transport is not None:
            transport.pause_reading()
        return piece

    def close(self) -> None:
        """Close its connection, even before the end of the body."""
        self._response.close()


class ResponseRewriter:
    """Rewrites headers and documents for a client that has connected to the address `edge`.

    `listen` opens a port that a document makes necessary, and returns whether it could.
    """

    def __init__(
        self, port_map: PortMap, is_pod: Callable[[str], bool], listen: Callable[[int], bool], counts: HttpCounts
    ) -> None:
        self._port_map = port_map
        self._is_pod = is_pod
        self._listen = listen
        self._counts = counts
        self._turn = asyncio.Lock()

    def headers(self, pairs: Iterable[tuple[str, str]], edge: str) -> CIMultiDict[str]:
        """Return headers as the client gets them."""
        authority = self._authority(edge)
        made: CIMultiDict[str] = CIMultiDict()
        for name, value in pairs:
            rewritten = urls.in_value(value, authority)
            self._counts.rewritten += rewritten != value
            made.add(name, rewritten)
        return made

    async def body(self, whole: bytes, content_type: str, edge: str) -> bytes:
        """Return a document as the client gets it; raise `TooManyUrls`. Others have a turn after each."""
        async with self._turn:
            rewritten = urls.in_text(whole, content_type, self._authority(edge))
            await asyncio.sleep(0)
        self._counts.rewritten += rewritten.changed
        self._counts.left += rewritten.left
        return rewritten.body

    def _authority(self, edge: str) -> Authority:
        claims = 0

        def authority(host: str, port: int) -> str | None:
            nonlocal claims
            if not self._is_pod(host):
                return None
            origin = Origin(host, port)
            found = self._port_map.known(origin)
            if found is None and claims < _CLAIMS_MAX:
                claims += 1
                found = self._claim(origin)
            return "" if found is None else str(Endpoint(edge, found))

        return authority

    def _claim(self, origin: Origin) -> int | None:
        """Return the first port that can be opened for an HTTP server of a pod; None where none can."""
        while (port := self._port_map.other(origin)) is not None:
            if self._listen(port):
                return port
            self._port_map.refuse(port)  # another program has it
        return None


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), PIECE):
        yield body[start : start + PIECE]


def _socket(address: tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, object]) -> SmallReadSocket:
    return SmallReadSocket(*address[:3])
