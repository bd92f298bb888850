"""Takes out of a record what nobody else may know.

What counts as secret: the part of a URL before its @; every value of a command's environment; a value whose name ends
like one of a secret (token, password, api_key ...), in text and in options of a command; text that has the form of a
well-known token or of a private key. RE2 reads in linear time, whatever a diff holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import re2

HIDDEN = "***"
_NAMES = r"(?:token|secret|passw(?:or)?d|passwd|pwd|passphrase|credentials?|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?key|secret[_-]?key|authorization)"  # noqa: E501
_NAME = re2.compile(rf"(?i)^-{{0,2}}[\w.-]*{_NAMES}$")
_REPLACEMENTS = [
    (
        re2.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"),
        "-----BEGIN PRIVATE KEY----- ***",
    ),
    (re2.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s@'\"]+@"), rf"\1{HIDDEN}@"),
    (re2.compile(r"(?i)\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{HIDDEN}"),
    (
        re2.compile(
            r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}"
            r"|xox[abeprs]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
        ),
        HIDDEN,
    ),
    (
        re2.compile(rf"(?i)({_NAMES}[\"']?\]?\s*(?::=|=>|=|:)\s*[\"']?)[^\s\"',;&)}}\]]+"),
        rf"\1{HIDDEN}",
    ),
]


def without_secrets(value: Any, name: str = "") -> Any:
    """`value`, as JSON has it, with what is secret replaced. Args: name: of the field that holds it."""
    if isinstance(value, Mapping):
        if name == "env":
            return dict.fromkeys(value, HIDDEN)
        return {key: without_secrets(each, str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [
            HIDDEN if isinstance(each, str) and before is not None and is_secret(before) else without_secrets(each)
            for before, each in zip([None, *value], value, strict=False)
        ]
    if isinstance(value, str):
        return HIDDEN if value and name and is_secret(name) else text_without_secrets(value)
    return value


def text_without_secrets(text: str) -> str:
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    return text


def is_secret(name: Any) -> bool:
    """Whether a field, a variable or an option of this name holds a secret."""
    return isinstance(name, str) and _NAME.search(name) is not None
