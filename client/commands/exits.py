"""How a command ends: a status for scripts, and one sentence for people where something is wrong."""

from __future__ import annotations

from collections.abc import Iterable

from client.errors import UNEXPECTED_ANSWER, ServiceError, ServiceUnreachable
from models.schemas import TaskResponse, TaskStatus

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
REFUSED = 5
MISTAKE = 70
"""`EX_SOFTWARE` of sysexits.h: a mistake of this program."""
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

MEANINGS = (
    (OK, "it is done; of a task that was waited for: it has completed, or ended as stop --wait asked"),
    (FAILED, "a task that was waited for has failed or, but for stop --wait, was cancelled"),
    (USAGE, "the command or a field of the request is wrong, or a local file cannot be used"),
    (NOT_FOUND, "there is no such task"),
    (UNREACHABLE, "the service cannot be reached, or cannot answer now"),
    (REFUSED, "the service refuses: a wrong token, a name in use, a full queue, a task that has ended"),
    (MISTAKE, "a mistake of trainctl itself; TRAINCTL_DEBUG=1 shows where"),
    (INTERRUPTED, "interrupted by Ctrl-C"),
)


class NotFound(LookupError):
    """No task is meant by what was given."""


class Unusable(ValueError):
    """What was given cannot be used; the message says what to do."""


def of_tasks(tasks: Iterable[TaskResponse]) -> int:
    return OK if all(task.status is TaskStatus.COMPLETED for task in tasks) else FAILED


def of_error(error: Exception) -> tuple[int, str]:
    """Status and sentence of an error that a user can do something about. Raises it again if it is none of those."""
    match error:
        case ServiceUnreachable():
            advice = "Start it, or give its address with --url or TRAINING_SERVICE_URL."
            return UNREACHABLE, f"{str(error).rstrip('.')}. {advice}"
        case ServiceError(code=code) if code == UNEXPECTED_ANSWER:
            return UNREACHABLE, f"{error}. Give the service's address with --url or TRAINING_SERVICE_URL."
        case ServiceError(code="token_required"):
            return REFUSED, f"{error} Give a token with TRAINING_SERVICE_TOKEN or --token."
        case ServiceError(status_code=404):
            return NOT_FOUND, f"{error}"
        case ServiceError(status_code=400 | 413 | 422):
            return USAGE, f"{error}"
        case ServiceError(status_code=status) if status >= 500:
            return UNREACHABLE, f"{error}"
        case ServiceError():
            return REFUSED, f"{error}"
        case NotFound():
            return NOT_FOUND, f"{error}"
        case Unusable():
            return USAGE, f"{error}"
        case OSError(filename=str(name), strerror=str(reason)):
            return USAGE, f"{name} cannot be used: {reason}."
        case OSError(strerror=str(reason)):  # of a file that is open already, standard output among them
            return USAGE, f"What was asked for cannot be written: {reason}."
        case UnicodeEncodeError(object=text, start=start, end=end):
            return USAGE, f"{text[start:end]!r} in what was given is no text in UTF-8."
        case _:
            raise error
