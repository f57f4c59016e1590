"""The interfaces of this host, held against what `ip` says in a network of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fanout.net import interfaces
from tests.support.namespace import Namespace, why_no_namespace
from tests.support.needs import unavailable

LOOK = """
import json, select, sys
from fanout.net import interfaces
watch = interfaces.Watch()
print("ready", flush=True)
for line in sys.stdin:
    told = bool(select.select([watch], [], [], 2)[0])
    watch.drain()
    print(json.dumps({
        "told": told,
        "names": interfaces.names(),
        "index": interfaces.index("one"),
        "addresses": [str(address) for address in interfaces.addresses("one")],
        "up": interfaces.is_up("one"),
        "route": interfaces.route("10.9.0.7"),
        "route6": interfaces.route("ff02::7", "one"),
    }), flush=True)
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

        def after(*lines: str) -> dict[str, object]:
            assert looking.stdin is not None
            assert looking.stdout is not None
            for line in lines:
                namespace.run("ip", *line.split())
            print(file=looking.stdin, flush=True)
            seen: dict[str, object] = json.loads(looking.stdout.readline())
            return seen

        seen = after("link add one type veth peer name other")
        assert seen["told"]
        assert seen["names"] == ["lo", "other", "one"]
        assert (seen["up"], seen["addresses"], seen["route"]) == (False, [], None)
        seen = after(
            "link set other up",
            "link set one up",
            "address add 10.9.0.1/24 dev one",
            "address add fd09::1/64 dev one nodad",
        )
        assert (seen["told"], seen["up"], seen["route"]) == (True, True, ["one", "10.9.0.1"])
        assert isinstance(seen["addresses"], list)
        assert seen["addresses"][:2] == ["10.9.0.1", "fd09::1"]
        assert isinstance(seen["route6"], list)
        assert seen["route6"][0] == "one"
        seen = after("link set other down")
        if seen["up"]:  # the kernel takes a moment to notice that there is no carrier, and tells of that as well
            seen = after()
        assert (seen["told"], seen["up"]) == (True, False)
        seen = after("link delete one")
        assert (seen["told"], seen["index"], seen["up"], seen["names"]) == (True, None, False, ["lo"])
        looking.stdin.close()
        assert looking.wait(5) == 0


def test_what_is_no_interface() -> None:
    for name in ("nowhere0", "", "a" * 200):
        assert interfaces.index(name) is None
        assert not interfaces.is_up(name)
        assert interfaces.addresses(name) == []
