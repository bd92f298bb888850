"""Files that a task has left behind, opened so that no link leads anywhere else.

A task's folder belongs to whoever may write there, so what is served is what was opened: the folder first, then a
regular file in it, neither of them through a link (openat(2), O_NOFOLLOW).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from models.results import Artifact, EvaluationResponse
from models.schemas import TrainingRequest
from services.errors import ArtifactNotFound, PathForbidden
from services.log_entry import clean_text
from services.requests import from_stored_unchecked
from services.storage.store import Store
from services.task_state import TaskState
from trainer.checkpoint_file import BEST, EVALUATION, checksum_in
from trainer.roots import Folders, OutsideRoots, refuse_outside

LOG = "log.txt"
"""Every stored line. No file of this name is served."""
CHECKPOINTS = (".pt", ".pth", ".ckpt", ".safetensors", ".onnx")
MAX_EVALUATION_BYTES = 64_000_000
_PAGE = 1000


def list_artifacts(state: TaskState, roots: Folders) -> list[Artifact]:
    """The files in a training's folder, and the log. Those with hidden or unprintable names are left out.

    Raises:
        PathForbidden: the folder leads out of the roots now.
    """
    found = [Artifact(name=LOG, kind="log")]
    try:
        with _folder(state, roots) as folder:
            for entry in sorted(os.scandir(folder), key=lambda each: each.name):
                if is_plain(entry.name) and entry.is_file(follow_symlinks=False):
                    about = entry.stat(follow_symlinks=False)
                    modified = datetime.fromtimestamp(about.st_mtime, UTC)
                    found.append(
                        Artifact(name=entry.name, kind=_kind(entry.name), size=about.st_size, modified_at=modified)
                    )
    except PathForbidden:
        raise
    except OSError:
        return found  # there is no folder, or not any more
    return found


def open_artifact(state: TaskState, name: str, roots: Folders) -> int:
    """A descriptor of one of them, for reading; the caller closes it.

    Raises:
        ArtifactNotFound: there is no such file.
        PathForbidden: the folder leads out of the roots now.
    """
    if not is_plain(name):
        raise ArtifactNotFound(name)
    try:
        with _folder(state, roots) as folder:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except PathForbidden:
        raise
    except OSError as error:
        raise ArtifactNotFound(name) from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise ArtifactNotFound(name)


def remove_artifact(state: TaskState, name: str, roots: Folders) -> None:
    """Remove one of them. One that is not there, or is no plain file any more, is left alone.

    Raises:
        PathForbidden: the folder leads out of the roots now.
    """
    with suppress(OSError), _folder(state, roots) as folder:
        if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=folder)  # pathlib knows no descriptors


def read_evaluation(state: TaskState, roots: Folders) -> EvaluationResponse:
    """What the built-in trainer has written of its best epoch.

    Raises:
        ArtifactNotFound: there is none yet, or none that can be read.
        PathForbidden: the folder leads out of the roots now.
    """
    try:
        with os.fdopen(open_artifact(state, EVALUATION, roots), "rb") as file:
            content = json.loads(file.read(MAX_EVALUATION_BYTES))
        if not _is_of_best(content, state, roots):
            raise ArtifactNotFound(EVALUATION)
        return EvaluationResponse.model_validate(_clean(content))
    except PathForbidden:
        raise
    except (ArtifactNotFound, ValueError, OSError, AttributeError) as error:
        detail = (
            f"Task {state.task_id!r} has no evaluation: the built-in trainer keeps one after each epoch that is better "
            "than all before. Commands and imports have none."
        )
        raise ArtifactNotFound(EVALUATION, detail, code="no_evaluation") from error


def _is_of_best(content: Any, state: TaskState, roots: Folders) -> bool:
    """Whether an evaluation is of the checkpoint that is there, if any is: a crash can come between the two files."""
    try:
        with os.fdopen(open_artifact(state, BEST, roots), "rb") as file:
            return bool(content.get("checkpoint") in (None, checksum_in(file)))
    except ArtifactNotFound:
        return True


def log_text(store: Store, task_id: str) -> Iterator[bytes]:
    """The stored lines of a task as text, a page at a time."""
    after = 0
    while page := store.read_entries(task_id, after=after, limit=_PAGE):
        after = page[-1].seq
        yield "".join(f"{entry.message}\n" for entry in page).encode()


def is_plain(name: str) -> bool:
    """Whether a name is one that a listing shows."""
    return name.isprintable() and "/" not in name and not name.startswith(".") and name != LOG and bool(name)


@contextmanager
def _folder(state: TaskState, roots: Folders) -> Iterator[int]:
    if not isinstance(from_stored_unchecked(state), TrainingRequest):
        raise FileNotFoundError
    folder = os.open(state.output_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        refuse_outside(folder, roots)
        yield folder
    except OutsideRoots:
        raise PathForbidden(f"{state.output_dir!r} is outside the folders this service may use (SAVE_ROOTS).") from None
    finally:
        os.close(folder)


def _kind(name: str) -> Literal["checkpoint", "evaluation", "file"]:
    if name == EVALUATION:
        return "evaluation"
    return "checkpoint" if Path(name).suffix in CHECKPOINTS else "file"


def _clean(content: Any) -> Any:
    """Class names are names of folders, which need not be UTF-8."""
    if isinstance(content, str):
        return clean_text(content)
    if isinstance(content, list):
        return [_clean(each) for each in content] if any(isinstance(each, str | dict) for each in content) else content
    return {key: _clean(value) for key, value in content.items()} if isinstance(content, dict) else content
