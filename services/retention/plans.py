"""What may go, by the rules; nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from models.schemas import TaskStatus, TrainingRequest
from services.artifacts import list_artifacts
from services.errors import PathForbidden
from services.history.series import Superseded
from services.log_entry import CARRIED
from services.requests import from_stored_unchecked
from services.storage.retention import RetentionStore
from services.storage.series import SeriesStore
from services.storage.store import Store
from services.task_state import TaskState
from trainer.checkpoint_file import LAST
from trainer.roots import Folders

_TO_GO_ON_FROM = (LAST,)
"""Checkpoints of the built-in trainer beside the best one, newest first. Files of other names are none of ours."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is kept; `None` keeps everything.

    Attributes:
        lines_days: lines and points of a task that ended longer ago may go.
        checkpoints: of a completed training, so many beside the best one stay.
    """

    lines_days: float | None = None
    checkpoints: int | None = None

    @property
    def keeps_everything(self) -> bool:
        return self.lines_days is None and self.checkpoints is None


@dataclass(frozen=True, slots=True)
class OldLines:
    """A task whose lines after `after` and up to `until` go, but for those of `kept`."""

    state: TaskState
    names: tuple[str, ...]
    after: int
    until: int
    kept: frozenset[int]


@dataclass(frozen=True, slots=True)
class OldCheckpoint:
    state: TaskState
    name: str
    size: int


class Planner:
    """Reads only, from any connection to the store."""

    def __init__(self, store: Store, retention: RetentionStore, series: SeriesStore, save_roots: Folders) -> None:
        self._store, self._retention, self._series = store, retention, series
        self._save_roots = save_roots

    def old_lines(self, rules: Rules, now: datetime | None = None) -> Iterator[OldLines]:
        """Each task is looked at when its turn comes: it may have been resumed meanwhile."""
        if rules.lines_days is None:
            return
        before = (now or datetime.now(UTC)) - timedelta(days=rules.lines_days)
        for task_id in self._retention.due(before):
            state = self._store.get_task(task_id)
            if state is not None and state.status.is_terminal and state.updated_at < before:
                names = tuple(name for name in state.latest_metrics if name not in CARRIED)
                kept = self._lines_to_keep(state, names)
                yield OldLines(state, names, state.removed_until or 0, state.last_seq - 1, kept)

    def _lines_to_keep(self, state: TaskState, names: tuple[str, ...]) -> frozenset[int]:
        """Those with the values by which tasks are compared: best and last stay true, and what says them stays too."""
        first_epochs = self._series.first_epochs(state.task_id) if state.attempt > 1 else {}
        superseded = Superseded(first_epochs)
        below = [(attempt, superseded.limit(attempt)) for attempt in range(1, state.attempt + 1)]
        return frozenset(self._retention.series_of(state.task_id, names, below))

    def old_checkpoints(self, rules: Rules) -> Iterator[OldCheckpoint]:
        """Of trainings that have completed: nothing goes on from what is left there."""
        if rules.checkpoints is None:
            return
        names = _TO_GO_ON_FROM[rules.checkpoints :]
        for _, state in self._store.list_tasks(status=[TaskStatus.COMPLETED]) if names else ():
            if isinstance(from_stored_unchecked(state), TrainingRequest):
                try:
                    files = {each.name: each.size or 0 for each in list_artifacts(state, self._save_roots)}
                except PathForbidden:
                    continue
                yield from (OldCheckpoint(state, name, files[name]) for name in names if name in files)
