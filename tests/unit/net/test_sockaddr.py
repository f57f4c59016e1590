"""Addresses as the kernel has them, and as people write them."""

from __future__ import annotations

import pytest

from fanout.net import sockaddr


def test_addresses_are_laid_out_as_the_kernel_reads_them() -> None:
    assert sockaddr.pack("10.0.0.7", 12000)[2:8] == bytes((0x2E, 0xE0, 10, 0, 0, 7))
    packed = sockaddr.pack("fd00::7", 1)
    assert (len(packed), packed[2:4], packed[8:24]) == (28, b"\0\1", bytes((0xFD, *bytes(14), 7)))
    with pytest.raises(OSError, match="illegal IP address"):
        sockaddr.pack("headless-udp", 1)


def test_ipv4_in_ipv6() -> None:
    assert sockaddr.mapped("10.0.0.7") == "::ffff:10.0.0.7"
    assert sockaddr.mapped("fd00::7") == "fd00::7"
    for host in ("10.0.0.7", "fd00::7"):
        assert sockaddr.plain(sockaddr.mapped(host)) == host
    assert sockaddr.is_ipv4("10.0.0.7")
    assert sockaddr.is_ipv4("::ffff:10.0.0.7")
    assert not sockaddr.is_ipv4("fd00::7")
