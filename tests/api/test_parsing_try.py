"""`POST /api/v2/parsing/try`: a pattern is tried before a training depends on it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from services.parsing import trial
from services.parsing.presets import PRESETS

PATH = "/api/v2/parsing/try"
DICE = {"name": "dice", "regex": r"Dice: (\S+)"}


def tried(http: httpx.Client, text: str, **reading: Any) -> dict[str, Any]:
    answer = http.post(PATH, json={"text": text, **reading})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def refused(http: httpx.Client, body: Any) -> dict[str, Any]:
    answer = http.post(PATH, json=body)
    assert answer.status_code == 422, answer.text
    error: dict[str, Any] = answer.json()
    assert error.keys() == {"detail", "code", "errors"}
    assert all(each["message"] in error["detail"] for each in error["errors"])
    return error


def test_a_text_is_read_as_the_log_of_a_task(http: httpx.Client) -> None:
    result = tried(http, "Epoch [1/2] started\nhello\nDice: 0.5\n第2轮/共2轮 训练损失：0.25", metric_definitions=[DICE])

    assert [(line["line"], line["metrics"]) for line in result["lines"]] == [
        (1, {"epoch": 1, "total_epochs": 2}),
        (3, {"epoch": 1, "total_epochs": 2, "dice": 0.5}),
        (4, {"epoch": 2, "total_epochs": 2, "train_loss": 0.25}),
    ]
    assert result["lines"][0]["stage"] == "epoch_start"
    assert result["lines"][1]["rules"] == ["own: dice"]
    assert result["unmatched"] == [2]
    assert result["unmatched_definitions"] == []
    assert {"own: dice", "key value"} <= {rule["rule"] for rule in result["rules"]}


def test_only_the_formats_that_are_asked_for_are_read(http: httpx.Client) -> None:
    assert tried(http, "Train Loss: 0.5", log_format="none")["lines"] == []
    assert tried(http, "Train Loss: 0.5", log_format=next(iter(PRESETS)))["lines"] != []


def test_nan_and_infinity_are_null(http: httpx.Client) -> None:
    (line,) = tried(http, "Train Loss: nan, Validation Loss: inf, Train Accuracy: 12%")["lines"]
    assert line["metrics"] == {"train_loss": None, "val_loss": None, "train_acc": 12.0}


def test_a_trial_that_takes_too_long_is_ended(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MAX_SECONDS", 0.0)
    error = refused(http, {"text": "Dice: 0.5\n" * 1000, "metric_definitions": [DICE]})
    assert (error["code"], error["errors"][0]["field"]) == ("too_slow", "text")


def test_any_text_is_answered(http: httpx.Client) -> None:
    for text in ("", "\n\n", "\x00\x1b[31m", "\N{ROCKET} Train Loss: 0.5", "{" * 30_000, "a" * 900_000):
        assert tried(http, text, metric_definitions=[DICE])["rules"]


def test_a_pattern_that_makes_others_backtrack_is_answered(http: httpx.Client) -> None:
    result = tried(
        http, "a" * 500_000 + "!", metric_definitions=[{"name": "dice", "regex": "(a+)+$"}], log_format="none"
    )
    assert result["unmatched_definitions"] == ["dice"]


def test_bad_patterns_and_an_unknown_format_are_named_together(http: httpx.Client) -> None:
    error = refused(
        http,
        {
            "text": "",
            "metric_definitions": [DICE, {"name": "iou", "regex": r"(?=IoU)(\d)"}, {"regex": "("}],
            "log_format": "kerras",
        },
    )

    assert [each["field"] for each in error["errors"]] == [
        "metric_definitions.1.regex",
        "metric_definitions.2.regex",
        "log_format",
    ]
    assert [each["code"] for each in error["errors"]] == ["invalid_pattern", "invalid_pattern", "unknown_log_format"]
    assert "iou" in error["errors"][0]["message"]
    assert "did you mean keras?" in error["errors"][2]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": 3}, "text"),
        ({"text": "x" * 1_000_001}, "text"),
        ({"text": "\n" * 10_000}, "text"),
        ({"text": "", "log_format": "Keras!"}, "log_format"),
        ({"text": "", "metric_definitions": [DICE] * 33}, "metric_definitions"),
        ({"text": "", "metric_definitions": [{"name": "dice"}]}, "metric_definitions.0.regex"),
        ({"text": "", "metric_definitions": [{"name": "dice", "regex": "(" + "x" * 1000 + ")"}]},
         "metric_definitions.0.regex"),
        ({"text": "", "metric_definitions": [{"name": "a,b", "regex": "(.)"}]}, "metric_definitions.0.name"),
        ({"text": "", "metric_definitions": [{**DICE, "flags": "i"}]}, "metric_definitions.0.flags"),
    ],
)  # fmt: skip
def test_a_body_out_of_bounds_is_422_with_the_field(http: httpx.Client, body: dict[str, Any], field: str) -> None:
    assert field in [each["field"] for each in refused(http, body)["errors"]]


def test_a_text_of_as_many_lines_as_allowed_is_read(http: httpx.Client) -> None:
    assert len(tried(http, "\n" * 9_999)["unmatched"]) == 10_000


def test_a_larger_body_is_413(http: httpx.Client) -> None:
    answer = http.post(PATH, json={"text": "x" * 2_000_000})

    assert answer.status_code == 413
    assert answer.json().keys() == {"detail", "code"}
    assert answer.json()["code"] == "body_too_large"


def test_a_body_that_does_not_tell_its_size_is_413_too(http: httpx.Client) -> None:
    answer = http.post(PATH, content=(b" " * 100_000 for _ in range(20)), headers={"content-type": "application/json"})

    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"


def test_a_trial_leaves_nothing_behind(http: httpx.Client) -> None:
    before = http.get("/api/v2/training").json()
    first = tried(http, "Epoch [1/2] started\nloss: 0.5")["lines"]
    again = tried(http, "loss: 0.5")["lines"]

    assert first[1]["metrics"]["epoch"] == 1
    assert "epoch" not in again[0]["metrics"]
    assert http.get("/api/v2/training").json() == before
