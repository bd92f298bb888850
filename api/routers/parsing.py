"""日志解析接口: see what a log line gives, before a training depends on it."""

from __future__ import annotations

from fastapi import APIRouter

from api.errors import documented
from api.strict_json import StrictJsonRoute
from models.schemas import ParsingTryRequest, ParsingTryResponse
from services.errors import InvalidRequest
from services.parsing import TrialTooSlow, check_reading, try_reading

router = APIRouter(prefix="/api/v2/parsing", tags=["日志解析接口"], route_class=StrictJsonRoute)


@router.post(
    "/try",
    summary="试解析日志",
    response_model=ParsingTryResponse,
    response_model_exclude_none=True,
    responses=documented(400, 401, 403, 422),
)
def try_parsing(request: ParsingTryRequest) -> ParsingTryResponse:
    """用给定的模式试解析日志文本. What each line gives, by which rule, at what cost."""
    problems = check_reading(request)
    if problems:
        raise InvalidRequest.from_problems(problems)
    try:
        return try_reading(request.text, request)
    except TrialTooSlow as error:
        raise InvalidRequest.from_problems([error.problem]) from None
