"""A device description: its name, and the adverts that follow from it (UPnP Device Architecture 1.1, 2.3). Pure.

Needs defusedxml, of the extra `dlna`: the XML of a pod is untrusted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.etree.ElementTree import ParseError

from defusedxml.ElementTree import DefusedXMLParser

from fanout.options import printable
from fanout.ssdp.core.message import ROOT_DEVICE

SIZE_MAX = 1 << 20
"""Bytes; real devices have a few thousand."""
ELEMENTS_MAX = 16_384
DEPTH_MAX = 64
DEVICES_MAX = 64
ADVERTS_MAX = 256
_TEXT_MAX = 256
_NAME = re.compile(r"[!-~]{1,256}")
_BARE = re.compile(rb"&(?!#?[0-9A-Za-z]{1,16};)")
_OF_DEVICE = frozenset(("deviceType", "friendlyName", "UDN"))


class InvalidDescription(ValueError):
    """A body is not a device description, or exceeds a limit."""


@dataclass(frozen=True, slots=True)
class Description:
    """The root device, and all that is announced of it. Its texts are one line without control characters."""

    udn: str
    """`uuid:...` in lower case, like the `udn` of an advert."""
    friendly_name: str
    device_type: str
    adverts: tuple[tuple[str, str], ...]
    """NT and USN of the root device, the devices in it, and the services of each (UDA 1.1, tables 1-1 to 1-3).

    A USN begins with the UDN as the description writes it (1.2.2).
    """


def parse(body: bytes) -> Description:
    """Parse a description; raise `InvalidDescription`. Devices get XML namespaces wrong: they are ignored."""
    if len(body) > SIZE_MAX:
        raise InvalidDescription(f"it must have at most {SIZE_MAX:,} bytes; got {len(body):,}")
    body = body.lstrip(b" \t\r\n")
    try:
        try:
            devices = _read(body)
        except ParseError:
            # minidlna 1.3.0 writes its configured name unescaped, such as "Tom & Jerry".
            devices = _read(_BARE.sub(b"&amp;", body))
    except InvalidDescription:
        raise
    except (ParseError, ValueError, LookupError) as error:  # not XML, a DTD, an unknown encoding
        raise InvalidDescription(f"it is not acceptable XML: {' '.join(str(error).split())[:_TEXT_MAX]}") from None
    return _description(devices)


def _read(body: bytes) -> list[_ParsedDevice]:
    reader = _ParserTarget()
    parser = DefusedXMLParser(target=reader, forbid_dtd=True)
    parser.feed(body)
    parser.close()
    return reader.devices


@dataclass(slots=True)
class _ParsedDevice:
    texts: dict[str, str] = field(default_factory=dict)
    services: dict[str, None] = field(default_factory=dict)


class _ParserTarget:
    """Takes what the parser finds, and keeps only what is needed: the tree of a hostile document could be large."""

    def __init__(self) -> None:
        self.devices: list[_ParsedDevice] = []
        """The root device and those in it, in the order of the document."""
        self._inside: list[_ParsedDevice] = []
        self._path: list[str] = []
        self._elements = 0
        self._text: list[str] | None = None

    def start(self, tag: str, _attributes: dict[str, str]) -> None:
        """An element begins."""
        name = tag.rpartition("}")[2]
        self._path.append(name)
        self._elements += 1
        if self._elements > ELEMENTS_MAX:
            raise InvalidDescription(f"it has more than {ELEMENTS_MAX:,} elements")
        if len(self._path) > DEPTH_MAX:
            raise InvalidDescription(f"its elements are nested more than {DEPTH_MAX} deep")
        self._text = None
        if name == "device":
            if len(self.devices) == DEVICES_MAX:
                raise InvalidDescription(f"it has more than {DEVICES_MAX} devices")
            self.devices.append(_ParsedDevice())
            self._inside.append(self.devices[-1])
        elif self._inside and self._is_needed(name):
            self._text = []

    def data(self, text: str) -> None:
        """Text arrives, in parts."""
        if self._text is not None:
            self._text.append(text)

    def end(self, _tag: str) -> None:
        """An element ends."""
        name = self._path.pop()
        if name == "device":
            self._inside.pop()
        elif self._text is not None:
            text = _one_line("".join(self._text))
            if name == "serviceType":
                self._inside[-1].services.setdefault(text)
            else:
                self._inside[-1].texts.setdefault(name, text)
        self._text = None

    def _is_needed(self, name: str) -> bool:
        parents = self._path[:-1]
        return (parents[-1] == "device" and name in _OF_DEVICE) or (
            parents[-3:] == ["device", "serviceList", "service"] and name == "serviceType"
        )


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()), "\ufffd")


def _description(devices: list[_ParsedDevice]) -> Description:
    root = devices[0] if devices else _ParsedDevice()
    udn = root.texts.get("UDN", "")
    if not _is_udn(udn):
        raise InvalidDescription("it has no device with a UDN")
    adverts = {(ROOT_DEVICE, f"{udn}::{ROOT_DEVICE}"): None}
    for device in devices:
        owner = device.texts.get("UDN", "")
        if not _is_udn(owner):
            continue  # an embedded device that nobody could tell from others
        adverts[owner, owner] = None
        for kind in (device.texts.get("deviceType", ""), *device.services):
            if _NAME.fullmatch(kind):
                adverts[kind, f"{owner}::{kind}"] = None
    if len(adverts) > ADVERTS_MAX:
        raise InvalidDescription(f"it must have at most {ADVERTS_MAX} devices and services; got {len(adverts):,}")
    texts = {name: text[:_TEXT_MAX] for name, text in root.texts.items()}
    return Description(udn.lower(), texts.get("friendlyName", ""), texts.get("deviceType", ""), tuple(adverts))


def _is_udn(text: str) -> bool:
    """Whether a USN that begins with it and "::" is unambiguous."""
    return _NAME.fullmatch(text) is not None and "::" not in f"{text}:"
