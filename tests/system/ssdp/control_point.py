"""A control point, in a host on the LAN: async-upnp-client with what it received written down."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import aiohttp
from async_upnp_client.aiohttp import AiohttpNotifyServer, AiohttpRequester
from async_upnp_client.client import UpnpService, UpnpStateVariable
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.const import HttpRequest, HttpResponse
from async_upnp_client.profiles.dlna import DmsDevice
from didl_lite import didl_lite

from tests.support.waiting import PATIENCE

_CHUNK = 1 << 16


class Recorder(AiohttpRequester):
    """Keeps all headers and bodies that it receives."""

    def __init__(self) -> None:
        super().__init__(timeout=int(PATIENCE))
        self.heard: list[str] = []

    async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
        """Do a request."""
        response = await super().async_http_request(http_request)
        self.heard.append("\n".join(f"{name}: {value}" for name, value in response.headers.items()))
        self.heard.append(response.body or "")
        return response


async def play(location: str) -> dict[str, Any]:
    """Browse a media server and download all that it has, each file whole and in part; return what came of it."""
    recorder = Recorder()
    device = await UpnpFactory(recorder).async_create_device(location)
    for service in device.all_services:
        await recorder.async_http_request(HttpRequest("GET", service.scpd_url, {}, None))
    server = DmsDevice(device, None)
    resources: dict[str, dict[str, Any]] = {}
    containers = ["0"]
    seen: set[str] = set()
    while containers:
        container = containers.pop()
        for found in (await server.async_browse_direct_children(container)).result:
            if isinstance(found, didl_lite.Container) and found.id not in seen:
                seen.add(found.id)
                containers.append(found.id)
            for resource in found.res:
                assert resource.uri
                resources[resource.uri] = {"url": resource.uri, "title": found.title, "kind": found.upnp_class}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
        for url, resource in resources.items():
            await _download(session, url, resource, recorder)
    return {
        "udn": device.udn,
        "name": device.friendly_name,
        "resources": [*resources.values()],
        "heard": recorder.heard,
    }


async def _download(session: aiohttp.ClientSession, url: str, resource: dict[str, Any], recorder: Recorder) -> None:
    digest, size = hashlib.sha256(), 0
    async with session.get(url) as response:
        response.raise_for_status()
        async for chunk in response.content.iter_chunked(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
        recorder.heard.append("\n".join(f"{name}: {value}" for name, value in response.headers.items()))
    first, last = size // 3, size // 3 + size // 2
    async with session.get(url, headers={"Range": f"bytes={first}-{last}"}) as response:
        part = await response.read()
        resource["range"] = response.headers.get("Content-Range", "")
        resource["partial"] = response.status
    resource |= {
        "sha256": digest.hexdigest(),
        "size": size,
        "first": first,
        "last": last,
        "part": hashlib.sha256(part).hexdigest(),
    }


async def follow(location: str, address: str) -> dict[str, Any]:
    """Subscribe to a media server's ContentDirectory, renew that, and end it; return what it said meanwhile."""
    recorder = Recorder()
    server = AiohttpNotifyServer(recorder, source=(address, 0))
    await server.async_start_server()
    try:
        device = await UpnpFactory(recorder).async_create_device(location)
        directory = next(each for each in device.all_services if "ContentDirectory" in each.service_type)
        told = asyncio.Event()
        changes: dict[str, str] = {}

        def on_event(service: UpnpService, variables: Any) -> None:
            del service
            variable: UpnpStateVariable[Any]
            for variable in variables:
                changes[variable.name] = str(variable.value)
            told.set()

        directory.on_event = on_event
        sid, timeout = await server.event_handler.async_subscribe(directory)
        await asyncio.wait_for(told.wait(), PATIENCE)
        renewed, renewed_timeout = await server.event_handler.async_resubscribe(directory)
        await server.event_handler.async_unsubscribe(directory)
        # Who has left cannot renew.
        answer = await recorder.async_http_request(
            HttpRequest("SUBSCRIBE", directory.event_sub_url, {"SID": sid, "TIMEOUT": "Second-300"}, None)
        )
    finally:
        await server.async_stop_server()
    return {
        "sid": sid,
        "timeout": timeout.total_seconds(),
        "renewed": renewed,
        "renewed_timeout": renewed_timeout.total_seconds(),
        "changes": changes,
        "after_unsubscription": answer.status_code,
        "heard": recorder.heard,
    }
