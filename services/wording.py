"""What is wrong with a field, in words for whoever sent it: pydantic's own, but where those are of use to nobody.

A value that failed may be anything, a secret too, so it is described and never repeated; a name is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from models.schemas import FieldProblem

_NUL: Final = "must not hold the character NUL"
PATTERNS: Final[Mapping[str, str]] = {
    r"^[^\x00]*$": _NUL,
    r"^[^\x00]+$": _NUL,
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$": (
        "must be 1 to 64 letters of the Latin alphabet, digits, - and _, the first of them a letter or a digit"
    ),
    r"^[^/\\\x00-\x1f\x7f]{1,128}$": (
        r"must be the name of a folder: 1 to 128 characters, without / and \ and without control characters"
    ),
    r"^[A-Za-z_][A-Za-z0-9_]{0,255}$": (
        "must be 1 to 256 letters of the Latin alphabet, digits and _, the first of them no digit"
    ),
    r"^\w[\w./@-]{0,63}$": "must be 1 to 64 letters, digits and _ . / @ -, the first of them a letter, a digit or _",
    r"^[a-z0-9_]+$": "must be auto, none, or the name of one preset, in small letters",
    r"^(cpu|cuda(:\d{1,3})?)$": "must be cpu, cuda (any GPU) or one GPU by its number, such as cuda:0",
    r"^(cpu|cuda(:\d{1,3}|:\d{1,2}(,\d{1,2}){1,7})?)$": (
        "must be cpu, cuda (any GPU), one GPU by its number, such as cuda:0, or up to eight, such as cuda:0,1"
    ),
    r"^(last|all)$": "must be last or all",
    r"^\d{1,18}$": "must be the next_cursor of the page before",
}
"""What values must be like, by the pattern that says so to programs."""

_KEY: Final = "[key]"
"""How pydantic calls the place of a name that is wrong, below the name itself."""
_SHOWN: Final = 40
_NO_JSON: Final = "the body was not read as JSON: send the header 'Content-Type: application/json' with it"


def problem_in_words(error: Mapping[str, Any], location: Sequence[str | int], *, is_json: bool = True) -> FieldProblem:
    """One of pydantic's errors.

    Args:
        location: where in the body, or which parameter.
        is_json: whether the body said of itself that it is.
    """
    message = str(error["msg"])
    if error["type"] == "string_pattern_mismatch":
        message = PATTERNS.get(error["ctx"]["pattern"], message)
    elif error["type"] in ("value_error", "assertion_error"):
        message = message.partition(", ")[2] or message  # behind "Value error"
    if location and location[-1] == _KEY:
        *location, name, _ = location
        message = f"the name {str(name)[:_SHOWN]!r} {message}"
    elif not location and not is_json:
        message = _NO_JSON
    return FieldProblem(field=".".join(map(str, location)) or "body", code=error["type"], message=message)
