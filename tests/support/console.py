"""One process that runs `fanout` time and again, in a network of its own for instance: it imports everything once.

For command lines that end by themselves, and whose process is not the subject.
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from fanout.cli.main import main
from tests.support.cli import Run, as_before, environment
from tests.support.tree import ROOT
from tests.support.waiting import PATIENCE

Within = tuple[str, Any]
"""A context manager's place, as `module:function`, and what it is called with."""


class Console:
    """Such a process; `fanout` runs a command line in it."""

    def __init__(self, *prefix: str) -> None:
        self._command = [*prefix, sys.executable, "-m", __name__]
        self._process: subprocess.Popen[str] | None = None

    def fanout(self, *arguments: str, within: Within | None = None, **variables: str) -> Run:
        """Run `fanout`, within a context of that process where one is given."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps([arguments, variables, within]), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
            assert answer, f"it has ended with {self._process.wait()}: {arguments}"
            return Run(*json.loads(answer))
        except BaseException:
            self._process.kill()  # a test that was ended in the middle of it: the next one starts it anew
            self.close()
            raise

    def close(self) -> None:
        """End it: it does so once nothing more can be asked of it."""
        if self._process is not None:
            self._process.communicate(timeout=PATIENCE)
            self._process = None


@contextmanager
def console(*prefix: str) -> Iterator[Console]:
    """Run such a process beside the test; `prefix` stands before its command."""
    with contextlib.closing(Console(*prefix)) as made:
        yield made


def _serve() -> None:
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for request in requests:
        print(json.dumps(_run(*json.loads(request))), file=answers, flush=True)


def _run(arguments: list[str], variables: dict[str, str], within: Within | None) -> Run:
    with (
        as_before(),
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        mock.patch.dict(os.environ, environment(**variables), clear=True),
    ):
        for number, file in enumerate((out, err), 1):
            os.dup2(file.fileno(), number)
        with contextlib.nullcontext() if within is None else pkgutil.resolve_name(within[0])(*within[1]):
            code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    return Run(code, *said)


if __name__ == "__main__":
    _serve()
