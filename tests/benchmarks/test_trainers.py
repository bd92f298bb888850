"""The comparison with real trainers, run with the one trainer that the tests have installed anyway."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.trainers import __main__ as program
from benchmarks.trainers.catalogue import STEP, TRAINERS, Trainer, after, before
from benchmarks.trainers.environment import HERE, REQUIREMENTS
from models.schemas import TrainingMetrics

SCRIPTS = sorted((HERE / "scripts").glob("*.py"))
OURS = {"api", "app_refactored", "benchmarks", "client", "models", "services", "settings", "trainer"}
SKLEARN = TRAINERS[0]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_know_nothing_of_the_service(script: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert not {name.partition(".")[0] for name in imported} & {*OURS, "logging", "httpx", "requests"}


def test_every_script_is_run() -> None:
    assert {trainer.command[0] for trainer in TRAINERS} == {script.name for script in SCRIPTS}


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda trainer: trainer.name)
def test_every_trainer_is_installed_in_one_version_and_compared_by_published_names(trainer: Trainer) -> None:
    assert f"\n{trainer.package}==" in REQUIREMENTS.read_text("utf-8")
    assert trainer.printed.keys() - {STEP} <= TrainingMetrics.model_fields.keys()


def test_the_last_value_is_found_by_the_text_beside_it() -> None:
    output = "loss = 2.5\nloss = 1.25e-05, acc 3\n   1/2  0G  0.5\n   2/2  0G  0.4\n"
    assert after("loss = ")(output) == 1.25e-05
    assert after("loss = ", word=2)(output) == 3
    assert before(" 0G ")(output) == 2
    assert after(" 0G ")(output) == 0.4


def test_what_differs_or_was_not_printed_is_not_equal() -> None:
    trainer = replace(SKLEARN, printed={"a": after("a="), "b": after("b="), "c": after("c="), "d": after("d=")})
    results = program.compare(trainer, "a=1 b=2 d=nan", {"a": 1, "b": 2.001, "c": None, "d": None})
    assert [result.is_equal for result in results] == [True, False, False, False]


def test_scikit_learn_is_shown_as_it_was_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--only", "scikit", "--python", sys.executable, "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[2:-1]] == ["yes"] * len(SKLEARN.printed)


def test_a_trainer_that_fails_is_told_by_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "TRAINERS", [replace(SKLEARN, command=("no_such_script.py",))])
    assert program.main(["--python", sys.executable, "--folder", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "failed" in printed
    assert "NO" in printed
