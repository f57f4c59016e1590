"""`SsdpRelay`: lets the LAN find and play from the media server pods of a headless Service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Self

from fanout import options
from fanout.acl import parse_network
from fanout.discovery.refresher import Refresher, Resolver, resolver_for
from fanout.errors import Closed, InvalidInput, SocketUnavailable
from fanout.model import Endpoint, Family, Service
from fanout.net import interfaces
from fanout.net.multicast import INTERFACE_TIMEOUT, InterfaceState
from fanout.relay.core.ingress import check_pods
from fanout.relay.serving import ServingThread
from fanout.ssdp.core import message
from fanout.ssdp.core.announcer import AGAIN, Announce, Log
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.responder import Action, LearnName, OpenPort, Responder, SearchReply
from fanout.ssdp.core.settings import DESCRIPTIONS, HTTP_PORTS, PRIVATE, DescriptionPlace, parse_ports
from fanout.ssdp.core.stats import HttpCounts, SsdpStats
from fanout.ssdp.http.proxy import Proxy
from fanout.ssdp.lan import Lan
from fanout.ssdp.pod_listener import PodListener
from fanout.ssdp.pod_monitor import PodMonitor
from fanout.ssdp.searches import Searches

log: logging.Logger = logging.getLogger("fanout")

_TICK = 0.1
_LOOK = 1.0


class SsdpRelay:
    """Makes the UPnP devices of a Service's pods available on the LAN of `interface`.

    A search on the LAN (M-SEARCH, to the group or to the relay) goes to every pod, and each answer only to the client
    that searched, from the address and port that it expects. For pods that take no searches by unicast, the relay
    answers from their device descriptions (`descriptions`, each PORT/PATH). The devices of pods are announced on the
    LAN, and revoked when the pods leave the Service or the relay stops. The LOCATION of each device leads to a port of
    the relay (one of `http_ports`, FIRST-LAST), which carries HTTP to its pod, and which the device (UDN) keeps when
    its pod restarts.

    The relay reaches only pods of the Service, serves only the networks of `allow_source`, and answers only what
    arrives on `interface`: of one client 100 searches a second, 1,000 at once, and of all clients 500, 2,000 at once.

    All work is done in the thread that calls `serve`. Raises `InvalidService` and `InvalidInput`; opening raises
    `SocketUnavailable`, and so does `serve` where the interface does not appear within `interface_timeout` seconds.
    """

    def __init__(
        self,
        service: str,
        interface: str,
        *,
        http_ports: str = HTTP_PORTS,
        descriptions: Iterable[str] = DESCRIPTIONS,
        allow_source: Iterable[str] = PRIVATE,
        family: str = "any",
        nameserver: str | None = None,
        allow_loopback: bool = False,
        interface_timeout: float = INTERFACE_TIMEOUT,
        find_resolver: Callable[[Service], Resolver] | None = None,
    ) -> None:
        if isinstance(allow_source, str) or isinstance(descriptions, str):
            raise InvalidInput("allow_source and descriptions must be lists of strings")
        if not isinstance(interface, str) or not options.is_interface_name(interface):
            raise InvalidInput(f"interface must be a name such as eth0 (`ls /sys/class/net`); got {interface!r}")
        if interface == "lo":
            raise InvalidInput("interface must be that of a LAN; got 'lo', the loopback interface")
        self._service = Service(service, message.PORT, Family.parse(family))
        check_pods(self._service)
        if find_resolver is not None:
            resolver = find_resolver(self._service)
        else:
            resolver = resolver_for(self._service, nameserver=nameserver, allow_loopback=allow_loopback)
        self._refresher = Refresher(resolver, self._service.name)
        self._interface = InterfaceState(interface_timeout)
        allowed = tuple(map(parse_network, allow_source))
        if not allowed:
            raise InvalidInput("allow_source must name at least one network")
        self._responder = responder = Responder(parse_ports(http_ports), allowed, random.random)
        self._lan = lan = Lan(interface, allowed)
        self._http = HttpCounts()
        self._proxy: Proxy | None = None
        """Present while `serve` runs."""
        self._searches = Searches(responder, lan, self._carry_out)
        self._pods = PodMonitor(tuple(map(DescriptionPlace.parse, descriptions)), responder, lan, self._carry_out)
        self._pod_listener = PodListener(responder, interface, self._carry_out)
        self._endpoints: tuple[Endpoint, ...] | None = None
        """The pods in DNS; None before it has answered."""
        self._is_opened = False
        self._looked_at = 0.0
        self._serving = ServingThread()
        self._stopped = threading.Event()

    @property
    def stats(self) -> SsdpStats:
        """Counts since it was opened."""
        responder, http, known = self._responder, self._http.copy(), self._refresher.known
        return SsdpStats(
            devices=responder.announcer.devices(dict(self._pods.names), http),
            searches=self._searches.count,
            answers=self._searches.answers,
            sessions=len(self._searches),
            announcements=dict(responder.announcer.counts),
            foreign=responder.foreign,
            dropped=dict(responder.dropped),
            http=http,
            endpoints=len(known.endpoints),
            answer_age=None if self._service.literals is not None else known.age(monotonic()),
            resolver_failures=known.failures,
        )

    @property
    def waiting(self) -> str | None:
        """What it waits for, as one sentence: the interface, or an answer of DNS; None where it is ready."""
        return self._interface.waiting or self._refresher.waiting

    @property
    def silence(self) -> float:
        """Seconds since the last turn of `serve`'s loop; 0 before it began."""
        return self._serving.silence

    def open(self) -> Self:
        """Resolve in the background and listen; `with` and `serve` do so, too."""
        if self._stopped.is_set():
            raise Closed("the relay was stopped: make a new one")
        if not self._is_opened:
            self._is_opened = True
            self._open_lan(monotonic())
            self._refresher.start()
        return self

    def serve(self) -> None:
        """Relay until `stop`, or until an error ends it."""
        if self._stopped.is_set():
            return
        with self._serving:
            self.open()
            try:
                asyncio.run(self._serve())
            finally:
                self.close()

    def stop(self) -> None:
        """Send byebye for all devices and let `serve` return. Any thread or signal handler may call it."""
        self._stopped.set()
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._serving.wake()

    def close(self) -> None:
        """Release everything; `stop` and wait where another thread is in `serve`. Closing twice is fine."""
        self.stop()
        self._serving.wait()
        self._refresher.stop()
        self._lan.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def _serve(self) -> None:
        responder = self._responder
        self._proxy = Proxy(responder.port_map, lambda host: host in responder.hosts, self._lan.serves, self._http)
        woken, loop = asyncio.Event(), asyncio.get_running_loop()
        self._serving.wake = lambda: loop.call_soon_threadsafe(woken.set)
        try:
            self._watch_lan()
            while not self._stopped.is_set():
                self._tend(self._serving.begin_turn())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), _TICK)
            self._stop_listening()
            if farewell := responder.farewell(monotonic()):
                self._carry_out(farewell)
                await asyncio.sleep(AGAIN)
                self._carry_out(responder.time_passed(math.inf))
        finally:
            self._stop_listening()
            await self._pods.close()
            await self._proxy.close()

    def _stop_listening(self) -> None:
        self._unwatch_lan()
        self._searches.close()
        self._pod_listener.close()

    def _tend(self, now: float) -> None:
        """Check the interface, the pods, and what to announce."""
        if now - self._looked_at >= _LOOK:
            self._looked_at = now
            self._look_at_lan(now)
        known = self._refresher.known
        if known.settled and known.endpoints != self._endpoints:
            self._endpoints = known.endpoints
            self._follow(known.endpoints, now)
            if not known.endpoints:
                log.warning("service_empty: %(service)s has no pods (yet)", {"service": self._service.name})
        self._carry_out(self._responder.time_passed(now))

    def _look_at_lan(self, now: float) -> None:
        self._lan.forget_routes()
        if self._lan.is_open and self._lan.is_stale:
            self._unwatch_lan()
            self._lan.close()
            self._responder.lan_lost()
            self._interface.waiting = f"interface {self._lan.interface} is gone or down, or has other addresses"
            log.warning("interface_lost: %(reason)s", {"reason": self._interface.waiting})
        if not self._lan.is_open:
            self._open_lan(now)
            if self._lan.is_open:
                self._watch_lan()
        elif dropped := self._lan.take_drops():
            self._responder.dropped[SsdpDrop.KERNEL_BUFFER] += dropped

    def _open_lan(self, now: float) -> None:
        """Listen if the interface is ready; raise `SocketUnavailable` where waiting for it would not help."""
        try:
            self._lan.open()
        except SocketUnavailable as error:
            if self._interface.failed(error, now):
                log.warning("interface_waiting: %(reason)s", {"reason": str(error)})
            return
        self._interface.opened()
        values = {"interface": self._lan.interface, "address": self._lan.address}
        log.info("ssdp_listening: searches on %(interface)s (%(address)s) are answered", values)
        self._carry_out(self._responder.lan_opened(self._lan.address, now))

    def _watch_lan(self) -> None:
        for opened in self._lan.sockets:
            asyncio.get_running_loop().add_reader(opened, self._searches.take_searches, opened)

    def _unwatch_lan(self) -> None:
        for opened in self._lan.sockets:
            asyncio.get_running_loop().remove_reader(opened)

    def _follow(self, endpoints: tuple[Endpoint, ...], now: float) -> None:
        """Record which pods have joined or left."""
        pods = [each for each in endpoints if not self._is_itself(each)]
        hosts = frozenset(pod.host for pod in pods)
        self._searches.follow(pods)
        self._carry_out(self._responder.pods_changed(hosts, now))
        self._pods.follow(pods)
        self._pod_listener.follow(sorted(hosts))

    def _is_itself(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint is this host, where the relay would search itself."""
        if not interfaces.is_local(endpoint.host) or endpoint.host.startswith("127."):
            return False
        log.warning(
            "endpoint_is_relay: %(endpoint)s of %(service)s is this host itself, and left out: what a server has on "
            "the host's network is found without a relay",
            {"endpoint": str(endpoint), "service": self._service.name},
        )
        return True

    def _carry_out(self, actions: Iterable[Action]) -> None:
        """Carry out the actions of the responder."""
        pending = deque(actions)
        while pending:
            action = pending.popleft()
            if isinstance(action, SearchReply):
                if self._lan.send(action.data, action.client):
                    self._searches.answers += 1
                else:
                    self._responder.dropped[SsdpDrop.NOT_SENT] += 1
            elif isinstance(action, Announce):
                if self._lan.is_open and not self._lan.send(action.data):
                    self._responder.dropped[SsdpDrop.NOT_SENT] += 1
            elif isinstance(action, OpenPort):
                assert self._proxy is not None  # noqa: S101 - narrows the type
                is_open = self._proxy.listen(action.port)
                pending.extend(self._responder.port_opened(action.port, is_open, monotonic()))
            elif isinstance(action, LearnName):
                self._pods.learn_name(action)
            elif isinstance(action, Log):
                getattr(log, action.level)(action.message, action.values)
