"""Where the local headless Service keeps its state, and how others find it.

The state directory is $FANOUT_LOCAL_DIR, or `fanout` in $XDG_RUNTIME_DIR, or `fanout-UID` in the directory for
temporary files. It holds, while the Service runs::

    local.conf      how to ask its nameserver, in lines of `keyword value...`, as resolv.conf has them
    control         the Unix socket that takes commands
    logs/POD.log    what each receiver wrote
    supervisor.log  what went wrong inside the supervisor

The directory is the user's alone (mode 0700, owner checked): whoever could write there could redirect messages.

`fanout send` imports this module on every run: it imports only what the command line has loaded already, and
not even pathlib.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from fanout.errors import FanoutError


class LocalServiceError(FanoutError):
    """The local headless Service cannot carry out a command."""


class NotRunning(LocalServiceError):
    """No local headless Service runs."""

    def __init__(self) -> None:
        super().__init__("no local headless Service is running: start one with `fanout local up`")


class LocalService(NamedTuple):
    """A running local headless Service: all that is needed to resolve it, and to reach its supervisor."""

    pid: int
    """Of the supervisor."""
    nameserver: str
    """`127.0.0.1:PORT`, over UDP and TCP."""
    search: tuple[str, ...]
    ndots: int
    service: str
    """The short name of the Service."""
    port: int
    """The UDP port of its pods."""
    directory: str

    @property
    def name(self) -> str:
        """The full name of the Service, without a trailing dot."""
        return f"{self.service}.{self.search[0]}"


def find() -> LocalService | None:
    """Return the local headless Service that runs here, or None; takes microseconds where there is none."""
    directory = directory_path()
    try:
        if complaint_about(directory) is not None:
            return None
        with open(file_path(directory), encoding="utf-8") as file:
            values = dict(line.rstrip("\n").split(" ", 1) for line in file)
        service = LocalService(
            pid=int(values["pid"]),
            nameserver=values["nameserver"],
            search=tuple(values["search"].split()),
            ndots=int(values["ndots"]),
            service=values["service"],
            port=int(values["port"]),
            directory=directory,
        )
        return service if _is_alive(directory) else None
    except (OSError, ValueError, KeyError):
        return None


def running() -> LocalService:
    """Return the local headless Service that runs here; raise `NotRunning`."""
    service = find()
    if service is None:
        raise NotRunning
    return service


def directory_path() -> str:
    """Return the path of the state directory, whether it exists or not."""
    chosen = os.environ.get("FANOUT_LOCAL_DIR")
    if chosen:
        return os.path.abspath(chosen)  # noqa: PTH100 - pathlib takes longer to import than the rest of find()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return f"{runtime}/fanout"
    # Not tempfile.gettempdir(): importing tempfile takes longer than all the rest of find().
    temporary = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - the owner is checked before anything is believed
    return f"{temporary}/fanout-{os.geteuid()}"


def complaint_about(directory: str) -> str | None:
    """Return why the state directory must not be trusted, or None; raise `OSError` where there is none."""
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode):
        return "is not a directory"
    if status.st_uid != os.geteuid():
        return f"belongs to another user (UID {status.st_uid})"
    if status.st_mode & 0o077:
        return f"is open to others (mode {stat.S_IMODE(status.st_mode):04o}, not 0700)"
    return None


def file_path(directory: str) -> str:
    """Return the path of the file that says how to ask the nameserver."""
    return f"{directory}/local.conf"


def control_path(directory: str) -> str:
    """Return the path of the Unix socket that takes commands."""
    return f"{directory}/control"


def logs_path(directory: str) -> str:
    """Return the path of the directory that holds the pods' logs."""
    return f"{directory}/logs"


def supervisor_log_path(directory: str) -> str:
    """Return the path of the file that the supervisor's own standard error goes to."""
    return f"{directory}/supervisor.log"


def _is_alive(directory: str) -> bool:
    # The kernel accepts the connection as long as the process lives, however busy it is; a dead one's is refused.
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(0.2)
        return connection.connect_ex(control_path(directory)) == 0
