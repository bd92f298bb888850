"""The promise about foreign logs, kept on an annotated corpus that is laid beside the checkout."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from services.parsing import LineParser

CORPUS = Path(__file__).resolve().parents[3].parent / "shared" / "corpus"
LOGS = sorted((CORPUS / "dev").glob("*.log"))

pytestmark = pytest.mark.skipif(not LOGS, reason="there is no corpus beside this checkout")

WHOLE = ("native_format", "zh_trainer_style1")
"""Logs of the formats that are ours: nothing may be missing in them, and nothing be wrong."""


class Score(NamedTuple):
    right: int
    wrong: int
    missed: int
    stages: int
    stages_right: int

    @property
    def recall(self) -> float:
        return self.right / max(1, self.right + self.missed)

    @property
    def precision(self) -> float:
        return self.right / max(1, self.right + self.wrong)


@pytest.fixture(scope="module")
def scorer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("corpus_score", CORPUS / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scores(scorer: ModuleType) -> dict[str, Score]:
    return {log.stem: Score(*scorer.score_file(log, LineParser)[:5]) for log in LOGS}


def test_the_corpus_as_a_whole_is_read_as_promised(scores: dict[str, Score]) -> None:
    total = Score(*(sum(counts) for counts in zip(*scores.values(), strict=True)))

    assert total.recall >= 0.97
    assert total.precision >= 0.985
    assert total.stages_right / total.stages >= 0.93


@pytest.mark.parametrize("name", [log.stem for log in LOGS])
def test_no_trainer_of_the_corpus_is_read_badly(scores: dict[str, Score], name: str) -> None:
    assert scores[name].recall >= 0.85


@pytest.mark.parametrize("name", WHOLE)
def test_a_log_in_our_own_formats_is_read_whole(scores: dict[str, Score], name: str) -> None:
    assert (scores[name].recall, scores[name].precision) == (1.0, 1.0)
