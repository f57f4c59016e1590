"""Device descriptions: those of real servers, and what no server should send."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fanout.ssdp.core import description, message
from fanout.ssdp.core.description import (
    ADVERTS_MAX,
    DEPTH_MAX,
    DEVICES_MAX,
    ELEMENTS_MAX,
    SIZE_MAX,
    Description,
    InvalidDescription,
)

MEDIA_SERVER = "urn:schemas-upnp-org:device:MediaServer:1"
SERVICE = "urn:schemas-upnp-org:service"
# What minidlna 1.3.0 serves at /rootDesc.xml, without its icons.
MINIDLNA = (
    '<?xml version="1.0"?>\r\n<root xmlns="urn:schemas-upnp-org:device-1-0">'
    "<specVersion><major>1</major><minor>0</minor></specVersion>"
    "<device><deviceType>urn:schemas-upnp-org:device:MediaServer:1</deviceType>"
    "<friendlyName>server1</friendlyName><manufacturer>Justin Maggard</manufacturer>"
    "<manufacturerURL>http://www.netgear.com/</manufacturerURL><modelDescription>MiniDLNA on Linux</modelDescription>"
    "<modelName>Windows Media Connect compatible (MiniDLNA)</modelName><modelNumber>1.3.0</modelNumber>"
    "<serialNumber>00000000</serialNumber><UDN>uuid:00000001-aaaa-bbbb-cccc-000000000000</UDN>"
    '<dlna:X_DLNADOC xmlns:dlna="urn:schemas-dlna-org:device-1-0">DMS-1.50</dlna:X_DLNADOC>'
    "<presentationURL>/</presentationURL><serviceList>"
    "<service><serviceType>urn:schemas-upnp-org:service:ContentDirectory:1</serviceType>"
    "<serviceId>urn:upnp-org:serviceId:ContentDirectory</serviceId><controlURL>/ctl/ContentDir</controlURL>"
    "<eventSubURL>/evt/ContentDir</eventSubURL><SCPDURL>/ContentDir.xml</SCPDURL></service>"
    "<service><serviceType>urn:schemas-upnp-org:service:ConnectionManager:1</serviceType>"
    "<serviceId>urn:upnp-org:serviceId:ConnectionManager</serviceId></service>"
    "<service><serviceType>urn:microsoft.com:service:X_MS_MediaReceiverRegistrar:1</serviceType></service>"
    "</serviceList></device></root>"
)
UDN = "uuid:00000001-aaaa-bbbb-cccc-000000000000"
LEAST = "<root><device><UDN>uuid:1</UDN></device></root>"


def parse(text: str) -> Description:
    return description.parse(text.encode())


def within(*parts: str) -> str:
    return f"<root><device><UDN>uuid:1</UDN><deviceType>a</deviceType>{''.join(parts)}</device></root>"


def services(*types: str) -> str:
    each = (f"<service><serviceType>{kind}</serviceType></service>" for kind in types)
    return f"<serviceList>{''.join(each)}</serviceList>"


def refusal(body: bytes) -> str:
    with pytest.raises(InvalidDescription) as caught:
        description.parse(body)
    return str(caught.value)


def test_what_minidlna_announces() -> None:
    found = parse(MINIDLNA)
    assert found == Description(
        UDN,
        "server1",
        MEDIA_SERVER,
        (
            ("upnp:rootdevice", f"{UDN}::upnp:rootdevice"),
            (UDN, UDN),
            (MEDIA_SERVER, f"{UDN}::{MEDIA_SERVER}"),
            (f"{SERVICE}:ContentDirectory:1", f"{UDN}::{SERVICE}:ContentDirectory:1"),
            (f"{SERVICE}:ConnectionManager:1", f"{UDN}::{SERVICE}:ConnectionManager:1"),
            (
                "urn:microsoft.com:service:X_MS_MediaReceiverRegistrar:1",
                f"{UDN}::urn:microsoft.com:service:X_MS_MediaReceiverRegistrar:1",
            ),
        ),
    )


def test_devices_within_devices() -> None:
    """As in a router: each has its UDN, its type and its services (UPnP Device Architecture 1.1, table 1-2)."""

    def device(number: int, *parts: str) -> str:
        return (
            f"<device><UDN>uuid:{number}</UDN><deviceType>type-{number}</deviceType>"
            f"<friendlyName>name {number}</friendlyName>{''.join(parts)}</device>"
        )

    def devices(*parts: str) -> str:
        return f"<deviceList>{''.join(parts)}</deviceList>"

    connection = device(3, services("s"))
    root = device(1, devices(device(2, services("s", "t"), devices(connection)), device(4)), services("s", "s"))
    found = parse(f"<root>{root}</root>")
    assert (found.udn, found.friendly_name, found.device_type) == ("uuid:1", "name 1", "type-1")
    assert found.adverts == (
        ("upnp:rootdevice", "uuid:1::upnp:rootdevice"),
        ("uuid:1", "uuid:1"),
        ("type-1", "uuid:1::type-1"),
        ("s", "uuid:1::s"),
        ("uuid:2", "uuid:2"),
        ("type-2", "uuid:2::type-2"),
        ("s", "uuid:2::s"),
        ("t", "uuid:2::t"),
        ("uuid:3", "uuid:3"),
        ("type-3", "uuid:3::type-3"),
        ("s", "uuid:3::s"),
        ("uuid:4", "uuid:4"),
        ("type-4", "uuid:4::type-4"),
    )


def test_what_is_called_so_elsewhere_is_something_else() -> None:
    icon = "<iconList><icon><friendlyName>icon</friendlyName><UDN>uuid:9</UDN></icon></iconList>"
    loose = "<serviceType>loose</serviceType><service><serviceType>loose</serviceType></service>"
    found = parse(within(icon, loose, "<friendlyName>mine<b>x</b></friendlyName><friendlyName>two</friendlyName>"))
    assert found.friendly_name == "two"  # the first is no text
    assert [nt for nt, _ in found.adverts] == ["upnp:rootdevice", "uuid:1", "a"]
    inside = "<friendlyName>a<UDN>uuid:9</UDN></friendlyName>"
    assert parse(f"<root><device>{inside}<UDN>uuid:1</UDN></device></root>").udn == "uuid:1"


def test_a_description_without_names() -> None:
    found = parse(LEAST)
    assert (found.friendly_name, found.device_type) == ("", "")
    assert [nt for nt, _ in found.adverts] == ["upnp:rootdevice", "uuid:1"]


def test_the_udn_is_in_lower_case_and_adverts_are_as_the_device_spells_them() -> None:
    found = parse(LEAST.replace("uuid:1", "UUID:ABCD"))
    assert found.udn == "uuid:abcd"
    assert found.adverts == (("upnp:rootdevice", "UUID:ABCD::upnp:rootdevice"), ("UUID:ABCD", "UUID:ABCD"))


def test_namespaces_and_space_before_the_document() -> None:
    text = LEAST.replace("<", "<u:").replace("<u:/", "</u:").replace("<u:root", '<u:root xmlns:u="urn:wrong"')
    assert parse(f"\r\n \t{text}").udn == "uuid:1"


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1", "windows-1252"])
def test_charsets(charset: str) -> None:
    declared = charset.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?>{within("<friendlyName>José</friendlyName>")}'
    assert description.parse(text.encode(charset)).friendly_name == "José"


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (" a \r\n\t b ", "a b"),
        ("a &amp; b &lt;c&gt;", "a & b <c>"),
        ("Tom & Jerry &", "Tom & Jerry &"),  # as minidlna writes it
        ("&& &amp; &#65; &x", "&& & A &x"),
        ("<![CDATA[a <b>]]>", "a <b>"),
        ("a<!-- no -->b", "ab"),
        ("\u202eevil", "\ufffdevil"),
        ("a\u009b2J", "a\ufffd2J"),
        ("a&#x7f;", "a\ufffd"),
        ("\u2028a\u00a0b", "a b"),
        ("♫ 映画", "♫ 映画"),
        ("a" * 1000, "a" * 256),
        ("", ""),
    ],
)
def test_names_are_one_line_for_a_terminal(written: str, name: str) -> None:
    found = parse(within(f"<friendlyName>{written}</friendlyName>"))
    assert found.friendly_name == name
    assert found.friendly_name.isprintable()


@pytest.mark.parametrize("kind", ["", " ", "a b", "é", "a\u009b", "a" * 257])
def test_types_that_cannot_be_announced_are_left_out(kind: str) -> None:
    found = parse(within(services(kind, "fine")))
    assert [nt for nt, _ in found.adverts] == ["upnp:rootdevice", "uuid:1", "a", "fine"]


def test_a_device_inside_without_a_udn_is_left_out() -> None:
    inner = f"<deviceList><device><deviceType>b</deviceType>{services('s')}</device></deviceList>"
    assert [nt for nt, _ in parse(within(inner)).adverts] == ["upnp:rootdevice", "uuid:1", "a"]


BOMB = '<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is not acceptable XML"),
        ("<html><body></html>", "it is not acceptable XML"),
        (LEAST.removesuffix(">"), "it is not acceptable XML"),
        (f"{LEAST}{LEAST}", "it is not acceptable XML"),
        (within("<friendlyName>a & b <c></friendlyName>"), "it is not acceptable XML"),
        (within("<friendlyName>&nbsp;</friendlyName>"), "it is not acceptable XML"),
        (within("<friendlyName>\0</friendlyName>"), "it is not acceptable XML"),
        (within("<friendlyName>&#27;[2J</friendlyName>"), "it is not acceptable XML"),
        (f"<!DOCTYPE root [{BOMB}]>{within('<friendlyName>&i;</friendlyName>')}", "it is not acceptable XML"),
        (f'<!DOCTYPE root SYSTEM "file:///etc/passwd">{LEAST}', "it is not acceptable XML"),
        (f'<?xml version="1.0" encoding="utf-7"?>{LEAST}', "it is not acceptable XML"),
        (f'<?xml version="1.0" encoding="shift_jis"?>{LEAST}', "it is not acceptable XML"),
        (f'<?xml version="1.0" encoding="nonsense"?>{LEAST}', "it is not acceptable XML"),
        (f'<?xml version="1.0" encoding="base64"?>{LEAST}', "it is not acceptable XML"),
        ("<root/>", "no device with a UDN"),
        ("<root><device/></root>", "no device with a UDN"),
        ("<root><UDN>uuid:1</UDN></root>", "no device with a UDN"),
        (LEAST.replace("uuid:1", "uuid:1 2"), "no device with a UDN"),
        (LEAST.replace("uuid:1", "uuid:1::a"), "no device with a UDN"),
        (LEAST.replace("uuid:1", "uuid:1:"), "no device with a UDN"),
        (LEAST.replace("uuid:1", "uuid:\u00e9"), "no device with a UDN"),
        (LEAST.replace("uuid:1", "u" * 257), "no device with a UDN"),
        (within("<device/>" * DEVICES_MAX), "more than 64 devices"),
        (within("<device>" * DEVICES_MAX), "more than 64 deep"),
        (
            within(services(*(f"s{number}" for number in range(ADVERTS_MAX - 2)))),
            "it must have at most 256 devices and services; got 257",
        ),
        ("<a>" * (DEPTH_MAX + 1), "more than 64 deep"),
        (within("<b/>" * ELEMENTS_MAX), "more than 16,384 elements"),
        (f"{LEAST}{' ' * SIZE_MAX}", "it must have at most 1,048,576 bytes; got "),
    ],
)
def test_what_is_refused_and_why(text: str, words: str) -> None:
    said = refusal(text.encode())
    assert words in said
    assert said.isprintable()
    assert len(said) < 400


def test_as_much_as_there_may_be() -> None:
    assert parse(f"{LEAST}{' ' * (SIZE_MAX - len(LEAST))}").udn == "uuid:1"
    most = services(*(f"s{number}" for number in range(ADVERTS_MAX - 3)))
    assert len(parse(within(most)).adverts) == ADVERTS_MAX
    assert parse(within("<device/>" * (DEVICES_MAX - 1))).udn == "uuid:1"
    # root and device, UDN and deviceType are four.
    assert parse(within("<b/>" * (ELEMENTS_MAX - 4))).udn == "uuid:1"
    assert parse(within("<b>" * (DEPTH_MAX - 2) + "</b>" * (DEPTH_MAX - 2))).udn == "uuid:1"


@pytest.mark.parametrize("end", range(0, len(MINIDLNA), 7))
def test_a_description_that_was_cut(end: int) -> None:
    assert refusal(MINIDLNA.encode()[:end])


@given(st.binary(max_size=200), st.sampled_from([b"", b"<", b"<root><device><UDN>uuid:1</UDN>", b'<?xml encoding="']))
def test_any_bytes_are_read_or_refused(body: bytes, start: bytes) -> None:
    try:
        description.parse(start + body)
    except InvalidDescription:
        return


@given(st.integers(0, len(MINIDLNA)), st.binary(max_size=4))
@example(MINIDLNA.index("<UDN>") + len("<UDN>"), b"A")
@example(MINIDLNA.index("</UDN>") - 1, b":")
def test_a_description_that_was_damaged_announces_nothing_odd(at: int, put: bytes) -> None:
    body = MINIDLNA.encode()
    try:
        found = description.parse(body[:at] + put + body[at + len(put) :])
    except InvalidDescription:
        return
    assert all(text.isascii() and text.isprintable() and " " not in text for pair in found.adverts for text in pair)
    assert {message.Advert(nt, usn, "").udn for nt, usn in found.adverts} == {found.udn}
    assert found.friendly_name.isprintable()


@pytest.mark.parametrize(
    ("part", "why"),
    [
        *[
            (part, "its elements are nested more than 64 deep")
            for part in ("<a>", "<a b='c'>", "<friendlyName>", "<device>")
        ],
        ("<a/>", "it has more than 16,384 elements"),
        ("</device>", "mismatched tag"),
        *[(part, "no element found") for part in ("&amp;", "<!---->", "x", "<![CDATA[x]]>")],
    ],
)
def test_a_megabyte_of_anything_is_refused(part: str, why: str) -> None:
    start = LEAST.removesuffix("</device></root>") + "<friendlyName>"
    assert why in refusal((start + part * ((SIZE_MAX - len(start)) // len(part))).encode())


def test_an_element_of_many_attributes_is_read() -> None:
    assert "no device" in refusal(b"<a " + b" ".join(b"a%d=''" % number for number in range(80_000)) + b"/>")
