"""The process: `fanout`, which is also `python -m fanout`."""

import os
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; Ctrl-C ends it quietly even while it is being imported."""
    try:
        from fanout.cli.main import run

        run()
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main()
