"""Debian's knotd, started for one test module: loopback, a folder of its own, ended by its process id."""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from tests.support.needs import program
from tests.support.ports import free_port
from tests.support.waiting import until

DNS_TTL = 5
"""What CoreDNS gives headless Services, in seconds."""
NAMESPACE = "platform.svc.cluster.local."

Records = Mapping[str, Sequence[str]]
"""The records of each name, as a zone file has them: `{"name.": ["A 10.0.0.1"]}`, with a TTL in front or not."""


def service_name(label: str) -> str:
    """Return a Service's name of 45 characters, the length that the sizes in these tests go by, and its final dot."""
    name = f"headless-udp-{label:x>5}.{NAMESPACE}"
    assert len(name) == 45 + 1, name
    return name


def addresses(count: int, first: str = "10.128.0.1") -> list[str]:
    start = ipaddress.ip_address(first)
    return [str(start + number) for number in range(count)]


def a_records(hosts: Iterable[str], dns_ttl: int = DNS_TTL) -> list[str]:
    return [f"{dns_ttl} {'AAAA' if ':' in host else 'A'} {host}" for host in hosts]


class Knot:
    """A running knotd that has one zone. `command` stands before it, to start it in a namespace."""

    def __init__(
        self,
        records: Records,
        *,
        origin: str = "cluster.local.",
        port: int | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self.port = 0
        self.records: dict[str, list[str]] = {name: list(lines) for name, lines in records.items()}
        self._origin = origin
        self._serial = 0
        self._folder = Path(tempfile.mkdtemp(prefix="fanout-knot-"))
        self._stack = contextlib.ExitStack()
        self._stack.callback(shutil.rmtree, self._folder)
        try:
            self._write_zone()
            # Between looking for a free port and taking it, somebody else may have taken it.
            while not self._start(free_port() if port is None else port, command):
                assert port is None, self.log
        except BaseException:
            self._stack.close()
            raise

    @property
    def nameserver(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def publish(self, records: Records) -> None:
        """Change the zone, and return once the nameserver answers with it."""
        self.rewrite(records)
        self.wait_for(
            lambda answer: any(soa.serial == self._serial for rrset in answer.answer for soa in rrset), "the new zone"
        )

    def rewrite(self, records: Records) -> None:
        """Change the zone's file and ask for its reload: followed at once, or when a stopped knotd goes on."""
        self.records.update({name: list(lines) for name, lines in records.items()})
        self._write_zone()
        self.process.send_signal(signal.SIGHUP)

    def refuse(self) -> None:
        """Serve the zone no more: every question is REFUSED."""
        self._write_configuration("elsewhere.test.")
        self.process.send_signal(signal.SIGHUP)
        self.wait_for(lambda answer: answer.rcode() == dns.rcode.REFUSED, "REFUSED")

    def lose_zone(self) -> None:
        """After `refuse`: serve the zone, whose file cannot be read: every question is SERVFAIL."""
        (self._folder / "zone").rename(self._folder / "zone.kept")
        self._write_configuration(self._origin)
        self.process.send_signal(signal.SIGHUP)
        self.wait_for(lambda answer: answer.rcode() == dns.rcode.SERVFAIL, "SERVFAIL")

    def recover_zone(self) -> None:
        """After `lose_zone`: the zone is there again."""
        (self._folder / "zone.kept").rename(self._folder / "zone")
        self.process.send_signal(signal.SIGHUP)
        self.wait_for(lambda answer: answer.rcode() == dns.rcode.NOERROR, "the zone")

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Be silent for a while: the port is open, and nobody reads from it."""
        status = Path(f"/proc/{self.process.pid}/stat")
        self.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", "knotd stops")
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def wait_for(self, wanted: Callable[[dns.message.Message], bool], what: str) -> None:
        """Ask for the zone's SOA until the answer is as wanted."""

        def is_so() -> bool:
            question = dns.message.make_query(self._origin, "SOA")
            try:
                return wanted(dns.query.udp(question, "127.0.0.1", timeout=0.5, port=self.port))
            except (dns.exception.DNSException, OSError):
                return False

        until(is_so, f"{what}; knotd says:\n{self.log[-2000:]}")

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Knot:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write_configuration(self, domain: str) -> None:
        (self._folder / "knot.conf").write_text(f"""
server:
    rundir: "{self._folder}"
    listen: 127.0.0.1@{self.port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stdout
    any: info
database:
    storage: "{self._folder}"
zone:
  - domain: {domain}
    storage: "{self._folder}"
    file: zone
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
    semantic-checks: off
""")

    def _write_zone(self) -> None:
        self._serial += 1
        lines = [
            f"$TTL {DNS_TTL}",
            f"{self._origin} SOA ns.{self._origin.lstrip('.')} hostmaster.test. {self._serial} 60 60 60 {DNS_TTL}",
            f"{self._origin} NS ns.{self._origin.lstrip('.')}",
            f"ns.{self._origin.lstrip('.')} A 127.0.0.1",
            *(f"{name} {line}" for name, own in self.records.items() for line in own),
        ]
        written = self._folder / "zone.new"
        written.write_text("\n".join(lines) + "\n")
        written.rename(self._folder / "zone")

    def _start(self, port: int, command: Sequence[str]) -> bool:
        """Start knotd on this port; return False where the port is taken."""
        self.port = port
        self._write_configuration(self._origin)
        # A test run that is killed leaves nothing running.
        ending = ["setpriv", "--pdeathsig", "KILL", "--"] if program("setpriv") else []
        with (self._folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *ending, program("knotd") or "knotd", "--config", str(self._folder / "knot.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._stack.callback(self._end, self.process)
        until(lambda: self.process.poll() is not None or "server started" in self.log, "knotd starts")
        if self.process.poll() is None:
            assert " error: " not in self.log, self.log
            return True
        assert "address already in use" in self.log, f"knotd ended with {self.process.returncode}:\n{self.log}"
        return False

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        # What it would write down on its way out is removed with its folder.
        process.kill()
        process.wait()
