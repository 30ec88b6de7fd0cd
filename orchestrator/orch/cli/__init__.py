"""The command line: one module per group of commands, which only parses options and prints results.

Every command imports what it needs inside, so that `orch --help` answers at once.
"""

from __future__ import annotations

import click

from orch.cli import data_commands, launch_commands, law_commands, machine_commands, plan_commands
from orch.console import Commands

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Commands, context_settings=SETTINGS)
@click.version_option(package_name="orch-scaling", prog_name="orch", help="Print the version and exit.")
def main() -> None:
    """Plan, launch and fit scaling-law studies of self-supervised vision models.

    \b
    A whole study takes three commands:
      orch plan grid.yaml
      orch launch --cluster slurm
      orch fit-laws
    """  # noqa: D301 - click reads \b as "keep these lines"


for module in (plan_commands, launch_commands, law_commands, data_commands, machine_commands):
    for command in module.COMMANDS:
        main.add_command(command)
