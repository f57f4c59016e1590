"""The sender pod's main process: says how to send, then sleeps in the kernel until it is told to stop.

The work is done by `fanout send`, which runs beside it (`oc exec sender -- fanout send ...`). Only the
standard library is used, and nothing of the user is looked up: OpenShift's arbitrary UID has no passwd entry.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from datetime import UTC, datetime

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
DOWNWARD_API = {"pod": "POD_NAME", "namespace": "POD_NAMESPACE", "pod_ip": "POD_IP", "node": "NODE_NAME"}


def log(event: str, **values: str) -> None:
    """Print one line of JSON, its keys those of the receiver's log."""
    known = {key: os.environ[variable] for key, variable in DOWNWARD_API.items() if os.environ.get(variable)}
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line = {"timestamp": now, "level": "info", "event": event, "pod": socket.gethostname(), **known, **values}
    print(json.dumps(line), flush=True)


def main() -> None:
    """Wait for SIGTERM or SIGINT, and exit 0."""
    # The kernel drops a signal to PID 1 that has no handler, but keeps a blocked one: so block before the
    # first line is out, and no stop is ever lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    # PID 1 inherits what `oc exec` leaves behind in the background; ignored children leave no zombies.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    service = os.environ.get("FANOUT_SERVICE") or "headless-udp"
    log("sender_ready", hint=f"oc exec sender -- fanout send -s {service} -m msg")
    stopped_by = signal.Signals(signal.sigwait(STOP_SIGNALS))
    log("sender_stopped", signal=stopped_by.name)


if __name__ == "__main__":
    main()
