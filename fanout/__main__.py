"""The process: `fanout`, which is also `python -m fanout`."""

import os
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; Ctrl-C while it is still being imported ends it quietly, too."""
    try:
        from fanout.cli.main import run

        run()
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main()
