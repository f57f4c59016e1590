"""Confirmed delivery where a third of all datagrams is lost: 50 pods, each on an address of its own."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.namespace import Namespace, cabled_hosts
from tests.support.needs import program, unavailable

PODS = 50
MESSAGES = 1000
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
    turns = asyncio.Semaphore(50)
    async with fanout.AsyncSender(",".join(sys.argv[2:])) as sender:
        async def one(number):
            async with turns:
                return await sender.send(f"message {number}".encode(), confirm=True, timeout=120)
        done = await asyncio.gather(*(one(number) for number in range(int(sys.argv[1]))))
    tries = [receipt.tries for confirmation in done for receipt in confirmation.receipts]
    print(json.dumps([sum(len(one.confirmed) for one in done), max(tries), sum(tries)]))

asyncio.run(main())
"""


def _lose(namespace: Namespace) -> None:
    """Lose some of what arrives."""
    rules = f"""
        table inet loss {{
            chain input {{
                type filter hook input priority 0;
                meta l4proto udp numgen random mod 100 < {LOSS} drop
            }}
        }}
    """
    subprocess.run([*namespace.command, "nft", "-f", "-"], input=rules, text=True, check=True)


def test_every_pod_confirms_every_message_and_hands_it_over_once() -> None:
    if program("nft") is None:
        unavailable("tools", "the program nft is missing (Debian, Ubuntu: apt install nftables)")
    with cabled_hosts("10.78.0.1", "10.78.0.254") as (here, there):
        for address in _ADDRESSES:
            there.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        _lose(here)
        _lose(there)
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
                timeout=300,
            )
            out, _ = receivers.communicate(timeout=20)
        finally:
            receivers.kill()
            receivers.communicate()
    confirmed, most_tries, tries = json.loads(sent.stdout)
    assert confirmed == MESSAGES * PODS
    assert json.loads(out) == [[MESSAGES, 1]] * PODS
    # It was lossy indeed: 1 / 0.7² tries each, had none been sent too early.
    assert tries > MESSAGES * PODS * 1.5
    assert most_tries > 5
    print(f"{confirmed:,} confirmed with {tries / confirmed:.2f} tries each, {most_tries} at most")
