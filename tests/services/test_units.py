"""In which unit a log prints its accuracies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.schemas import wire
from services.units import percent_families, units_of
from tests.services.builders import fold, line, task_state

COMMAND = {"command": ["train"], "working_dir": "/code"}


@pytest.mark.parametrize(
    ("metrics", "percents", "families"),
    [
        ({"train_acc": 0.82}, set(), set()),
        ({"train_acc": 82.45}, set(), {"train"}),
        ({"train_acc": 0.82}, {"train_acc"}, {"train"}),
        ({"val_acc": 1.0, "top5_acc": 1.0}, set(), set()),
        ({"val_acc": 0.5, "top5_acc": 96.78}, set(), {"evaluation"}),
        ({"train_acc": 70.1, "best_acc": 79.1}, set(), {"train", "evaluation"}),
        ({"train_loss": 2.5, "macro_f1": 81.0, "epoch": 7}, {"macro_f1"}, set()),
        ({"val_acc": None}, set(), set()),
    ],
)
def test_an_accuracy_above_one_or_with_a_percent_sign_is_percent(
    metrics: dict[str, float | None], percents: set[str], families: set[str]
) -> None:
    assert percent_families(metrics, percents) == families


@given(st.dictionaries(st.sampled_from(["train_acc", "val_acc", "acc", "loss"]), st.floats(0, 1)))
def test_fractions_alone_are_never_taken_for_percent(metrics: dict[str, float]) -> None:
    assert percent_families(metrics, ()) == frozenset()


def test_only_accuracies_have_a_unit() -> None:
    assert units_of(["train_acc", "val_acc", "val_loss", "f1", "epoch"], {"train"}) == {
        "train_acc": "percent",
        "val_acc": "fraction",
    }


def test_one_value_decides_for_the_whole_log_of_its_family() -> None:
    state = fold(
        task_state(request=COMMAND),
        line(metrics={"val_acc": 55.0, "train_acc": 0.5}),
        line(metrics={"val_acc": 0.9, "best_acc": 0.95}),
    )
    assert wire(state.to_response())["units"] == {"val_acc": "percent", "best_acc": "percent", "train_acc": "fraction"}


def test_units_are_narrowed_with_the_metrics() -> None:
    state = fold(task_state(request=COMMAND), line(metrics={"val_acc": 55.0, "train_acc": 0.5}))
    assert wire(state.to_response(metrics=frozenset({"val_acc"})))["units"] == {"val_acc": "percent"}


def test_an_imported_log_has_units_as_well() -> None:
    state = fold(task_state(task_type="import"), line(metrics={"acc": 0.5}))
    assert wire(state.to_response())["units"] == {"acc": "fraction"}


@pytest.mark.parametrize(
    ("changes", "metrics"),
    [({}, {"val_acc": 55.0}), ({"request": COMMAND}, {"val_loss": 0.5}), ({"request": COMMAND}, {})],
)
def test_where_there_is_nothing_to_say_there_is_no_key(changes: dict[str, Any], metrics: dict[str, float]) -> None:
    """The built-in trainer's unit is known, and its clients get the documented keys only."""
    assert "units" not in wire(fold(task_state(**changes), line(metrics=metrics)).to_response())
