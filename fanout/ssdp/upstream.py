"""What the relay asks of pods over HTTP, and of their clients when a pod has an event for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict
from yarl import URL

from fanout.net import explain
from fanout.ssdp import documents, heads
from fanout.ssdp.documents import DOCUMENT_MAX, TooLarge, Undecodable
from fanout.ssdp.door import LINE_MAX
from fanout.ssdp.places import Origin
from fanout.ssdp.pump import PodBroke
from fanout.ssdp.reasons import HttpFailure

CONNECT_TIMEOUT = 3.0
ANSWER_TIMEOUT = 30.0
"""Seconds for a pod to answer, and for each piece of what it sends."""
DOCUMENT_TIMEOUT = 60.0
"""Seconds that a document may take, from the pod and to the client each."""
_SKIPPED = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)  # the library would add them
_LARGE = 1024 * 1024  # bytes of a document from which on one is held at a time


class Refused(Exception):
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
        self._large = asyncio.Lock()

    async def open(self) -> None:
        """Begin, in the running event loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=ANSWER_TIMEOUT),
            auto_decompress=False,
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
        """Return an answer of which the head has arrived, to be closed; raise as the library does."""
        assert self._session is not None  # noqa: S101 - narrows the type
        authority = heads.authority(origin.host, origin.port)
        return await self._session.request(
            method,
            URL(f"http://{authority}{path}", encoded=True),
            headers=CIMultiDict([(hdrs.HOST, authority), *headers]),
            data=body or None,
            allow_redirects=False,
            skip_auto_headers=_SKIPPED,
        )

    async def ask(
        self, method: str, origin: Origin, path: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> aiohttp.ClientResponse:
        """Return a pod's answer, of which the head has arrived, to be closed; raise `Refused`."""
        there = heads.authority(origin.host, origin.port)
        try:
            answer = await self.request(method, origin, path, [*headers, (hdrs.ACCEPT_ENCODING, "identity")], body)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Refused(502, HttpFailure.POD_UNREACHABLE, explain.exception(error)) from error
        except TimeoutError as error:
            sentence = f"{there} said nothing for {ANSWER_TIMEOUT:g} s"
            raise Refused(504, HttpFailure.POD_BROKE, sentence) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Refused(502, HttpFailure.POD_BROKE, f"{there}: {explain.exception(error)}") from error
        if answer.status < 200:
            answer.close()
            raise Refused(502, HttpFailure.POD_BROKE, f"{there} answers {answer.status}, which nobody asked for")
        return answer

    async def document(self, answer: aiohttp.ClientResponse) -> bytes:
        """Return the whole of a document, unpacked; raise `Refused`."""
        encoding = answer.headers.get(hdrs.CONTENT_ENCODING, "")
        size = answer.content_length
        try:
            if size is not None and size > DOCUMENT_MAX:
                raise TooLarge(f"{size} bytes")
            async with asyncio.timeout(DOCUMENT_TIMEOUT), contextlib.AsyncExitStack() as stack:
                if size is None or size > _LARGE or encoding:
                    await stack.enter_async_context(self._large)
                body = await documents.read(lambda: piece(answer), DOCUMENT_MAX)
                return documents.unpack(body, encoding, DOCUMENT_MAX)
        except TooLarge as error:
            sentence = f"{answer.url} is a document of {error}, of which no more than {DOCUMENT_MAX} are read"
            raise Refused(502, HttpFailure.DOCUMENT_TOO_LARGE, sentence) from error
        except (Undecodable, PodBroke) as error:
            raise Refused(502, HttpFailure.POD_BROKE, f"{answer.url}: {error}") from error
        except TimeoutError as error:
            sentence = f"{answer.url} took more than {DOCUMENT_TIMEOUT:g} s"
            raise Refused(504, HttpFailure.POD_BROKE, sentence) from error


async def piece(answer: aiohttp.ClientResponse) -> bytes:
    """Return some of a body once there is any, nothing at its end; raise `PodBroke`."""
    try:
        return await answer.content.readany()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise PodBroke(explain.exception(error)) from error


def read_so_far(answer: aiohttp.ClientResponse, transport: asyncio.Transport | None) -> bytes:
    """Return what the library has read of a body, and let it read no more; raise `PodBroke`."""
    try:
        there = answer.content.read_nowait()
    except (aiohttp.ClientError, OSError) as error:
        raise PodBroke(explain.exception(error)) from error
    if transport is not None:
        transport.pause_reading()
    return there
