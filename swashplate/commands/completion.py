"""``swashplate completion``: the script that teaches a shell our commands."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="The shell it is for.")]) -> None:
    """Print the completion script of a shell; ids of tasks, jobs, workflows and proplets are completed, too.

    Example: swashplate completion bash >> ~/.bash_completion; or, for the shell that you use: swashplate --install-completion
    """
    from typer._completion_shared import get_completion_script

    print(get_completion_script(prog_name="swashplate", complete_var="_SWASHPLATE_COMPLETE", shell=shell.value))
