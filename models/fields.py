"""What the fields of several bodies have in common: names, texts, devices, numbers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

Level = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(lambda level: level.upper() if isinstance(level, str) else level),
]
"""Of a log line, in small or capital letters."""
TaskId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""A task id of the client's own. Safe as a folder name and as one URL segment."""
RESERVED_TASK_IDS = frozenset({"start", "events", "compare", "import", "parsing", "models"})
"""Words that are, or may become, routes beside `/api/v2/training/{task_id}`, and so no ids of tasks."""


def _folder_name(name: str) -> str:
    if name in {".", ".."}:
        raise ValueError("must be a folder name of its own, not '.' or '..'")
    if len(name.encode()) > 255:
        raise ValueError("must be at most 255 bytes of UTF-8, as file systems want it")
    return name


RunName = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00-\x1f\x7f]{1,128}$"), AfterValidator(_folder_name)]
"""A folder name under `save_path`: no separators, no control characters."""

PathText = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
FreeText = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00]*$")]
"""Neither a file system nor PostgreSQL takes NUL."""
Argument = Annotated[str, StringConstraints(max_length=131_071, pattern=r"^[^\x00]*$")]
"""Linux takes no longer string (execve(2), MAX_ARG_STRLEN), and none with NUL."""
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,255}$")]
LocalTime = Annotated[datetime, WithJsonSchema({"type": "string", "format": "date-time-local"})]
"""Of the published contract: without an offset, so no `date-time` of RFC 3339. The name is the OpenAPI registry's."""
Device = Annotated[str, StringConstraints(pattern=r"^(cpu|cuda(:\d{1,3})?)$")]
Devices = Annotated[str, StringConstraints(pattern=r"^(cpu|cuda(:\d{1,3}|:\d{1,2}(,\d{1,2}){1,7})?)$")]
"""At most eight GPUs by name, which is what one machine has."""
MetricName = Annotated[str, StringConstraints(pattern=r"^\w[\w./@-]{0,63}$")]
"""No comma: `?metrics=` separates names by it."""


def _no_boolean(value: Any, code: Literal["int_type", "float_type"] = "int_type") -> Any:
    """Python takes true for 1, so a switch in the place of a number would be one epoch, or a learning rate of 1."""
    if isinstance(value, bool):
        raise PydanticCustomError(code, "must be a number, not true or false")
    return value


NoBoolean = BeforeValidator(lambda value: _no_boolean(value))
"""For the numbers inside of a list or an object; those that are fields `RequestBody` looks after."""


class RequestBody(BaseModel):
    """What every body of a request keeps to: true and false are no numbers."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, bool):
            return value
        kinds = set(_kinds_in(cls.model_fields[info.field_name or ""].annotation))
        if bool in kinds or not kinds & {int, float}:
            return value
        return _no_boolean(value, "float_type" if float in kinds else "int_type")


def _kinds_in(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is put together from."""
    yield annotation
    for part in get_args(annotation):
        yield from _kinds_in(part)
