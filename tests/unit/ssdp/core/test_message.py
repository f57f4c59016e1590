"""SSDP datagrams: what devices and control points really send, what nobody should, and what the relay writes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fanout.ssdp.core import message
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import Advert, Headers, InvalidSsdp, Notify, NotifyKind, Search
from tests.support.adverts import advert_of, refused

UDN = "uuid:00000001-aaaa-bbbb-cccc-000000000000"
LOCATION = "http://10.60.0.11:8200/rootDesc.xml"
MINIDLNA_ANSWER = (
    b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=30\r\nDATE: Sat, 21 Nov 2026 20:11:59 GMT\r\nST: upnp:rootdevice\r\n"
    b"USN: uuid:00000001-aaaa-bbbb-cccc-000000000000::upnp:rootdevice\r\nEXT:\r\n"
    b"SERVER: Debian DLNADOC/1.50 UPnP/1.0 MiniDLNA/1.3.0\r\nLOCATION: http://10.60.0.11:8200/rootDesc.xml\r\n"
    b"Content-Length: 0\r\n\r\n"
)
MINIDLNA_ALIVE = (
    b"NOTIFY * HTTP/1.1\r\nHOST:239.255.255.250:1900\r\nCACHE-CONTROL:max-age=30\r\n"
    b"LOCATION:http://10.60.0.11:8200/rootDesc.xml\r\nSERVER: Debian DLNADOC/1.50 UPnP/1.0 MiniDLNA/1.3.0\r\n"
    b"NT:urn:schemas-upnp-org:device:MediaServer:1\r\n"
    b"USN:uuid:00000001-aaaa-bbbb-cccc-000000000000::urn:schemas-upnp-org:device:MediaServer:1\r\n"
    b"NTS:ssdp:alive\r\n\r\n"
)
GERBERA_ANSWER = (
    b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\nDATE: Sat, 21 Nov 2026 20:11:59 GMT\r\nEXT:\r\n"
    b'LOCATION: http://10.60.0.12:49494/description.xml\r\nOPT: "http://schemas.upnp.org/upnp/1/0/"; ns=01\r\n'
    b"01-NLS: e26b3652-e5e6-11f1-af8e-d6d5a2dd1063\r\n"
    b"SERVER: Linux/6.18.44, UPnP/1.0, Portable SDK for UPnP devices/1.8.4\r\nX-User-Agent: redsonic\r\n"
    b"ST: upnp:rootdevice\r\nUSN: uuid:dc2fc659-09d0-46b0-8e71-7fe173ff9d67::upnp:rootdevice\r\n\r\n"
)
SEARCH = b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 3\r\nST: ssdp:all\r\n\r\n'
MEDIA_SERVER = "urn:schemas-upnp-org:device:MediaServer"

LINES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=40).map(
    lambda text: text.strip(" ")
)
WORDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
NAMES = st.text("ABCxyz019-._", min_size=1, max_size=20)
OWN_NAMES = ("HOST", "MAN", "MX", "ST", "NT", "NTS", "USN", "LOCATION", "SERVER", "DATE", "EXT", "CACHE-CONTROL")
CARRIED = st.lists(st.tuples(NAMES.map(lambda name: f"X-{name}"), LINES), max_size=5).map(Headers)
ADVERTS = st.builds(
    Advert,
    nt=WORDS,
    usn=WORDS.filter(lambda text: not text.startswith("::")),
    location=WORDS,
    max_age=st.integers(1, 86_400),
    headers=CARRIED,
)


def lines(data: bytes) -> list[str]:
    """The lines of a datagram that ends as one does."""
    text = data.decode()
    assert text.endswith("\r\n\r\n")
    return text.removesuffix("\r\n\r\n").split("\r\n")


def test_what_minidlna_sends() -> None:
    advert = advert_of(MINIDLNA_ANSWER)
    assert advert.nt == message.ROOT_DEVICE
    assert (advert.usn, advert.udn) == (f"{UDN}::upnp:rootdevice", UDN)
    assert (advert.location, advert.max_age) == (LOCATION, 30)
    assert advert.headers.get("server") == "Debian DLNADOC/1.50 UPnP/1.0 MiniDLNA/1.3.0"
    found = message.parse(MINIDLNA_ALIVE)
    assert isinstance(found, Notify)
    assert (found.kind, found.advert.nt) == (NotifyKind.ALIVE, f"{MEDIA_SERVER}:1")
    assert (found.advert.location, found.advert.max_age) == (LOCATION, 30)


def test_an_answer_of_gerbera_goes_on_with_all_that_it_says() -> None:
    advert = dataclasses.replace(advert_of(GERBERA_ANSWER), location="http://10.50.0.20:28203/description.xml")
    assert lines(message.answer(advert, message.ROOT_DEVICE)) == [
        "HTTP/1.1 200 OK",
        "CACHE-CONTROL: max-age=1800",
        "DATE: Sat, 21 Nov 2026 20:11:59 GMT",
        "EXT: ",
        "LOCATION: http://10.50.0.20:28203/description.xml",
        "SERVER: Linux/6.18.44, UPnP/1.0, Portable SDK for UPnP devices/1.8.4",
        "ST: upnp:rootdevice",
        "USN: uuid:dc2fc659-09d0-46b0-8e71-7fe173ff9d67::upnp:rootdevice",
        'OPT: "http://schemas.upnp.org/upnp/1/0/"; ns=01',
        "01-NLS: e26b3652-e5e6-11f1-af8e-d6d5a2dd1063",
        "X-User-Agent: redsonic",
    ]


def test_a_search() -> None:
    found = message.parse(SEARCH)
    assert isinstance(found, Search)
    assert (found.target, found.mx) == ("ssdp:all", 3)
    assert found.headers.get("host") == "239.255.255.250:1900"


@pytest.mark.parametrize(
    ("written", "mx"),
    [(b"0", 0), (b"1", 1), (b"5", 5), (b"6", 5), (b"120", 5), (b"9" * 3000, 5), (b"007", 5), (b" 2 ", 2)]
    + [(wrong, None) for wrong in (b"", b"-1", b"1.5", b"three", b"0x3", b"1 2", b"\xc2\xb2", b"\xd9\xa3", b"+1")],
)
def test_mx(written: bytes, mx: int | None) -> None:
    found = message.parse(SEARCH.replace(b"MX: 3", b"MX:" + written))
    assert isinstance(found, Search)
    assert found.mx == mx


def test_a_search_without_mx_has_none() -> None:
    found = message.parse(SEARCH.replace(b"MX: 3\r\n", b""))
    assert isinstance(found, Search)
    assert found.mx is None


LENIENT = [
    SEARCH.replace(b"\r\n", b"\n"),
    SEARCH.removesuffix(b"\r\n"),
    SEARCH.removesuffix(b"\r\n\r\n"),
    SEARCH.replace(b": ", b":"),
    SEARCH.replace(b": ", b" :\t "),
    SEARCH.replace(b"HTTP/1.1", b"HTTP/1.0"),
    SEARCH.replace(b"HOST", b"Host").replace(b"MAN", b"man").replace(b"ST: s", b"st: s"),
    SEARCH + b"a body, \0 and all",
    SEARCH.replace(b"HOST: 239.255.255.250:1900\r\n", b""),
    SEARCH.replace(b"MX", b"X-NAME: Jos\xe9 \x92s\r\nMX"),
    SEARCH.replace(b"MX", b"X-NAME: a\tb\r\nMX"),
    SEARCH.replace(b"\r\n\r\n", b"\r\nST: another\r\n\r\n"),
]


@pytest.mark.parametrize("data", LENIENT)
def test_what_is_not_by_the_book_and_is_read(data: bytes) -> None:
    found = message.parse(data)
    assert isinstance(found, Search)
    assert (found.target, found.mx) == ("ssdp:all", 3)


def test_text_that_is_not_utf_8_is_latin_1_or_windows() -> None:
    advert = advert_of(GERBERA_ANSWER.replace(b"redsonic", b"Jos\xe9 \x92"))
    assert advert.headers.get("X-User-Agent") == "José ?"
    assert advert_of(GERBERA_ANSWER.replace(b"redsonic", "José ♫".encode())).headers.get("x-user-agent") == "José ♫"


REFUSED = [
    (SsdpDrop.NOT_SSDP, b""),
    (SsdpDrop.NOT_SSDP, b"\r\n" + SEARCH),
    (SsdpDrop.NOT_SSDP, SEARCH.lower()),
    (SsdpDrop.NOT_SSDP, b"GET / HTTP/1.1\r\n\r\n"),
    (SsdpDrop.NOT_SSDP, b"M-SEARCH"),
    (SsdpDrop.MALFORMED, b"M-SEARCH "),
    (SsdpDrop.MALFORMED, SEARCH.replace(b" * ", b" / ")),
    (SsdpDrop.MALFORMED, SEARCH.replace(b"HTTP/1.1", b"HTTP/2")),
    (SsdpDrop.MALFORMED, SEARCH.replace(b"HTTP/1.1", b"HTTP/1.1 more")),
    (SsdpDrop.MALFORMED, SEARCH.replace(b"ST: ssdp:all", b"ST: ssdp:all\r\nno colon")),
    (SsdpDrop.MALFORMED, SEARCH.replace(b"ST: ssdp:all", b"ST: ssdp:all\r\n folded: line")),
    (SsdpDrop.MALFORMED, SEARCH.replace(b"ST: ssdp:all", b"ST: ssdp:all\r\n: no name")),
    (SsdpDrop.MALFORMED, SEARCH.replace(b"ST: ssdp:all", b"ST: ssdp:all\r\nna me: x")),
    (SsdpDrop.MALFORMED, SEARCH.replace(b"ST: ssdp:all", b"ST: ssdp:all\0")),
    (SsdpDrop.MALFORMED, SEARCH.replace(b"ST: ssdp:all", b"ST: ssdp:all\r")),
    (SsdpDrop.MALFORMED, SEARCH.replace(b"ST: ssdp:all", b"ST: ssdp:all\rX: injected")),
    (SsdpDrop.MALFORMED, SEARCH.replace(b"ST: ssdp:all", b"ST: ssdp:all\x1b[2J")),
    (SsdpDrop.MALFORMED, SEARCH.replace(b"ST: ssdp:all", "ST: ssdp:all\u2028".encode())),
    (SsdpDrop.MALFORMED, SEARCH.replace(b"ST: ssdp:all", "ST: ssdp:all\u0085".encode())),
    (SsdpDrop.WRONG_MAN, SEARCH.replace(b'MAN: "ssdp:discover"\r\n', b"")),
    (SsdpDrop.WRONG_MAN, SEARCH.replace(b'"ssdp:discover"', b"ssdp:discover")),
    (SsdpDrop.WRONG_MAN, SEARCH.replace(b'"ssdp:discover"', b'"ssdp:discovery"')),
    (SsdpDrop.WRONG_MAN, b"M-SEARCH * HTTP/1.1\r\n\r\n"),
    (SsdpDrop.NO_TARGET, SEARCH.replace(b"ST: ssdp:all\r\n", b"")),
    (SsdpDrop.NO_TARGET, SEARCH.replace(b"ssdp:all", b"")),
    (SsdpDrop.NO_TARGET, SEARCH.replace(b"ssdp:all", b"ssdp all")),
    (SsdpDrop.NO_TARGET, SEARCH.replace(b"ssdp:all", "ssdp:allé".encode())),
    (SsdpDrop.NO_TARGET, SEARCH.replace(b"ssdp:all", b"a" * 513)),
    (SsdpDrop.OVERSIZED, SEARCH + bytes(message.DATAGRAM_MAX)),
    (SsdpDrop.OVERSIZED, SEARCH.replace(b"MX", b"X: y\r\n" * message.HEADERS_MAX + b"MX")),
    (SsdpDrop.MALFORMED, MINIDLNA_ANSWER.replace(b"200 OK", b"404 Not Found")),
    (SsdpDrop.MALFORMED, MINIDLNA_ANSWER.replace(b"200 OK", b"2000")),
    (SsdpDrop.MALFORMED, MINIDLNA_ANSWER.replace(b"ST:", b"S-T:")),
    (SsdpDrop.MALFORMED, MINIDLNA_ANSWER.replace(b"USN:", b"U:")),
    (SsdpDrop.MALFORMED, MINIDLNA_ANSWER.replace(UDN.encode(), b"")),
    (SsdpDrop.MALFORMED, MINIDLNA_ANSWER.replace(b"LOCATION:", b"L:")),
    (SsdpDrop.MALFORMED, MINIDLNA_ALIVE.replace(b"LOCATION:", b"L:")),
    (SsdpDrop.MALFORMED, MINIDLNA_ALIVE.replace(b"NTS:", b"S:")),
    (SsdpDrop.MALFORMED, MINIDLNA_ALIVE.replace(b"ssdp:alive", b"ssdp:ALIVE")),
    (SsdpDrop.MALFORMED, MINIDLNA_ALIVE.replace(b"ssdp:alive", b"upnp:propchange")),
    (SsdpDrop.MALFORMED, MINIDLNA_ALIVE.replace(b"NT:", b"T:")),
]


@pytest.mark.parametrize(("reason", "data"), REFUSED)
def test_what_is_dropped_and_why(reason: SsdpDrop, data: bytes) -> None:
    assert refused(data) is reason


def test_as_many_headers_and_bytes_as_there_may_be() -> None:
    many = SEARCH.replace(b"MX", b"X: y\r\n" * (message.HEADERS_MAX - 4) + b"MX")
    assert refused(many) is None
    assert refused(many.replace(b"MX", b"X: y\r\nMX")) is SsdpDrop.OVERSIZED
    assert refused(SEARCH.ljust(message.DATAGRAM_MAX)) is None
    assert refused(SEARCH.ljust(message.DATAGRAM_MAX + 1)) is SsdpDrop.OVERSIZED


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"M-SEARCH * HTTP/1.1\r\n", b"NOTIFY * HTTP/1.1\r\n", b"HTTP/1.1 200"]),
)
@example(b"", b"HTTP/")
def test_any_bytes_are_read_or_refused(data: bytes, start: bytes) -> None:
    refused(start + data)


@given(
    st.sampled_from([MINIDLNA_ANSWER, MINIDLNA_ALIVE, GERBERA_ANSWER, SEARCH]),
    st.integers(0, 600),
    st.binary(max_size=3),
    st.integers(0, 600),
)
def test_a_datagram_that_was_damaged_has_no_control_characters(data: bytes, at: int, put: bytes, end: int) -> None:
    damaged = (data[:at] + put + data[at + len(put) :])[: len(data) - end if end < len(data) else None]
    try:
        found = message.parse(damaged)
    except InvalidSsdp:
        return
    headers = found.advert.headers if isinstance(found, Notify) else found.headers
    assert all(
        ord(each) >= 0x20 and not 0x7F <= ord(each) <= 0x9F for pair in headers for text in pair for each in text
    )


@pytest.mark.parametrize("data", [SEARCH, MINIDLNA_ANSWER, MINIDLNA_ALIVE, GERBERA_ANSWER])
def test_every_beginning_of_a_datagram(data: bytes) -> None:
    """UDP does not cut, but whoever sends may: it is the whole thing, or less of it, and never something else."""
    whole = message.parse(data)
    for end in range(len(data)):
        try:
            found = message.parse(data[:end])
        except InvalidSsdp:
            continue
        assert type(found) is type(whole)


@given(WORDS, st.integers(0, 5), CARRIED)
def test_a_search_is_read_as_it_was_written(target: str, mx: int, headers: Headers) -> None:
    data = message.search(target, mx, headers)
    found = message.parse(data)
    assert isinstance(found, Search)
    assert (found.target, found.mx) == (target, mx)
    assert found.headers.get("HOST") == f"{message.GROUP}:{message.PORT}"
    assert list(found.headers)[4:] == list(headers)
    assert message.search(target, mx, found.headers) == data


@given(ADVERTS, WORDS)
def test_an_answer_is_read_as_it_was_written(advert: Advert, target: str) -> None:
    data = message.answer(advert, target)
    found = advert_of(data)
    assert (found.nt, found.usn, found.location, found.max_age) == (target, advert.usn, advert.location, advert.max_age)
    carried = [pair for pair in found.headers if pair[0] not in OWN_NAMES]
    assert carried == list(advert.headers)
    assert message.answer(found, target) == data


@given(ADVERTS, st.sampled_from(list(NotifyKind)))
def test_an_announcement_is_read_as_it_was_written(advert: Advert, kind: NotifyKind) -> None:
    data = message.notify(kind, advert)
    found = message.parse(data)
    assert isinstance(found, Notify)
    assert (found.kind, found.advert.nt, found.advert.usn) == (kind, advert.nt, advert.usn)
    assert found.advert.location == ("" if kind is NotifyKind.BYEBYE else advert.location)
    if kind is NotifyKind.ALIVE:
        assert found.advert.max_age == advert.max_age
    assert message.notify(kind, found.advert) == data


def test_announcements_have_what_the_architecture_says() -> None:
    """UPnP Device Architecture 1.1, 1.2.2 to 1.2.4."""
    named = ["NT: upnp:rootdevice", "NTS: {}", f"USN: {UDN}::upnp:rootdevice"]
    headers = Headers([("SERVER", "x"), ("BOOTID.UPNP.ORG", "7"), ("CONFIGID.UPNP.ORG", "3"), ("X-MORE", "y")])
    advert = Advert("upnp:rootdevice", f"{UDN}::upnp:rootdevice", LOCATION, 60, headers)
    start = ["NOTIFY * HTTP/1.1", "HOST: 239.255.255.250:1900"]

    def expected(kind: NotifyKind, *middle: str) -> list[str]:
        return [*start, *middle, *(line.format(kind) for line in named), "BOOTID.UPNP.ORG: 7"]

    more = ["CONFIGID.UPNP.ORG: 3", "X-MORE: y"]
    alive = expected(NotifyKind.ALIVE, "CACHE-CONTROL: max-age=60", f"LOCATION: {LOCATION}", "SERVER: x")
    assert lines(message.notify(NotifyKind.ALIVE, advert)) == alive + more
    assert (
        lines(message.notify(NotifyKind.UPDATE, advert)) == expected(NotifyKind.UPDATE, f"LOCATION: {LOCATION}") + more
    )
    assert lines(message.notify(NotifyKind.BYEBYE, advert)) == expected(NotifyKind.BYEBYE) + more[:1]


def test_the_next_boot_id_is_announced_and_then_used() -> None:
    advert = Advert(
        "a", "uuid:1::a", LOCATION, headers=Headers([("bootid.upnp.org", "1"), ("nextbootid.upnp.org", "2")])
    )
    assert {"BOOTID.UPNP.ORG: 1", "NEXTBOOTID.UPNP.ORG: 2"} <= set(lines(message.notify(NotifyKind.UPDATE, advert)))
    for data in (
        message.answer(advert, "a"),
        message.notify(NotifyKind.ALIVE, advert),
        message.notify(NotifyKind.BYEBYE, advert),
    ):
        assert [line for line in lines(data) if "BOOTID" in line] == ["BOOTID.UPNP.ORG: 2"]


def test_what_a_relay_cannot_keep_its_word_for_is_left_out() -> None:
    """The relay has port 1900 alone, no TLS, and takes no answers over TCP."""
    gone = [
        ("SEARCHPORT.UPNP.ORG", "49152"),
        ("SECURELOCATION.UPNP.ORG", "https://10.60.0.11:8443/"),
        ("TCPPORT.UPNP.ORG", "33000"),
        ("Content-Length", "0"),
        ("Connection", "close"),
        ("Transfer-Encoding", "chunked"),
    ]
    kept = ("CPFN.UPNP.ORG", "a television")
    headers = Headers([*gone, kept])
    advert = Advert("a", "uuid:1::a", LOCATION, headers=headers)
    for data in (
        message.search("a", 1, headers),
        message.answer(advert, "a"),
        message.notify(NotifyKind.ALIVE, advert),
    ):
        text = data.decode().lower()
        assert "cpfn.upnp.org: a television" in text
        assert not any(f"\r\n{name.lower()}:" in text for name, _ in gone)


def test_without_a_server_the_relay_says_who_it_is() -> None:
    advert = Advert("a", "uuid:1::a", LOCATION)
    assert any(line.startswith("SERVER: Linux UPnP/1.1 fanout/") for line in lines(message.answer(advert, "a")))


def test_headers_that_do_not_fit_are_left_out_and_the_rest_is_whole() -> None:
    headers = Headers([("X-LONG", "é" * 2000), ("X-SHORT", "y")])
    data = message.search("ssdp:all", 1, headers)
    assert len(data) <= message.DATAGRAM_MAX
    found = message.parse(data)
    assert isinstance(found, Search)
    assert (found.headers.get("X-LONG"), found.headers.get("X-SHORT")) == (None, "y")


def test_the_largest_that_is_read_can_be_written() -> None:
    """Else one relay would not take what another one says."""
    long = "\U0001f3b5" * 255
    headers = f"USN: uuid:{'a' * 1019}\r\nLOCATION: http://{'b' * 1017}\r\nBOOTID.UPNP.ORG: {'9' * 10}\r\n"
    most = f"HTTP/1.1 200 OK\r\nST: {'c' * 512}\r\nSERVER: {long}\r\n{headers}".encode() + b"X: y\r\n" * 50
    advert = advert_of(most)
    for data in (message.answer(advert, "d" * 512), *(message.notify(kind, advert) for kind in NotifyKind)):
        assert len(data) <= message.DATAGRAM_MAX
        assert data.count(b"\r\n") - 2 <= message.HEADERS_MAX
        assert advert_of(data).usn == advert.usn
    for field in (b"uuid:", b"http://"):
        assert refused(most.replace(field, field + b"x")) is SsdpDrop.OVERSIZED
    many = b"HTTP/1.1 200 OK\r\nST: a\r\nUSN: uuid:1::a\r\nLOCATION: http://10.0.0.1/\r\n" + b"X: y\r\n" * 61
    assert message.answer(advert_of(many), "a").count(b"X: y\r\n") == message.HEADERS_MAX - 6


@pytest.mark.parametrize("number", ["", "-1", "1.5", "x", "9" * 11, "1 2"])
def test_what_is_no_boot_id_is_left_out(number: str) -> None:
    names = ("BOOTID.UPNP.ORG", "NEXTBOOTID.UPNP.ORG")
    advert = Advert("a", "uuid:1::a", LOCATION, headers=Headers((name, number) for name in names))
    for data in (message.answer(advert, "a"), *(message.notify(kind, advert) for kind in NotifyKind)):
        assert b"BOOTID" not in data


@pytest.mark.parametrize("text", ["a\r\nX: y", "a\nb", "a\0", "\x1b[2J", "\x85", "\u2028", "\ud800"])
def test_nothing_gets_into_a_line_of_its_own(text: str) -> None:
    advert = Advert("a", "uuid:1::a", f"http://10.0.0.1/{text}")
    with pytest.raises(ValueError, match="LOCATION has a control character"):
        message.answer(advert, "a")
    with pytest.raises(ValueError, match="ST has a control character"):
        message.search(text, 1)
    with pytest.raises(ValueError, match="control character"):
        Headers([("X", text)])
    with pytest.raises(ValueError, match="name must be a token; got"):
        Headers([(f"X{text}", "y")])


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (b"max-age=30", 30),
        (b"max-age = 1800", 1800),
        (b"Max-Age=60", 60),
        (b"no-cache, max-age=5", 5),
        (b'max-age="90"', 90),
        (b"max-age=0", 1),
        (b"max-age=99999999999999999999", 86_400),
        (b"max-age=", message.MAX_AGE),
        (b"public", message.MAX_AGE),
        (b"", message.MAX_AGE),
    ],
)
def test_max_age(written: bytes, seconds: int) -> None:
    assert advert_of(MINIDLNA_ANSWER.replace(b"max-age=30", written)).max_age == seconds


def test_headers_keep_their_order_and_their_spelling() -> None:
    headers = Headers([("Host", "a"), ("ST", "b"), ("host", "c")])
    assert (headers.get("HOST"), headers.get("x"), headers.get("x", "y")) == ("a", None, "y")
    assert list(headers.with_("HOST", "d")) == [("ST", "b"), ("HOST", "d")]
    assert list(headers.with_("New", "e")) == [*headers, ("New", "e")]
    assert list(headers.without("HOST", "nonsense")) == [("ST", "b")]
    assert headers == Headers([("HOST", "a"), ("st", "b"), ("host", "c")])
    assert hash(headers) == hash(Headers(headers))
    assert headers != Headers([("HOST", "A"), ("st", "b"), ("host", "c")])
    assert headers != "headers"
    assert "ST" in repr(headers)


_MANY = 500_000


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        (SsdpDrop.WRONG_MAN, b"M-SEARCH * HTTP/1.1\r\n" + b"A:" * _MANY),
        (SsdpDrop.MALFORMED, b"M-SEARCH * HTTP/1.1\r\n" + b"\t" * _MANY + b":"),
        (SsdpDrop.MALFORMED, b"M-SEARCH " + b" " * _MANY),
        (SsdpDrop.MALFORMED, b"HTTP/1.1 200" + b" " * _MANY),
        (None, b"HTTP/1.1 200 OK\r\nST: a\r\nUSN: a\r\nLOCATION: a\r\nCACHE-CONTROL: " + b"max-age " * _MANY),
        (SsdpDrop.NO_TARGET, SEARCH.replace(b"ssdp:all", b"urn:" + b":" * _MANY)),
    ],
    ids=lambda value: repr(value[-20:]) if isinstance(value, bytes) else value,
)
def test_no_pattern_backtracks(reason: SsdpDrop | None, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Much more of it than is read: one that does would not end here."""
    monkeypatch.setattr(message, "DATAGRAM_MAX", len(data))
    assert refused(data) is reason
