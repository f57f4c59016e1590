"""Receivers in a process of their own: one socket an address, all on one port, counting numbered datagrams.

Prints the port once all are bound. At the end of standard input it takes what is still waiting and prints, for each
address, how many datagrams came and how many different ones.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys


def main(hosts: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        port = 0
        for host in hosts:
            receiver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            receiver.bind((host, port))
            receiver.setblocking(False)
            port = receiver.getsockname()[1]
            selector.register(receiver, selectors.EVENT_READ, host)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print(port, flush=True)
        counts = dict.fromkeys(hosts, 0)
        numbers: dict[str, set[bytes]] = {host: set() for host in hosts}
        ending = False
        while ready := selector.select(0.3 if ending else None):
            for key, _ in ready:
                if key.fileobj is sys.stdin:
                    selector.unregister(sys.stdin)
                    ending = True
                    continue
                assert isinstance(key.fileobj, socket.socket)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        numbers[key.data].add(key.fileobj.recv(64))
                        counts[key.data] += 1
        print(json.dumps({host: [counts[host], len(numbers[host])] for host in hosts}))


if __name__ == "__main__":
    main(sys.argv[1:])
