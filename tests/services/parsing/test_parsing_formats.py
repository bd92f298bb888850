"""Each native format, and what deployed trainers print around it, with the exact metrics it must give."""

from __future__ import annotations

import math

import pytest

from models.schemas import Stage
from services.parsing import LineParser, ParsedLine

FORMATS: list[tuple[str, dict[str, int | float], int | None, Stage | None]] = [
    # The published formats.
    ("Epoch [3/10] started", {"epoch": 3, "total_epochs": 10}, None, Stage.EPOCH_START),
    (
        "Train Loss: 0.5234, Train Accuracy: 82.45%",
        {"train_loss": 0.5234, "train_acc": 82.45},
        None,
        Stage.TRAINING,
    ),
    (
        "Validation Loss: 0.6123, Validation Accuracy: 78.92%",
        {"val_loss": 0.6123, "val_acc": 78.92},
        None,
        Stage.VALIDATION,
    ),
    ("Validation macro_F1: 0.7654", {"macro_f1": 0.7654}, None, Stage.VALIDATION),
    (
        "Validation Top-k Accuracy: {'top1': 78.92, 'top3': 92.34, 'top5': 96.78}",
        {"top1_acc": 78.92, "top3_acc": 92.34, "top5_acc": 96.78},
        None,
        Stage.VALIDATION,
    ),
    ("New best model saved with Accuracy: 79.12%", {"best_acc": 79.12}, None, Stage.EPOCH_END),
    # What deployed trainers print as well.
    (
        "Epoch [1/5], Train Loss: 0.52, Train Accuracy: 82.45%",
        {"epoch": 1, "total_epochs": 5, "train_loss": 0.52, "train_acc": 82.45},
        None,
        Stage.TRAINING,
    ),
    ("Validation micro_F1: 0.7892", {"micro_f1": 0.7892}, None, Stage.VALIDATION),
    ("Validation F1: 0.77", {"f1": 0.77}, None, Stage.VALIDATION),
    ("Validation macro_Precision: 0.81", {"precision": 0.81, "macro_precision": 0.81}, None, Stage.VALIDATION),
    ("Validation micro_Precision: 0.82", {"micro_precision": 0.82}, None, Stage.VALIDATION),
    ("Validation Precision: 0.8", {"precision": 0.8}, None, Stage.VALIDATION),
    ("Validation macro_Recall: 0.79", {"recall": 0.79, "macro_recall": 0.79}, None, Stage.VALIDATION),
    ("Validation micro_Recall: 0.83", {"micro_recall": 0.83}, None, Stage.VALIDATION),
    ("Validation Recall: 0.7", {"recall": 0.7}, None, Stage.VALIDATION),
    ("Validation mAP: 0.8123", {"mAP": 0.8123}, None, Stage.VALIDATION),
    (
        'Validation Top-k Accuracy: {"top1": 78.92, "top10": 98.1}.',
        {"top1_acc": 78.92, "top10_acc": 98.1},
        None,
        Stage.VALIDATION,
    ),
    (
        "Validation Top-k Accuracy: {'top1': np.float64(78.92), 'top3': 92}",
        {"top1_acc": 78.92, "top3_acc": 92.0},
        None,
        Stage.VALIDATION,
    ),
    ("Training complete. Best Accuracy: 79.12%", {"best_acc": 79.12}, None, Stage.COMPLETED),
    ("Training complete.", {}, None, Stage.COMPLETED),
    ("Training completed", {}, None, Stage.COMPLETED),
    ("Training complete in 3m 2s", {}, None, Stage.COMPLETED),
    # The built-in trainer's step and epoch lines.
    (
        "Epoch [3/10], Step [40/180], Train Loss: 0.5234, 312.4 images/s, ETA: 12s",
        {"epoch": 3, "total_epochs": 10, "total_steps": 180, "train_loss": 0.5234, "throughput": 312.4, "eta": 12.0},
        40,
        Stage.TRAINING,
    ),
    ("Epoch [3/10] finished in 12.3s", {"epoch": 3, "total_epochs": 10}, None, Stage.EPOCH_END),
    # Other ways of writing a counter.
    ("Epoch 3/10", {"epoch": 3, "total_epochs": 10}, None, Stage.EPOCH_START),
    ("Epoch: [0/10]", {"epoch": 0, "total_epochs": 10}, None, Stage.EPOCH_START),
    (
        "[Epoch 3/10] Train Loss: 0.5",
        {"epoch": 3, "total_epochs": 10, "train_loss": 0.5},
        None,
        Stage.TRAINING,
    ),
    ("Epoch [3/10]: 40%", {"epoch": 3, "total_epochs": 10}, None, Stage.TRAINING),
    ("Epoch 3", {"epoch": 3}, None, Stage.EPOCH_START),
    ("Train Loss 0.5", {"train_loss": 0.5}, None, Stage.TRAINING),
    ("Train Loss: 1,234.5", {"train_loss": 1234.5}, None, Stage.TRAINING),
    # Several stages on one line.
    (
        "Train Loss: 0.5, Validation Loss: 0.6, LR: 0.1",
        {"train_loss": 0.5, "val_loss": 0.6, "learning_rate": 0.1},
        None,
        Stage.EPOCH_END,
    ),
    ("Step [1/2], LR: 0.1", {"total_steps": 2, "learning_rate": 0.1}, 1, Stage.TRAINING),
    (
        "Epoch [3/10] finished, Train Loss: 0.5",
        {"epoch": 3, "total_epochs": 10, "train_loss": 0.5},
        None,
        Stage.EPOCH_END,
    ),
    # Fields that nobody knows, and values that cannot be read, cost only themselves.
    (
        "Train Loss: 0.5 (avg 0.6), Grad Norm: 2.1, Train Accuracy: 80%",
        {"train_loss": 0.5, "grad_norm": 2.1, "train_acc": 80.0},
        None,
        Stage.TRAINING,
    ),
    ("Validation Loss: None, Validation Accuracy: 78%", {"val_acc": 78.0}, None, Stage.VALIDATION),
    ("Train Loss: nan Train Accuracy: 12.5%", {"train_loss": math.nan, "train_acc": 12.5}, None, Stage.TRAINING),
    ("Train Loss: 0.5, Train Loss: 0.7", {"train_loss": 0.5}, None, Stage.TRAINING),
    # Words that name no set: a loss is the training's, an accuracy alone the validation's.
    ("Loss: 0.5", {"train_loss": 0.5}, None, Stage.TRAINING),
    ("Accuracy: 79%", {"val_acc": 79.0}, None, Stage.VALIDATION),
    ("Final Validation Accuracy: 80%", {"val_acc": 80.0}, None, Stage.VALIDATION),
    ("Validation Accuracy did not improve from 79.12%", {"best_acc": 79.12}, None, Stage.EPOCH_END),
    ("{'learning_rate': 0.001, 'val_loss': 0.5}", {"learning_rate": 0.001, "val_loss": 0.5}, None, Stage.VALIDATION),
    ("训练 Train Loss: 0.5", {"train_loss": 0.5}, None, Stage.TRAINING),
]


def same(parsed: ParsedLine, expected: ParsedLine) -> bool:
    """Equal, with NaN equal to itself and the metrics in the same order."""
    return repr((parsed.metrics, parsed.step, parsed.stage)) == repr((expected.metrics, expected.step, expected.stage))


@pytest.mark.parametrize(("line", "metrics", "step", "stage"), FORMATS, ids=[row[0] for row in FORMATS])
def test_format_gives_exactly_its_metrics(
    line: str, metrics: dict[str, int | float], step: int | None, stage: Stage | None
) -> None:
    assert same(LineParser().parse(line), ParsedLine(metrics, step, stage))


def test_counts_are_integers_and_measurements_are_floats() -> None:
    metrics = LineParser().parse("Epoch [3/10], Step [40/180], Train Loss: 1, 312 images/s, ETA: 12s").metrics
    assert {name: type(value) for name, value in metrics.items()} == {
        "epoch": int,
        "total_epochs": int,
        "total_steps": int,
        "train_loss": float,
        "throughput": float,
        "eta": float,
    }


WHOLE_LOG = """\
2026-11-23 14:50:58,872 - INFO - Epoch [1/2] started
2026-11-23 14:51:00,119 - INFO - Epoch [1/2], Train Loss: 1.2871, Train Accuracy: 51.04%
2026-11-23 14:51:00,119 - INFO - Validation Loss: 1.0415, Validation Accuracy: 66.25%
2026-11-23 14:51:00,119 - INFO - Validation macro_F1: 0.6112940318274055
2026-11-23 14:51:00,119 - INFO - Learning Rate: 0.018090265435252287
2026-11-23 14:51:00,120 - INFO - New best model saved with Accuracy: 66.25%
2026-11-23 14:51:00,120 - INFO - Saving to /checkpoints/epoch_1_acc_66.25.pth
2026-11-23 14:51:00,121 - INFO - Epoch [2/2] started
2026-11-23 14:51:01,378 - INFO - Train Loss: 0.8702, Train Accuracy: 73.33%
2026-11-23 14:51:01,378 - INFO - Training complete. Best Accuracy: 66.25%
"""
FIRST: dict[str, int | float] = {"epoch": 1, "total_epochs": 2}
SECOND: dict[str, int | float] = {"epoch": 2, "total_epochs": 2}


def test_whole_log_carries_its_epoch_on_every_line_with_metrics() -> None:
    parser = LineParser()
    assert [parser.parse(line) for line in WHOLE_LOG.splitlines()] == [
        ParsedLine(FIRST, None, Stage.EPOCH_START),
        ParsedLine(FIRST | {"train_loss": 1.2871, "train_acc": 51.04}, None, Stage.TRAINING),
        ParsedLine(FIRST | {"val_loss": 1.0415, "val_acc": 66.25}, None, Stage.VALIDATION),
        ParsedLine(FIRST | {"macro_f1": 0.6112940318274055}, None, Stage.VALIDATION),
        ParsedLine(FIRST | {"learning_rate": 0.018090265435252287}, None, Stage.EPOCH_END),
        ParsedLine(FIRST | {"best_acc": 66.25}, None, Stage.EPOCH_END),
        ParsedLine({}, None, None),
        ParsedLine(SECOND, None, Stage.EPOCH_START),
        ParsedLine(SECOND | {"train_loss": 0.8702, "train_acc": 73.33}, None, Stage.TRAINING),
        ParsedLine(SECOND | {"best_acc": 66.25}, None, Stage.COMPLETED),
    ]


def test_published_log_entry() -> None:
    parser = LineParser()
    parser.parse("Epoch [3/10] started")
    metrics = parser.parse("Train Loss: 0.5234, Train Accuracy: 82.45%").metrics
    assert list(metrics.items()) == [("epoch", 3), ("total_epochs", 10), ("train_loss", 0.5234), ("train_acc", 82.45)]


def test_parser_remembers_where_its_training_is() -> None:
    parser = LineParser()
    assert where(parser) == (None, None, None)
    parser.parse("Epoch [3/10], Train Loss: 0.5")
    parser.parse("Saving a checkpoint")
    assert where(parser) == (3, 10, Stage.TRAINING)
    assert parser.lines == parser.memory.lines == 2


def where(parser: LineParser) -> tuple[int | float | None, int | None, str | None]:
    state = parser.memory.state
    return state.epoch, state.total_epochs, state.stage


@pytest.mark.parametrize(
    ("line", "percents"),
    [
        ("Train Loss: 0.5234, Train Accuracy: 82.45%", {"train_acc"}),
        ("Validation Loss: 0.6, Validation Accuracy: 0.79", set()),
        ("Training complete. Best Accuracy: 79.12 %", {"best_acc"}),
        ('{"epoch": 1, "val_acc": "79%"}', {"val_acc"}),
    ],
)
def test_a_percent_sign_is_told_beside_the_value(line: str, percents: set[str]) -> None:
    assert LineParser().parse(line).percents == percents


@pytest.mark.parametrize("line", ["Learning Rate: 3.2e-05", "LR: 0.0001"])
def test_learning_rate_alone_is_a_setting_until_the_training_counts(line: str) -> None:
    parser = LineParser()
    assert parser.parse(line) == ParsedLine({}, None, None)
    parser.parse("Epoch [1/2] started")
    parsed = parser.parse(line)
    assert parsed.metrics == {"epoch": 1, "total_epochs": 2, "learning_rate": float(line.split()[-1])}
    assert parsed.stage == Stage.EPOCH_END


@pytest.mark.parametrize(
    "line",
    [
        "",
        "   \t ",
        "Loading 3680 images from /data/train",
        "Saved epoch_3_acc_82.pth",
        "Loaded checkpoint with Accuracy: 79.12%",
        "Loaded checkpoint 'best.pth', Validation Accuracy: 79.12%",
        "Train Loss weight: 0.5",
        "Overtrain Loss: 3",
        "Untrained Train Loss: 3",
        "Train Losses: 3",
        "We expect the Train Loss: 0.5 or so",
        "Config: batch_size: 32, learning_rate: 0.001, epochs: 10",
        "Namespace(lr=0.001, epochs=10, train_loss='ce')",
        "batch_size: 32, lr: 0.001",
        "Resuming from Epoch [3/10]",
        "Epochs: 10",
        "Epoch [3.5/10]",
        "Epoch 3/10.5",
        "Epoch 11/23/2026",
        f"Epoch [1/{'9' * 500}]",
        f"Epoch [{'9' * 500}/10]",
        "Training completeness: 3",
        "Pretraining complete.",
        "Stage: training, 3 of 10",
    ],
)
def test_any_other_line_says_nothing(line: str) -> None:
    parser = LineParser()
    parser.parse("Epoch [2/10] started")
    assert parser.parse(line) == ParsedLine({}, None, None)
    assert where(parser)[:2] == (2, 10)


def test_a_training_that_is_complete_for_one_epoch_goes_on() -> None:
    assert LineParser().parse("Training complete for epoch 3").stage != Stage.COMPLETED


@pytest.mark.parametrize(
    "value",
    [
        "1.2.3",
        "0.52abc",
        "1,23.5",
        "0,52",
        "3/10",
        "12:30",
        "0.1-0.2",
        "1_000",
        "0x1f",
        "5e",
        "--1",
        "9" * 400,
        "None",
        "-",
        "",
    ],
)
def test_what_is_no_number_gives_no_metric(value: str) -> None:
    assert LineParser().parse(f"Train Loss: {value}").metrics == {}


@pytest.mark.parametrize("rate", ["-5", "0", "1.2.3", "0x5", "5k", "1,31.4"])
def test_a_rate_that_is_none_gives_none(rate: str) -> None:
    assert LineParser().parse(f"Train Loss: 0.5, {rate} images/s").metrics == {"train_loss": 0.5}


@pytest.mark.parametrize(("rate", "number"), [(".5", 0.5), ("1,312.4", 1312.4), ("1e3", 1000.0), ("88  ", 88.0)])
def test_a_rate_is_any_positive_number(rate: str, number: float) -> None:
    assert LineParser().parse(f"Train Loss: 0.5, {rate} images/s").metrics == {"train_loss": 0.5, "throughput": number}


def test_a_unit_is_not_the_key_behind_it() -> None:
    metrics = LineParser().parse("lr: 0.0005  img/s: 11.3  loss: 2.3").metrics
    assert metrics == {"learning_rate": 0.0005, "throughput": 11.3, "train_loss": 2.3}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12s", 12.0),
        ("12.5s", 12.5),
        ("12 s", 12.0),
        ("12sec", 12.0),
        ("1m 5s", 65.0),
        ("1m5s", 65.0),
        ("1m  5s", 65.0),
        ("1h 5minutes", 3900.0),
        ("2 hours 3 minutes", 7380.0),
        ("3 min", 180.0),
        ("05:30", 330.0),
        ("12", 12.0),
        ("1h 2m 3s", 3723.0),
        ("2h", 7200.0),
        ("1d 2h", 93600.0),
        ("0:01:05", 65.0),
        ("1:02:03", 3723.0),
        ("0:00:01.5", 1.5),
        ("1 day, 16:44:26", 146666.0),
    ],
)
def test_eta_is_in_seconds(text: str, seconds: float) -> None:
    metrics = LineParser().parse(f"Train Loss: 0.5, ETA: {text}, 10 images/s").metrics
    assert metrics == {"train_loss": 0.5, "eta": seconds, "throughput": 10.0}


@pytest.mark.parametrize("text", ["soon", "?", "1:2:3:4", "3/10", "12kg", "--"])
def test_eta_without_a_clear_unit_gives_none(text: str) -> None:
    assert LineParser().parse(f"ETA: {text}").metrics == {}
