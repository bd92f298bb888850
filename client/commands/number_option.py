"""The value of an option that is a number, or one of a few words in its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem


class NumberOption(click.ParamType[int | float | str]):
    """Such as `8` or `auto`."""

    def __init__(self, kind: type[int] | type[float], words: Sequence[str] = ()) -> None:
        self._number: click.ParamType[Any] = click.INT if kind is int else click.FLOAT
        self._words = tuple(words)
        self.name = "|".join((self._number.name, *words))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float | str:
        if value in self._words:
            return str(value)
        try:
            number: int | float = self._number.convert(value, param, ctx)
        except click.BadParameter:
            self._refuse(value, param, ctx)
        if not math.isfinite(number):  # JSON has no such number
            self._refuse(value, param, ctx)
        return number

    def _refuse(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> NoReturn:
        wanted = " or ".join((f"a valid {self._number.name}", *map(repr, self._words)))
        self.fail(f"{value!r} is not {wanted}.", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        return [CompletionItem(word) for word in self._words if word.startswith(incomplete)]
