"""A LAN segment with one media server that works, and pods for scripted devices that misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import urllib.parse
from collections.abc import Iterator
from typing import Any

from tests.system.ssdp import ssdp, web
from tests.system.ssdp.media import MIB
from tests.system.ssdp.scripted_device import ScriptedDevice
from tests.system.ssdp.servers import Minidlna, uuid
from tests.system.ssdp.site import POD_NETWORK, Site, SsdpRelay, make_site

UDN, OTHER_UDN = f"uuid:{uuid(0xBAD)}", f"uuid:{uuid(0xBAD2)}"
PODS = 7
_FILM_SIZE = 24 * MIB
_CLIP_SIZE = MIB // 2


class Segment:
    """The working media server is in the first pod.

    A relay lasts from test to test. It knows the devices of earlier tests, which are gone; it reads the descriptions
    of a pod, and logs what is wrong with them, only where it did not know that pod before.
    """

    def __init__(self, made: Site) -> None:
        self.site = made
        films = made.library("films")
        self.film = films.add("a film.wav", tail=_FILM_SIZE)
        self._clip = films.add("clip.wav", tail=_CLIP_SIZE)
        self.working: Minidlna = made.minidlna(made.network.pods[0], "Cinema", films)
        urls = web.music(made.edge, self.working.origin)
        self.film_path, self._clip_path = (urllib.parse.urlsplit(url).path for url in urls)
        """The paths in the URLs of its film and its clip."""
        self._devices = contextlib.ExitStack()

    def add_device(self, number: int, *arguments: Any, **named: Any) -> ScriptedDevice:
        """Start a scripted device in that pod; it ends with the test."""
        return self.keep(ScriptedDevice(self.site.network.pods[number], *arguments, **named))

    def keep(self, device: ScriptedDevice) -> ScriptedDevice:
        """Let a device end with the test."""
        return self._devices.enter_context(device)

    def relay(self, *udns: str) -> SsdpRelay:
        """Return the relay that lasts, once these devices and the working one are found."""
        relay = self.site.lasting_relay()
        self._find(*udns)
        return relay

    def start(self, *udns: str, arguments: tuple[str, ...] = ()) -> SsdpRelay:
        """Start a relay that ends with the test; return it once these devices and the working one are found."""
        started = self.site.relay(*arguments)
        self._find(*udns)
        return started

    def location_of(self, udn: str) -> str:
        return ssdp.find(self.site.source, udns=[udn])[udn].location

    def assert_others_work(self, relay: SsdpRelay) -> None:
        """Assert that the working media server is found and played, and that the relay lives."""
        location = self.location_of(self.working.udn)
        description = web.fetch(self.site.source, location)
        assert self.working.udn in description.text
        assert POD_NETWORK not in description.text
        played = web.fetch(self.site.source, location.removesuffix("/rootDesc.xml") + self._clip_path)
        assert hashlib.sha256(played.body).hexdigest() == self._clip.sha256
        assert relay.run.process.poll() is None
        assert "Traceback" not in relay.run.out + relay.run.err

    def clear(self) -> None:
        """End the scripted devices, and a relay that is to end with the test."""
        self._devices.close()
        self.site.end_relay(lasts=False)
        for host in (*self.site.network.sources, *self.site.network.pods):
            host.close_sockets()

    def _find(self, *udns: str) -> None:
        ssdp.find(self.site.source, udns={*udns, self.working.udn})


@contextlib.contextmanager
def make_segment() -> Iterator[Segment]:
    """Yield a segment with pods in which nothing runs yet."""
    with make_site(PODS) as made:
        yield Segment(made)
