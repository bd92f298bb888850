"""Decoded images in memory: what comes out is what decoding would give."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from tests.trainer.helpers import logger_and_lines, never, request_for, same, write_digits
from trainer.available_memory import available_memory
from trainer.checkpoint import read_checkpoint
from trainer.checkpoint_file import LAST
from trainer.decoded_images import DecodedImages
from trainer.framing import to_tensor
from trainer.images import UnreadableImage, read_rgb
from trainer.loop import train


class Decoder:
    """Counts how often it decodes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.decoded = 0

    def __call__(self) -> Tensor:
        self.decoded += 1
        return to_tensor(read_rgb(self.path))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.new("RGB", (100, 100), "red").save(path)
    return path


def test_an_image_is_decoded_once(image: Path) -> None:
    cache, decoder = DecodedImages(10**6), Decoder(image)
    first, second = cache.get(image, decoder), cache.get(image, decoder)
    assert first is second
    assert decoder.decoded == 1
    assert len(cache) == 1
    assert cache.bytes >= 100 * 100 * 3


def test_a_file_that_has_changed_is_decoded_anew(image: Path) -> None:
    cache, decoder = DecodedImages(10**6), Decoder(image)
    cache.get(image, decoder)
    size = cache.bytes
    Image.new("RGB", (100, 100), "blue").save(image)
    os.utime(image, ns=(1, 1))
    assert cache.get(image, decoder)[:, 0, 0].tolist() == [0, 0, 255]
    assert decoder.decoded == 2
    assert cache.bytes == size


def test_a_file_that_is_gone_is_not_remembered(image: Path) -> None:
    cache, decoder = DecodedImages(10**6), Decoder(image)
    cache.get(image, decoder)
    image.unlink()
    with pytest.raises(UnreadableImage):
        cache.get(image, decoder)


def test_no_more_than_the_budget_is_kept(tmp_path: Path) -> None:
    cache = DecodedImages(100_000)
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (100, 100)).save(path)
        for _ in range(2):
            cache.get(path, Decoder(path))
    assert len(cache) == 3
    assert cache.bytes <= 100_000


def test_a_training_is_the_same_bit_for_bit_with_and_without(tmp_path: Path) -> None:
    root = write_digits(tmp_path / "data", training=12, validation=4, classes=2)
    contents: dict[float | None, Any] = {}
    for cache_mb in (0, 0.02, None):
        logger, lines = logger_and_lines()
        request = request_for(root, num_epochs=3, cache_mb=cache_mb)
        output_dir = tmp_path / f"run {cache_mb}"
        train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=never)
        kept = [line for line in lines.messages if line.startswith("Decoded images kept in memory")]
        assert len(kept) == (cache_mb != 0)
        with (output_dir / LAST).open("rb") as file:
            contents[cache_mb] = read_checkpoint(file) | {"request": None}
    assert same(contents[0], contents[0.02])
    assert same(contents[0], contents[None])


def test_what_is_free_is_the_lesser_of_machine_and_control_group(tmp_path: Path) -> None:
    meminfo, group = tmp_path / "meminfo", tmp_path / "group"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert available_memory(meminfo, group) == 4000 * 1024
    group.mkdir()
    (group / "memory.max").write_text("max\n")
    assert available_memory(meminfo, group) == 4000 * 1024
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.current").write_text("900000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 300000\n")
    assert available_memory(meminfo, group) == 400_000
    assert available_memory(tmp_path / "none", group) == 0


def test_this_machine_has_memory() -> None:
    assert available_memory() > 0
