"""Processes whose memory is measured: `python -m benchmarks.footprint sender ENDPOINTS` or `receiver FIRST SECOND`.

Tells the resident memory in KiB, the receiver's once it has handed over N messages.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fanout
from benchmarks.lab import PORT


def main() -> None:
    """Run one measurement."""
    what, *numbers = sys.argv[1:]
    if what == "sender":
        _send(int(numbers[0]))
    else:
        _receive([int(number) for number in numbers])


def _send(count: int) -> None:
    before = _resident("VmHWM")
    hosts = [f"127.{1 + number // 65_025}.{number // 255 % 255}.{1 + number % 255}" for number in range(count)]
    with fanout.Sender(",".join(f"{host}:{PORT}" for host in hosts)) as sender:
        for _ in range(100):
            sender.send(b"x" * 200)
        report = sender.send_many([b"x" * 200] * 128)
    result = {"before": before, "after": _resident("VmHWM"), "endpoints": len(report.outcomes)}
    print(json.dumps(result), flush=True)


def _receive(marks: list[int]) -> None:
    count = 0
    resident: list[int] = []
    with fanout.Receiver(PORT) as receiver:
        print('"ready"', flush=True)
        for message in receiver:
            count += bool(message.payload)
            if count == marks[len(resident)]:
                resident.append(_resident("VmRSS"))
                if len(resident) == len(marks):
                    break
    print(json.dumps({"resident": resident, "peak": _resident("VmHWM")}), flush=True)


def _resident(field: str) -> int:
    # Not ru_maxrss: that begins with what the parent had when it started this process.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise ValueError(field)


if __name__ == "__main__":
    main()
