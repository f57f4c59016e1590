"""A home with one media server that is honest, and pods for others that are not."""

from __future__ import annotations

import contextlib
import hashlib
import urllib.parse
from collections.abc import Iterator
from typing import Any

from tests.support.waiting import until
from tests.system.dlna import ssdp, web
from tests.system.dlna.liar import Liar
from tests.system.dlna.media import MIB
from tests.system.dlna.servers import Minidlna, uuid
from tests.system.dlna.world import POD_NETWORK, Home, SsdpRelay, home

LIAR, TWIN = f"uuid:{uuid(0xBAD)}", f"uuid:{uuid(0xBAD2)}"
PODS = 7
_FILM_SIZE = 24 * MIB


class Street:
    """The honest one is in the first pod."""

    def __init__(self, made: Home) -> None:
        self.home = made
        films = made.library("films")
        self.film = films.add("film.mp4", tail=_FILM_SIZE)
        self.honest: Minidlna = made.minidlna(made.world.pods[0], "Cinema", films)
        found = made.control_point("play", self.honest.location, host=made.edge)
        (url,) = {each["url"] for each in found["resources"] if each["sha256"] == self.film.sha256}
        self.film_path: str = urllib.parse.urlsplit(url).path
        """What follows the origin in the URL of its film."""
        self._liars = contextlib.ExitStack()

    def lie(self, number: int, *arguments: Any, **named: Any) -> Liar:
        """Start a liar in that pod; it ends with the test."""
        return self._liars.enter_context(Liar(self.home.world.pods[number], *arguments, **named))

    def start(self, *udns: str) -> SsdpRelay:
        """Start a relay, and wait until these are found, and the one that is honest."""
        relay = self.home.relay()
        wanted = {*udns, self.honest.udn}
        until(lambda: wanted <= set(ssdp.find(self.home.source, udns=wanted, seconds=1)), f"{wanted} are found")
        return relay

    def location_of(self, udn: str) -> str:
        return ssdp.find(self.home.source, udns=[udn])[udn].location

    def assert_rest_goes_on(self, relay: SsdpRelay) -> None:
        """Assert that the one that is honest is found and played, and that the relay lives."""
        location = self.location_of(self.honest.udn)
        description = web.fetch(self.home.source, location)
        assert self.honest.udn in description.text
        assert POD_NETWORK not in description.text
        played = web.fetch(self.home.source, location.removesuffix("/rootDesc.xml") + self.film_path)
        assert hashlib.sha256(played.body).hexdigest() == self.film.sha256
        assert relay.run.process.poll() is None
        assert "Traceback" not in relay.run.out + relay.run.err

    def clear(self) -> None:
        """End the liars and the relay."""
        self._liars.close()
        self.home.edge.end_all()
        for host in (*self.home.world.sources, *self.home.world.pods):
            host.close_sockets()


@contextlib.contextmanager
def street() -> Iterator[Street]:
    """Yield it, with pods in which nothing runs yet."""
    with home(PODS) as made:
        yield Street(made)
