"""Requests to pods, and to subscribers when a pod has an event; pods' answers, and the relay's URLs in them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

import aiohttp
from aiohttp import hdrs
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
from fanout.ssdp.http.server import LINE_MAX
from fanout.ssdp.http.splice import PodBroke

CONNECT_TIMEOUT = 3.0
ANSWER_TIMEOUT = 30.0
"""Seconds for a pod to answer, and for each piece of what it sends."""
DOCUMENT_TIMEOUT = 60.0
"""Seconds that a document may take, from the pod and to the client each."""
_PIECE = 64 * 1024  # bytes of a body that are sent at a time: the library has a copy of them
_CLAIMS_MAX = 16  # servers of pods that one document can add; a look for a port of theirs takes its time
_SKIPPED = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)  # the library would add them


class RequestRefused(Exception):
    """A request that the relay answers itself, with a sentence; `failure` is None where nothing is wrong with it."""

    def __init__(self, status: int, failure: HttpFailure | None, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.failure = failure


class Upstream:
    """Asks, each time in a connection of its own.

    A pod may be another one by the next time, and minidlna keeps no connection anyway. Redirects are not followed,
    cookies not kept, bodies not unpacked.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Start, in the running event loop."""
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
        """End all that is under way."""
        if self._session is not None:
            await self._session.close()

    async def request(
        self, method: str, origin: Origin, path: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> aiohttp.ClientResponse:
        """Return an answer whose head has arrived, to be closed; raise as the library does."""
        assert self._session is not None  # noqa: S101 - narrows the type
        authority = str(Endpoint(origin.host, origin.port))
        return await self._session.request(
            method,
            URL(f"http://{authority}{path}", encoded=True),
            headers=CIMultiDict([(hdrs.HOST, authority), *headers, *_length(body)]),
            data=_pieces(body) if body else None,
            allow_redirects=False,
            skip_auto_headers=_SKIPPED,
        )

    async def ask(
        self, method: str, origin: Origin, path: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> PodAnswer:
        """Return a pod's answer whose head has arrived, to be closed; raise `RequestRefused`."""
        there = str(Endpoint(origin.host, origin.port))
        try:
            response = await self.request(method, origin, path, [*headers, (hdrs.ACCEPT_ENCODING, "identity")], body)
        except aiohttp.ConnectionTimeoutError as error:
            sentence = f"{there} took no connection within {CONNECT_TIMEOUT:g} s"
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
        """Return the whole of a document, unpacked, for which memory is reserved then; raise `RequestRefused`."""
        try:
            if answer.size is not None and answer.size > DOCUMENT_MAX:
                raise TooLarge(f"{answer.size} bytes")
            # What is packed can be of any size.
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
    """What a pod answers: its head, and the body as it comes. To be closed."""

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
        """How the transfer is coded (RFC 9112, 7)."""
        self.size: int | None = None if hdrs.TRANSFER_ENCODING in response.headers else response.content_length
        """Bytes of the body, where the pod says so."""

    @property
    def is_document(self) -> bool:
        """Whether URLs of its body are to be rewritten."""
        content_type = self.headers.get(hdrs.CONTENT_TYPE, "")
        return urls.is_document(content_type) and can_unpack(self.encoding)

    @property
    def transport(self) -> asyncio.Transport | None:
        """Where the rest of the body comes from; None where all of it came."""
        connection = self._response.connection
        transport = None if connection is None else connection.transport
        return None if transport is None or transport.is_closing() else transport

    async def piece(self) -> bytes:
        """Return some of the body once there is any, nothing at its end; raise `PodBroke`."""
        try:
            piece = await self._response.content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise PodBroke(errno_text.exception(error)) from error
        # To the library, a connection that was reset is the end of a body that lasts to the connection's.
        problem = None if piece or self._protocol is None else self._protocol.exception()
        if isinstance(problem, aiohttp.ClientOSError):
            raise PodBroke(errno_text.exception(problem))
        return piece

    def so_far(self) -> bytes:
        """Return what has been read of the body, and stop reading; raise `PodBroke`."""
        try:
            piece = self._response.content.read_nowait()
        except (aiohttp.ClientError, OSError) as error:
            raise PodBroke(errno_text.exception(error)) from error
        transport = self.transport
        if transport is not None:
            transport.pause_reading()
        return piece

    def close(self) -> None:
        """End its connection, whatever is still to come."""
        self._response.close()


class ResponseRewriter:
    """Rewrites headers and documents for a client that came to the address `edge`.

    `listen` opens a port that a document makes necessary, and says whether it could.
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
        """Return them as they are for the client."""
        authority = self._authority(edge)
        made: CIMultiDict[str] = CIMultiDict()
        for name, value in pairs:
            rewritten = urls.in_value(value, authority)
            self._counts.rewritten += rewritten != value
            made.add(name, rewritten)
        return made

    async def body(self, whole: bytes, content_type: str, edge: str) -> bytes:
        """Return a document; raise `TooManyUrls`. One at a time: others have a turn in between."""
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
        """Return a port for an HTTP server of a pod, the first that can be opened; None where there is none."""
        while (port := self._port_map.other(origin)) is not None:
            if self._listen(port):
                return port
            self._port_map.refuse(port)  # another program has it
        return None


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


def _length(body: bytes) -> list[tuple[str, str]]:
    return [(hdrs.CONTENT_LENGTH, str(len(body)))] if body else []


def _socket(address: tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, object]) -> SmallReadSocket:
    return SmallReadSocket(*address[:3])
