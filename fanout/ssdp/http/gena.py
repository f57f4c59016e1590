"""Event subscriptions (GENA: UPnP Device Architecture 2.0, 4) through the relay.

A subscriber says where to send events (CALLBACK), which a pod cannot reach. The pod gets a URL of the relay instead,
with a token for the subscription. The CALLBACK must have the subscriber's own address: otherwise anybody could direct a
pod's events at anybody else (CallStranger, CVE-2020-12695). SIDs come from the pods and pass unchanged.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic

import aiohttp
from multidict import CIMultiDict

from fanout import errno_text
from fanout.model import Endpoint
from fanout.net import interfaces
from fanout.ssdp.core import urls
from fanout.ssdp.core.drop_reasons import HttpFailure
from fanout.ssdp.core.headers import target
from fanout.ssdp.core.stats import HttpCounts
from fanout.ssdp.core.urls import HttpUrl, Origin
from fanout.ssdp.http.server import Connection
from fanout.ssdp.http.upstream import RequestRefused, Upstream

Header = tuple[str, str]
SID = "SID"
PATH = "/fanout-event/"
"""The path to which pods send events, before the token."""
SUBSCRIPTIONS_MAX = 1024
SUBSCRIPTIONS_OF_ONE_MAX = 64
LIFETIME_MAX = 86_400
"""Seconds after which a subscriber must renew, even if its pod would keep the subscription for ever."""
EVENT_TIMEOUT = 5.0
"""Seconds for a subscriber to accept an event, over all of its URLs."""
_LIFETIME = 1800  # seconds, where a pod does not say
_PENDING = 60.0  # seconds that a token is valid until the pod has answered
_GRACE = 30.0  # seconds that it is valid after the subscription: events may be under way
_CALLBACKS_MAX = 8
_CALLBACK = re.compile(r"<([^<>]*)>")
_TIMEOUT = re.compile(r"\s*second-([0-9]{1,9}|infinite)\s*", re.IGNORECASE)


@dataclass(slots=True, eq=False)
class Subscription:
    """A client's subscription to a service of a device."""

    token: str
    client: str
    edge: str
    """The address of the relay that the client has connected to."""
    port: int
    """The port of the relay that it has connected to."""
    origin: Origin
    callbacks: list[HttpUrl]
    """Where the client takes events."""
    expires: float
    sid: str | None = None
    """The pod's identifier for it; None until the pod has answered."""


@dataclass(slots=True)
class Subscriptions:
    """All subscriptions in force. Pure: `now` is in seconds on any clock that does not go back."""

    _by_token: dict[str, Subscription] = field(default_factory=dict)
    _by_sid: dict[tuple[int, str], Subscription] = field(default_factory=dict)
    _of_client: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self._by_token)

    def add(
        self, client: str, edge: str, port: int, origin: Origin, callbacks: list[HttpUrl], now: float
    ) -> Subscription | None:
        """Return a new one, valid for a minute until it is `confirmed`; None where there are too many."""
        self.expire(now)
        if len(self) >= SUBSCRIPTIONS_MAX or self._of_client[client] >= SUBSCRIPTIONS_OF_ONE_MAX:
            return None
        token = secrets.token_urlsafe(24)
        added = Subscription(token, client, edge, port, origin, callbacks, now + _PENDING)
        self._by_token[token] = added
        self._of_client[client] += 1
        return added

    def confirmed(self, subscription: Subscription, sid: str, seconds: int, now: float) -> None:
        """Record the pod's answer to a subscription, or to its renewal."""
        if self._by_token.get(subscription.token) is not subscription:
            return
        key = (subscription.port, sid)
        had = self._by_sid.get(key)
        if had is not None and had is not subscription:
            self.forget(had)
        if subscription.sid is not None:
            self._by_sid.pop((subscription.port, subscription.sid), None)
        subscription.sid = sid
        subscription.expires = now + seconds + _GRACE
        self._by_sid[key] = subscription

    def by_token(self, token: str, now: float) -> Subscription | None:
        """Return the subscription that a pod's event is for."""
        found = self._by_token.get(token)
        return found if found is not None and found.expires > now else None

    def by_sid(self, port: int, sid: str, client: str, now: float) -> Subscription | None:
        """Return the subscription that a client wants to renew or to end, which must be its own."""
        found = self._by_sid.get((port, sid))
        return found if found is not None and found.client == client and found.expires > now else None

    def forget(self, subscription: Subscription) -> None:
        """End a subscription."""
        if self._by_token.pop(subscription.token, None) is None:
            return
        if subscription.sid is not None:
            self._by_sid.pop((subscription.port, subscription.sid), None)
        self._of_client -= Counter((subscription.client,))

    def expire(self, now: float) -> None:
        """End the subscriptions that have expired."""
        for each in [each for each in self._by_token.values() if each.expires <= now]:
            self.forget(each)


def callbacks(value: str, client: str) -> list[HttpUrl]:
    """Return the URLs of a CALLBACK header that have the client's own address, in their order."""
    found = [urls.at(client, url) for url in _CALLBACK.findall(value)[:_CALLBACKS_MAX]]
    return [HttpUrl(url.origin, target(f"/{url.path.removeprefix('/')}") or "/") for url in found if url is not None]


def lifetime(value: str | None) -> int:
    """Return the seconds that a TIMEOUT header grants, within bounds."""
    match = _TIMEOUT.fullmatch(value or "")
    if match is None:
        return _LIFETIME
    return LIFETIME_MAX if not match[1].isdigit() else min(int(match[1]), LIFETIME_MAX)


class Events:
    """Subscribes clients to the events of pods, and delivers these. For one event loop."""

    def __init__(self, upstream: Upstream, counts: HttpCounts) -> None:
        self._upstream = upstream
        self._counts = counts
        self._subscriptions = Subscriptions()

    def expire(self) -> None:
        """End the subscriptions whose time is over."""
        self._subscriptions.expire(monotonic())
        self._counts.subscriptions = len(self._subscriptions)

    def subscribe(
        self, connection: Connection, origin: Origin, headers: list[Header]
    ) -> tuple[Subscription, list[Header]]:
        """Return the subscription of a SUBSCRIBE, and the headers for the pod. Raises `RequestRefused`."""
        given = CIMultiDict(headers)
        if SID in given:
            if "CALLBACK" in given or "NT" in given:
                raise RequestRefused(
                    400, HttpFailure.BAD_REQUEST, "SID renews a subscription, and excludes CALLBACK and NT"
                )
            return self._known(connection, given), headers
        wanted = callbacks(given.get("CALLBACK", ""), connection.peer)
        if not wanted:
            sentence = f"CALLBACK must have a URL of {connection.peer}; got {given.get('CALLBACK', '')[:200]!r}"
            raise RequestRefused(412, HttpFailure.CALLBACK_REFUSED, sentence)
        way = interfaces.route(origin.host)
        if way is None:
            raise RequestRefused(502, HttpFailure.POD_UNREACHABLE, f"there is no route to {origin.host}")
        made = self._subscriptions.add(connection.peer, connection.local, connection.port, origin, wanted, monotonic())
        if made is None:
            raise RequestRefused(503, HttpFailure.TOO_MANY_SUBSCRIPTIONS, "the limit of subscriptions is reached")
        self._counts.subscriptions = len(self._subscriptions)
        url = f"<http://{Endpoint(way[1], connection.port)}{PATH}{made.token}>"
        return made, [*(pair for pair in headers if pair[0].upper() != "CALLBACK"), ("CALLBACK", url)]

    def answered(self, subscription: Subscription, status: int, sid: str, timeout: str | None) -> str | None:
        """Record the status of the pod's answer, 0 if there is none; return the TIMEOUT for the client."""
        if status == 200 and sid:
            seconds = lifetime(timeout)
            self._subscriptions.confirmed(subscription, sid, seconds, monotonic())
            return f"Second-{seconds}"
        if subscription.sid is None or 200 <= status < 500:  # a confirmed one survives a pod's failure
            self._forget(subscription)
        return None

    def unsubscribe(self, connection: Connection, headers: list[Header]) -> None:
        """End the subscription of an UNSUBSCRIBE; raise `RequestRefused`."""
        self._forget(self._known(connection, CIMultiDict(headers)))

    def addressed(self, connection: Connection, path: str) -> Subscription:
        """Return the subscription that a pod's event is for; raise `RequestRefused`, which makes the pod forget it."""
        found = self._subscriptions.by_token(path.removeprefix(PATH), monotonic()) if path.startswith(PATH) else None
        if found is None or found.port != connection.port or found.origin.host != connection.peer:
            raise RequestRefused(412, None, "there is no such subscription")
        return found

    async def deliver(self, subscription: Subscription, headers: list[Header], body: bytes) -> int:
        """Send an event to the first URL of the subscriber that answers; return the status. Raises `RequestRefused`."""
        problem = "there is no callback URL"
        try:
            async with asyncio.timeout(EVENT_TIMEOUT):
                for callback in subscription.callbacks:
                    try:
                        answer = await self._upstream.request("NOTIFY", callback.origin, callback.path, headers, body)
                    except (aiohttp.ClientError, OSError, ValueError) as error:
                        problem = errno_text.exception(error)
                        continue
                    answer.close()
                    return self._delivered(subscription, answer.status)
        except TimeoutError:
            problem = f"no answer within {EVENT_TIMEOUT:g} s"
        raise RequestRefused(504, HttpFailure.EVENT_LOST, f"{subscription.client} accepted no event: {problem}")

    def _delivered(self, subscription: Subscription, status: int) -> int:
        if 200 <= status < 300:
            self._counts.events += 1
        else:
            self._counts.failures[HttpFailure.EVENT_LOST] += 1
        if status == 412:  # the subscriber does not know that SID
            self._forget(subscription)
        return status

    def _known(self, connection: Connection, given: CIMultiDict[str]) -> Subscription:
        sid = given.get(SID, "").strip()
        found = self._subscriptions.by_sid(connection.port, sid, connection.peer, monotonic())
        if found is None:  # 412 makes the client subscribe again: the relay may have been restarted
            raise RequestRefused(412, None, "there is no such subscription")
        return found

    def _forget(self, subscription: Subscription) -> None:
        self._subscriptions.forget(subscription)
        self._counts.subscriptions = len(self._subscriptions)
