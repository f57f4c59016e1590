"""A pod's program that can be stopped: `python -m benchmarks.contenders.pod ADDRESS PORT`; its input's end ends it.

It has the default receive buffer, and looks at its socket once a millisecond, as those that count do.
"""

from __future__ import annotations

import select
import socket
import sys


def main() -> None:
    """Take what comes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind((sys.argv[1], int(sys.argv[2])))
        opened.setblocking(False)
        print('"ready"', flush=True)
        while not select.select([sys.stdin], [], [], 0.001)[0]:
            _take(opened)


def _take(opened: socket.socket) -> None:
    try:
        while True:
            opened.recv(65_535)
    except BlockingIOError:
        return


if __name__ == "__main__":
    main()
