"""``python -m bptt``: the command line."""

from bptt.cli import main

main()
