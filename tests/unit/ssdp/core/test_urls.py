"""URLs of pods in documents and headers: all that a client would follow, and not a byte else."""

from __future__ import annotations

import codecs
import contextlib
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fanout.ssdp.core import urls
from fanout.ssdp.core.urls import (
    AUTHORITIES_MAX,
    URLS_MAX,
    HttpUrl,
    Origin,
    Rewritten,
    TooManyUrls,
    in_text,
    in_value,
    is_document,
    split,
)

EDGE = "10.50.0.20:28203"
XML = 'text/xml; charset="utf-8"'
WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
NARROW = ["utf-8", "utf-8-sig", "latin-1", "cp1252", "iso-8859-15", "shift-jis", "gb18030", "euc-jp", "big5"]

# A Browse of minidlna 1.3.0, cut to one picture: DIDL-Lite, escaped inside SOAP.
MINIDLNA_BROWSE = (
    '<?xml version="1.0" encoding="utf-8"?>\r\n<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
    '<u:BrowseResponse xmlns:u="urn:schemas-upnp-org:service:ContentDirectory:1"><Result>'
    '&lt;DIDL-Lite xmlns:dc="http://purl.org/dc/elements/1.1/"&gt;\n&lt;item id="64$1"&gt;'
    "&lt;dc:title&gt;film &amp;amp; co&lt;/dc:title&gt;"
    '&lt;res protocolInfo="http-get:*:image/jpeg:*"&gt;http://10.60.0.11:8200/MediaItems/23.jpg&lt;/res&gt;'
    "&lt;res&gt;http://10.60.0.11:8200/Resized/23.jpg?width=160,height=120&lt;/res&gt;"
    "&lt;/item&gt;&lt;/DIDL-Lite&gt;</Result></u:BrowseResponse></s:Body></s:Envelope>"
)
# Of a description of Gerbera 1.1.0.
GERBERA = (
    "<presentationURL>http://10.60.0.12:49494/</presentationURL><manufacturerURL>http://gerbera.io/</manufacturerURL>"
)
PLAYLIST = "#EXTM3U\r\n#EXTINF:123,Jos\u00e9\r\nhttp://10.60.0.11:8200/MediaItems/1.mp3\r\n../relative.mp3\r\n"


def edge(host: str, port: int) -> str | None:
    """One pod with a port for each of two of its own, none for its third; and a pod with IPv6."""
    if host == "fd60::11":
        return "[fd50::20]:28203"
    if host not in ("10.60.0.11", "10.60.0.12"):
        return None
    return EDGE if port in (8200, 49494, 80) else ""


def rewritten(text: str) -> str:
    body = text.encode()
    done = in_text(body, XML, edge)
    assert in_value(text, edge) == done.body.decode()
    return done.body.decode()


@pytest.mark.parametrize("document", [MINIDLNA_BROWSE, GERBERA, PLAYLIST])
def test_documents_of_real_servers(document: str) -> None:
    body = document.encode()
    count = document.count("http://10.60.0.1")
    done = in_text(body, XML, edge)
    assert done == Rewritten(
        body.replace(b"10.60.0.11:8200", EDGE.encode()).replace(b"10.60.0.12:49494", EDGE.encode()), count, 0
    )


CHANGED = [
    ("http://10.60.0.11:8200/a", "http://E/a"),
    ("http://10.60.0.11:8200", "http://E"),
    ("HTTP://10.60.0.11:8200/a", "HTTP://E/a"),
    ("hTTp://10.60.0.11:8200/a", "hTTp://E/a"),
    ("http://10.60.0.11/a", "http://E/a"),
    ("http://10.60.0.11:/a", "http://E/a"),
    ("http://10.60.0.11:80/a", "http://E/a"),
    ("http://10.60.0.11:08200/a", "http://E/a"),
    ("http://10.60.0.11:8200?a=b", "http://E?a=b"),
    ("http://10.60.0.11:8200#a", "http://E#a"),
    ("http://10.60.0.11:8200&amp;", "http://E&amp;"),
    ("http://10.60.0.11:8200&quot;", "http://E&quot;"),
    ("http://10.60.0.11&lt;", "http://E&lt;"),
    ("&quot;http://10.60.0.11:8200/&quot;", "&quot;http://E/&quot;"),
    ('"http://10.60.0.11:8200"', '"http://E"'),
    ("<http://10.60.0.11:8200/><http://10.60.0.11:80/>", "<http://E/><http://E/>"),
    ("(http://10.60.0.11:8200)", "(http://E)"),
    ("http://10.60.0.11:8200\r\n", "http://E\r\n"),
    ("http://10.60.0.11:8200,http://10.60.0.11:8200", "http://E,http://E"),
    ("a=http://10.60.0.11:8200/?u=http://10.60.0.12:49494/", "a=http://E/?u=http://E/"),
    ("http://[fd60::11]:8200/", "http://[fd50::20]:28203/"),
    ("http://[FD60:0::0:11]/", "http://[fd50::20]:28203/"),
    ("http://[::ffff:10.60.0.11]:8200/", "http://E/"),
    ("http://10.60.0.11:8200\u3002", "http://E\u3002"),
    ("_http://10.60.0.11:8200/", "_http://E/"),
]


@pytest.mark.parametrize(("before", "after"), CHANGED)
def test_urls_of_pods(before: str, after: str) -> None:
    assert rewritten(before) == after.replace("E", EDGE)


LEFT = [
    "https://10.60.0.11:8200/",
    "ftp://10.60.0.11:8200/",
    "xhttp://10.60.0.11:8200/",
    "x-http://10.60.0.11:8200/",
    "http:/10.60.0.11:8200/",
    "http//10.60.0.11:8200/",
    "http:// 10.60.0.11:8200/",
    "10.60.0.11:8200",
    "//10.60.0.11:8200/",
    # Another host, whose name begins like the pod's address.
    "http://10.60.0.110:8200/",
    "http://10.60.0.11.example/",
    "http://10.60.0.11a/",
    "http://10.60.0.11-a/",
    "http://10.60.0.11_/",
    "http://10.60.0.11%2e/",
    "http://110.60.0.11:8200/",
    "http://010.60.0.11:8200/",
    "http://10.60.0.011:8200/",
    "http://10.60.11:8200/",
    "http://10.60.0.256:8200/",
    "http://10.60.0.11.:8200/",
    # Another port, or none that there is.
    "http://10.60.0.11:82000/",
    "http://10.60.0.11:8200.5/",
    "http://10.60.0.11:8200a/",
    "http://10.60.0.11:8200-a/",
    "http://10.60.0.11:0/",
    "http://10.60.0.11:70000/",
    "http://10.60.0.11:000008200/",
    "http://10.60.0.11:8200:8200/",
    "http://10.60.0.11:+8200/",
    # The pod's address is a user's name.
    "http://user@10.60.0.11:8200/",
    "http://10.60.0.11@evil.example/",
    "http://10.60.0.11:8200@evil.example/",
    "http://10.60.0.11:@evil.example/",
    "http://10.60.0.11!@evil.example/",
    "http://10.60.0.11$@evil.example/",
    "http://media.example:8200/",
    "http://[fd60::11%25eth0]:8200/",
    "http://[fd60::11:8200/",
    "http://[fd60::11]]:8200/".replace("]]", "]a"),
    "http://[fd60:::11]:8200/",
    "http://[10.60.0.11]:8200/",
    "http://[fd60::12]:8200/",
    "http%3A%2F%2F10.60.0.11%3A8200%2F",
]


@pytest.mark.parametrize("text", LEFT)
def test_what_is_no_url_of_a_pod(text: str) -> None:
    assert rewritten(text) == text
    assert rewritten(f"<a>{text}</a>") == f"<a>{text}</a>"


def test_what_is_changed_and_what_has_no_port_is_counted() -> None:
    body = b"http://10.60.0.11:8200/ http://10.60.0.11:9/ http://10.9.9.9/ http://10.60.0.11:9/ http://10.60.0.12/"
    done = in_text(body, XML, edge)
    assert (done.changed, done.left) == (2, 2)
    unchanged = in_text(b"http://10.60.0.11:9/ http://10.9.9.9/", XML, edge)
    assert unchanged == Rewritten(b"http://10.60.0.11:9/ http://10.9.9.9/", 0, 1)


def test_each_host_and_port_is_asked_for_once() -> None:
    asked = []

    def authority(host: str, port: int) -> str | None:
        asked.append((host, port))
        return EDGE if port == 1 else "" if port == 2 else None

    done = in_text(b"http://10.0.0.1:1/ http://10.0.0.1:2/ http://10.0.0.1:3/ " * 5, XML, authority)
    assert asked == [("10.0.0.1", 1), ("10.0.0.1", 2), ("10.0.0.1", 3)]
    assert (done.changed, done.left) == (5, 5)


@pytest.mark.parametrize("charset", WIDE)
@pytest.mark.parametrize("document", [MINIDLNA_BROWSE, PLAYLIST, "http://10.60.0.11:8200", "<a>\U0001f3b5\ud83c</a>"])
def test_characters_of_two_and_four_bytes(charset: str, document: str) -> None:
    body = document.encode(charset, "surrogatepass")
    after = document.replace("10.60.0.11:8200", EDGE).encode(charset, "surrogatepass")
    assert in_text(body, "text/xml", edge).body == after
    assert in_text(body, "text/xml; charset=iso-8859-1", edge).body == after
    # Cut in the middle of a character, it is rewritten all the same.
    assert in_text(body + b"\0", "text/xml", edge).body == after + b"\0"


@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_wide_document_that_neither_a_mark_nor_its_beginning_tells(charset: str) -> None:
    body = "\u66f2 http://10.60.0.11:8200/".encode(charset)
    after = f"\u66f2 http://{EDGE}/".encode(charset)
    for written in (charset, charset.replace("-", ""), charset.upper(), f'"{charset}"'):
        assert in_text(body, f"audio/x-mpegurl; charset={written}", edge).body == after
    assert in_text(body, "audio/x-mpegurl", edge).body == body
    is_big = charset.endswith("be")
    assert (in_text(body, f"audio/x-mpegurl;charset={charset[:-3]}", edge).body == after) is is_big


@pytest.mark.parametrize("charset", NARROW)
def test_every_charset_with_ascii_in_it(charset: str) -> None:
    text = "<a>http://10.60.0.11:8200/1</a>"
    for extra in ("\u00e9\u00fc", "\u8868\u793a"):
        document = f"{extra}{text}{extra}"
        body = document.encode(charset, "ignore")
        after = document.replace("10.60.0.11:8200", EDGE).encode(charset, "ignore")
        for declared in (charset, "utf-8", "utf-16", "nonsense"):
            done = in_text(body, f"text/xml; charset={declared}", edge)
            assert (done.body, done.changed) == (after, 1)


@given(st.binary(max_size=200), st.sampled_from(["text/xml", *(f"text/xml; charset={each}" for each in WIDE)]))
@example(codecs.BOM_UTF32_LE + b"\xff\xff\xff\xff" + "http://10.60.0.11:8200".encode("utf-32-le"), "text/xml")
@example(b"<\0\0\0" + bytes(3), "text/xml")
def test_any_bytes_without_a_url_stay_as_they_are(body: bytes, content_type: str) -> None:
    assert in_text(body, content_type, edge) == Rewritten(body, 0, 0)


@given(
    st.lists(st.binary(max_size=30), min_size=2, max_size=5),
    st.sampled_from(["utf-16-le", "utf-16-be"]),
    st.sampled_from(["", "/x"]),
)
def test_bytes_around_urls_stay_as_they_are_in_utf_16(parts: list[bytes], charset: str, path: str) -> None:
    """Lone surrogates too, which are no text."""
    mark = "\ufeff".encode(charset)
    url, after = (f" http://{where}{path} ".encode(charset) for where in ("10.60.0.11:8200", EDGE))
    even = [part[: len(part) // 2 * 2] for part in parts]
    done = in_text(mark + url.join(even), "text/xml", edge)
    assert done.body == mark + after.join(even)
    assert done.changed == len(parts) - 1


@given(st.lists(st.binary(max_size=30), min_size=2, max_size=5))
def test_bytes_around_urls_stay_as_they_are(parts: list[bytes]) -> None:
    body = b"<" + b" http://10.60.0.11:8200/ ".join(parts)
    assume(body[1:4] != bytes(3))
    assume(body[1:2] != b"\0")
    assume(b"http://10" not in b"".join(parts))
    done = in_text(body, "text/xml", edge)
    assert done == Rewritten(b"<" + f" http://{EDGE}/ ".encode().join(parts), len(parts) - 1, 0)


@given(
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    st.integers(1, 65_535),
    st.sampled_from(["", "/", "/a?b=http://10.0.0.1:1/", "?x", "#y"]),
)
def test_the_location_of_any_address(address: object, port: int, rest: str) -> None:
    text = str(address)
    mapped = getattr(address, "ipv4_mapped", None)
    shown = f"[{text}]" if ":" in text else text
    expected = str(mapped or text)
    assert split(f"http://{shown}:{port}{rest}") == HttpUrl(Origin(expected, port), rest)
    assert split(f"http://{shown}{rest}") == HttpUrl(Origin(expected, 80), rest)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "10.60.0.11:8200",
        " http://10.60.0.11:8200/",
        "http://10.60.0.11:8200 /",
        "http://10.60.0.11:8200\\@evil.example/",
        "http://10.60.0.11:8200\n",
        "http://10.60.0.11:8200&",
        "http://10.60.0.11\ud800/",
        "http://localhost:8200/",
        "http://0x0a3c000b/",
        "http://167772161/",
        "/rootDesc.xml",
        "see http://10.60.0.11:8200/",
        *(url for url in LEFT if not url.startswith(("http://10.60.0.110:", "http://110.", "http://[fd60::12]"))),
    ],
)
def test_what_is_no_location(url: str) -> None:
    assert split(url) is None


@given(st.text(max_size=60))
def test_any_text_is_a_location_or_none(text: str) -> None:
    for url in (text, f"http://{text}", f"http://10.0.0.1{text}", f"http://[{text}]"):
        split(url)
        in_value(url, lambda _host, _port: None)


def test_a_header_with_several_urls() -> None:
    assert in_value("<http://10.60.0.11:8200/a> <http://10.1.1.1/b>", edge) == f"<http://{EDGE}/a> <http://10.1.1.1/b>"
    assert in_value("text/plain", edge) == "text/plain"
    assert in_value("\ud800 http://10.60.0.11:8200/é", edge) == f"\ud800 http://{EDGE}/é"


@pytest.mark.parametrize(
    "content_type",
    [
        'text/xml; charset="utf-8"',
        "TEXT/XML",
        "application/xml;charset=utf-16",
        "application/xspf+xml",
        "application/xhtml+xml",
        "application/dash+xml",
        "text/html; charset=utf-8",
        "audio/x-mpegurl",
        "audio/mpegurl",
        "application/vnd.apple.mpegurl",
        " application/x-mpegURL ",
        "audio/x-scpls",
        "audio/x-ms-wax",
        "video/x-ms-wvx",
    ],
)
def test_documents(content_type: str) -> None:
    assert is_document(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        ";",
        "text/plain",
        "video/mp4",
        "video/x-ms-asf",
        "audio/mpeg",
        "image/jpeg",
        "image/svg+xml",
        "video/+xml",
        "application/octet-stream",
        "application/json",
        "text/srt",
        "video/mp4; text/xml",
        "text/xmlx",
        "multipart/byteranges; boundary=text/xml",
    ],
)
def test_media(content_type: str) -> None:
    assert not is_document(content_type)


@pytest.mark.parametrize(
    "part",
    [
        b" ",
        b"h",
        b"://",
        b"http://",
        b"http://[",
        b"http://1.",
        b"http://[" + b":" * 45 + b" ",
        b"http://255.255.255.255:99999",
        b"http://10.60.0.11:8200/",
        b"http://10.60.0.11:9/",
        b"h\0t\0t\0p\0:\0/\0/\0001\0",
        b"\0",
        b"\xff",
        b"&lt;res&gt;http://10.60.0.11:8200/MediaItems/1.mp4&lt;/res&gt;",
    ],
)
def test_the_work_for_a_document_is_bounded(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of it, and as many URLs as may be: a pattern that backtracks would not end here."""
    most = 8192
    monkeypatch.setattr(urls, "URLS_MAX", most)
    looked_at = 0

    class Counted(urls._Substitutes):
        def put(self, match: re.Match[bytes]) -> bytes:
            nonlocal looked_at
            looked_at += 1
            return super().put(match)

    monkeypatch.setattr(urls, "_Substitutes", Counted)
    size = (1 << 20) // len(part) // 8 * 8
    for body in {part * size, (part * min(size, most)).ljust(1 << 20)}:
        looked_at = 0
        with contextlib.suppress(TooManyUrls):
            in_text(body, "text/xml; charset=utf-16", edge)
        assert looked_at <= most


def test_a_document_with_too_many_urls_is_none() -> None:
    url = "http://10.60.0.11:8200/ "
    assert in_text((url * URLS_MAX).encode(), XML, edge).changed == URLS_MAX
    for charset in ("utf-8", "utf-16"):
        with pytest.raises(TooManyUrls):
            in_text((url * (URLS_MAX + 1)).encode(charset), XML, edge)


def test_of_hosts_without_number_the_first_are_looked_at() -> None:
    hosts = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(2 * AUTHORITIES_MAX)]
    body = " ".join(f"http://{host}/" for host in hosts).encode()
    asked = []

    def authority(host: str, _port: int) -> str:
        asked.append(host)
        return EDGE

    done = in_text(body + b" http://10.0.0.0/", XML, authority)
    assert asked == hosts[:AUTHORITIES_MAX]
    assert done.changed == AUTHORITIES_MAX + 1  # a host that is known stays so
    assert done.body.endswith(f"http://{hosts[-1]}/ http://{EDGE}/".encode())
