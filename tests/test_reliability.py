"""The table of faults: each has a test that exists, and the picture of a task's life is the one that is in force."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from services.state_machine import TRANSITIONS
from tests.documents import ROOT, headings_of, tables_of

PAGE = ROOT / "doc" / "RELIABILITY.md"
FAMILIES = ["Crashes", "Restarts", "The queue", "Storage", "Bad data", "Strangers"]
NODE_ID = re.compile(r"`(tests/[\w/]+\.py)::(?:(\w+)::)?(\w+)`")


def rows() -> list[list[str]]:
    return [row for table in tables_of(PAGE) for row in table[1:]]


@cache
def names_in(path: str) -> frozenset[tuple[str, str]]:
    """`(class or "", function)` of every test in a file."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        owner = node.name if isinstance(node, ast.ClassDef) else ""
        found |= {(owner, each.name) for each in inside if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    return frozenset(found)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_every_fault_has_a_test(row: list[str]) -> None:
    fault, what_happens, test = row
    assert fault.strip()
    assert what_happens.strip()
    node_id = NODE_ID.fullmatch(test.strip())
    assert node_id, f"{test} is no id of a test"
    path, owner, name = node_id.groups()
    assert name.startswith("test_")
    assert (owner or "", name) in names_in(path)


def test_every_family_of_faults_has_its_table() -> None:
    assert [title for level, title in headings_of(PAGE) if level == 2][1:] == FAMILIES
    assert len(tables_of(PAGE)) == len(FAMILIES)
    assert all(table[0] == ["Fault", "What happens", "Test"] and len(table) > 4 for table in tables_of(PAGE))


def test_no_fault_is_listed_twice() -> None:
    faults = [row[0] for row in rows()]
    assert len(faults) == len(set(faults))


def test_the_picture_shows_every_arrow_and_no_other() -> None:
    drawn = set(re.findall(r"^ +(\w+) --> (\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert drawn == {(before.value, after.value) for before, follow in TRANSITIONS.items() for after in follow}
