"""Every preset's own samples, and what `log_format` chooses."""

from __future__ import annotations

import pytest

from models.schemas import LogReading
from services.parsing import FORMATS, LineParser, check_reading
from services.parsing.presets import PRESETS, presets_of
from tests.services.parsing.test_parsing_formats import FORMATS as NATIVE

SAMPLES = [(name, line, expected) for name, preset in PRESETS.items() for line, expected in preset.samples]


def given_by(parser: LineParser, line: str) -> dict[str, int | float]:
    """Metrics and step of `line`."""
    parsed = parser.parse(line)
    return parsed.metrics if parsed.step is None else {**parsed.metrics, "step": parsed.step}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_sample_and_the_name_that_chooses_it(name: str) -> None:
    assert PRESETS[name].name == name
    assert PRESETS[name].samples
    assert name in FORMATS


@pytest.mark.parametrize(("name", "line", "expected"), SAMPLES)
@pytest.mark.parametrize("log_format", ["auto", None])
def test_a_sample_gives_its_metrics(
    name: str, line: str, expected: dict[str, int | float], log_format: str | None
) -> None:
    """Among all presets, and chosen by name."""
    parser = LineParser(log_format=log_format or name)
    assert expected.items() <= given_by(parser, line).items()
    assert f"preset: {name}" in LineParser().parse(line).rules


@pytest.mark.parametrize(("name", "line", "expected"), SAMPLES)
def test_behind_a_logger_a_sample_says_the_same(name: str, line: str, expected: dict[str, int | float]) -> None:
    given = given_by(LineParser(), f"2026-03-01 10:00:00,000 - trainer - INFO - {line}")
    assert expected.items() <= given.items()


@pytest.mark.parametrize(("name", "line", "expected"), SAMPLES)
def test_no_other_preset_reads_a_sample(name: str, line: str, expected: dict[str, int | float]) -> None:
    readers = [other for other, preset in PRESETS.items() if preset.read(line.strip()) is not None]
    assert readers == [name]


@pytest.mark.parametrize("line", [row[0] for row in NATIVE])
def test_no_preset_takes_a_line_of_the_native_formats(line: str) -> None:
    assert [name for name, preset in PRESETS.items() if preset.read(line)] == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_chosen_preset_still_reads_what_names_its_values(name: str) -> None:
    parsed = LineParser(log_format=name).parse("Epoch [1/5], Train Loss: 0.5")
    assert parsed.metrics == {"epoch": 1, "total_epochs": 5, "train_loss": 0.5}


@pytest.mark.parametrize(
    "line", ["Epoch [1/5], Train Loss: 0.5", "Training complete.", *(line for _, line, _ in SAMPLES)]
)
def test_none_reads_nothing(line: str) -> None:
    parser = LineParser(log_format="none")
    parsed = parser.parse(line)
    assert (parsed.metrics, parsed.step, parsed.stage, parsed.rules) == ({}, None, None, ())
    assert parser.lines == 1


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="'kerras'"):
        presets_of("kerras")
    with pytest.raises(ValueError, match="'kerras'"):
        LineParser(log_format="kerras")


@pytest.mark.parametrize(("wrong", "advice"), [("kerras", "did you mean keras?"), ("zzzz", "use one of auto, none, ")])
def test_an_unknown_format_is_a_problem_with_advice(wrong: str, advice: str) -> None:
    (problem,) = check_reading(LogReading(log_format=wrong))
    assert (problem.field, problem.code) == ("log_format", "unknown_log_format")
    assert repr(wrong) in problem.message
    assert advice in problem.message


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_there_is_has_no_problem(name: str) -> None:
    assert check_reading(LogReading(log_format=name)) == []
