"""What connects a trainer to the service: a handler of its log records."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress

from services.base_service import BaseService
from services.errors import ServiceError
from services.parsing import LineParser, ParsedLine
from services.pattern_warnings import PatternWatch

logger = logging.getLogger(__name__)


class TrainingLogHandler(logging.Handler):
    """Reads one task's metrics from its trainer's own log records (拦截训练日志并提取指标).

    Put on the trainer's logger, it is all that connects a trainer to the service.

    Args:
        task_id: whose lines they are.
        service: where they go.
        parser: reads them; by the formats that are known, if not given.
        told: warnings that the task has already.
        attempt: the run of the task whose trainer it is; once another one has begun, its lines are refused.
            0 for whichever is on.
    """

    def __init__(
        self,
        task_id: str,
        service: BaseService,
        parser: LineParser | None = None,
        told: Collection[str] = (),
        *,
        attempt: int = 0,
    ) -> None:
        super().__init__()
        self.task_id = task_id
        self.service = service
        self._attempt = attempt
        self._parser = parser or LineParser()
        self._watch = PatternWatch(self._parser, told)

    def emit(self, record: logging.LogRecord) -> None:
        """Parse and hand on a record, line by line. Never raises; waits only while too much of its task waits."""
        try:
            lines = self._text_of(record).split("\n")
            position: int | None = getattr(record, "position", None)
            for number, line in enumerate(lines, start=1):
                parsed = self._read(line)
                is_whole = position is not None and number == len(lines)
                self.service.add_log(
                    self.task_id,
                    record.levelname,
                    line,
                    parsed.series or None,
                    parsed.step,
                    parsed.stage,
                    parsed=True,
                    attempt=self._attempt,
                    percents=parsed.percents,
                    position=position if is_whole else None,
                    memory=self._parser.memory if is_whole else None,
                )
                for warning in self._watch.after_line():
                    self._warn(warning)
        except ServiceError:
            return  # the task, or this run of it, has ended: what its stray threads still say belongs to none
        except Exception:  # noqa: BLE001 - a handler must not break the trainer that logs
            self.handleError(record)

    def _read(self, line: str) -> ParsedLine:
        """What a line says. A parser that fails on it costs what it says, never the line itself."""
        try:
            return self._parser.parse(line)
        except Exception:
            logger.exception("A line of task %s could not be read for metrics: %.200r", self.task_id, line)
            return ParsedLine({}, None, None)

    def _text_of(self, record: logging.LogRecord) -> str:
        if self.formatter or record.exc_info or record.exc_text or record.stack_info:
            return self.format(record)
        return record.getMessage()  # what `format` comes to, without its detours

    def flush(self) -> None:
        """Wait until the lines so far are stored: a checkpoint must not call an epoch done whose lines can be lost.

        Raises, in the trainer's own thread: TrainingStopped: it is to stop, and they are not.
        """
        with suppress(ServiceError, TimeoutError):
            self.service.flush_log(self.task_id)

    def finish(self) -> None:
        """The trainer has ended: say what only the end of its log shows."""
        with self.held():
            for warning in self._watch.at_the_end():
                self._warn(warning)

    @contextmanager
    def held(self) -> Iterator[None]:
        """No record is handled meanwhile."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def read_on_with(self, parser: LineParser, watch: PatternWatch) -> None:
        """From now on lines are read by another parser, which is as far as this one. Call it while `held`."""
        self._parser, self._watch = parser, watch

    def tell(self, message: str, metrics: Mapping[str, float]) -> None:
        """Add a line of the service's own with metrics, in the epoch that the trainer's lines are in.

        Raises: ServiceError: the task, or this run of it, has ended.
        """
        with self.held():
            epoch = self._parser.memory.state.epoch
            place = {} if epoch is None else {"epoch": epoch}
            self.service.add_log(self.task_id, "INFO", message, {**place, **metrics}, attempt=self._attempt)

    def _warn(self, warning: str) -> None:
        self.service.add_log(self.task_id, "WARNING", warning, warns=True, attempt=self._attempt)
