"""What holds for every line there is."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.parsing import LineParser, ParsedLine

COUNTS = st.integers(min_value=0, max_value=999_999_999)
NUMBERS = st.floats()
"""Every double: subnormal, huge, NaN and the infinities too."""
RATES = st.floats(min_value=0.0) | st.just(math.nan)
WORDS = ["Epoch ", "Step ", "started", "Training complete", "Train Loss: ", "Val Acc: ", "ETA: ", "LR: ", "INFO:"]
VALUES = [
    "[3/10]",
    "0.5",
    "1e",
    "nan",
    "%",
    " images/s",
    "999999999999",
    "Validation Top-k Accuracy: {",
    "'top1': ",
    "}",
]
MARKS = [", ", " - ", " ", "|", "[", "]", "\uff1a", "\r", "\x1b[", "\x1b]"]
FRAGMENTS = st.sampled_from([*WORDS, *VALUES, *MARKS])
LINES = st.text() | st.lists(FRAGMENTS | st.text(max_size=3), max_size=30).map("".join)


@given(LINES)
@example("\ud800Train Loss: 1\udfff")
@example("Train Loss: " + "9" * 5000)
@example("Epoch [" + "9" * 5000 + "/1]")
@example("Train Loss: 1e99999")
@example("ETA: 99999d 99999h 99999m 999999999s")
@example("Train Loss: \u0661\u0662")
@example("\u017ftep [1/2]")
@settings(deadline=None)
def test_any_text_gives_a_parsed_line(line: str) -> None:
    parsed = LineParser().parse(line)
    assert isinstance(parsed, ParsedLine)
    assert all(type(value) in (int, float) for value in parsed.metrics.values())
    assert parsed.step is None or parsed.metrics["total_steps"] is not None


@given(st.lists(LINES, max_size=10), st.lists(LINES, max_size=10))
@settings(deadline=None)
def test_two_parsers_never_influence_each_other(first: list[str], second: list[str]) -> None:
    def alone(lines: list[str]) -> list[str]:
        parser = LineParser()
        return [repr(parser.parse(line)) for line in lines]

    one, other = LineParser(), LineParser()
    mixed_one, mixed_other = [], []
    for i in range(max(len(first), len(second))):
        mixed_one += [repr(one.parse(line)) for line in first[i : i + 1]]
        mixed_other += [repr(other.parse(line)) for line in second[i : i + 1]]
    assert mixed_one == alone(first)
    assert mixed_other == alone(second)


@given(LINES)
@settings(deadline=None)
def test_a_line_says_the_same_twice(line: str) -> None:
    parser = LineParser()
    assert repr(parser.parse(line)) == repr(parser.parse(line))


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


@pytest.mark.parametrize("start", ["", "Train Loss: 1, ", "Validation Top-k Accuracy: {", "Epoch [1/2] "])
@pytest.mark.parametrize(
    "unit",
    [
        *WORDS,
        *VALUES,
        *MARKS,
        "a",
        "1",
        ".1",
        "1,2",
        ", a",
        " - a",
        "a-",
        "a: ",
        "1m ",
        "1e5",
        "(",
        "-",
        "\u00e9",
        "Epoch [",
        "Epoch [1/2] ",
        "\x1b[0",
        "INFO ",
        "INFO:a:",
    ],
)
def test_time_is_linear_in_the_line(start: str, unit: str) -> None:
    """Four times the text takes about four times the CPU; quadratic reading would take sixteen."""

    def cpu_seconds(size: int) -> float:
        line = start + unit * (size // len(unit))
        best = math.inf
        for _ in range(3):
            begin = time.thread_time()
            LineParser().parse(line)
            best = min(best, time.thread_time() - begin)
        return best

    small = 20_000
    for _attempt in range(3):
        if cpu_seconds(4 * small) < 9 * cpu_seconds(small):
            return
    pytest.fail(f"more than linear: {start!r} + {unit!r} * n")


def test_a_line_of_a_megabyte_is_read() -> None:
    line = "Train Loss: 0.5, " + "x" * 1_000_000 + ", Train Accuracy: 80%"
    assert LineParser().parse(line).metrics == {"train_loss": 0.5, "train_acc": 80.0}
