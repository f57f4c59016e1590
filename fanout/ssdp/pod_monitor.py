"""Finds out which devices each pod has: searches it (M-SEARCH by unicast), and reads its descriptions over HTTP."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Collection
from time import monotonic

import aiohttp
from yarl import URL

from fanout import errno_text
from fanout.model import Endpoint
from fanout.ssdp.core import body, description, message
from fanout.ssdp.core.description import Description, InvalidDescription
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import Advert, Headers
from fanout.ssdp.core.responder import LearnName, Responder
from fanout.ssdp.core.settings import DescriptionPlace
from fanout.ssdp.lan import Lan
from fanout.ssdp.searches import CarryOut, PodAddresses, receive
from fanout.version import __version__

log: logging.Logger = logging.getLogger("fanout")

READ_TIMEOUT = 3.0
"""Seconds for reading a description."""
REFRESH = 30.0
"""Seconds between two searches of a pod whose devices are known."""
NAMES_MAX = 64
"""Names of devices of one pod."""
_RETRY_MIN, _RETRY_MAX = 0.25, 5.0
_READS_MAX = 32
"""Descriptions that are read at the same time."""
# Jellyfin does not answer a program without a name and a version.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"Linux UPnP/1.1 fanout/{__version__}"}
_ASKING, _LEARNING = "asking", "learning"


class Unreadable(Exception):
    """What was fetched is not a valid description."""


class DescriptionReader:
    """Reads at most `at_once` descriptions at a time, and keeps no state between them."""

    def __init__(self, at_once: int) -> None:
        self._turns = asyncio.Semaphore(at_once)

    async def read(self, url: str) -> tuple[Description, str] | None:
        """Return the description at `url` and its SERVER header; None where it cannot be fetched.

        Raises `Unreadable`. Redirects are not followed: whoever answers could make this host request anything.
        """
        try:
            async with (
                self._turns,
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=READ_TIMEOUT), headers=_HEADERS, auto_decompress=False
                ) as session,
                session.get(URL(url, encoded=True), allow_redirects=False) as response,
            ):
                if response.status != 200:
                    return None
                gathered = body.BodyBuffer(description.SIZE_MAX, response.headers.get("Content-Encoding", ""))
                while piece := await response.content.readany():
                    gathered.add(piece)
                return description.parse(gathered.whole()), response.headers.get("Server", "")
        except (InvalidDescription, body.TooLarge, body.Undecodable) as error:
            raise Unreadable(str(error)) from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.debug("description_missing: %(url)s: %(reason)s", {"url": url, "reason": errno_text.exception(error)})
            return None


class PodMonitor:
    """Searches each pod in a task of its own, soon after it has joined and every half minute.

    `descriptions` says where pods may have descriptions.
    """

    def __init__(
        self, descriptions: Collection[DescriptionPlace], responder: Responder, lan: Lan, carry_out: CarryOut
    ) -> None:
        self._descriptions = descriptions
        self._responder = responder
        self._lan = lan
        self._carry_out = carry_out
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}
        self._reader = DescriptionReader(_READS_MAX)
        self._learning: set[asyncio.Task[None]] = set()
        self._logged: set[tuple[str, str]] = set()
        """What was logged: a pod, with the URL of a description, `_ASKING` or `_LEARNING`."""
        self.names: dict[tuple[str, str], str] = {}
        """Friendly names from descriptions, by the pod's address and the UDN."""

    def follow(self, pods: Collection[Endpoint]) -> None:
        """Search these pods, and no others, from now on."""
        for gone in self._tasks.keys() - set(pods):
            self._tasks.pop(gone).cancel()
            self._forget(gone.host)
        for pod in pods:
            if pod not in self._tasks:
                self._tasks[pod] = asyncio.create_task(self._look_after(pod))

    def _forget(self, host: str) -> None:
        self._logged = {each for each in self._logged if each[0] != host}
        for key in [key for key in self.names if key[0] == host]:
            del self.names[key]

    async def close(self) -> None:
        """Stop monitoring."""
        tasks = [*self._tasks.values(), *self._learning]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_after(self, pod: Endpoint) -> None:
        """Search a pod, and start again if that fails."""
        while True:
            try:
                await self._look(pod)
            except Exception as error:  # such as too many open files
                if self._is_first(pod.host, _ASKING):
                    values = {"host": pod.host, "reason": errno_text.exception(error)}
                    log.warning("pod_not_asked: cannot query %(host)s, will retry: %(reason)s", values)
            await asyncio.sleep(_RETRY_MAX)

    async def _look(self, pod: Endpoint) -> None:
        delay = _RETRY_MIN
        addresses = PodAddresses([pod])
        with addresses.open_socket() as opened:
            loop = asyncio.get_running_loop()
            loop.add_reader(opened, self._take_answers, opened, pod)
            try:
                while True:
                    addresses.ask(opened, message.search(message.ALL, 1))
                    for place in self._descriptions:
                        await self._describe(pod.host, place.url(pod.host))
                    if pod.host in self._responder.known:
                        delay = _RETRY_MIN
                        await asyncio.sleep(REFRESH * random.uniform(0.9, 1.1))
                    else:
                        await asyncio.sleep(delay)
                        delay = min(2 * delay, _RETRY_MAX)
            finally:
                loop.remove_reader(opened)

    def _take_answers(self, opened: socket.socket, pod: Endpoint) -> None:
        for data, host, interface in receive(opened):
            if host == pod.host and self._lan.may_come_from(host, interface):
                self._carry_out(self._responder.pod_answered(host, data, monotonic()))
            else:
                self._responder.dropped[SsdpDrop.NOT_ASKED] += 1

    async def _describe(self, host: str, url: str) -> None:
        """Take the description of a pod at `url`, if there is one."""
        found = await self._read(host, url, about=url)
        if found is None:
            return
        self._logged.discard((host, url))
        described, server = found
        key = host, described.udn
        if key in self.names or self._may_name(host):
            self.names[key] = described.friendly_name
        try:
            headers = Headers([("SERVER", server)])
        except ValueError:  # with control characters
            headers = Headers()
        adverts = [Advert(nt, usn, url, message.MAX_AGE, headers) for nt, usn in described.adverts]
        self._carry_out(self._responder.description_read(host, adverts, monotonic()))

    def learn_name(self, wanted: LearnName) -> None:
        """Read the name of a pod's device, once and in the background."""
        key = wanted.pod, wanted.udn
        if key in self.names or len(self._learning) >= _READS_MAX:
            return
        if self._may_name(wanted.pod):
            self.names[key] = ""
            task = asyncio.create_task(self._learn(*wanted))
            self._learning.add(task)
            task.add_done_callback(self._learning.discard)

    def _may_name(self, host: str) -> bool:
        return sum(key[0] == host for key in self.names) < NAMES_MAX

    async def _learn(self, host: str, udn: str, url: str) -> None:
        found = await self._read(host, url, about=_LEARNING)
        # The pod may have left meanwhile, or describe another device there.
        if found is not None and found[0].udn == udn and (host, udn) in self.names:
            self.names[host, udn] = found[0].friendly_name

    async def _read(self, host: str, url: str, *, about: str) -> tuple[Description, str] | None:
        """Return the description at `url`; if it is invalid, log that once for each `about`."""
        try:
            return await self._reader.read(url)
        except Unreadable as error:
            if self._is_first(host, about):
                log.warning("description_unreadable: %(url)s: %(reason)s", {"url": url, "reason": str(error)})
            return None

    def _is_first(self, host: str, about: str) -> bool:
        """Whether to log that: once for each pod, which must not be able to fill the log."""
        is_first = (host, about) not in self._logged
        self._logged.add((host, about))
        return is_first
