"""Whether what a request asks for is allowed, and can be done, before it becomes a task."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from models.fields import RESERVED_TASK_IDS
from models.schemas import AnyRequest, CommandRequest, FieldProblem, ImportRequest, TrainingRequest
from services.devices import ANY_GPU, CPU, FILE, RAY, Gpu, any_gpus, is_gpu, parts_of
from services.errors import CommandsDisabled
from services.parsing import check_reading
from services.paths import PathPolicy, find_unwritable, is_on_disk
from services.weight_file import weight_problems
from trainer.preflight import check


def check_allowed(request: AnyRequest, paths: PathPolicy, *, allow_commands: bool) -> None:
    """Look at nothing that the request names but whether this service may use it.

    Raises:
        CommandsDisabled: it is a command, and this service runs none.
        PathForbidden: a path is outside the configured roots.
    """
    if isinstance(request, CommandRequest):
        if not allow_commands:
            raise CommandsDisabled
        paths.check_work("working_dir", request.working_dir)
    elif isinstance(request, ImportRequest):
        paths.check_data("path", request.path)
    else:
        paths.check_data("train_path", request.train_path)
        paths.check_data("val_path", request.val_path)
        if request.weight_path:
            paths.check_weights("weight_path", request.weight_path)
        paths.check_save("save_path", request.save_path)


def find_problems(request: AnyRequest, paths: PathPolicy) -> list[FieldProblem]:
    """What is wrong with the fields of an allowed request; empty is good. The device is for the caller to check."""
    problems = [*_task_id_problems(request.task_id), *check_reading(request)]
    if isinstance(request, CommandRequest):
        return [*problems, *_placement_problems(request), *_command_problems(request)]
    if isinstance(request, ImportRequest):
        return [*problems, *_file_problems(request.path)]
    return [
        *problems,
        *_placement_problems(request),
        *_worker_problems(request),
        *check(request, paths.roots),
        *weight_problems(request, paths.roots),
    ]


def _placement_problems(request: TrainingRequest | CommandRequest) -> Iterator[FieldProblem]:
    """What only Ray can do, and what it does by itself."""
    if request.executor == "ray":
        if parts_of(request.device) not in ([], [CPU]):
            message = f"Ray chooses the devices: set it to cpu or cuda instead of {request.device}, and gpus_per_worker"
            yield FieldProblem(field="device", code="executor_unsuitable", message=message)
        return
    for field in ("cpus_per_worker", "gpus_per_worker"):
        if getattr(request, field) is not None:
            message = "only a Ray cluster keeps so much for a worker: leave it out, or set executor to ray"
            yield FieldProblem(field=field, code="executor_unsuitable", message=message)
    if isinstance(request, CommandRequest) and (request.num_workers or 1) > 1:
        message = "a command is one process here: let it start others itself, as torchrun does, or set executor to ray"
        yield FieldProblem(field="num_workers", code="executor_unsuitable", message=message)


def _worker_problems(request: TrainingRequest) -> Iterator[FieldProblem]:
    workers, named = request.workers, parts_of(request.device)
    if is_gpu(request.device) and named and not (len(set(named)) == len(named) == workers):
        message = f"{request.device} names {len(set(named))} GPUs for {workers} workers: name one for each, or say cuda"
        yield FieldProblem(field="num_workers", code="num_workers_mismatch", message=message)
    if workers > 1 and request.executor == "thread":
        message = "a thread of the service is one worker: leave executor out, or set num_workers to 1"
        yield FieldProblem(field="executor", code="executor_unsuitable", message=message)
    if isinstance(request.batch_size, int) and request.batch_size < 2 * workers and workers > 1:
        message = f"{workers} workers share a batch and need two images each: set it to {2 * workers} or more"
        yield FieldProblem(field="batch_size", code="batch_size_unsupported", message=message)


def save_path_problems(request: AnyRequest, paths: PathPolicy, runs_dir: Path) -> list[FieldProblem]:
    """Whether a run can get a folder there, as far as that shows without making it.

    The service removes its own folder of a task with the task: nobody else's files may be in there.
    """
    if not isinstance(request, TrainingRequest):
        return []
    if problems := find_unwritable(request.save_path, paths.save_roots):
        return problems
    if not Path(request.save_path).resolve().is_relative_to(runs_dir.resolve()):
        return []
    message = f"{request.save_path!r} is kept for files of the service itself; choose another folder"
    return [FieldProblem(field="save_path", code="save_path_unwritable", message=message)]


def _task_id_problems(task_id: str | None) -> list[FieldProblem]:
    if task_id not in RESERVED_TASK_IDS:
        return []
    return [FieldProblem(field="task_id", code="task_id_reserved", message=f"{task_id!r} is a route; choose another")]


def _command_problems(request: CommandRequest) -> list[FieldProblem]:
    folder = request.working_dir
    try:
        is_folder = stat.S_ISDIR(Path(folder).stat().st_mode)
    except OSError as error:
        message = f"{folder!r} cannot be used ({error.strerror}): create it or correct it"
        return [FieldProblem(field="working_dir", code="path_not_found", message=message)]
    if not is_folder:
        message = f"{folder!r} is a file: name the folder that the command runs in"
        return [FieldProblem(field="working_dir", code="not_a_folder", message=message)]
    program = request.command[0]
    if request.executor == "ray":  # the nodes may have other programs than this machine
        return []
    if _finds_program(program, Path(folder), os.environ | request.env):
        return []
    where = f"in {folder!r}" if "/" in program else "on the PATH that the command gets"
    message = f"there is no program {program!r} {where}: correct it, or give its absolute path"
    return [FieldProblem(field="command", code="program_not_found", message=message)]


def _finds_program(program: str, folder: Path, env: Mapping[str, str]) -> bool:
    """Whether execvpe(3) would find it from `folder`, which a relative path begins at."""
    if "/" in program:
        return shutil.which(folder / program) is not None
    places = env.get("PATH", os.defpath).split(os.pathsep)
    return bool(program) and any(shutil.which(folder / place / program) for place in places)


def _file_problems(path: str) -> list[FieldProblem]:
    try:
        if not is_on_disk(Path(path).stat()):  # asked first: opening a pipe would wait for its other end
            message = f"{path!r} is no regular file: name the log file itself"
            return [FieldProblem(field="path", code="not_a_file", message=message)]
        Path(path).open("rb").close()
    except FileNotFoundError:
        message = f"{path!r} does not exist: correct it"
        return [FieldProblem(field="path", code="path_not_found", message=message)]
    except OSError as error:
        message = f"{path!r} cannot be read ({error.strerror}): let this service read it"
        return [FieldProblem(field="path", code="path_not_readable", message=message)]
    return []


def resolve_device(request: AnyRequest, gpus: Callable[[], Sequence[Gpu]]) -> tuple[str, list[FieldProblem]]:
    """Where a task is to run on this machine, and what is wrong with the device that it asks for."""
    if isinstance(request, ImportRequest):
        return FILE, []
    if request.executor == "ray":
        return RAY, []
    wanted = request.device
    if wanted == CPU:
        return CPU, []
    names = [gpu.name for gpu in gpus()]
    workers = _workers_of(request)
    if wanted == ANY_GPU and not names:
        return CPU, []
    if wanted == ANY_GPU and len(names) >= workers:
        return any_gpus(workers), []
    if wanted != ANY_GPU and set(parts_of(wanted)) <= set(names):
        return wanted, []
    devices = ", ".join([CPU, *names])
    missing = f"are no {workers} GPUs" if wanted == ANY_GPU else f"is no {wanted}"
    message = f"there {missing} on this machine, which has: {devices}"
    return CPU, [FieldProblem(field="device", code="device_not_found", message=message)]


def wanted_gpus(request: TrainingRequest | CommandRequest) -> str:
    """What a request that asks for GPUs waits for, as long as nobody knows whether they are there."""
    return any_gpus(_workers_of(request)) if request.device == ANY_GPU else request.device


def _workers_of(request: TrainingRequest | CommandRequest) -> int:
    return request.workers if isinstance(request, TrainingRequest) else 1
