"""What pods advertise, and what becomes of a datagram of SSDP."""

from __future__ import annotations

import math

from fanout.ssdp.core import message
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import ROOT_DEVICE, Advert, Headers, InvalidSsdp, Notify
from fanout.ssdp.core.registry import Registry

POD, OTHER_POD, THIRD_POD = PODS = ["10.60.0.11", "10.60.0.12", "10.60.0.13"]
U, V = "uuid:00000001-aaaa", "uuid:00000002-bbbb"
SERVER = "urn:schemas-upnp-org:device:MediaServer:1"


def advert(
    nt: str = ROOT_DEVICE, udn: str = U, *, at: str = POD, port: int = 8200, max_age: int = 1800, **headers: str
) -> Advert:
    usn = udn if nt == udn else f"{udn}::{nt}"
    named = Headers((f"{name}.UPNP.ORG", value) for name, value in headers.items())
    return Advert(nt, usn, f"http://{at}:{port}/rootDesc.xml", max_age, named)


def wakeup(registry: Registry) -> float | None:
    """Return when `due` has something to do; None for never."""
    return None if registry._wake == math.inf else registry._wake


def refused(data: bytes) -> SsdpDrop | None:
    try:
        message.parse(data)
    except InvalidSsdp as error:
        return error.reason
    return None


def advert_of(data: bytes) -> Advert:
    found = message.parse(data)
    assert isinstance(found, (Advert, Notify))
    return found if isinstance(found, Advert) else found.advert
