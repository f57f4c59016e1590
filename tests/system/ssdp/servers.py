"""Media servers as Debian has them, in pods."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.support.lan import Host
from tests.support.needs import require
from tests.support.waiting import until
from tests.system.ssdp.media import Library

MINIDLNA_PORT, GERBERA_PORT = 8200, 49_152


def uuid(number: int) -> str:
    return f"{number:08x}-aaaa-bbbb-cccc-000000000000"


class Minidlna:
    """A minidlnad. It hears searches to the group alone, and so in a pod network none."""

    def __init__(self, pod: Host, name: str, number: int, library: Library, folder: Path) -> None:
        self.pod, self.name, self.library = pod, name, library
        self.udn = f"uuid:{uuid(number)}"
        require("minidlnad")
        self._folder = folder / f"minidlna-{pod.number}"
        self._folder.mkdir()
        (self._folder / "conf").write_text(f"""
port={MINIDLNA_PORT}
network_interface=eth0
media_dir={library.folder}
db_dir={self._folder}
log_dir={self._folder}
friendly_name={name}
uuid={uuid(number)}
inotify=no
""")
        self.start()

    def start(self) -> None:
        """Start it, and return once it has read its library."""
        log = self._folder / "minidlna.log"
        log.unlink(missing_ok=True)
        for old in self._folder.glob("files.db"):
            old.unlink()
        pid = self._folder / "pid"
        pid.unlink(missing_ok=True)
        self.run = self.pod.start("minidlnad", "-S", "-f", str(self._folder / "conf"), "-P", str(pid))
        self.run.wait_until(lambda: log.exists() and "Finished parsing playlists" in log.read_text())

    def end(self) -> None:
        """End it and the processes of it that serve its clients, at once."""
        end_processes(self.pod)

    @property
    def origin(self) -> str:
        return f"http://{self.pod.pod_ip}:{MINIDLNA_PORT}"

    @property
    def location(self) -> str:
        return f"{self.origin}/rootDesc.xml"


class Gerbera:
    """A gerbera: libupnp, which answers searches by unicast too, each from a port of its own."""

    def __init__(self, pod: Host, name: str, number: int, library: Library, folder: Path) -> None:
        self.pod, self.name, self.library = pod, name, library
        self.udn = f"uuid:{uuid(number)}"
        require("gerbera")
        home = folder / f"gerbera-{pod.number}"
        home.mkdir()
        (home / "config.xml").write_text(f"""<?xml version="1.0" encoding="UTF-8"?>
<config version="2" xmlns="http://mediatomb.cc/config/2">
  <server>
    <ui enabled="no"/>
    <name>{name}</name>
    <udn>{self.udn}</udn>
    <home>{home}</home>
    <webroot>/usr/share/gerbera/web</webroot>
    <ip>{pod.pod_ip}</ip>
    <port>{GERBERA_PORT}</port>
    <storage><sqlite3 enabled="yes"><database-file>gerbera.db</database-file></sqlite3></storage>
  </server>
  <import hidden-files="no">
    <scripting script-charset="UTF-8"><virtual-layout type="builtin"/></scripting>
    <mappings>
      <extension-mimetype ignore-unknown="no">
        <map from="mp3" to="audio/mpeg"/>
        <map from="jpg" to="image/jpeg"/>
        <map from="mp4" to="video/mp4"/>
      </extension-mimetype>
      <mimetype-upnpclass>
        <map from="audio/*" to="object.item.audioItem.musicTrack"/>
        <map from="image/*" to="object.item.imageItem"/>
        <map from="video/*" to="object.item.videoItem"/>
      </mimetype-upnpclass>
    </mappings>
  </import>
</config>""")
        log = home / "log"
        command = ("gerbera", "-c", str(home / "config.xml"), "-a", str(library.folder), "-l", str(log))
        self.run = pod.start(*command)
        self.run.wait_until(lambda: log.exists() and f"Adding {library.folder}" in log.read_text())

    @property
    def location(self) -> str:
        return f"http://{self.pod.pod_ip}:{GERBERA_PORT}/description.xml"


def processes(host: Host) -> list[int]:
    """Return what runs in a host, but for the process that it lives by."""
    network = Path(f"/proc/{host.pid}/ns/net").stat().st_ino
    assert network != Path("/proc/self/ns/net").stat().st_ino
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != host.pid:
            with contextlib.suppress(OSError):
                if (entry / "ns/net").stat().st_ino == network:
                    found.append(int(entry.name))
    return found


def end_processes(host: Host) -> None:
    """End all that runs in a host, as the kubelet does with a pod whose time is over; the host stays."""
    for process in processes(host):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    until(lambda: not processes(host), f"nothing runs in {host.name} {host.number}")
