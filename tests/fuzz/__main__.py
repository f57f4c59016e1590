"""`make fuzz`: every target in a process of its own, one after the other; ends with 1 where one crashed or grew."""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

_GROWTH_MAX = 160 * 1024
"""KiB that a process may grow after its first inputs: what receivers may keep (64 MiB of fragments, 32 of replies)."""
_SETTLED = 0.2
"""The part of the inputs after which a process is not to grow any more."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="what to fuzz; all where none is given")
    parser.add_argument("--inputs", type=int, help="inputs for each target, instead of its own number")
    parser.add_argument("--corpus", default="build/fuzz", help="where interesting inputs are kept")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return _fuzz(arguments.targets[0], arguments.inputs, Path(arguments.corpus))
    from tests.fuzz.targets import TARGETS

    names = arguments.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"there is no target {', '.join(unknown)}: they are {', '.join(TARGETS)}")
    failed = []
    for name in names:
        inputs = arguments.inputs or TARGETS[name][1]
        command = [sys.executable, "-m", "tests.fuzz", name, "--one", f"--inputs={inputs}"]
        started = time.monotonic()
        code = subprocess.run([*command, f"--corpus={arguments.corpus}"]).returncode
        print(f"{name}: {inputs:,} inputs in {time.monotonic() - started:.0f} s: {'ok' if code == 0 else 'FAILED'}")
        failed += [name] * (code != 0)
    print(f"{len(names) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _fuzz(name: str, inputs: int, corpus: Path) -> int:
    import atheris

    with atheris.instrument_imports(include=["fanout.protocol", "fanout.ssdp"]):
        from tests.fuzz.targets import TARGETS
    take = TARGETS[name][0]()
    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(_seeds()):
        (folder / f"seed-{number}").write_bytes(seed)
    seen = settled = 0

    def one(data: bytes) -> None:
        nonlocal seen, settled
        take(data)
        seen += 1
        if seen == int(inputs * _SETTLED):
            settled = _resident()
        elif seen == inputs:
            grown = _resident() - settled
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(f"{name}: {settled:,} KiB resident after a fifth of the inputs, {grown:+,} at the end, peak {peak:,}")
            sys.stdout.flush()
            os._exit(1 if grown > _GROWTH_MAX else 0)

    options = [f"-runs={inputs * 2}", "-max_len=1600", "-rss_limit_mb=1024", "-timeout=20", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}.", str(folder)], one)
    atheris.Fuzz()
    return 1


def _seeds() -> list[bytes]:
    """Frames of each kind, without what every frame begins with: the test vectors of the documentation."""
    text = Path("docs/wire-format.md").read_text().partition("<!-- vectors -->")[2]
    frames = [bytes.fromhex(digits)[7:] for digits in re.findall(r"```text\n([0-9a-f\n]+)```", text)]
    return frames + [b"\xff" + frame for frame in frames]


def _resident() -> int:
    """KiB of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


if __name__ == "__main__":
    sys.exit(main())
