"""What reading a line costs, and what each preset is worth.

    python -m benchmarks.parsing [CORPUS] [--seconds 0.3]

Printed, all measured in this process:

- CPU time of `LineParser.parse` by kind of line, against that of `logging` alone, which formats the same
  line and writes it nowhere: what the trainer pays for its line anyway;
- the same for a line of the longest that is read, per character;
- with a folder of annotated logs (one `NAME.log` beside `NAME.expected.jsonl` and `NAME.meta.json`, and the
  `score.py` that scores them in the folder above): recall and precision of the engine with every preset, with
  none, and with all but each one, then also of that one's own samples.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from models.schemas import MetricDefinition
from services.parsing import LineParser
from services.parsing.line_parser import MAX_LINE
from services.parsing.presets import PRESETS

KINDS = {
    "native": (
        "Epoch [3/10], Step [40/180], Train Loss: 0.5234, 312.4 images/s, ETA: 12s",
        "Validation Loss: 0.6123, Validation Accuracy: 78.92%",
    ),
    "key value, many": (
        "Epoch: [4]  [ 20/500]  eta: 0:03:10  lr: 0.02  loss: 1.9 (2.1)  acc1: 51.5 (48.2)  time: 0.39  max mem: 4096",
    ),
    "progress bar": ("Epoch 1:  25%|##5       | 1/4 [00:00<00:01,  3.00it/s, v_num=2, train_loss=0.9]",),
    "dict": ("{'loss': 2.25, 'grad_norm': 1.5, 'learning_rate': 4e-05, 'epoch': 0.5}",),
    "JSON": ('{"epoch": 4, "step": 900, "train/loss": 0.375, "val/top5_acc": 97.5, "data time": 0.5}',),
    "logfmt": ("level=info event=step epoch=3 step=400 train_loss=0.5 val_acc=0.875",),
    "table row": ("      1        1.3000       0.5500        1.2000  0.0250",),
    "Chinese": ("第3轮/共10轮 训练损失：0.5234，训练准确率：82.45%，学习率：0.001",),
    "coloured": (
        "\x1b[32m2026-02-01 10:00:00,001\x1b[0m - trainer - \x1b[1mINFO\x1b[0m - Train Loss: \x1b[36m0.5\x1b[0m",
    ),
    "says nothing": (
        "Loading checkpoint shards from /data/models/resnet18/epoch_3_acc_82.pth",
        "UserWarning: the given array is not writeable, and this operation will copy 3 of its 12 parts",
        "optimizer: AdamW (lr: 0.001, betas: (0.9, 0.999), weight_decay: 0.01)",
        "hello world",
    ),
}
HEADER = "  epoch    train_loss    valid_acc    valid_loss     dur"
LONG = {"x": "letters", "1 ": "numbers", "loss: 0.5 ": "values", "{": "braces", "100%|##| ": "bars", "第3轮": "Chinese"}
OWN = [MetricDefinition(name=f"metric_{number}", regex=rf"metric {number}: ([0-9.]+)") for number in range(32)]


class Score(NamedTuple):
    right: int
    wrong: int
    missed: int
    lowest: str = ""
    """The log with the lowest recall, and that."""

    @property
    def recall(self) -> float:
        return self.right / max(1, self.right + self.missed)

    @property
    def precision(self) -> float:
        return self.right / max(1, self.right + self.wrong)


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, help="folder of annotated logs")
    parser.add_argument("--seconds", type=float, default=0.3, help="time to measure each kind of line")
    options = parser.parse_args()
    measure_kinds(options.seconds)
    measure_long_lines(options.seconds)
    if options.corpus is not None:
        measure_presets(options.corpus)


def measure_kinds(seconds: float) -> None:
    print("CPU time of a line, median:")
    print(f"  {'kind':16} {'parse':>9} {'logging':>9} {'ratio':>7} {'with 32 own patterns':>22}")
    for kind, lines in KINDS.items():
        header = HEADER if kind == "table row" else ""
        parse = per_line(parsing(LineParser(), header), lines, seconds)
        alone = per_line(formatting(), lines, seconds)
        own = per_line(parsing(LineParser(OWN), header), lines, seconds)
        ratio = f"{parse / alone:.1f}"
        print(f"  {kind:16} {parse * 1e6:6.1f} us {alone * 1e6:6.1f} us {ratio:>7} {own * 1e6:19.1f} us")


def measure_long_lines(seconds: float) -> None:
    print(f"CPU time of a line of {MAX_LINE} characters, the longest that is read:")
    for unit, kind in LONG.items():
        times = [
            per_line(parsing(LineParser()), [unit * (size // len(unit))], seconds) for size in (MAX_LINE // 4, MAX_LINE)
        ]
        print(f"  {kind:16} {times[1] * 1e3:6.1f} ms, {times[1] / times[0]:.1f} times a quarter of it")


def parsing(parser: LineParser, header: str = "") -> Callable[[str], object]:
    parser.parse(header)
    return parser.parse


def formatting() -> Callable[[str], object]:
    """What the trainer's own logger does with a line before anyone watches it."""
    logger = logging.Logger("trainer")
    handler = logging.StreamHandler(Nowhere())
    handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s - %(message)s"))
    logger.addHandler(handler)
    return logger.info


class Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def per_line(read: Callable[[str], object], lines: Iterable[str], seconds: float) -> float:
    """Median CPU seconds of one of `lines`, over rounds that take `seconds` together."""
    block = list(lines)
    read(block[0])
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times:
        begin = time.thread_time()
        for line in block:
            read(line)
        times.append((time.thread_time() - begin) / len(block))
    return statistics.median(times)


def measure_presets(corpus: Path) -> None:
    logs = sorted(corpus.glob("*.log"))
    score = scorer(corpus)
    whole = total(score, logs, PRESETS)
    print(f"Corpus of {len(logs)} logs, {whole.right + whole.missed} values:")
    report("every preset", whole, whole)
    report("no preset", total(score, logs, []), whole)
    for name in PRESETS:
        others = [other for other in PRESETS if other != name]
        report(f"without {name}", total(score, logs, others), whole, f", of its samples {of_samples(name, others)}")


def scorer(corpus: Path) -> Callable[[Path, Callable[[], LineParser]], tuple[int, ...]]:
    spec = importlib.util.spec_from_file_location("corpus_score", corpus.parent / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    score_file: Callable[[Path, Callable[[], LineParser]], tuple[int, ...]] = module.score_file
    return score_file


def total(
    score: Callable[[Path, Callable[[], LineParser]], tuple[int, ...]], logs: Iterable[Path], presets: Iterable[str]
) -> Score:
    kept = list(presets)
    scores = {log.stem: scored(*score(log, lambda: with_presets(kept))) for log in logs}
    name = min(scores, key=lambda log: scores[log].recall)
    right = sum(each.right for each in scores.values())
    wrong = sum(each.wrong for each in scores.values())
    missed = sum(each.missed for each in scores.values())
    return Score(right, wrong, missed, f"{name} {scores[name].recall:.3f}")


def scored(right: int, wrong: int, missed: int, *_: object) -> Score:
    return Score(right, wrong, missed)


def with_presets(names: Iterable[str]) -> LineParser:
    parser = LineParser()
    parser._presets = tuple(PRESETS[name] for name in names)
    return parser


def of_samples(name: str, others: Iterable[str]) -> str:
    """How many of the values of a preset's own samples are found without it."""
    found = wanted = 0
    for line, expected in PRESETS[name].samples:
        parsed = with_presets(others).parse(line)
        given = {**parsed.metrics, "step": parsed.step}
        found += sum(given.get(key) == value for key, value in expected.items())
        wanted += len(expected)
    return f"{found}/{wanted}"


def report(label: str, score: Score, whole: Score, more: str = "") -> None:
    lost = f", {whole.recall - score.recall:+.4f} recall by it" if label.startswith("without") else ""
    lowest = "" if score.recall == 1 else f"  lowest: {score.lowest}"
    print(f"  {label:30} recall {score.recall:.4f}  precision {score.precision:.4f}{lowest}{lost}{more}")


if __name__ == "__main__":
    main()
