"""Runs `fanout` again and again in one process: a line of JSON in for each run, and a line of JSON out."""

from __future__ import annotations

import json
import sys

from tests.support.cli import invoke
from tests.support.limits import setting


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        with setting(request["limits"]):
            run = invoke(*request["arguments"], **request["variables"])
        print(json.dumps(run), flush=True)


if __name__ == "__main__":
    main()
