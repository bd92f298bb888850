"""`completion`: what a shell needs to complete commands, options and tasks."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_TRAINCTL_COMPLETE"
_WHERE = """\b
bash:  trainctl completion bash >> ~/.bashrc
zsh:   trainctl completion zsh >> ~/.zshrc
fish:  trainctl completion fish > ~/.config/fish/completions/trainctl.fish
"""


@click.command(epilog=_WHERE)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that lets a SHELL complete commands, options and tasks."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = ctx.find_root().command
    if shell == "bash":  # click would ask which bash is installed here, which need not be the one that reads this
        print(kind.source_template % kind(root, {}, "trainctl", VARIABLE).source_vars())
    else:
        print(kind(root, {}, "trainctl", VARIABLE).source())
