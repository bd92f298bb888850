"""Tables: a row of names once, rows of numbers after it.

The header is remembered. A row belongs to it if it has a number in nearly every column; where it has a cell
less or more, as an empty or a marked one, the cells go to the columns that they stand under.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from services.parsing.meaning import Meaning, context_of, meaning_of, words_of
from services.parsing.memory import Header
from services.parsing.report import Report
from services.parsing.values import Kind, may_hold_numbers, read_number, values_of
from services.parsing.vocabulary import COLUMNS

_MAX_COLUMNS = 64
_WIDE = re.compile(r"[^\s|│┃,;](?:[^|│┃,;\t]*?[^\s|│┃,;])??(?=\s{2,}|\t|\s*[|│┃,;]|\s*$)")
_NARROW = re.compile(r"[^\s|│┃,;]+")
_NOT_A_HEADER = re.compile(r"(?<![\w@.-])[0-9]+(?:\.[0-9]+)?(?![\w%-])|: \S|=|[{}\"?!]")
_BAR_BEHIND = re.compile(r"(?<!\s):?\s*[0-9]{1,3}%.*$")
_COUNT_BEHIND = re.compile(r"[0-9]{1,3}%[^0-9]{1,400}([0-9]{1,9})/([0-9]{1,9})")
_RATIO = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_SIZE = re.compile(r"([0-9.]{1,12})([GM])(?:i?B)?", re.IGNORECASE)
HEADER_WORDS = ("loss", "acc", "epoch", "iter", "step", "score", "precision", "map", "f1", "train", "损失", "准确")
"""No head of a table is without any of them."""
_DRAWN_BEHIND = re.compile(r"[0-9]{1,3}% ?(?:[━─╸]{3}|\|)")
_SUMMARY = frozenset({"all", "total", "avg", "mean", "overall", "average"})


def may_be_header(text: str) -> bool:
    """Whether a header is worth looking for: words and no number, but of a bar that is drawn behind them."""
    return not may_hold_numbers(text) or ("%" in text and _DRAWN_BEHIND.search(text) is not None)


def read_header(text: str) -> Header | None:
    """The columns that `text` names, or None where it is no head of a table."""
    text = _BAR_BEHIND.sub("", text)
    if len(text) > 2_000 or _NOT_A_HEADER.search(text):
        return None
    for cells in (_WIDE, _NARROW):
        header = tuple((match[0].lower(), match.start(), match.end()) for match in cells.finditer(text))
        if 2 <= len(header) <= _MAX_COLUMNS and _is_header(header):
            return header
    return None


def _is_header(header: Header) -> bool:
    if _is_transposed(header):
        return True
    known = [meaning for name, _, _ in header if (meaning := _meaning(name)) is not None and meaning.metric]
    measured = any(meaning.metric not in ("epoch", "step") for meaning in known)
    of_a_part = sum("loss" in name or "acc" in name for name, _, _ in header if _meaning(name) is None)  # box_loss
    return len(known) >= 2 and measured and (len(known) + of_a_part) * 4 >= len(header)


def _is_transposed(header: Header) -> bool:
    """`Training | Validation` as columns: the rows are then the metrics."""
    return len({context_of(name) for name, _, _ in header} - {None}) == len(header) > 1


def read_row(text: str, header: Header) -> Report | None:
    """The report of a row of `header`'s table, or None where `text` is none."""
    if _is_transposed(header):
        return _read_transposed(text, header)
    bar = _COUNT_BEHIND.search(text)
    row = _BAR_BEHIND.sub("", text) if bar else text
    if len(row) > 4_000:
        return None
    if row.count(",") == len(header) - 1:
        return _read_placed(zip((name for name, _, _ in header), row.split(","), strict=True), bar)
    cells = [(match[0].rstrip(":"), match.start(), match.end()) for match in _NARROW.finditer(row)]
    placed = _place(cells, header)
    if placed is None:
        return None
    return _read_placed(placed, bar)


def _read_transposed(text: str, header: Header) -> Report | None:
    values, rest = values_of(text)
    if len(values) != len(header) or rest.strip(" |"):
        return None
    meaning = meaning_of(values[0].gap.strip(" |:"))
    if meaning is None or meaning.metric is None or any(value.gap.strip(" |") for value in values[1:]):
        return None
    report = Report(rules=["table"])
    for (name, _, _), value in zip(header, values, strict=True):
        if value.kind is Kind.NUMBER:
            report.observe(replace(meaning, context=context_of(name)), value.number, is_percent=value.is_percent)
    return report


def _read_placed(placed: Iterable[tuple[str, str]], bar: re.Match[str] | None) -> Report | None:
    report = Report()
    for number, (name, cell) in enumerate(placed):
        if number == 0 and not _is_value(cell):
            report.context = context_of(cell)
        _read_cell(report, name, cell.strip())
    if bar:
        report.step, report.total_steps = int(bar[1]), int(bar[2])
    report.rules.append("table")
    return None if report.is_empty else report


def _place(cells: list[tuple[str, int, int]], header: Header) -> list[tuple[str, str]] | None:
    """Cells with the names of their columns."""
    numbers = sum(_is_value(cell) for cell, _, _ in cells)
    if numbers < 2 or len(cells) - numbers > 2 or abs(len(cells) - len(header)) > max(1, len(header) // 4):
        return None
    label = cells[0][0]
    if not (_is_value(label) or label.lower() in _SUMMARY or context_of(label)):
        return None
    if len(cells) == len(header):
        return [(name, cell) for (name, _, _), (cell, _, _) in zip(header, cells, strict=True)]
    placed = []
    for cell, start, end in cells:
        name, first, last = min(header, key=lambda column: _distance(start, end, column[1], column[2]))
        if _distance(start, end, first, last) > 3:
            return None
        placed.append((name, cell))
    return placed


def _distance(start: int, end: int, first: int, last: int) -> int:
    return 0 if start < last and first < end else min(abs(start - last), abs(first - end))


def _is_value(cell: str) -> bool:
    return (
        read_number(cell.rstrip("%s")) is not None
        or _RATIO.fullmatch(cell) is not None
        or _SIZE.fullmatch(cell) is not None
        or (":" in cell and cell.replace(":", "").isdecimal())
    )


def _meaning(name: str) -> Meaning | None:
    known = meaning_of(COLUMNS.get(name, name))
    if known is not None:
        return known
    words = words_of(name)
    if words[:1] == ("loss",) and len(words) == 2:  # LOSS TEXTCAT: of a component
        return Meaning("loss")
    return meaning_of(COLUMNS[words[-1]]) if len(words) == 2 and words[-1] in COLUMNS else None  # Box(P


def _read_cell(report: Report, name: str, cell: str) -> None:
    meaning = _meaning(name)
    is_percent = cell.endswith("%")
    ratio = _RATIO.fullmatch(cell)
    if meaning is not None and meaning.metric == "epoch":
        count = ratio[1] if ratio else cell
        if count.isdecimal():
            report.epoch = int(count)
            report.total_epochs = int(ratio[2]) if ratio else None
        return
    if meaning is not None and meaning.metric == "step":
        if cell.isdecimal():
            report.step = int(cell)
        return
    if meaning is not None and meaning.metric == "eta":
        values, _ = values_of(cell)
        if len(values) == 1 and (values[0].kind is Kind.CLOCK or values[0].unit in ("s", "sec")):
            report.observe(meaning, values[0].number)
        return
    if meaning is not None and meaning.metric == "gpu_memory":
        size = _SIZE.fullmatch(cell)
        cell = size[1] if size else cell
    number = read_number(cell.rstrip("%"))
    if number is None:
        return
    if meaning is None:
        own = re.sub(r"\W+", "_", name).strip("_")
        if own and own[0].isalpha():
            report.observe(Meaning(None), number, name=own)
    elif meaning.metric is not None:
        report.observe(meaning, number, is_percent=is_percent)
