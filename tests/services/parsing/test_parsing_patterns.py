"""The user's own patterns: what they give, what they win over, and what is refused."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.schemas import LogReading, MetricDefinition, Stage
from services.parsing import LineParser, check_reading
from services.parsing.line_parser import MAX_LINE
from services.parsing.patterns import MAX_MATCHES

DICE = MetricDefinition(name="dice", regex=r"Dice: ([0-9.]+%?)")
PAIR = MetricDefinition(regex=r"(\w+) is now (\S+)")
NAMED = MetricDefinition(regex=r"at (?P<epoch>\d+):(?P<step>\d+) got (?P<dice>\S+)(?: and (?P<iou>\S+))?")


def metrics_of(line: str, *definitions: MetricDefinition) -> dict[str, int | float]:
    return LineParser(definitions).parse(line).metrics


# --- Groups ------------------------------------------------------------------------------------------------------


def test_one_group_is_the_value_of_the_name() -> None:
    parsed = LineParser([DICE]).parse("after a while, Dice: 0.8312.")
    assert parsed.metrics == {}, "a full stop is part of what this pattern took"
    parsed = LineParser([DICE]).parse("after a while, Dice: 0.8312 (mean)")
    assert parsed.metrics == {"dice": 0.8312}
    assert parsed.rules == ("own: dice",)


def test_a_line_that_only_a_pattern_reads_stays_in_the_stage_of_the_log() -> None:
    parser = LineParser([DICE])
    assert parser.parse("Validation Loss: 0.5").stage == Stage.VALIDATION
    parsed = parser.parse("Dice: 0.81")
    assert (parsed.metrics, parsed.stage) == ({"dice": 0.81}, None)


def test_two_groups_are_name_and_value() -> None:
    assert metrics_of("hausdorff is now 4.25", PAIR) == {"hausdorff": 4.25}
    assert LineParser([PAIR]).parse("hausdorff is now 4.25").rules == (f"own: {PAIR.regex}",)


def test_two_groups_find_every_pair_of_a_line() -> None:
    assert metrics_of("a is now 1, b is now 2, a is now 3", MetricDefinition(regex=r"(\w+) is now (\d)")) == {
        "a": 3.0,
        "b": 2.0,
    }


def test_named_groups_are_metrics_and_the_place() -> None:
    parsed = LineParser([NAMED]).parse("at 4:200 got 0.8 and 0.7")
    assert parsed.metrics == {"epoch": 4, "dice": 0.8, "iou": 0.7}
    assert parsed.step == 200
    assert parsed.stage == Stage.TRAINING
    assert metrics_of("at 4:200 got 0.8", NAMED) == {"epoch": 4, "dice": 0.8}


def test_the_place_that_a_pattern_finds_is_carried_to_the_lines_below() -> None:
    parser = LineParser([MetricDefinition(regex=r"cycle (?P<epoch>\d+) of (?P<total_epochs>\d+)"), DICE])
    assert parser.parse("=== cycle 3 of 8 ===").metrics == {"epoch": 3, "total_epochs": 8}
    assert parser.parse("Dice: 0.5").metrics == {"epoch": 3, "total_epochs": 8, "dice": 0.5}


@pytest.mark.parametrize("text", ["nan", "inf", "1.5", "-3", "1e400", "9" * 30, "x"])
@pytest.mark.parametrize("place", ["step", "total_epochs", "total_steps"])
def test_a_place_that_is_no_count_is_none(place: str, text: str) -> None:
    parsed = LineParser([MetricDefinition(regex=rf"at (?P<{place}>\S+) (?P<dice>\S+)")]).parse(f"at {text} 0.5")
    assert (parsed.metrics, parsed.step) == ({"dice": 0.5}, None)


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("1e-3", 0.001), ("-2", -2.0), (".5", 0.5), ("1,024", 1024.0), ("inf", math.inf)]
)
def test_a_value_is_any_number(text: str, value: float) -> None:
    assert metrics_of(f"hausdorff is now {text}", PAIR) == {"hausdorff": value}


@pytest.mark.parametrize("text", ["high", "0.5.1", "0x1f", "--1", "1/2", "12:30"])
def test_what_is_no_number_gives_nothing_and_has_not_matched(text: str) -> None:
    parser = LineParser([PAIR])
    assert parser.parse(f"hausdorff is now {text}").metrics == {}
    assert parser.unmatched() == (PAIR.regex,)


def test_a_percent_sign_is_told_beside_the_value() -> None:
    parsed = LineParser([DICE]).parse("Dice: 83%")
    assert (parsed.metrics, parsed.percents) == ({"dice": 83.0}, frozenset({"dice"}))
    assert LineParser([DICE]).parse("Dice: 0.83").percents == frozenset()


def test_of_a_pattern_a_line_has_at_most_a_hundred_matches() -> None:
    line = " ".join(f"m{number} is now 1" for number in range(MAX_MATCHES + 50))
    assert len(metrics_of(line, PAIR)) == MAX_MATCHES


# --- Own patterns and the engine ---------------------------------------------------------------------------------


def test_an_own_pattern_wins_over_the_engine() -> None:
    own = MetricDefinition(name="train_loss", regex=r"total (\S+)")
    line = "Epoch [1/2], Train Loss: 0.9, Train Accuracy: 70%, total 0.4"
    assert metrics_of(line, own) == {"epoch": 1, "total_epochs": 2, "train_loss": 0.4, "train_acc": 70.0}
    place = MetricDefinition(regex=r"really (?P<epoch>\d+)")
    assert metrics_of("Epoch 5, really 6, loss: 1", place) == {"epoch": 6, "train_loss": 1.0}


def test_without_the_engine_own_patterns_alone_are_read() -> None:
    parser = LineParser([DICE], "none")
    assert parser.parse("Epoch [1/2], Train Loss: 0.9, Dice: 0.5 ").metrics == {"dice": 0.5}
    assert parser.parse("Epoch [1/2], Train Loss: 0.9").metrics == {}


def test_a_pattern_sees_the_line_as_a_terminal_shows_it_with_its_prefix() -> None:
    own = MetricDefinition(name="dice", regex=r"^\[worker\] Dice: (\S+)$")
    assert metrics_of("old\r\x1b[32m[worker] Dice:\x1b[0m 0.5\x1b[K\n", own) == {"dice": 0.5}


def test_a_pattern_reads_text_of_any_script_and_bytes_that_are_none() -> None:
    own = MetricDefinition(name="dice", regex=r"骰子系数：?:?(\S+)")
    assert metrics_of("骰子系数：0.5", own) == {"dice": 0.5}
    assert metrics_of("\udcff骰子系数：0.5", own) == {"dice": 0.5}


def test_patterns_that_have_matched_nothing_are_named_until_they_do() -> None:
    parser = LineParser([DICE, PAIR])
    assert parser.unmatched() == ("dice", PAIR.regex)
    parser.parse("a is now 1")
    assert parser.unmatched() == ("dice",)
    restored = LineParser([DICE, PAIR], memory=parser.memory)
    assert restored.unmatched() == ("dice",)
    restored.parse("Dice: 1")
    assert restored.unmatched() == ()


# --- What is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regex", "name", "why"),
    [
        ("Dice: (", "dice", "missing )"),
        ("Dice: ([0-9)", "dice", "missing ]"),
        (r"(?=Dice)(\d)", "dice", "(?="),
        (r"(?<!x)(\d)", "dice", "(?<"),
        (r"(\w)\1", "dice", r"\1"),
        ("Dice: [0-9.]+", "dice", "no group"),
        ("(a)(b)(c)", "dice", "3 groups"),
        (r"Dice: (\d)", None, "give the definition a name"),
        ("((a{900}){900})", "dice", "repetition"),
        (r"(\pN{1000})", "dice", "too large"),
        (r"(.{0,1000}x)", "dice", "too large"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_a_problem_that_names_it(regex: str, name: str | None, why: str) -> None:
    bad = MetricDefinition(name=name, regex=regex)
    (problem,) = check_reading(LogReading(metric_definitions=[DICE, bad]))
    assert (problem.field, problem.code) == ("metric_definitions.1.regex", "invalid_pattern")
    assert problem.message.startswith("Pattern 1" + (f" ({name}): " if name else ": "))
    assert why in problem.message
    with pytest.raises(ValueError, match=r"."):
        LineParser([bad])


def test_every_bad_pattern_is_named_at_once() -> None:
    problems = check_reading(
        LogReading(metric_definitions=[MetricDefinition(regex="("), DICE, MetricDefinition(regex="x")])
    )
    assert [problem.field for problem in problems] == ["metric_definitions.0.regex", "metric_definitions.2.regex"]


def test_count_and_length_of_patterns_are_bounded() -> None:
    good = {"name": "dice", "regex": "(.)"}
    assert len(LogReading.model_validate({"metric_definitions": [good] * 32}).metric_definitions) == 32
    with pytest.raises(ValidationError):
        LogReading.model_validate({"metric_definitions": [good] * 33})
    for regex in ("", "(" + "x" * 999 + ")"):
        with pytest.raises(ValidationError):
            LogReading.model_validate({"metric_definitions": [{"name": "dice", "regex": regex}]})
    with pytest.raises(ValidationError):
        LogReading.model_validate({"metric_definitions": [{**good, "flags": "i"}]})


@given(st.text(max_size=40), st.text(max_size=40))
@settings(deadline=None)
def test_any_pattern_is_refused_or_reads_any_line(regex: str, line: str) -> None:
    definition = MetricDefinition.model_construct(name="dice", regex=regex)
    if not check_reading(LogReading.model_construct(metric_definitions=[definition], log_format="none")):
        LineParser([definition]).parse(line)


# --- Time --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "regex", [r"(a+)+$", r"(a|aa)+$", r"(a*)*b", r"((?:a?){500}a{100})$", r"(.*)(.*)=", r"(?:x+x+)+(y)"]
)
def test_a_pattern_that_makes_others_backtrack_takes_linear_time(regex: str) -> None:
    """Python's own engine would not end within the age of the universe."""
    parser = LineParser([MetricDefinition(name="dice", regex=regex)], "none")

    def cpu_seconds(size: int) -> float:
        line = ("a" * size)[:-1] + "!"
        begin = time.thread_time()
        parser.parse(line)
        return time.thread_time() - begin

    for _attempt in range(5):
        if cpu_seconds(MAX_LINE) < 9 * cpu_seconds(MAX_LINE // 4):
            return
    pytest.fail(f"more than linear: {regex}")
