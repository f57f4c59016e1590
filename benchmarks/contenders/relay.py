"""fanout's relay as a process: `python -m benchmarks.contenders.relay SERVICE INGRESS TO-PORT`.

Any line on its standard input is answered by its counts; the end of the input ends it.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from fanout.relay.relay import Relay


def main() -> None:
    """Forward in this thread, answer in another."""
    service, ingress, port = sys.argv[1:]
    with Relay(service, [ingress], to_port=int(port), allow_loopback=True) as relay:
        threading.Thread(target=_answer, args=(relay,), daemon=True).start()
        relay.serve()


def _answer(relay: Relay) -> None:
    while relay.waiting is not None:
        time.sleep(0.01)
    print('"ready"', flush=True)
    for _ in sys.stdin:
        stats = relay.stats
        counts = {
            "datagrams": sum(ingress.datagrams for ingress in stats.ingresses),
            "failed": sum(stats.dropped.values()),
            "dropped": {str(reason): count for one in stats.ingresses for reason, count in one.dropped.items()},
        }
        print(json.dumps(counts), flush=True)
    relay.stop()


if __name__ == "__main__":
    main()
