"""What the end of a process means for its task."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from services.executors.output import LineSplitter
from services.executors.supervised import Exit
from trainer.errors import FAILED, REASON_OF_STATUS, TrainingFailed, TrainingStopped

_TAIL_BYTES = 2**16
_TAIL_LINES = 50
"""Lines before the end in which its cause is looked for."""
_SHOWN = 500
"""Characters of the last line that a message quotes."""
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""By a signal that nobody can catch: a trainer, or what a shell says of one that it has run."""
_ERROR = "ERROR: "
"""How `python -m trainer --plain` begins the line that says why it failed."""

_TRACEBACK = "Traceback (most recent call last):"
_OUT_OF_MEMORY = re.compile(
    r"(?:^|\]: )(?:[\w.]+\.)?MemoryError\b"  # Python, torchrun
    r"|\bOutOfMemoryError\b|CUDA(?: error:)? out of memory|can't allocate memory"  # torch
    r"|std::bad_alloc|Cannot allocate memory"  # C++, C
)


def conclude(end: Exit, *, output: Path, was_stopped: bool, is_built_in: bool) -> None:
    """Return where the trainer completed; raise what else its end means.

    Args:
        output: what it printed.
        was_stopped: its task is to be stopped.
        is_built_in: it is `python -m trainer`, whose exit statuses have meanings of their own.

    Raises:
        TrainingStopped, TrainingFailed.
    """
    if end.stopped and was_stopped:
        raise TrainingStopped
    if end.start_error is not None:
        raise TrainingFailed("start_failed", f"The trainer did not start: {end.start_error}.")
    if end.stopped:
        raise TrainingFailed("interrupted", "The trainer was stopped from outside, as when the machine shuts down.")
    if end.returncode == 0:
        return
    lines = last_lines(output)
    last = next((line for line in reversed(lines) if line.strip()), "").strip()
    if is_built_in and end.returncode in REASON_OF_STATUS:
        said = next((line for line in reversed(lines) if line.startswith(_ERROR)), last)
        raise TrainingFailed(REASON_OF_STATUS[end.returncode], said.removeprefix(_ERROR))
    reason, what = _reason(end.returncode)
    if end.lacked_memory and end.returncode in _KILLED:
        reason, what = "out_of_memory", f"{what} The kernel did that: there was no memory left."
    elif any(_OUT_OF_MEMORY.search(line) for line in lines):
        reason = "out_of_memory"
    elif is_built_in and end.returncode == FAILED:
        reason = "error"
    raise TrainingFailed(reason, f"{what} {_said(lines, last)}")


def _said(lines: list[str], last: str) -> str:
    """The line that names the exception, where the trainer ended by one; its message may go on below."""
    if not last:
        return "It printed nothing."
    traced = next((number for number in range(len(lines) - 1, -1, -1) if lines[number].startswith(_TRACEBACK)), None)
    raised = [] if traced is None else [line for line in lines[traced + 1 :] if line[:1].isalpha()]
    return f"It raised {raised[0][:_SHOWN]}" if raised else f"Its last line: {last[:_SHOWN]}"


def _reason(returncode: int) -> tuple[str, str]:
    if returncode > 0:
        return f"exit_code_{returncode}", f"The trainer ended with exit status {returncode}."
    try:
        name = f" ({signal.Signals(-returncode).name})"
    except ValueError:  # a real-time signal
        name = ""
    return f"killed_by_signal_{-returncode}", f"The trainer was killed by signal {-returncode}{name}."


def last_lines(output: Path) -> list[str]:
    """None of an output that cannot be read any more: how the trainer ended is known all the same."""
    try:
        with output.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            tail = file.read()
    except OSError:
        return []
    splitter = LineSplitter(clock=lambda: 0.0)
    lines = [line for line, _ in splitter.feed(tail)] + [line for line, _ in splitter.finish()]
    return lines[-_TAIL_LINES:]
