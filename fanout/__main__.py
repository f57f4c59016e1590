"""`python -m fanout` is the command line."""

from fanout.cli import run

run()
