"""A home with one media server that is honest, and pods for others that are not."""

from __future__ import annotations

import contextlib
import hashlib
import urllib.parse
from collections.abc import Iterator
from typing import Any

from tests.system.ssdp import ssdp, web
from tests.system.ssdp.liar import Liar
from tests.system.ssdp.media import MIB
from tests.system.ssdp.servers import Minidlna, uuid
from tests.system.ssdp.world import POD_NETWORK, Home, SsdpRelay, home

LIAR, TWIN = f"uuid:{uuid(0xBAD)}", f"uuid:{uuid(0xBAD2)}"
PODS = 7
_FILM_SIZE = 24 * MIB
_CLIP_SIZE = MIB // 2


class Street:
    """The honest one is in the first pod.

    A relay goes on from test to test. It knows the devices of earlier tests, which are not there any more; it reads
    descriptions of a pod anew, and says in its log what is wrong with it, only where that pod is one that it did not
    know.
    """

    def __init__(self, made: Home) -> None:
        self.home = made
        films = made.library("films")
        self.film = films.add("a film.wav", tail=_FILM_SIZE)
        self._clip = films.add("clip.wav", tail=_CLIP_SIZE)
        self.honest: Minidlna = made.minidlna(made.world.pods[0], "Cinema", films)
        urls = web.music(made.edge, self.honest.origin)
        self.film_path, self._clip_path = (urllib.parse.urlsplit(url).path for url in urls)
        """What follows the origin in the URL of its film."""
        self._liars = contextlib.ExitStack()

    def lie(self, number: int, *arguments: Any, **named: Any) -> Liar:
        """Start a liar in that pod; it ends with the test."""
        return self.stay(Liar(self.home.world.pods[number], *arguments, **named))

    def stay(self, liar: Liar) -> Liar:
        """Let a liar end with the test."""
        return self._liars.enter_context(liar)

    def relay(self, *udns: str) -> SsdpRelay:
        """Return the relay that goes on, once these are found, and the one that is honest."""
        relay = self.home.relay_that_goes_on()
        self._find(*udns)
        return relay

    def start(self, *udns: str, arguments: tuple[str, ...] = ()) -> SsdpRelay:
        """Start a relay that ends with the test; return it once these are found, and the one that is honest."""
        started = self.home.relay(*arguments)
        self._find(*udns)
        return started

    def location_of(self, udn: str) -> str:
        return ssdp.find(self.home.source, udns=[udn])[udn].location

    def assert_rest_goes_on(self, relay: SsdpRelay) -> None:
        """Assert that the one that is honest is found and played, and that the relay lives."""
        location = self.location_of(self.honest.udn)
        description = web.fetch(self.home.source, location)
        assert self.honest.udn in description.text
        assert POD_NETWORK not in description.text
        played = web.fetch(self.home.source, location.removesuffix("/rootDesc.xml") + self._clip_path)
        assert hashlib.sha256(played.body).hexdigest() == self._clip.sha256
        assert relay.run.process.poll() is None
        assert "Traceback" not in relay.run.out + relay.run.err

    def clear(self) -> None:
        """End the liars, and a relay that is to end with the test."""
        self._liars.close()
        self.home.end_relay(goes_on=False)
        for host in (*self.home.world.sources, *self.home.world.pods):
            host.close_sockets()

    def _find(self, *udns: str) -> None:
        ssdp.find(self.home.source, udns={*udns, self.honest.udn})


@contextlib.contextmanager
def street() -> Iterator[Street]:
    """Yield it, with pods in which nothing runs yet."""
    with home(PODS) as made:
        yield Street(made)
