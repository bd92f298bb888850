"""The name of a file is a name, whatever it is."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.parsing import LineParser
from trainer import lines
from trainer.images import UnreadableImage, read_rgb
from trainer.quoting import quoted

WORDS = [
    *("Epoch", "epoch", "Step", "step", "Train", "Training", "Validation", "Best", "model", "saved", "of"),
    *("Loss", "loss", "val_loss", "accuracy", "acc", "mAP", "lr", "ETA", "images/s", "it/s", "top1"),
    *("complete", "completed", "finished", "started", "9", "0.5", "99%", "1e-4", "100"),
    *'[]/:=,{}"|-_()*<>;# \t\n',
]
hostile = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map("".join)
BEFORE = [
    lines.training_starts("resnet18", "cpu", training=30, validation=12, classes=6, bf16=False),
    lines.epoch_started(1, 5),
    lines.epoch_trained(0.5, 50.0),
]


@settings(deadline=None)
@given(st.text(st.characters()) | st.binary().map(os.fsdecode))
def test_a_quoted_name_is_one_line_of_what_a_terminal_shows(name: str) -> None:
    shown = quoted(Path("/data", name.replace("\0", "")))
    assert shown.isprintable()
    assert shown.encode()
    assert not set(shown) & set("<>&\x1b\n\r")


@settings(deadline=None)
@given(st.text(st.characters(), min_size=1) | st.binary().map(os.fsdecode))
def test_a_quoted_name_is_still_that_name(name: str) -> None:
    path = Path("/data", name.replace("\0", ""))
    assert ast.literal_eval(quoted(path)) == str(path)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("狐狸/é-1_2.png", "狐狸/é-1_2.png"),
        ("a b(1).png", r"a\x20b\x281\x29.png"),
        ("a\nb\x1b[1m.png", r"a\nb\x1b\x5b1m.png"),
        ("\udcff.png", r"\udcff.png"),
        ("\u202egnp.png", r"\u202egnp.png"),
    ],
)
def test_a_name_looks_like_this(name: str, shown: str) -> None:
    assert quoted(Path(name)) == f"'{shown}'"


@settings(deadline=None, max_examples=1000)
@given(hostile, st.booleans())
def test_a_name_in_a_line_is_no_metric(name: str, begun: bool) -> None:
    parser = LineParser()
    for line in BEFORE if begun else []:
        parser.parse(line)
    before = parser.memory.state
    error = UnreadableImage(f"{quoted(Path('/data/cat', name + '.png'))} cannot be read as an image: it has no pixels")
    read = parser.parse(lines.left_out(error))
    assert (read.metrics, read.step, read.stage) == ({}, None, None)
    assert parser.memory.state == before


def test_what_a_file_makes_its_decoder_say_is_words(tmp_path: Path) -> None:
    """Pillow quotes the header of a PPM."""
    path = tmp_path / "loud.ppm"
    path.write_bytes(b"P6\nEpoch[9/9],loss=0.1\x1b[1m\n")
    with pytest.raises(UnreadableImage) as error:
        read_rgb(path)
    reason = str(error.value).partition("as an image: ")[2]
    assert reason
    assert all(word.isalpha() for word in reason.split(" "))
