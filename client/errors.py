"""Two errors, because a caller can do two things: correct the request, or try again later."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
from pydantic import ValidationError

from client.secrets import shown_url
from models.schemas import ErrorResponse, FieldProblem

UNEXPECTED_ANSWER = "unexpected_answer"
"""`ServiceError.code` of an answer that this service would never give: something else has the address."""


class ServiceError(RuntimeError):
    """The service answered, and the answer is no.

    `code` is one word for a program, `detail` one sentence for a person, and `errors` says for each wrong
    field of a request what is wrong with it.
    """

    def __init__(self, status_code: int, code: str, detail: str, errors: Sequence[FieldProblem] = ()) -> None:
        super().__init__(status_code, code, detail, errors)
        self.status_code = status_code
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)

    def __str__(self) -> str:
        """The service's own words, with those about single fields that its sentence does not repeat."""
        fields = [f"{e.field}: {e.message}" for e in self.errors if e.message not in self.detail]
        return f"{self.detail} ({'; '.join(fields)})" if fields else self.detail


class ServiceUnreachable(ConnectionError):
    """Nobody answered: no service, no network, or silence for longer than the time allowed."""


def no_such_task(task_id: str) -> ServiceError:
    """What the service says of an unknown id; for one that cannot be asked for, because it makes another address."""
    return ServiceError(404, "task_not_found", f"There is no task {task_id!r}.")


def refusal(response: httpx.Response) -> ServiceError:
    """The error that a response with an error status stands for. The body must have been read."""
    try:
        body = ErrorResponse.model_validate_json(response.content)
    except ValidationError:
        return unexpected(response)
    return ServiceError(response.status_code, body.code, body.detail, body.errors or ())


def unexpected(response: httpx.Response) -> ServiceError:
    """An answer outside the contract: a proxy's error page, another program on the port, another version."""
    url, status = shown_url(response.url), response.status_code
    detail = f"{url} answered {status} with something that is not the training service's"
    return ServiceError(status, UNEXPECTED_ANSWER, detail)


def unreachable(base_url: httpx.URL, error: Exception) -> ServiceUnreachable:
    """One sentence for every way in which a request can get no answer; without what the request carried."""
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.LocalProtocolError):  # it quotes the header that cannot be sent
        reason = "the request cannot be sent as it is"
    return ServiceUnreachable(f"The training service at {shown_url(base_url)} does not answer: {reason}")
