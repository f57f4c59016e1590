"""Reads the descriptions of devices (HTTP): strangers' answers, within bounds."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
from yarl import URL

from fanout.net import errno_text
from fanout.ssdp.core import body, description
from fanout.ssdp.core.description import Description, InvalidDescription
from fanout.version import __version__

log = logging.getLogger("fanout")

SECONDS = 3.0
"""That a description may take."""
# Jellyfin does not answer a program without a name and a version.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"Linux UPnP/1.1 fanout/{__version__}"}


class Unreadable(Exception):
    """There is something, which is no description."""


class Reader:
    """Reads `at_once` descriptions at a time, and keeps nothing from one to the next. Made where a loop runs."""

    def __init__(self, at_once: int) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._client = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=SECONDS),
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            headers=_HEADERS,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def read(self, url: str) -> tuple[Description, str] | None:
        """Return what the description at `url` says, and who serves it (SERVER); None where there is none to be had.

        Raises `Unreadable`. A redirect is not followed: whoever answers could have this host ask for anything.
        """
        try:
            async with self._turns, self._client.get(URL(url, encoded=True), allow_redirects=False) as response:
                if response.status != 200:
                    return None
                gathered = body.Gathered(description.SIZE_MAX, response.headers.get("Content-Encoding", ""))
                while piece := await response.content.readany():
                    gathered.add(piece)
                return description.parse(gathered.whole()), response.headers.get("Server", "")
        except (InvalidDescription, body.TooLarge, body.Undecodable) as error:
            raise Unreadable(str(error)) from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.debug("description_missing: %(url)s: %(reason)s", {"url": url, "reason": errno_text.exception(error)})
            return None

    async def close(self) -> None:
        """Read no more."""
        await self._client.close()
