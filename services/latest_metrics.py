"""The mapping of tasks to their metrics that Python callers of the service use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from services.base_service import BaseService
from services.errors import TaskNotFound
from services.log_entry import Metrics


class LatestMetrics(Mapping[str, Metrics]):
    """`latest_metrics[task_id]`: a view of the tasks' states, which alone hold the values. Lists the live ones."""

    def __init__(self, service: BaseService) -> None:
        self._service = service

    def __getitem__(self, task_id: str) -> Metrics:
        try:
            return self._service.get_task(task_id).latest_metrics
        except TaskNotFound:
            raise KeyError(task_id) from None

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._service.tasks))

    def __len__(self) -> int:
        return len(self._service.tasks)
