"""Reads the project's documents as their readers do: headings, tables, fenced blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAIRS = {
    "README": (ROOT / "README.md", ROOT / "README.zh-CN.md"),
    "guide": (ROOT / "doc/TRAINING_METRICS_GUIDE.en.md", ROOT / "doc/TRAINING_METRICS_GUIDE.md"),
    "operations": (ROOT / "doc/OPERATIONS.md", ROOT / "doc/OPERATIONS.zh-CN.md"),
    "presets": (ROOT / "doc/PRESETS.md", ROOT / "doc/PRESETS.zh-CN.md"),
    "walk-through": (ROOT / "doc/WALKTHROUGH.md", ROOT / "doc/WALKTHROUGH.zh-CN.md"),
}
"""English and Chinese, which say the same and have the same examples."""
LANGUAGE_DOCUMENTS = [path for pair in PAIRS.values() for path in pair]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block; `str` of it is where an editor finds it."""

    path: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"


def blocks_of(path: Path, *languages: str) -> list[Block]:
    """In the order of the document; of every language if none is named."""
    text = path.read_text("utf-8")
    found = [Block(path, text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in _FENCE.finditer(text)]
    return [block for block in found if not languages or block.language in languages]


def prose_of(path: Path) -> str:
    """The document without its fenced blocks."""
    return _FENCE.sub("", path.read_text("utf-8"))


def headings_of(path: Path) -> list[tuple[int, str]]:
    """(level, text) of every heading."""
    return [(len(match[1]), match[2]) for match in _HEADING.finditer(prose_of(path))]


def tables_of(path: Path) -> list[list[list[str]]]:
    """The cells of every row of every table, its head first, without the line of dashes."""
    tables: list[list[list[str]]] = [[]]
    for line in prose_of(path).splitlines():
        if not line.startswith("|"):
            tables.append([])
        elif not re.fullmatch(r"[|\s:-]+", line) or not tables[-1]:
            tables[-1].append([cell.strip() for cell in line[1:-1].split("|")])
    return [table for table in tables if table]


def coded(cell: str) -> str | None:
    """What a cell that is nothing but `code` holds."""
    return cell[1:-1] if re.fullmatch(r"`[^`]+`", cell) else None


def table_of(path: Path, code: str) -> dict[str, list[str]]:
    """The one table in which a row begins with `code`: what its rows begin with, to the cells that follow."""
    found = [table for table in tables_of(path) if any(coded(row[0]) == code for row in table[1:])]
    assert len(found) == 1, f"{path.name}: {len(found)} tables have a row that begins with `{code}`"
    return {coded(row[0]) or row[0]: row[1:] for row in found[0][1:]}
