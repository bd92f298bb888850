"""What terminals, loggers and typists do to a line must not change what it says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.parsing import LineParser, ParsedLine
from services.parsing.cleaning import read_message

LINES = [
    "Epoch [3/10] started",
    "Epoch [1/5], Train Loss: 0.52, Train Accuracy: 82.45%",
    "Epoch [3/10], Step [40/180], Train Loss: 0.5234, 312.4 images/s, ETA: 1m 5s",
    "Validation Loss: 0.6123, Validation Accuracy: 78.92%",
    "Validation macro_Precision: 0.81",
    "Validation Top-k Accuracy: {'top1': 78.92, 'top3': 92.34}",
    "Epoch [3/10], LR: 3.2e-05",
    "New best model saved with Accuracy: 79.12%",
    "Training complete. Best Accuracy: 79.12%",
    "Training complete",
]

PREFIXES = [
    "2026-11-23 14:51:00,119 - INFO - ",
    "2026-11-23 14:51:00,119 - my-trainer.loop - INFO - ",
    "2026-11-23 14:51:00.119 | INFO     | __main__:train:42 - ",
    "2026-11-23 14:51:00 ",
    "2026/11/23 14:51:00 INFO ",
    "2026-11-23T14:51:00.119Z ",
    "2026-11-23T14:51:00+08:00 INFO - trainer - ",
    "[2026-11-23 14:51:00] INFO: ",
    "[2026-11-23 14:51:00,119][trainer][INFO] - ",
    "[14:51:00] ",
    "[rank0]: ",
    "INFO:root:",
    "INFO:trainer.loop:",
    "INFO:",
    "info - ",
    "root INFO: ",
    "WARNING: ",
    "trainer.py:42 INFO ",
    "INFO trainer.py:42: ",
    "==> ",
    "* ",
    "\N{ROCKET} ",
    "\N{CHECK MARK} [INFO] ",
]

TOUCHES: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "upper case": str.upper,
    "full stop": lambda line: line + ".",
    "spaces": lambda line: "  " + line.replace(" ", "   ") + "\t ",
    "no-break spaces": lambda line: line.replace(" ", "\u00a0"),
    "line ending": lambda line: line + "\r\n",
    "colour": lambda line: f"\x1b[1;32m{line}\x1b[0m",
    "colour on every word": lambda line: " ".join(f"\x1b[38;5;39m{word}\x1b[0m" for word in line.split(" ")),
    "colour on values": lambda line: line.replace(": ", ":\x1b[36m ") + "\x1b[K",
    "window title": lambda line: f"\x1b]0;a title\x07{line}",
    "redrawn": lambda line: f"Epoch [9/9], Train Loss: 9.9\r{line}",
    "byte order mark": lambda line: "\ufeff" + line,
    "no percent": lambda line: line.replace("%", ""),
    "full-width punctuation": lambda line: line.translate(str.maketrans(":,[]/%", "：，［］／％")),
    "Chinese brackets": lambda line: line.replace("[", "【").replace("]", "】") + "。",
    "short words": lambda line: line.replace("Validation", "Val").replace("Accuracy", "Acc"),
    "other short word": lambda line: line.replace("Validation", "Valid").replace("Train ", "Training "),
    "underscores": lambda line: line.replace("Train ", "train_").replace("Validation ", "val_"),
}


def plain(line: str) -> ParsedLine:
    return LineParser().parse(line)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_logger_prefix_changes_nothing(prefix: str) -> None:
    for line in LINES:
        assert plain(prefix + line) == plain(line), line
        assert plain(prefix + line).stage is not None


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_appearance_changes_nothing(touch: Callable[[str], str]) -> None:
    for line in LINES:
        for prefix in ("", PREFIXES[0]):
            assert plain(touch(prefix + line)) == plain(line), line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", ""),
        ("hello", "hello"),
        ("  a \t b \x00 ", "a \t b"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b", ""),
        ("\x1b[", "["),
        ("\x1b]8;;http://host/\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("old\rnew", "new"),
        ("old\r   ", "old"),
        ("2026-11-23 14:51:00,119 - INFO - hello", "hello"),
        ("INFO:root:INFO is a word", "is a word"),
        ("Information: 3", "Information: 3"),
        ("[a] [b] [c] hello", "hello"),
        ("[Epoch 3/10] hello", "[Epoch 3/10] hello"),
        ("Val Acc：８２％", "Val Acc:82%"),
    ],
)
def test_a_message_is_what_a_reader_sees(line: str, message: str) -> None:
    assert read_message(line).text == message
