"""The command `trainctl`: its group, its help and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from client.commands import exits
from client.commands.compare import compare
from client.commands.completion import VARIABLE, completion
from client.commands.control import resume, stop
from client.commands.exits import MEANINGS, MISTAKE, OK, USAGE
from client.commands.listing import list_tasks, status
from client.commands.logs import logs
from client.commands.screen import complain
from client.commands.session import Session, connected
from client.commands.start import start
from client.commands.transfer import export, import_log
from client.commands.watch import watch

NAME = "trainctl"
COMMANDS = (start, list_tasks, status, watch, logs, stop, resume, compare, export, import_log, completion)

EPILOG = "\b\nExit status:\n" + "\n".join(f"  {number:>3}  {meaning}" for number, meaning in MEANINGS)


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@connected
def trainctl() -> None:
    """Start trainings, watch them, compare them: the image training service from a terminal.

    TASK is the id of a task, its name where only one task has it, or the beginning of its id, at least 4 characters.
    """


for _command in COMMANDS:
    trainctl.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status. Whatever is wrong is one sentence on standard error."""
    if sys.stdout is None:  # closed by whoever started this; the next file that is opened would have its number
        complain("There is no standard output to write to.")
        return USAGE
    _speak_utf8()
    try:
        result = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return OK
    except KeyboardInterrupt as interrupt:
        complain(str(interrupt) or "Interrupted.")
        return exits.INTERRUPTED
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "trainctl"
        complain(f"{error.format_message().rstrip('.')}. See '{path} --help'.")
        return USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return USAGE
    except Exception as error:
        if os.environ.get("TRAINCTL_DEBUG"):
            raise
        try:
            number, sentence = exits.of_error(error)
        except Exception:  # noqa: BLE001 - a person sees a sentence, also of a mistake in here
            complain(f"trainctl has made a mistake: {error!r}. TRAINCTL_DEBUG=1 shows where.")
            return MISTAKE
        if isinstance(error, OSError):
            _drop_output()
        complain(sentence)
        return number
    return result if isinstance(result, int) else OK


def _run(arguments: list[str]) -> object:
    if VARIABLE in os.environ:
        trainctl.main(prog_name=NAME, complete_var=VARIABLE)
    try:
        # Not `trainctl.main`, which ends with 1 where a pipe is closed, and forgets what an interrupt says.
        with trainctl.make_context(NAME, arguments) as ctx:
            ctx.call_on_close(ctx.ensure_object(Session).close)
            return trainctl.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code


def _speak_utf8() -> None:
    """Log lines may have any characters; a terminal that cannot show one gets a question mark, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _drop_output() -> None:
    """Python writes what is left at its end, and would say once more that it cannot."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
