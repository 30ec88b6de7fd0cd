"""`python -m orch`: the same as the command `orch`."""

from orch.cli import main

main(prog_name="orch")
