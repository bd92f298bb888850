"""Every error as one JSON shape: `{"detail", "code", "errors"?}` with a true status."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api.console import visible
from models.schemas import START_TAGS, ErrorResponse, FieldProblem, wire
from services.errors import ServiceError, StorageUnavailable
from services.wording import problem_in_words

logger = logging.getLogger(__name__)

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

BODY_TOO_LARGE = "The body is larger than this service accepts; see MAX_BODY_BYTES."


def error_response(
    status_code: int,
    detail: str,
    code: str,
    errors: Sequence[FieldProblem] = (),
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    body = ErrorResponse(detail=detail, code=code)
    if errors:
        body.errors = list(errors)
    return JSONResponse(wire(body), status_code, headers)


def documented(*status_codes: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for the errors it can answer; 413 every one can, to whatever says how long it is."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse, "description": HTTPStatus(status).phrase}
        for status in sorted({*status_codes, 413})
    }
    if 429 in responses:
        seconds = {"description": "seconds after which to try again", "schema": {"type": "integer"}}
        responses[429]["headers"] = {"Retry-After": seconds}
    return responses


def install(app: FastAPI) -> None:
    @app.exception_handler(ServiceError)
    async def service_error(_request: Request, error: ServiceError) -> JSONResponse:
        headers = None if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
        return error_response(error.status_code, error.detail, error.code, error.errors, headers)

    @app.exception_handler(TimeoutError)
    async def storage_timeout(_request: Request, _error: TimeoutError) -> JSONResponse:
        detail = "The store did not answer in time; nothing is lost. GET /api/v1/health says why, then try again."
        return error_response(503, detail, StorageUnavailable.code)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_request: Request, error: RequestValidationError) -> JSONResponse:
        problems = [_field_problem(each, error.body) for each in error.errors()]
        detail = "; ".join(f"{problem.field}: {problem.message}" for problem in problems)
        return error_response(422, detail, "invalid_request", problems)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = getattr(error, "code", None) or HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        detail, headers = str(error.detail), dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed_methods(request))
            detail = f"{request.url.path} takes {headers['Allow']} only."
        elif error.status_code == 404:
            detail = f"There is no {request.url.path}. GET / lists all routes."
        elif error.status_code == 413:
            detail, code = BODY_TOO_LARGE, "body_too_large"
        return error_response(error.status_code, detail, code, headers=headers)

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, visible(request.url.path), exc_info=error)
        # uvicorn closes the connection behind an exception; unsaid, a client's next request would run into that.
        headers = {"Connection": "close"}
        return error_response(500, "The service has made a mistake; its log says which.", "internal_error", (), headers)


def _allowed_methods(request: Request) -> list[str]:
    """Of all routes of a path; Starlette names those of the first one (RFC 9110, 10.2.1 Allow)."""
    app, scope = request.app, request.scope
    fixed = app.openapi()["paths"].get(request.url.path)
    if fixed is not None:  # its last part is a word of its own, and no task_id
        return [method.upper() for method in fixed]
    return [
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in app.routes)
    ]


def _field_problem(error: dict[str, Any], body: Any) -> FieldProblem:
    place, *inside = error["loc"]
    if place == "body" and inside and inside[0] in START_TAGS:
        inside = inside[1:]
    # FastAPI leaves a body alone that is no JSON by its Content-Type
    return problem_in_words(error, inside, is_json=place != "body" or not isinstance(body, bytes))
