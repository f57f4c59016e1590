"""Confirmed delivery where a third of all datagrams is lost: 50 pods, each on an address of its own."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.namespace import Namespace, cabled_hosts
from tests.support.needs import require

PODS = 50
MESSAGES = 10
LOSS = 30
"""Percent of the datagrams, in each direction."""
_ADDRESSES = [f"10.78.0.{2 + pod}" for pod in range(PODS)]

_RECEIVERS = """
import asyncio, json, sys
from collections import Counter
import fanout

async def main():
    receivers = [fanout.AsyncReceiver(12000, host=host) for host in sys.argv[1:]]
    handed = [Counter() for _ in receivers]
    tasks = [
        asyncio.create_task(receiver.serve(lambda message, seen=seen: seen.update([message.payload])))
        for receiver, seen in zip(receivers, handed)
    ]
    for receiver in receivers:
        await receiver.open()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps([[len(seen), max(seen.values())] for seen in handed]))

asyncio.run(main())
"""
_SENDER = """
import asyncio, json, sys
import fanout

async def main():
    async with fanout.AsyncSender(",".join(sys.argv[2:])) as sender:
        payloads = [f"message {number}".encode() for number in range(int(sys.argv[1]))]
        done = await asyncio.gather(*(sender.send(payload, confirm=True, timeout=600) for payload in payloads))
    tries = [receipt.tries for confirmation in done for receipt in confirmation.receipts]
    print(json.dumps([sum(len(one.confirmed) for one in done), max(tries), sum(tries)]))

asyncio.run(main())
"""


def lose(namespace: Namespace) -> None:
    """Lose some of what arrives."""
    rules = f"""
        table inet loss {{
            chain input {{
                type filter hook input priority 0;
                meta l4proto udp numgen random mod 100 < {LOSS} counter drop
            }}
        }}
    """
    subprocess.run([*namespace.command, "nft", "-f", "-"], input=rules, text=True, check=True)


def lost(namespace: Namespace) -> int:
    command = [*namespace.command, "nft", "-j", "list", "table", "inet", "loss"]
    shown = subprocess.run(command, capture_output=True, check=True)
    (packets,) = (
        part["counter"]["packets"]
        for each in json.loads(shown.stdout)["nftables"]
        for part in each.get("rule", {}).get("expr", [])
        if "counter" in part
    )
    assert isinstance(packets, int)
    return packets


def test_every_pod_confirms_every_message_and_hands_it_over_once() -> None:
    """That they take no more tries than chance demands is measured, with more messages: `make bench`."""
    require("nft")
    with cabled_hosts("10.78.0.1", "10.78.0.254") as (here, there):
        for address in _ADDRESSES:
            there.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        lose(here)
        lose(there)
        receivers = subprocess.Popen(
            [*there.command, sys.executable, "-c", _RECEIVERS, *_ADDRESSES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert receivers.stdout is not None
            assert receivers.stdout.readline() == b"ready\n"
            sent = subprocess.run(
                [*here.command, sys.executable, "-c", _SENDER, str(MESSAGES), *_ADDRESSES],
                capture_output=True,
                check=True,
            )
            out, _ = receivers.communicate()
        finally:
            receivers.kill()
            receivers.communicate()
        losses = lost(here), lost(there)
    confirmed, most_tries, tries = json.loads(sent.stdout)
    assert confirmed == MESSAGES * PODS
    assert json.loads(out) == [[MESSAGES, 1]] * PODS
    # It was lossy indeed, both ways.
    assert all(losses)
    assert tries > MESSAGES * PODS * 1.5
    assert most_tries > 5
