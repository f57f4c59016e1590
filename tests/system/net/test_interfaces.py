"""The interfaces of this host, held against what `ip` says in a network of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fanout.net import interfaces
from tests.support.namespace import Namespace, why_no_namespace
from tests.support.needs import unavailable
from tests.support.waiting import PATIENCE

LOOK = f"""
import json, select, sys
from fanout.net import interfaces
watch = interfaces.InterfaceWatch()
print("ready", flush=True)
for line in sys.stdin:
    told = bool(select.select([watch], [], [], {PATIENCE})[0])
    watch.drain()
    print(json.dumps({{
        "told": told,
        "names": interfaces.names(),
        "index": interfaces.index("one"),
        "addresses": [str(address) for address in interfaces.addresses("one")],
        "up": interfaces.is_up("one"),
        "route": interfaces.route("10.9.0.7"),
        "route6": interfaces.route("ff02::7", "one"),
    }}), flush=True)
"""


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    why = why_no_namespace()
    if why is not None:
        unavailable("tools", why)
    with Namespace() as made:
        yield made


def test_changes_are_told_and_seen(namespace: Namespace) -> None:
    command = [*namespace.command, sys.executable, "-c", LOOK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as looking:
        assert looking.stdin is not None
        assert looking.stdout is not None
        assert looking.stdout.readline() == "ready\n"

        def after(*lines: str, until: Callable[[dict[str, Any]], bool] = lambda seen: True) -> dict[str, Any]:
            """Make changes, and look whenever the kernel tells of one: until it is so."""
            assert looking.stdin is not None
            assert looking.stdout is not None
            for line in lines:
                namespace.run("ip", *line.split())
            while True:
                print(file=looking.stdin, flush=True)
                seen: dict[str, Any] = json.loads(looking.stdout.readline())
                assert seen["told"], seen
                if until(seen):
                    return seen

        seen = after("link add one type veth peer name other")
        assert seen["names"] == ["lo", "other", "one"]
        assert (seen["up"], seen["addresses"], seen["route"]) == (False, [], None)
        seen = after(
            "link set other up",
            "link set one up",
            "address add 10.9.0.1/24 dev one",
            "address add fd09::1/64 dev one nodad",
            until=lambda seen: seen["up"],  # the kernel takes a moment to notice the carrier, and tells of that as well
        )
        assert seen["route"] == ["one", "10.9.0.1"]
        assert seen["addresses"][:2] == ["10.9.0.1", "fd09::1"]
        assert seen["route6"][0] == "one"
        after("link set other down", until=lambda seen: not seen["up"])
        seen = after("link delete one", until=lambda seen: seen["names"] == ["lo"])
        assert (seen["index"], seen["up"]) == (None, False)
        looking.stdin.close()
        assert looking.wait(PATIENCE) == 0


def test_what_is_no_interface() -> None:
    for name in ("nowhere0", "", "a" * 200):
        assert interfaces.index(name) is None
        assert not interfaces.is_up(name)
        assert interfaces.addresses(name) == []
