"""A request on its way into the store and, in a later service process, out of it again."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from models.schemas import AnyRequest, CommandRequest, ImportRequest, LogReading, Stage, TaskStatus, TrainingRequest
from services.devices import CPU
from services.executors.choice import Name
from services.state_machine import ACCEPTED, Transition
from services.task_state import IMPORT, TRAINING, TaskState
from services.unknown_fields import unknown_fields
from services.wording import problem_in_words

_PATHS: Final = ("train_path", "val_path", "save_path", "weight_path", "working_dir", "path")
NO_GPU: Final = "No CUDA GPU on this machine: training on the CPU."
_SHOWN = 200
"""Characters of a command in its first line."""


def describe(request: AnyRequest, device: str) -> str:
    """What was accepted, in a few words. Shows nothing of an environment."""
    if isinstance(request, ImportRequest):
        return f"{'following' if request.follow else 'reading'} {request.path}"
    if isinstance(request, CommandRequest):
        command = shlex.join(request.command)
        return f"{command if len(command) <= _SHOWN else command[:_SHOWN] + '...'} on {device}"
    return f"{request.model}, {request.num_epochs} epochs on {device}"


def new_task(
    request: AnyRequest,
    task_id: str,
    *,
    output_dir: Path,
    device: str,
    executor: Name,
    moment: datetime,
    warnings: tuple[str, ...],
) -> TaskState:
    """The task that a request asks for, before its first line."""
    epochs = _total_epochs(request)
    return TaskState(
        task_id=task_id,
        task_type=IMPORT if isinstance(request, ImportRequest) else TRAINING,
        request=to_stored(request, executor),
        output_dir=str(output_dir),
        device=device,
        created_at=moment,
        updated_at=moment,
        current_epoch=None if epochs is None else 0,
        total_epochs=epochs,
        name=request.name,
        description=request.description,
        priority=request.priority,
        warnings=warnings,
        history=(Transition(TaskStatus.PENDING, ACCEPTED, moment),),
    )


def doubts(request: AnyRequest, device: str) -> list[str]:
    """What a request that can be done may not have meant."""
    found = list(unknown_fields(request))
    if device == CPU and not isinstance(request, ImportRequest) and request.device != CPU:
        found.append(NO_GPU)
    return found


def unread(state: TaskState) -> TaskState:
    """A task as it was before its first line, in all that lines say."""
    epochs = _total_epochs(from_stored_unchecked(state)) if state.request else None
    return replace(
        state,
        last_seq=0,
        latest_metrics={},
        current_epoch=None if epochs is None else 0,
        total_epochs=epochs,
        progress=0,
        stage=Stage.TRAINING.value,
        percents=frozenset(),
        attempt=1,
    )


def _total_epochs(request: AnyRequest) -> int | None:
    """What is known before the first line; of a trainer that is not ours, nothing."""
    return request.num_epochs if isinstance(request, TrainingRequest) else None


def to_stored(request: AnyRequest, executor: Name) -> dict[str, Any]:
    """What was asked for, with the executor that was chosen for it.

    Paths are absolute: a later service process may run in another folder.
    """
    stored = request.model_dump(mode="json", exclude_unset=True, exclude=set(request.model_extra or ()))
    for name in _PATHS:
        if stored.get(name):
            stored[name] = str(Path(stored[name]).absolute())
    return stored if isinstance(request, ImportRequest) else {**stored, "executor": executor}


def from_stored(state: TaskState) -> AnyRequest:
    """Raises: ValidationError: another release let it in."""
    return _kind_of(state).model_validate(dict(state.request))


def from_stored_unchecked(state: TaskState) -> AnyRequest:
    """For a task that runs, or that has ended: its request cannot be refused any more."""
    try:
        return from_stored(state)
    except ValidationError:
        unread = {name: value for name, value in state.request.items() if name not in LogReading.model_fields}
        return _kind_of(state).model_construct(**unread)


def without_secrets(state: TaskState) -> tuple[Literal["training", "command", "import"], dict[str, Any]]:
    """What kind of request a task came from, and what it asked for, without what was chosen for it since.

    Of an environment only the names are told.
    """
    request = {name: value for name, value in state.request.items() if name != "executor"}
    if "env" in request:
        request["env"] = dict.fromkeys(request["env"], "")
    if state.task_type == IMPORT:
        return "import", request
    return ("command" if "command" in request else "training"), request


def problems_in_words(error: ValidationError) -> str:
    """What is wrong, without the values, which may be secret."""
    problems = [problem_in_words(each, each["loc"]) for each in error.errors(include_input=False)]
    return "; ".join(f"{problem.field}: {problem.message}" for problem in problems)


def _kind_of(state: TaskState) -> type[AnyRequest]:
    if state.task_type == IMPORT:
        return ImportRequest
    return CommandRequest if "command" in state.request else TrainingRequest
