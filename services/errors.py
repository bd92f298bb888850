"""Errors a caller can do something about; `api/errors.py` maps them to answers, once.

Each also subclasses the builtin that a Python caller would expect, so code that uses the services
without HTTP can catch `KeyError` or `ValueError`.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.schemas import FieldProblem


class ServiceError(Exception):
    """Base of every refusal: an HTTP status, one word for programs, one sentence for people."""

    status_code = 400
    code = "bad_request"
    retry_after_s: int | None = None

    def __init__(self, detail: str, *, code: str | None = None, errors: Sequence[FieldProblem] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.errors = list(errors)

    def __str__(self) -> str:
        return self.detail


class TaskNotFound(ServiceError, KeyError):
    status_code = 404
    code = "task_not_found"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"There is no task {task_id!r}. GET /api/v2/training lists all tasks.")


class AttemptNotFound(ServiceError, KeyError):
    status_code = 404
    code = "attempt_not_found"

    def __init__(self, task_id: str, attempt: int, last: int) -> None:
        super().__init__(f"Task {task_id!r} has had no run {attempt}: its last is {last}.")


class ArtifactNotFound(ServiceError, KeyError):
    status_code = 404
    code = "artifact_not_found"

    def __init__(self, name: str, detail: str | None = None, *, code: str | None = None) -> None:
        super().__init__(
            detail or f"The task has no file {name!r}. Its artifacts are a list of those it has.", code=code
        )


class AlertNotFound(ServiceError, KeyError):
    status_code = 404
    code = "alert_not_found"


class TaskConflict(ServiceError, ValueError):
    """The request is fine, but not in the state that something is in: a name in use, a task that has ended."""

    status_code = 409
    code = "conflict"


class LinesRemoved(TaskConflict):
    code = "lines_removed"

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"Old lines of task {task_id!r} were removed: read again, what is left would say something else."
        )


class InvalidRequest(ServiceError, ValueError):
    """One or more fields of a request cannot be used; `errors` says which and what to do."""

    status_code = 422
    code = "invalid_request"

    @classmethod
    def from_problems(cls, problems: Sequence[FieldProblem]) -> InvalidRequest:
        assert problems
        detail = "; ".join(f"{problem.field}: {problem.message}" for problem in problems)
        codes = {problem.code for problem in problems}
        return cls(detail, code=codes.pop() if len(codes) == 1 else None, errors=problems)

    @classmethod
    def of_field(cls, field: str, message: str) -> InvalidRequest:
        """Of a value that has the right form, and still is none."""
        return cls.from_problems([FieldProblem(field=field, code=cls.code, message=message)])


class PathForbidden(ServiceError, PermissionError):
    status_code = 403
    code = "path_forbidden"


class CommandsDisabled(ServiceError, PermissionError):
    """A command has all the rights of the service, so whoever runs the service decides."""

    status_code = 403
    code = "commands_disabled"

    def __init__(self) -> None:
        super().__init__("This service runs no commands. Whoever runs it can set ALLOW_COMMANDS=true and restart it.")


class QueueFull(ServiceError, RuntimeError):
    """So much waits already that one more would only hide that nobody gets to it. Try again later."""

    status_code = 429
    code = "queue_full"
    retry_after_s = 30

    def __init__(self, waiting: int, allowed: int) -> None:
        super().__init__(
            f"The queue is full ({waiting} tasks wait, MAX_QUEUED is {allowed}): this one was not taken. Try again "
            "later, or stop one that waits: GET /api/v2/training?status=queued lists them."
        )


class StorageUnavailable(ServiceError, OSError):
    """The store does not take writes at present. Nothing is lost; try again."""

    status_code = 503
    code = "storage_unavailable"


class ReadReplica(StorageUnavailable):
    """This service only shows what another one, the owner of the store, does."""

    code = "read_replica"

    def __init__(self, owner: str, retry_after_s: int) -> None:
        where = f"the one that changes things is {owner}" if owner else "another one changes things"
        super().__init__(
            f"This service is a read replica: {where}. Ask there; or try again here in {retry_after_s} s, in case the "
            "owner is gone and this one has taken its place."
        )
        self.retry_after_s = retry_after_s


class StoreInUse(ServiceError, RuntimeError):
    """Another service process owns this store; two would give the same line two numbers."""

    status_code = 503
    code = "store_in_use"


class OwnershipLost(StoreInUse):
    """Another service has taken this store over: nothing more may be written, for good."""

    def __init__(self) -> None:
        super().__init__("Another service has taken the store over, because this one did not renew its lease in time.")


class StoreUnusable(ServiceError, RuntimeError):
    """It cannot be opened, is no store of this service, or is not the one any more that was opened."""

    status_code = 503
    code = "store_unusable"
