"""Keeps a record of each run: collected in the run's own thread, before its trainer begins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from models.schemas import AnyRequest
from services.devices import Gpu, is_gpu
from services.errors import StorageUnavailable
from services.executors.base import Place
from services.log_entry import clean_text
from services.provenance.collect import collect
from services.provenance.secrets import without_secrets
from services.storage.database import Database
from services.storage.operations import Apply
from services.storage.provenance import SENT, ProvenanceStore, Record, write
from trainer.roots import Roots

logger = logging.getLogger(__name__)


class ProvenanceKeeper:
    """Args:
    submit: hands an operation to the writer, and does not wait for it.
    gpus: GPUs of this machine.
    roots: where requests may read.
    """

    def __init__(
        self,
        database: Database,
        submit: Callable[[Apply], object],
        gpus: Callable[[], Sequence[Gpu]],
        roots: Roots,
    ) -> None:
        self._store = ProvenanceStore(database)
        self._submit = submit
        self._gpus = gpus
        self._roots = roots

    def accept(self, task_id: str, request: AnyRequest, sent: Mapping[str, Any] | None) -> None:
        """Keep the request of a task that is in the store. Raises nothing.

        Args:
            sent: the body, where there was one.
        """
        try:
            body = request.model_dump(mode="json", exclude_unset=True) if sent is None else sent
            self._keep(task_id, SENT, {"request": body})
        except Exception:  # e.g. it is nested too deeply; the task goes on without
            logger.exception("The request of task %s could not be recorded", task_id)

    def begin(
        self,
        task_id: str,
        request: AnyRequest,
        device: str,
        *,
        attempt: int,
        is_resumed: bool,
        place: Place,
        is_cancelled: Callable[[], bool],
    ) -> None:
        """Collect and keep what a run is made from. Raises nothing.

        Args:
            is_resumed: an earlier service process has begun it, and has kept its record if it came so far.
        """
        try:
            if is_resumed and not self.is_missing(task_id, attempt):
                return
            gpus = self._gpus() if is_gpu(device) else ()  # a driver that hangs holds up no others
            record = collect(request, device, gpus, self._roots, place=place, is_cancelled=is_cancelled)
            if not is_cancelled():  # else the next service records it whole, or nothing runs
                self._keep(task_id, attempt, record)
        except StorageUnavailable:  # its log says why
            pass
        except Exception:  # a run is worth more than its record
            logger.exception("What task %s is made from could not be recorded", task_id)

    def is_missing(self, task_id: str, attempt: int) -> bool:
        """Of a run whose trainer cannot have begun yet. Where there is no request either, an older release began it."""
        return self._store.read(task_id, SENT) is not None and self._store.read(task_id, attempt) is None

    def read(self, task_id: str, attempt: int | None = None) -> tuple[Mapping[str, Any], Record | None]:
        """The request as it was sent, and the record of one run or of the last one, as far as there are any."""
        sent, record = self._store.read(task_id, SENT), self._store.read(task_id, attempt)
        if record is not None and record.attempt == SENT:
            record = None
        return (sent.content if sent else {}), record

    def _keep(self, task_id: str, attempt: int, content: Mapping[str, Any]) -> None:
        cleaned = without_secrets(_storable(content))
        with suppress(StorageUnavailable):  # closing
            self._submit(write(task_id, Record(attempt, datetime.now(UTC), cleaned)))


def _storable(value: Any) -> Any:
    """Text as every store can hold it."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(str(name)): _storable(each) for name, each in value.items()}
    return [_storable(each) for each in value] if isinstance(value, list | tuple) else value
