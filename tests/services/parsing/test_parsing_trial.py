"""A text tried before it is used: what each line gives, by which rule, and what is left over."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.schemas import LogReading, MetricDefinition, Stage
from services.parsing import LineParser, try_reading
from tests.services.parsing.fragments import DEFINITIONS, LOGS

TEXT = """\
Epoch [1/2] started
loading images
Dice: 0.5 of the first epoch
Train Loss: nan, Train Accuracy: 70%
[1,  2000] loss: 2.173
"""
READING = LogReading(
    metric_definitions=[
        MetricDefinition(name="dice", regex=r"Dice: (\S+)"),
        MetricDefinition(name="iou", regex=r"IoU: (\S+)"),
    ]
)


def test_every_line_that_says_something_is_told_with_its_rule() -> None:
    tried = {line.line: line for line in try_reading(TEXT, READING).lines}
    assert list(tried) == [1, 3, 4, 5]
    assert (tried[1].metrics, tried[1].stage) == ({"epoch": 1, "total_epochs": 2}, Stage.EPOCH_START)
    assert tried[3].metrics == {"epoch": 1, "total_epochs": 2, "dice": 0.5}
    assert "own: dice" in tried[3].rules
    assert "key value" in tried[4].rules
    assert "preset: pytorch_tutorial" in tried[5].rules
    assert tried[5].step == 2000


def test_a_value_that_json_has_not_is_null() -> None:
    (line,) = [line for line in try_reading(TEXT, READING).lines if line.line == 4]
    assert line.metrics == {"epoch": 1, "total_epochs": 2, "train_loss": None, "train_acc": 70.0}


def test_lines_that_say_nothing_and_patterns_that_match_nothing_are_named() -> None:
    result = try_reading(TEXT, READING)
    assert 2 in result.unmatched
    assert not set(result.unmatched) & {line.line for line in result.lines}
    assert result.unmatched_definitions == ["iou"]


def test_the_time_of_every_rule_is_told_dearest_first() -> None:
    rules = try_reading(TEXT, READING).rules
    uses = {rule.rule: rule.lines for rule in rules}
    assert uses["own: dice"] == 1
    assert uses["own: iou"] == 0
    assert uses["preset: pytorch_tutorial"] == 1
    assert uses["nothing"] >= 1
    times = [rule.microseconds for rule in rules]
    assert times == sorted(times, reverse=True)
    assert min(times) >= 0


def test_the_log_format_decides_what_is_read() -> None:
    none = try_reading(TEXT, READING.model_copy(update={"log_format": "none"}))
    assert [(line.line, line.metrics) for line in none.lines] == [(3, {"dice": 0.5})]


def test_a_reading_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValueError, match="kerras"):
        try_reading("", LogReading(log_format="kerras"))
    with pytest.raises(ValueError, match="no group"):
        try_reading("", LogReading(metric_definitions=[MetricDefinition(name="a", regex="a")]))


@given(LOGS | st.lists(st.text(), max_size=5))
@settings(deadline=None)
def test_a_trial_gives_what_the_parser_of_a_task_would(log: list[str]) -> None:
    text = "\n".join(log)
    result = try_reading(text, LogReading(metric_definitions=DEFINITIONS))
    parser = LineParser(DEFINITIONS)
    read = [parser.parse(line) for line in text.split("\n")]

    tried = {line.line: line for line in result.lines}
    assert sorted([*tried, *result.unmatched]) == list(range(1, len(read) + 1))
    for number, parsed in enumerate(read, start=1):
        if number in tried:
            told = (tried[number].metrics.keys(), tried[number].step, tried[number].stage)
            assert told == (parsed.metrics.keys(), parsed.step, parsed.stage)
        else:
            assert (parsed.metrics, parsed.step, parsed.stage) == ({}, None, None)
    assert tuple(result.unmatched_definitions) == parser.unmatched()
