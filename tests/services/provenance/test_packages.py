"""Whose packages a command has."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

from services.provenance import packages
from services.provenance.packages import Unknown, of_command


def script(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    file.chmod(0o755)
    return str(file)


def test_of_this_interpreter(tmp_path: Path) -> None:
    found = of_command([sys.executable, "train.py"], str(tmp_path), os.environ)
    assert found is not None
    assert found["packages"]["pydantic"] == metadata.version("pydantic")
    assert found["python"]["version"] == ".".join(map(str, sys.version_info[:3]))


def test_another_interpreter_is_asked(tmp_path: Path) -> None:
    answer = '{"python": {"version": "2.7"}, "packages": {"b": "1", "A": "2"}}'
    script(tmp_path, "python3", f"#!/bin/sh\necho '{answer}'\n")
    for command in (["./python3", "x.py"], ["python3", "x.py"]):
        found = of_command(command, str(tmp_path), {"PATH": "."})
        assert found == {"python": {"version": "2.7"}, "packages": {"A": "2", "b": "1"}}
        assert list(found["packages"]) == ["A", "b"]


@pytest.mark.parametrize("first", ["#!{python}", "#!/usr/bin/env python3", "#!{python} -u"])
def test_the_first_line_of_a_script_names_it(tmp_path: Path, first: str) -> None:
    python = script(tmp_path, "python3", '#!/bin/sh\necho \'{"python": {}, "packages": {"x": "1"}}\'\n')
    script(tmp_path, "torchrun", first.format(python=python) + "\nprint(1)\n")
    found = of_command(["./torchrun"], str(tmp_path), {"PATH": str(tmp_path)})
    assert found is not None
    assert found["packages"] == {"x": "1"}


def test_what_is_no_python_has_no_packages(tmp_path: Path) -> None:
    assert of_command(["sh", "-c", "true"], str(tmp_path), os.environ) is None
    assert of_command([script(tmp_path, "x.sh", "#!/bin/sh\n")], str(tmp_path), os.environ) is None
    assert of_command(["not-there"], str(tmp_path), os.environ) is None


@pytest.mark.parametrize("body", ["exit 3", "echo nonsense", "echo '[]'", "exec sleep 60", "exec yes"])
def test_one_that_does_not_answer_is_told_of(tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "LIMIT_S", 0.5)
    with pytest.raises(Unknown, match="python3"):
        of_command([script(tmp_path, "python3", f"#!/bin/sh\n{body}\n")], str(tmp_path), os.environ)
