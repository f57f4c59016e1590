"""What an errno means for whoever sends, listens or joins: one sentence, with what to change."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout import errno_text
from fanout.model import Endpoint

V4, V6 = Endpoint("10.0.0.7", 12_000), Endpoint("fd00::7", 12_000)
NUMBERS = st.sampled_from(sorted(errno.errorcode)) | st.integers(1, 4000)


@given(NUMBERS)
def test_every_errno_is_one_sentence_that_names_what_it_is_about(number: int) -> None:
    for sentence, names in (
        (errno_text.sending(V6, number), "[fd00::7]:12000: "),
        (errno_text.binding(V4, number), "cannot listen on UDP 10.0.0.7:12000: "),
        (errno_text.joining("224.0.0.251", "eth1", number), "cannot join 224.0.0.251 on eth1: "),
        (errno_text.leaving(number), ""),
    ):
        assert sentence.startswith(names)
        assert len(sentence) > len(names)
        assert "\n" not in sentence


def test_a_send_is_explained_and_an_unknown_errno_is_the_systems() -> None:
    assert errno_text.sending(V4, errno.ECONNREFUSED).endswith("is the port right? (ECONNREFUSED)")
    assert errno_text.sending(V4, errno.EXDEV) == "10.0.0.7:12000: Invalid cross-device link (EXDEV)"
    assert errno_text.sending(V4, 3999).endswith("(3999)")


@pytest.mark.parametrize(
    ("number", "protocol", "device", "hint"),
    [
        (errno.EADDRINUSE, "UDP", "", "ss -lunp 'sport = :12000'"),
        (errno.EADDRINUSE, "TCP", "", "ss -ltnp 'sport = :12000'"),
        (errno.EPERM, "UDP", "eth1", "needs CAP_NET_RAW before Linux 5.7: leave @eth1 out"),
        (errno.EPERM, "UDP", "", "net.ipv4.ip_unprivileged_port_start"),
        (errno.EACCES, "UDP", "eth1", "net.ipv4.ip_unprivileged_port_start"),
        (errno.EADDRNOTAVAIL, "UDP", "", "no interface of this machine has that address"),
        (errno.EMFILE, "UDP", "", "ulimit -n"),
        (errno.ENFILE, "UDP", "", "ulimit -n"),
        (errno.EIO, "UDP", "", "Input/output error"),
    ],
)
def test_why_a_socket_cannot_listen(number: int, protocol: str, device: str, hint: str) -> None:
    said = errno_text.binding(V4, number, protocol, device)
    assert said.startswith(f"cannot listen on {protocol} {V4}: ")
    assert hint in said


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.EUSERS, "split them among relays"),
        (errno.EAGAIN, "ip_local_port_range"),
        (errno.ENETUNREACH, "no route to that network"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_why_there_is_no_way_to_a_pod(number: int, hint: str) -> None:
    assert hint in errno_text.leaving(number)


@pytest.mark.parametrize(
    ("group", "number", "hint"),
    [
        ("224.0.0.251", errno.ENOBUFS, "igmp_max_memberships"),
        ("ff15::1", errno.ENOBUFS, "No buffer space"),
        ("224.0.0.251", errno.EADDRNOTAVAIL, "does it have IPv4 (ip address show eth1)?"),
        ("ff15::1", errno.EINVAL, "does it have IPv6"),
        ("ff15::1", errno.EIO, "Input/output error"),
    ],
)
def test_why_a_group_cannot_be_joined(group: str, number: int, hint: str) -> None:
    assert hint in errno_text.joining(group, "eth1", number)


class Odd(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such cache"), "ValueError: no such cache"),
        (ValueError(), "ValueError"),
        (ValueError("two\n lines\x1b[31m"), "ValueError: two lines?[31m"),
        (ValueError("x" * 600), "ValueError: " + "x" * 500),
        (Odd(), "Odd: it cannot be printed"),
    ],
)
def test_an_exception_of_a_user_is_one_line_that_can_be_printed(error: BaseException, line: str) -> None:
    assert errno_text.exception(error) == line
