"""Puts the relay in the place of pods in what is carried to clients, and has a port for each that is named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from multidict import CIMultiDict

from fanout.model import Endpoint
from fanout.ssdp.core import urls
from fanout.ssdp.core.port_map import Origin, Places
from fanout.ssdp.core.stats import HttpCounts
from fanout.ssdp.core.urls import Authority
from fanout.ssdp.http import ports

_CLAIMS_MAX = 16  # servers of pods that one document can add; a look for a port of theirs takes its time


class Rewriting:
    """Rewrites headers and documents for a client that came to the address `edge`.

    `listen` opens a port that a document makes necessary, and says whether it could.
    """

    def __init__(
        self, places: Places, is_pod: Callable[[str], bool], listen: Callable[[int], bool], counts: HttpCounts
    ) -> None:
        self._places = places
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

        def instead(host: str, port: int) -> str | None:
            nonlocal claims
            if not self._is_pod(host):
                return None
            origin = Origin(host, port)
            found = self._places.known(origin)
            if found is None and claims < _CLAIMS_MAX:
                claims += 1
                found = self._claim(origin)
            return "" if found is None else str(Endpoint(edge, found))

        return instead

    def _claim(self, origin: Origin) -> int | None:
        return ports.opened(lambda: self._places.other(origin), self._listen, self._places.refuse)
