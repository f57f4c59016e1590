"""Confirmed messages to 50 pods where a third of all datagrams is lost: who confirms, with how many tries each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys

import fanout
from benchmarks.lab import PORT, Lab
from benchmarks.rows import BenchPart, Row
from benchmarks.sending import Tell
from benchmarks.talk import Helper, python

PODS = 50
MESSAGES = 1000
LOSS = 0.3
"""Of the datagrams, in each direction."""
_AT_A_TIME = 50
_TIMEOUT = 600.0
_RULES = f"""
table inet loss {{
    chain input {{
        type filter hook input priority 0;
        meta l4proto udp numgen random mod 100 < {LOSS * 100:.0f} drop
    }}
}}
"""


def why_not(lab: Lab) -> str | None:
    """Return in one line why it cannot be measured here; None where it can."""
    if lab.loopback:
        return "the loopback interface loses nothing"
    return None if shutil.which("nft") else "the program nft is missing (Debian, Ubuntu: apt install nftables)"


def measure(lab: Lab, tell: Tell, *, quick: bool = False) -> BenchPart:
    """Send messages, many at a time. Each pod is a process with a `Receiver`."""
    lab.grow(PODS)
    messages = MESSAGES // 10 if quick else MESSAGES
    with contextlib.ExitStack() as stack:
        tell(f"lossy: starting {PODS} receivers")
        for pod in range(PODS):
            stack.enter_context(Helper([*lab.in_pod(pod), *python("receivers", "serve", str(PORT))]))
        for host in (lab.in_sender, *(lab.in_pod(pod) for pod in range(PODS))):
            subprocess.run([*host, "nft", "-f", "-"], input=_RULES, text=True, check=True)
            stack.callback(subprocess.run, [*host, "nft", "delete", "table", "inet", "loss"], check=True)
        tell(f"lossy: {messages:,} messages")
        command = [*lab.in_sender, *python("lossy", str(messages), lab.literal(PODS))]
        done = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    copies, tries, chance = messages * PODS, done["tries"] / done["confirmed"], 1 / (1 - LOSS) ** 2
    where = f"{messages:,} messages to {PODS} pods, {LOSS:.0%} lost each way"
    goals = [
        Row(f"{where}: confirmed", f"{done['confirmed']:,}", f"sent: {copies:,}", done["confirmed"] / copies, "= 1"),
        Row(f"{where}: tries each", f"{tries:.2f}", f"what chance demands: {chance:.2f}", tries / chance, "<= 1.1"),
    ]
    return BenchPart(goals, [], done)


async def _send(messages: int, service: str) -> None:
    turns = asyncio.Semaphore(_AT_A_TIME)
    async with fanout.AsyncSender(service) as sender:

        async def one(number: int) -> fanout.Confirmation:
            async with turns:
                return await sender.send(b"message %d" % number, confirm=True, timeout=_TIMEOUT)

        done = await asyncio.gather(*(one(number) for number in range(messages)))
    tries = [receipt.tries for confirmation in done for receipt in confirmation.receipts]
    confirmed = sum(len(confirmation.confirmed) for confirmation in done)
    print(json.dumps({"confirmed": confirmed, "tries": sum(tries), "most": max(tries)}))


if __name__ == "__main__":
    asyncio.run(_send(int(sys.argv[1]), sys.argv[2]))
