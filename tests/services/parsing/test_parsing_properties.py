"""What holds for every line there is."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.schemas import MetricDefinition
from services.parsing import LineParser, Memory, ParsedLine
from services.parsing.line_parser import MAX_LINE
from services.parsing.report import MAX_COUNT
from tests.services.parsing.fragments import DEFINITIONS, LOGS, UNITS, damaged_lines, filled_lines

COUNTS = st.integers(min_value=0, max_value=999_999_999)
NUMBERS = st.floats()
"""Every double: subnormal, huge, NaN and the infinities too."""
RATES = st.floats(min_value=0.0, exclude_min=True) | st.just(math.nan)
LINES = st.text() | st.lists(st.sampled_from(UNITS) | st.text(max_size=3), max_size=30).map("".join)
LINES |= filled_lines() | damaged_lines()


def everything(parsed: ParsedLine) -> tuple[str, ...]:
    """All that a line gives, with NaN equal to itself."""
    percents = sorted(parsed.percents)
    return tuple(map(repr, (parsed.metrics, parsed.step, parsed.stage, percents, parsed.rules, parsed.rank)))


@given(LINES)
@example("\ud800Train Loss: 1\udfff")
@example("Train Loss: " + "9" * 5000)
@example("Epoch [" + "9" * 5000 + "/1]")
@example("Train Loss: 1e99999")
@example("ETA: 99999d 99999h 99999m 999999999s")
@example("Train Loss: \u0661\u0662")
@example("\u017ftep [1/2]")
@example("{" * 10_000 + "}" * 10_000)
@example("{'a': " * 5_000 + "}" * 5_000)
@example('{"epoch": 1e400, "loss": ' + "9" * 5000 + "}")
@example('{"epoch": NaN, "step": Infinity, "loss": -Infinity}')
@example("{'epoch': 1j, 'loss': 1j}")
@example('{"epoch": "1/0", "step": "0/0"}')
@example("[1]\ttrain-loss:0.5" * 2_000)
@example("epoch " + "9" * 5000 + ", loss 1")
@example("Epoch " + "9" * 315 + ", step " + "9" * 315 + ", total_epochs: " + "9" * 315)
@example('{"epoch": ' + "9" * 400 + ', "step": ' + "9" * 400 + ', "loss": ' + "9" * 400 + "}")
@example("第" + "9" * 5000 + "轮")
@example("total optimization steps = ,,,")
@example("1: 1, 1 avg, 1.2.3 rate, 2 seconds")
@example("Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0..345")
@example("Dice: nan of epoch inf, at step nan")
@settings(deadline=None)
def test_any_text_gives_a_parsed_line(line: str) -> None:
    check(LineParser().parse(line))
    check(LineParser(DEFINITIONS).parse(line))


@given(st.binary())
@example(b"\xff\xfeE\x00p\x00o\x00c\x00h\x00")
@example(b"\x1b[31mTrain Loss: 0.5\x00\x80\xff")
@settings(deadline=None)
def test_any_bytes_give_a_parsed_line(line: bytes) -> None:
    for errors in ("replace", "surrogateescape", "backslashreplace"):
        check(LineParser().parse(line.decode(errors=errors)))
    check(LineParser().parse(line.decode("latin-1")))


def check(parsed: ParsedLine) -> None:
    assert isinstance(parsed, ParsedLine)
    assert all(type(name) is str and name for name in parsed.metrics)
    assert all(type(value) in (int, float) for value in parsed.metrics.values())
    assert parsed.step is None or type(parsed.step) is int
    assert parsed.percents <= parsed.metrics.keys()
    for count in ("epoch", "total_epochs", "total_steps", "best_epoch"):
        assert 0 <= parsed.metrics.get(count, 0) <= MAX_COUNT
    assert 0 <= (parsed.step or 0) <= MAX_COUNT


@given(st.lists(LINES, max_size=10), st.lists(LINES, max_size=10))
@settings(deadline=None)
def test_two_parsers_never_influence_each_other(first: list[str], second: list[str]) -> None:
    def alone(lines: list[str]) -> list[tuple[str, ...]]:
        parser = LineParser()
        return [everything(parser.parse(line)) for line in lines]

    one, other = LineParser(), LineParser()
    mixed_one, mixed_other = [], []
    for i in range(max(len(first), len(second))):
        mixed_one += [everything(one.parse(line)) for line in first[i : i + 1]]
        mixed_other += [everything(other.parse(line)) for line in second[i : i + 1]]
    assert mixed_one == alone(first)
    assert mixed_other == alone(second)


@given(LOGS | st.lists(LINES, max_size=10), st.integers(min_value=0, max_value=25))
@settings(deadline=None)
def test_a_log_reads_on_the_same_after_save_and_restore_at_any_line(log: list[str], at: int) -> None:
    for definitions in ((), DEFINITIONS):
        whole = LineParser(definitions)
        read = [everything(whole.parse(line)) for line in log]

        first = LineParser(definitions)
        start = [everything(first.parse(line)) for line in log[:at]]
        second = restored(first, definitions)
        rest = [everything(second.parse(line)) for line in log[at:]]

        assert start + rest == read
        assert second.memory == whole.memory
        assert (second.lines, second.unmatched()) == (whole.lines, whole.unmatched())


def restored(parser: LineParser, definitions: Sequence[MetricDefinition]) -> LineParser:
    stored = json.loads(json.dumps(parser.memory.to_json(), allow_nan=False))
    return LineParser(definitions, memory=Memory.from_json(stored))


@given(LOGS)
@settings(deadline=None)
def test_saving_changes_nothing_and_restores_all(log: list[str]) -> None:
    parser = LineParser(DEFINITIONS)
    for line in log:
        parser.parse(line)
        before = parser.memory
        assert restored(parser, DEFINITIONS).memory == parser.memory == before


def test_memory_of_another_release_is_read_as_far_as_it_is_known() -> None:
    parser = LineParser(memory=Memory.from_json({"lines": 7, "epoch": 3, "mood": "good"}))
    assert parser.lines == 7
    assert parser.parse("loss: 0.5").metrics == {"epoch": 3, "train_loss": 0.5}


@given(LINES)
@settings(deadline=None)
def test_a_line_without_a_bar_says_the_same_twice(line: str) -> None:
    """But for its context: after an epoch's summary the same words may be an evaluation's."""
    first, second = LineParser(), LineParser()
    assert everything(first.parse(line)) == everything(second.parse(line))


@given(COUNTS, COUNTS, COUNTS, COUNTS, NUMBERS, NUMBERS, RATES)
@settings(deadline=None)
def test_step_line_round_trip(
    epoch: int, epochs: int, step: int, steps: int, loss: float, accuracy: float, rate: float
) -> None:
    line = f"Epoch [{epoch}/{epochs}], Step [{step}/{steps}], Train Loss: {loss}, Train Accuracy: {accuracy}%"
    line += f", {rate} images/s"
    parsed = LineParser().parse(line)
    assert repr(parsed.metrics) == repr(
        {
            "epoch": epoch,
            "total_epochs": epochs,
            "total_steps": steps,
            "train_loss": loss,
            "train_acc": accuracy,
            "throughput": rate,
        }
    )
    assert parsed.step == step


@given(NUMBERS, NUMBERS, st.dictionaries(st.integers(1, 9999), NUMBERS, min_size=1, max_size=8))
@settings(deadline=None)
def test_validation_round_trip(loss: float, f1: float, top_k: dict[int, float]) -> None:
    parser = LineParser()
    assert repr(parser.parse(f"Validation Loss: {loss:.6f}").metrics) == repr({"val_loss": float(f"{loss:.6f}")})
    assert repr(parser.parse(f"Validation macro_F1: {f1!r}").metrics) == repr({"macro_f1": f1})
    table = {f"top{k}": accuracy for k, accuracy in top_k.items()}
    metrics = parser.parse(f"Validation Top-k Accuracy: {table}").metrics
    assert repr(metrics) == repr({f"{name}_acc": accuracy for name, accuracy in table.items()})


STARTS = ["", "Train Loss: 1, ", "Validation Top-k Accuracy: {", "Epoch [1/2] ", "best: 1 improved from 1 to "]


@pytest.mark.parametrize("end", ["", " x", "}"])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("unit", UNITS)
def test_time_is_linear_in_the_line(start: str, unit: str, end: str) -> None:
    check_linear(start, unit, end)


@pytest.mark.parametrize("unit", ["1", "1.", "e1", "1,000"])
@pytest.mark.parametrize(
    "start",
    [
        "val_acc reached ",
        "val_acc reached 0.5 (best ",
        "best checkpoint with ",
        "load best model a (score: ",
        "metric val_acc improved by 1. new best score: ",
        "reducing learning rate of group 1 from 1 to ",
        "accuracy of the network on the 100 images: ",
    ],
)
def test_time_is_linear_in_the_number_of_a_sentence(start: str, unit: str) -> None:
    check_linear(start, unit, " x")


def check_linear(start: str, unit: str, end: str) -> None:
    """Four times the text takes about four times the CPU; quadratic reading would take sixteen."""

    def cpu_seconds(size: int) -> float:
        line = start + unit * (size // len(unit)) + end
        parser = LineParser()
        parser.parse("epoch  train_loss  valid_loss")  # a table goes on
        begin = time.thread_time()
        parser.parse(line)
        return time.thread_time() - begin

    small = 8_000
    for _attempt in range(5):
        if cpu_seconds(4 * small) < 9 * cpu_seconds(small):
            return
    pytest.fail(f"more than linear: {start!r} + {unit!r} * n + {end!r}")


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_what_the_service_says_where_it_has_cut_a_line_is_no_metric(kind: str) -> None:
    cut = "Epoch 1 loss=0.4 " + "x" * 1000 + " acc=0.5"
    parsed = LineParser().parse(f"{cut} [cut: 134553 more {kind}]")
    assert parsed.metrics == {"epoch": 1, "train_loss": 0.4}, "of acc there may have been more"


def test_of_a_number_that_the_bound_cuts_nothing_is_read() -> None:
    line = ("Train Loss: 0.5, " + "y" * MAX_LINE)[: MAX_LINE - 21] + ", Train Accuracy: 80%"
    assert "train_acc" in LineParser().parse(line).metrics
    assert "train_acc" not in LineParser().parse(line[:1] + line).metrics


@pytest.mark.parametrize("size", [MAX_LINE, 10 * MAX_LINE])
def test_a_longer_line_is_read_to_the_bound_only(size: int) -> None:
    line = "Train Loss: 0.5, " + "x" * size + ", Train Accuracy: 80%"
    assert LineParser().parse(line).metrics == {"train_loss": 0.5}
    within = "Train Loss: 0.5, " + "x" * (MAX_LINE - 100) + ", Train Accuracy: 80%"
    assert LineParser().parse(within).metrics == {"train_loss": 0.5, "train_acc": 80.0}


def test_a_number_that_the_bound_cuts_does_not_hide_those_before_it() -> None:
    line = ("Train Loss: 0.5, " + "y" * MAX_LINE)[: MAX_LINE - 20] + ", Train Accuracy: 80%"
    assert LineParser().parse(line).metrics["train_loss"] == 0.5
