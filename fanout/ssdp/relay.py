"""`SsdpRelay`: media server pods behind a headless Service, found and played from the LAN."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from time import monotonic
from typing import Self

from fanout import options
from fanout.discovery.refresher import Refresher, Resolver, resolver_for
from fanout.errors import Closed, InvalidInput, SocketUnavailable
from fanout.model import Endpoint, Family, Service
from fanout.net import interfaces
from fanout.relay.core.acl import Acl
from fanout.relay.core.ingress import check_pods, parse_network
from fanout.relay.multicast import InterfaceNotReady
from fanout.relay.relay import INTERFACE_TIMEOUT
from fanout.ssdp.announcer import AGAIN, Announcer
from fanout.ssdp.core import message, urls
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import Advert, InvalidSsdp, Notify, NotifyKind
from fanout.ssdp.core.port_map import PortMap
from fanout.ssdp.core.registry import Announcement, Registry
from fanout.ssdp.core.settings import DESCRIPTIONS, HTTP_PORTS, PRIVATE, DescriptionPlace, parse_ports
from fanout.ssdp.core.stats import HttpCounts, SsdpStats
from fanout.ssdp.http.proxy import Proxy
from fanout.ssdp.lan import Lan
from fanout.ssdp.pod_listener import PodListener
from fanout.ssdp.pod_monitor import PodMonitor
from fanout.ssdp.responder import Responder

log = logging.getLogger("fanout")

_TICK = 0.1
_LOOK = 1.0


class SsdpRelay:
    """Makes the UPnP devices of a Service's pods devices of the LAN that `interface` is on.

    A search on the LAN (M-SEARCH, to the group or to the relay) is asked of every pod, and each answer goes to the
    very client that searched, from the address and port that it expects. For pods that take no search by unicast the
    relay answers from their device descriptions (`descriptions`, each PORT/PATH). What pods have is announced on the
    LAN, and revoked when they leave the Service or the relay stops. The LOCATION of each device leads to a port of the
    relay (one of `http_ports`, FIRST-LAST), which carries HTTP to its pod, and stays the device's (UDN) when its pod
    restarts.

    Only pods of the Service are reached by it, only `allow_source` (networks) is served, and only what came by
    `interface` is answered; a client is answered 100 searches a second, 1,000 at once, and all together 500, 2,000
    at once.

    One thread does it all, the one that calls `serve`. Raises `InvalidService` and `InvalidInput`; opening raises
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
            raise InvalidInput("allow_source and descriptions are lists")
        if not isinstance(interface, str) or not 0 < len(interface.encode()) <= 15:
            raise InvalidInput(f"{interface!r} is no name of an interface: write eth0, as `ls /sys/class/net` has it")
        if interface == "lo":
            raise InvalidInput("interface lo leads to no LAN")
        self._service = Service(service, message.PORT, Family.parse(family))
        check_pods(self._service)
        if find_resolver is not None:
            resolver = find_resolver(self._service)
        else:
            resolver = resolver_for(self._service, nameserver=nameserver, allow_loopback=allow_loopback)
        self._refresher = Refresher(resolver, self._service.name)
        self._interface_timeout = options.positive_number(
            "interface_timeout", interface_timeout, most=math.inf, unit="seconds", allow_zero=True
        )
        allowed = tuple(map(parse_network, allow_source))
        if not allowed:
            raise InvalidInput("allow_source names no network: nobody would be served")
        ports = parse_ports(http_ports)
        self._http = HttpCounts()
        self._dropped: Counter[SsdpDrop] = Counter()
        self._hosts: frozenset[str] = frozenset()
        self._named: tuple[Endpoint, ...] = ()
        """The pods, as DNS has them."""
        self._is_empty = False
        """Whether it was said that the Service has no pod."""
        self._known: set[str] = set()
        """Pods that have told of some device."""
        self._lan = Lan(interface)
        self._port_map = PortMap(ports[0], ports[-1])
        self._registry = Registry(self._dropped, random.random)
        served = Acl(allowed, None)
        self._proxy = Proxy(
            self._port_map,
            self._is_pod,
            # Linux takes what comes to any address by any interface: others of this host's networks are no LAN.
            lambda client: served.refusal(client, 0.0) is None and self._lan.leads_to(client),
            self._lan.is_here,
            self._http,
        )
        self._announcer = Announcer(self._lan, self._port_map, self._registry, self._proxy.listen, self._drop)
        self._clients = Responder(self._lan, allowed, self._registry, self._announcer, self._told, self._drop)
        self._pods = PodMonitor(
            tuple(map(DescriptionPlace.parse, descriptions)),
            self._told,
            self._described,
            self._known.__contains__,
            self._lan.may_come_from,
            self._drop,
        )
        self._pod_listener = PodListener(interface, self._overheard)
        self._waiting: str | None = "not opened yet"
        self._has_listened = False
        self._opened_at: float | None = None
        self._went_round_at = 0.0
        self._looked_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._server: int | None = None
        self._stopped = threading.Event()
        self._is_idle = threading.Event()
        self._is_idle.set()
        """Whether `serve` does not run."""

    @property
    def stats(self) -> SsdpStats:
        """Counts since it was opened."""
        http, known = self._http, self._refresher.known
        return SsdpStats(
            devices=self._announcer.devices(dict(self._pods.names), http),
            searches=self._clients.searches,
            answers=self._clients.answers,
            sessions=self._clients.waiting,
            announcements=dict(self._announcer.announcements),
            foreign=self._announcer.foreign,
            dropped=dict(self._dropped),
            http=replace(
                http,
                requests=dict(http.requests),
                bytes=dict(http.bytes),
                statuses=dict(http.statuses),
                failures=dict(http.failures),
            ),
            endpoints=len(known.endpoints),
            answer_age=None if self._service.literals is not None else known.age(monotonic()),
            resolver_failures=known.failures,
        )

    @property
    def waiting(self) -> str | None:
        """What it waits for, as one sentence: the interface, or an answer of DNS; None where it is ready."""
        return self._waiting or self._refresher.waiting

    @property
    def silence(self) -> float:
        """Seconds since `serve` last went round; 0 before it began."""
        return monotonic() - self._went_round_at if self._went_round_at else 0.0

    def open(self) -> Self:
        """Resolve in the background and listen; `with` and `serve` do it too."""
        if self._stopped.is_set():
            raise Closed("the relay was stopped: make a new one")
        if self._opened_at is None:
            self._opened_at = monotonic()
            self._open_lan()
            self._refresher.start()
        return self

    def serve(self) -> None:
        """Relay until `stop`, or until it cannot go on."""
        if self._stopped.is_set():
            return
        self.open()
        if not self._is_idle.is_set():
            raise InvalidInput("the relay is served already, by another thread: one is enough")
        self._is_idle.clear()
        self._server = threading.get_ident()
        try:
            asyncio.run(self._serve())
        finally:
            self._server = None
            self._is_idle.set()
            self.close()

    def stop(self) -> None:
        """Say byebye for all devices and let `serve` return. Any thread or signal handler may call it."""
        self._stopped.set()
        with contextlib.suppress(RuntimeError, AttributeError):  # no loop yet, or none any more
            self._loop.call_soon_threadsafe(self._wake.set)  # type: ignore[union-attr]

    def close(self) -> None:
        """Give everything back; where another thread is in `serve`, `stop` it and wait. Closing twice is fine."""
        self.stop()
        if self._server != threading.get_ident():
            self._is_idle.wait()
        self._refresher.stop()
        self._lan.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def _serve(self) -> None:
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            await self._proxy.open()
            self._watch_lan()
            while not self._stopped.is_set():
                self._went_round_at = monotonic()
                self._tend(self._went_round_at)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _TICK)
            self._hear_no_more()
            if farewell := self._registry.farewell():
                self._announce(farewell, monotonic())
                await asyncio.sleep(AGAIN)
                self._announcer.tend(math.inf)
        finally:
            self._hear_no_more()
            await self._pods.close()
            await self._proxy.close()

    def _hear_no_more(self) -> None:
        self._unwatch_lan()
        self._clients.close()
        self._pod_listener.close()

    def _tend(self, now: float) -> None:
        """See to the interface, the pods, and what is to be announced."""
        if now - self._looked_at >= _LOOK:
            self._looked_at = now
            self._look_at_lan(now)
        known = self._refresher.known
        if known.endpoints is not self._named:
            self._follow(known.endpoints, now)
        if known.settled and self._is_empty is bool(known.endpoints):
            self._is_empty = not known.endpoints
            if self._is_empty:
                log.warning("service_empty: %(service)s names no pod (yet)", {"service": self._service.name})
        self._announce(self._registry.due(now), now)
        self._announcer.tend(now)
        for udn, pod, owner in self._registry.take_conflicts():
            log.warning(
                "udn_taken: %(host)s has the identity of %(owner)s, %(udn)s: it is announced when that one has gone",
                {"udn": udn, "host": pod, "owner": owner},
            )

    def _look_at_lan(self, now: float) -> None:
        if self._lan.is_open and self._lan.is_stale:
            self._unwatch_lan()
            self._lan.close()
            self._waiting = f"interface {self._lan.interface} is gone or down, or has other addresses"
            log.warning("interface_lost: %(reason)s", {"reason": self._waiting})
        if not self._lan.is_open:
            before = self._lan.address
            self._open_lan()
            if self._lan.is_open:
                self._watch_lan()
                everything = self._registry.answers(message.ALL, None)
                if before not in ("", self._lan.address):  # players would keep the address that is gone
                    self._announce([Announcement(NotifyKind.BYEBYE, pod, advert) for pod, advert in everything], now)
                self._announce([Announcement(NotifyKind.ALIVE, pod, advert) for pod, advert in everything], now)
            elif not self._has_listened and now - (self._opened_at or now) > self._interface_timeout:
                raise SocketUnavailable(f"{self._waiting} (waited {self._interface_timeout:g} s)")
        elif dropped := self._lan.take_drops():
            self._dropped[SsdpDrop.KERNEL_BUFFER] += dropped

    def _open_lan(self) -> None:
        """Listen where the interface is there; raise `SocketUnavailable` where that never worked for another reason."""
        try:
            self._lan.open()
        except SocketUnavailable as error:
            if not isinstance(error, InterfaceNotReady) and not self._has_listened:
                raise
            if self._waiting != str(error):
                self._waiting = str(error)
                log.warning("interface_waiting: %(reason)s", {"reason": self._waiting})
            return
        self._has_listened = True
        self._waiting = None
        values = {"interface": self._lan.interface, "address": self._lan.address}
        log.info("ssdp_listening: searches on %(interface)s (%(address)s) are answered", values)

    def _watch_lan(self) -> None:
        for opened in self._lan.sockets:
            asyncio.get_running_loop().add_reader(opened, self._clients.arrived, opened)

    def _unwatch_lan(self) -> None:
        for opened in self._lan.sockets:
            asyncio.get_running_loop().remove_reader(opened)

    def _follow(self, endpoints: tuple[Endpoint, ...], now: float) -> None:
        """Take note of pods that have joined or left."""
        self._named = endpoints
        self._clients.pods = endpoints = tuple(each for each in endpoints if not self._is_itself(each))
        hosts = frozenset(endpoint.host for endpoint in endpoints)
        gone, self._hosts = self._hosts - hosts, hosts
        self._known -= gone
        for host in gone:
            self._port_map.gone(host)
        self._announce(self._registry.pods(hosts, now), now)
        self._pods.follow(endpoints)
        self._pod_listener.follow(sorted(hosts))

    def _is_itself(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint is this host, where the relay would ask itself."""
        if not interfaces.is_local(endpoint.host) or endpoint.host.startswith("127."):
            return False
        log.warning(
            "endpoint_is_relay: %(endpoint)s of %(service)s is this host itself, and left out: what a server has on "
            "the host's network is found without a relay",
            {"endpoint": str(endpoint), "service": self._service.name},
        )
        return True

    def _is_pod(self, host: str) -> bool:
        return host in self._hosts

    def _drop(self, reason: SsdpDrop) -> None:
        self._dropped[reason] += 1

    def _announce(self, announcements: Collection[Announcement], now: float) -> None:
        if announcements:
            self._announcer.announce(announcements, now)

    def _told(self, host: str, advert: Advert) -> None:
        """Take note of what a pod says that it has."""
        if host not in self._hosts:
            return
        self._known.add(host)
        now = monotonic()
        self._announce(self._registry.heard(host, advert, now), now)
        if advert.nt == message.ROOT_DEVICE and self._registry.is_owner(host, advert.udn):
            found = urls.location(advert.location)
            if found is not None and found[0] == host:
                self._pods.learn_name(host, advert.udn, advert.location)

    def _described(self, host: str, adverts: Collection[Advert]) -> None:
        """Take note of all that a description of a pod says."""
        if host in self._hosts:
            self._known.add(host)
            now = monotonic()
            self._announce(self._registry.described(host, adverts, now), now)

    def _overheard(self, data: bytes, host: str) -> None:
        """Take note of what a pod announces by itself."""
        if host not in self._hosts:
            return
        try:
            notify = message.parse(data)
        except InvalidSsdp as error:
            self._drop(error.reason)
            return
        if not isinstance(notify, Notify):
            return
        now = monotonic()
        if notify.kind is NotifyKind.ALIVE:
            self._told(host, notify.advert)
        elif notify.kind is NotifyKind.UPDATE:
            self._announce(self._registry.updated(host, notify.advert, now), now)
        else:
            self._announce(self._registry.left(host, notify.advert, now), now)
