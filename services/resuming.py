"""Whether a task can go on where it has ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from models.schemas import AnyRequest, CommandRequest, FieldProblem, TaskStatus, TrainingRequest
from services.checks import check_allowed, find_problems, resolve_device
from services.devices import Gpu
from services.errors import InvalidRequest, TaskConflict
from services.paths import PathPolicy
from services.requests import from_stored, from_stored_unchecked, problems_in_words
from services.task_state import IMPORT, TaskState
from trainer.checkpoint_file import BEST, LAST, find_damage


def check_resumable(state: TaskState, paths: PathPolicy, gpus: Callable[[], Sequence[Gpu]]) -> str:
    """The device that the next attempt will need; looks at all else that it will. Reads the whole checkpoint.

    Raises:
        TaskConflict: it cannot be resumed; the code says why.
        InvalidRequest: what it was asked to do is not possible any more.
        PathForbidden: a path of it is outside the configured roots now.
    """
    refuse_unless_ended_early(state)
    request = _training_request(state)
    check_allowed(request, paths, allow_commands=False)
    device, device_problem = resolve_device(request, gpus)
    if problems := [*device_problem, *find_problems(request, paths)]:
        raise InvalidRequest.from_problems(problems)
    output_dir = Path(state.output_dir)
    if not output_dir.is_dir():
        detail = f"{state.output_dir} is gone, and the checkpoint with it: start a new training."
        raise TaskConflict(detail, code="checkpoint_missing")
    if not os.access(output_dir, os.W_OK):  # root may write anywhere, but not to a file system that is read-only
        message = f"{state.output_dir} cannot be written to: let the service write there again"
        raise InvalidRequest.from_problems(
            [FieldProblem(field="save_path", code="save_path_unwritable", message=message)]
        )
    checkpoint = output_dir / LAST
    if not checkpoint.exists() and (state.current_epoch or 0) > 1:
        detail = (
            f"{checkpoint} is gone: put it back, or start a new training with the weights of {BEST} as weight_path."
        )
        raise TaskConflict(detail, code="checkpoint_missing")
    damage = find_damage(checkpoint) if checkpoint.exists() else None
    if damage is not None:
        advice = f"Put a sound copy in its place, or start a new training with the weights of {BEST} as weight_path."
        raise TaskConflict(f"{checkpoint} is damaged: {damage}. {advice}", code="checkpoint_damaged")
    return device


def how_it_ended(state: TaskState) -> str:
    """In a sentence for the log, whose last line of the attempt will not be the task's last any more."""
    why = f": {' '.join(state.error.split())}" if state.error else "."
    return f"Attempt {state.attempt} ended as {state.status.value}, {state.reason}{why}"


def refuse_unless_ended_early(state: TaskState) -> None:
    """Raises: TaskConflict: the task goes on by itself, or has nothing left to do."""
    if not state.status.is_terminal:
        detail = f"Task {state.task_id!r} has not ended ({state.status.value}): there is nothing to resume."
        raise TaskConflict(detail, code="task_active")
    if state.status is TaskStatus.COMPLETED:
        request = from_stored_unchecked(state)
        if isinstance(request, TrainingRequest):
            advice = "Start another with its checkpoint as weight_path."
        elif isinstance(request, CommandRequest):
            advice = "Start the command again to run it once more; what it goes on from is for itself to know."
        else:
            advice = "Its log file has been read; import the file again to read it anew."
        raise TaskConflict(f"Task {state.task_id!r} has completed. {advice}", code="task_completed")


def _training_request(state: TaskState) -> AnyRequest:
    try:
        request = from_stored(state)
    except ValidationError as error:
        detail = f"This release does not take the request of task {state.task_id!r}: {problems_in_words(error)}"
        raise TaskConflict(detail, code="not_resumable") from error
    if isinstance(request, TrainingRequest):
        return request
    what = "reads a log file" if state.task_type == IMPORT else "runs a command, which keeps checkpoints of its own"
    detail = f"Task {state.task_id!r} {what}: start it again, by the means that it has itself."
    raise TaskConflict(detail, code="not_resumable")
