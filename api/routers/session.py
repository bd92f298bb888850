"""系统接口: a browser's sign-in, for what cannot send an `Authorization` header."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from api.deps import AcceptedTokens
from api.errors import documented
from api.session import COOKIE, LIFETIME_S
from models.schemas import SessionResponse

router = APIRouter(prefix="/api/v1/session", tags=["系统接口"])


@router.post("", summary="登录（浏览器）", response_model_exclude_unset=True, responses=documented(401, 403))
async def sign_in(request: Request, response: Response, tokens: AcceptedTokens) -> SessionResponse:
    """用令牌换取浏览器的会话. Answers a request that carries a token with a cookie that stands for it, for a week.

    The cookie is HttpOnly, SameSite=Strict, and Secure over HTTPS; it holds no token. It is good until it expires, or
    the service is restarted without that token. Where the service asks for no token there is no cookie either.
    """
    session = tokens.open_session(request.headers)
    if session is None:
        return SessionResponse()
    response.set_cookie(
        COOKIE,
        session.cookie,
        max_age=LIFETIME_S,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return SessionResponse(expires_at=datetime.fromtimestamp(session.expires, UTC))


@router.delete("", summary="退出登录（浏览器）", response_model_exclude_unset=True, responses=documented(401, 403))
async def sign_out(request: Request, response: Response) -> SessionResponse:
    """让浏览器忘记会话. Has the browser forget its cookie."""
    response.delete_cookie(COOKIE, secure=request.url.scheme == "https", httponly=True, samesite="strict")
    return SessionResponse()
