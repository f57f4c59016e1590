"""Knows which devices the pods have: asks each one (M-SEARCH by unicast), and reads its descriptions (HTTP)."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Collection

import aiohttp

from fanout.model import Endpoint
from fanout.net import explain
from fanout.ssdp import description, message
from fanout.ssdp.description import Description, InvalidDescription
from fanout.ssdp.http import documents
from fanout.ssdp.message import Advert, Headers
from fanout.ssdp.questions import answers, ask, open_socket
from fanout.ssdp.reasons import SsdpDrop
from fanout.ssdp.settings import DescriptionPlace

log = logging.getLogger("fanout")

REFRESH = 30.0
"""Seconds between two looks at a pod whose devices are known."""
_RETRY_MIN, _RETRY_MAX = 0.25, 5.0
_PATIENCE = aiohttp.ClientTimeout(total=3.0)
_READERS = 32
_NAMES_MAX = 4096


class Pods:
    """Looks after each pod in a task of its own, soon after it joined and every half minute.

    `heard` is called with each advert: of the pod itself, or (True) of its description.
    """

    def __init__(
        self,
        places: Collection[DescriptionPlace],
        heard: Callable[[str, Advert, bool], None],
        is_known: Callable[[str], bool],
        is_genuine: Callable[[str, int], bool],
        drop: Callable[[SsdpDrop], None],
    ) -> None:
        self._places = places
        self._heard = heard
        self._is_known = is_known
        self._is_genuine = is_genuine
        self._drop = drop
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}
        self._readers = asyncio.Semaphore(_READERS)
        self._client: aiohttp.ClientSession | None = None
        self._learning: set[asyncio.Task[None]] = set()
        self._complained: set[str] = set()
        self.names: dict[str, str] = {}
        """The friendly names that descriptions gave, by UDN."""

    def follow(self, pods: Collection[Endpoint]) -> None:
        """Look after these, and no others."""
        if self._client is None:
            # Nothing is kept from one look to the next.
            self._client = aiohttp.ClientSession(
                timeout=_PATIENCE, connector=aiohttp.TCPConnector(force_close=True, limit=0), auto_decompress=False
            )
        for gone in self._tasks.keys() - set(pods):
            self._tasks.pop(gone).cancel()
        for pod in pods:
            if pod not in self._tasks:
                self._tasks[pod] = asyncio.create_task(self._look_after(pod))

    async def close(self) -> None:
        """Look no more."""
        tasks = [*self._tasks.values(), *self._learning]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    async def _look_after(self, pod: Endpoint) -> None:
        delay = _RETRY_MIN
        with open_socket([pod]) as opened:
            loop = asyncio.get_running_loop()
            loop.add_reader(opened, self._readable, opened, pod)
            try:
                while True:
                    ask(opened, message.search(message.ALL, 1), [pod])
                    for place in self._places:
                        await self._describe(pod.host, place)
                    if self._is_known(pod.host):
                        delay = _RETRY_MIN
                        await asyncio.sleep(REFRESH * random.uniform(0.9, 1.1))
                    else:
                        await asyncio.sleep(delay)
                        delay = min(2 * delay, _RETRY_MAX)
            finally:
                loop.remove_reader(opened)

    def _readable(self, opened: socket.socket, pod: Endpoint) -> None:
        def is_genuine(host: str, interface: int) -> bool:
            return host == pod.host and self._is_genuine(host, interface)

        for host, advert in answers(opened, is_genuine, self._drop):
            self._heard(host, advert, False)

    async def _describe(self, host: str, place: DescriptionPlace) -> None:
        """Tell what a pod's description says, where it has one at that place."""
        url = place.url(host)
        found = await self._read(url)
        if found is None:
            return
        described, server = found
        try:
            headers = Headers([("SERVER", server)])
        except ValueError:  # with control characters
            headers = Headers()
        for nt, usn in described.adverts:
            self._heard(host, Advert(nt, usn, url, message.MAX_AGE, headers), True)

    def learn_name(self, udn: str, url: str) -> None:
        """Read the friendly name of a device, in the background and once."""
        if udn in self.names or self._client is None or len(self._learning) >= _READERS:
            return
        if len(self.names) >= _NAMES_MAX:
            self.names.clear()
        self.names[udn] = ""
        task = asyncio.create_task(self._learn(url))
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)

    async def _learn(self, url: str) -> None:
        await self._read(url)

    async def _read(self, url: str) -> tuple[Description, str] | None:
        """Return what the description at `url` says, and who serves it; None where there is none to be had."""
        assert self._client is not None  # noqa: S101 - narrows the type
        try:
            async with (
                self._readers,
                self._client.get(url, allow_redirects=False, headers={"Accept-Encoding": "identity"}) as response,
            ):
                if response.status != 200:
                    return None
                gathered = documents.Gathered(description.SIZE_MAX, response.headers.get("Content-Encoding", ""))
                while piece := await response.content.readany():
                    gathered.add(piece)
                described = description.parse(gathered.whole())
        except (InvalidDescription, documents.TooLarge, documents.Undecodable) as error:
            if url not in self._complained:
                self._complained.add(url)
                log.warning("description_unreadable: %(url)s: %(reason)s", {"url": url, "reason": str(error)})
            return None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.debug("description_missing: %(url)s: %(reason)s", {"url": url, "reason": explain.exception(error)})
            return None
        self._complained.discard(url)
        self.names[described.udn] = described.friendly_name
        return described, response.headers.get("Server", "")
