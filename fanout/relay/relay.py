"""`Relay` forwards what comes to its ingresses to every pod."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Self

from fanout import errno_text, options
from fanout.discovery.refresher import Resolver, resolver_for
from fanout.errors import Closed, InvalidIngress, SocketUnavailable
from fanout.model import Family, Service
from fanout.net import interfaces
from fanout.net.bind import RECEIVE_BUFFER
from fanout.net.multicast import INTERFACE_TIMEOUT
from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.ingress import Ingress, check
from fanout.relay.core.loop_guard import LoopGuard
from fanout.relay.core.runs import join
from fanout.relay.core.stats import RelayStats
from fanout.relay.egress import SendBudget
from fanout.relay.egress_set import EgressSet
from fanout.relay.port import ARENA, Port
from fanout.relay.self_filter import SelfFilter
from fanout.relay.service_pods import ServicePods
from fanout.relay.serving import ServingThread
from fanout.relay.source import Source
from fanout.report import DropReason

log: logging.Logger = logging.getLogger("fanout")

_CHECK = 1.0  # seconds between two checks of interfaces and pods, where nothing signals a change
_CHECK_SOON = 0.05  # the same while something is awaited
_STOP_WAIT = 1.0  # seconds, when the relay stops, for a first answer of DNS, and for full sockets
_STOP_FORWARD = 3.0  # the same, for what the kernel holds


class Relay:
    """Forwards what comes to its ingresses to every pod of their Services, byte for byte, and answers nobody.

    `ingresses` are URLs (see `Ingress.parse`), to which `service`, `to_port`, `allow_source` and `limit` apply, or
    `Ingress` objects. What has arrived is forwarded at once, in order, as runs of equal sizes where the kernel
    supports them (GSO); nothing waits for more to come. The pods are followed as by a `Sender`.

    An ingress whose interface is missing listens once it appears, and again after it was replaced: `waiting` says
    so. With `loop_guard` a payload that was forwarded is not forwarded again when it comes back from another source
    within 5 s. A pod that takes nothing delays no other; a flood on one ingress takes turns with the others.

    All work is done in the thread that calls `serve`. Raises `InvalidIngress` and `InvalidService`; opening raises
    `SocketUnavailable`, and so does `serve` for an interface that does not appear within `interface_timeout` seconds.
    """

    def __init__(
        self,
        service: str = "",
        ingresses: Iterable[str | Ingress] = (),
        *,
        to_port: int | None = None,
        allow_source: Iterable[str] = (),
        limit: float | None = None,
        loop_guard: bool = False,
        family: str = "any",
        nameserver: str | None = None,
        allow_loopback: bool = False,
        receive_buffer: int = RECEIVE_BUFFER,
        interface_timeout: float = INTERFACE_TIMEOUT,
        find_resolver: Callable[[Service], Resolver] | None = None,
    ) -> None:
        if isinstance(ingresses, str):
            raise InvalidIngress(f"ingresses must be a list of URLs; got {ingresses!r}")
        allowed = allow_source if isinstance(allow_source, str) else tuple(allow_source)
        parsed = [
            each
            if isinstance(each, Ingress)
            else Ingress.parse(each, service=service, to_port=to_port, allow_source=allowed, limit=limit)
            for each in ingresses
        ]
        check(parsed)
        options.whole_number("receive_buffer", receive_buffer, least=1, unit="bytes")
        if find_resolver is None:
            find_resolver = partial(resolver_for, nameserver=nameserver, allow_loopback=allow_loopback)
        self._pods: dict[str, ServicePods] = {}
        for each in parsed:
            if each.service not in self._pods:
                wanted = Service(each.service, each.port_at_pods(each.first_port), Family.parse(family))
                self._pods[each.service] = ServicePods(wanted, find_resolver(wanted))
        self._self_filter = SelfFilter(parsed)
        self._counting = threading.RLock()
        """Held while counts move, and while they are read; reentrant, for a signal handler may read them."""
        guard = LoopGuard() if loop_guard else None
        budget = SendBudget()
        self._sources = [
            Source(
                each,
                self._pods[each.service],
                guard,
                self._self_filter,
                budget,
                self._counting,
                receive_buffer=receive_buffer,
                interface_timeout=interface_timeout,
            )
            for each in parsed
        ]
        self._egress_set = EgressSet(self._pods, self._sources, self._self_filter, self._counting)
        self._ports: dict[int, tuple[Source, Port]] = {}
        """The ports that are read, by their descriptors."""
        self._poll: select.epoll
        self._watch: interfaces.InterfaceWatch | None = None
        self._wake: socket.socket | None = None
        """Writing to it wakes `serve`; None before `open`."""
        self._opened = contextlib.ExitStack()
        """Closes what `open` has opened besides the ingresses."""
        self._serving = ServingThread()
        self._arena = memoryview(bytearray(ARENA))
        self._interfaces_changed = False
        """Whether the kernel has reported a change since the last check."""
        self._stopped = False
        self._is_closed = False

    @property
    def stats(self) -> RelayStats:
        """Counts since it was opened."""
        with self._counting:
            pods = self._egress_set.pod_stats
            copies = [*pods, self._egress_set.left]
            sent, refused = sum(each.sent for each in copies), sum(each.refused for each in copies)
            dropped: Counter[DropReason] = sum((Counter(each.dropped) for each in copies), Counter())
            ingresses = [source.stats for source in self._sources]
        now = monotonic()
        # A literal list is never resolved again: it has no age.
        ages = [each.refresher.known.age(now) for each in self._pods.values() if each.service.literals is None]
        return RelayStats(
            ingresses,
            pods,
            sent,
            refused,
            dict(dropped),
            None if None in ages else max((age for age in ages if age is not None), default=None),
            sum(each.refresher.known.failures for each in self._pods.values()),
        )

    @property
    def waiting(self) -> str | None:
        """What it waits for, as one sentence: an interface, or an answer of DNS; None where it is ready."""
        for source in self._sources:
            if source.state.waiting is not None:
                return source.state.waiting
        return next(filter(None, (pods.refresher.waiting for pods in self._pods.values())), None)

    @property
    def silence(self) -> float:
        """Seconds since the last turn of `serve`'s loop: about 1 at most, even without traffic; 0 before it began."""
        return self._serving.silence

    def open(self) -> Self:
        """Resolve in the background and listen; `with` and `serve` do it too."""
        if self._is_closed or (self._stopped and self._wake is None):
            raise Closed("the relay was stopped: make a new one")
        if self._wake is not None:
            return self
        try:
            self._open()
        except OSError as error:
            self._close()
            raise SocketUnavailable(f"cannot open the relay: {errno_text.leaving(error.errno or 0)}") from error
        except BaseException:
            self._close()
            raise
        return self

    def _open(self) -> None:
        self._poll = self._opened.enter_context(select.epoll())
        woken, self._wake = map(self._opened.enter_context, socket.socketpair())
        self._poll.register(woken, select.EPOLLIN)
        with contextlib.suppress(OSError):  # then one check a second must do
            self._watch = self._opened.enter_context(contextlib.closing(interfaces.InterfaceWatch()))
            self._poll.register(self._watch, select.EPOLLIN)
        for source in self._sources:
            source.check_literals()
        for source in self._sources:
            source.try_to_open(monotonic())
        for pods in self._pods.values():
            pods.refresher.start()

    def serve(self) -> None:
        """Forward until `stop`, or until it cannot go on."""
        with self._serving:
            self.open()
            try:
                wakeup = 0.0
                while not self._stopped:
                    now = self._serving.begin_turn()
                    if now >= wakeup:
                        wakeup = now + self._check(now)
                    for descriptor, _ in self._poll.poll(max(0.0, wakeup - now)):
                        found = self._ports.get(descriptor)
                        if found is not None:
                            self._turn(*found)
                        elif not self._egress_set.flush(descriptor, self._poll) and self._watch is not None:
                            self._watch.drain()
                            self._interfaces_changed = True
                            # On a node, pods' interfaces come and go by the dozen: one check is for all of them.
                            wakeup = min(wakeup, now + _CHECK_SOON)
                self._finish()
            finally:
                self._close()

    def stop(self) -> None:
        """Forward what the kernel holds, and let `serve` return. Any thread or signal handler may call it."""
        self._stopped = True
        if self._wake is not None:
            with contextlib.suppress(OSError):  # closed meanwhile, or called so often that the pipe is full
                self._wake.send(b"\0", socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Release everything; `stop` and wait where another thread is in `serve`. Closing twice is fine."""
        self.stop()
        self._serving.wait()
        self._close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "not opened" if self._wake is None else self.waiting or "forwards"
        return f"<Relay {', '.join(str(entry.ingress) for entry in self._sources)}: {state}>"

    def _turn(self, source: Source, port: Port) -> None:
        """Forward what waits at one port, up to a turn's worth."""
        arena = self._arena
        pieces = port.read(arena)
        if not pieces:
            return
        runs = join(arena, pieces)
        datagrams = sum([run.datagrams for run in runs])
        if source.pods.follow():
            self._egress_set.aim()
        port_fanout = source.port_fanouts[port.number]
        if not port_fanout:
            source.counts.dropped[RelayDrop.NO_ENDPOINTS] += datagrams
            return
        self._egress_set.send(port_fanout, runs, self._poll)
        source.counts.forwarded += datagrams

    def _check(self, now: float) -> float:
        """Check interfaces, pods and ports; return the seconds until the next check."""
        is_soon = False
        self._egress_set.follow(may_have_moved=self._interfaces_changed or self._watch is None)
        self._interfaces_changed = False
        for source in self._sources:
            if source.is_stale:
                self._close_lost(source)
            if not source.ports:
                source.try_to_open(now)
            source.look_at_interface()
            if not self._is_read(source):
                # Until DNS has answered or failed, the kernel keeps what comes.
                if source.pods.is_decided:
                    self._start_reading(source)
                else:
                    is_soon = True
        return _CHECK_SOON if is_soon else _CHECK

    def _is_read(self, source: Source) -> bool:
        return not source.ports or source.ports[0].socket.fileno() in self._ports

    def _start_reading(self, source: Source) -> None:
        """Start to read what comes to an ingress."""
        known = source.pods.refresher.known
        if known.answered_at is None:
            log.warning(
                "service_unresolved: %(service)s; what comes to %(ingress)s is dropped until DNS answers: %(reason)s",
                {"ingress": str(source.ingress), "service": source.ingress.service, "reason": known.failure},
            )
        for port in source.ports:
            self._ports[port.socket.fileno()] = (source, port)
            self._poll.register(port.socket, select.EPOLLIN)

    def _close_lost(self, source: Source) -> None:
        """Forward what came by an interface that is gone, and close the ingress."""
        for port in source.ports:
            descriptor = port.socket.fileno()
            if descriptor in self._ports:
                self._drain(source, port, monotonic() + _STOP_WAIT)
                del self._ports[descriptor]
                self._poll.unregister(descriptor)
        with self._counting:
            source.close()
        log.warning(
            "ingress_lost: %(ingress)s: interface %(interface)s is gone",
            {"ingress": str(source.ingress), "interface": source.ingress.interface},
        )

    def _drain(self, source: Source, port: Port, deadline: float) -> None:
        """Forward what a port holds, until `deadline` at most: a flood may go on."""
        before = -1
        while before != source.counts.datagrams and monotonic() < deadline:
            before = source.counts.datagrams
            self._turn(source, port)

    def _finish(self) -> None:
        """Forward all that the kernel still holds."""
        deadline = monotonic() + _STOP_WAIT
        while self._check(monotonic()) == _CHECK_SOON and monotonic() < deadline:
            time.sleep(_CHECK_SOON)
        for source in self._sources:
            if not self._is_read(source):
                self._start_reading(source)  # though its Service is not resolved: what it holds is counted
        for _, port in self._ports.values():
            port.stop_receiving()
        deadline = monotonic() + _STOP_FORWARD
        for source, port in self._ports.values():
            self._drain(source, port, deadline)
        if monotonic() > deadline:
            log.warning(
                "stopped_with_rest: cannot forward all that had arrived within %(seconds)g s: the rest is lost",
                {"seconds": _STOP_FORWARD},
            )
        deadline = monotonic() + _STOP_WAIT
        while self._egress_set.is_full and (left := deadline - monotonic()) > 0:
            for descriptor, _ in self._poll.poll(left):
                self._egress_set.flush(descriptor, self._poll)

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        with self._counting:
            for source in self._sources:
                source.close()
        self._egress_set.close()
        for pods in self._pods.values():
            pods.refresher.stop()
        self._opened.close()
