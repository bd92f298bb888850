"""The square that the network sees."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from trainer.framing import Augmented, Central, scaled, to_image, to_tensor


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (300, 7), (64, 64)])
def test_an_image_of_any_shape_becomes_a_square(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (9, 8, 7))
    for frame in (Central(16), Augmented(16, hflip=True, seed=0, epoch=1)):
        for index in range(20):
            square = to_image(frame(to_tensor(image), index))
            assert square.size == (16, 16)
            assert square.getextrema() == ((9, 9), (8, 8), (7, 7))


def test_validation_sees_the_middle() -> None:
    image = Image.new("RGB", (30, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    assert to_image(Central(10)(to_tensor(image), 0)).getcolors() == [(100, (0, 0, 255))]


def test_augmentation_depends_on_seed_epoch_and_image_only() -> None:
    image = Image.effect_noise((32, 32), 100).convert("RGB")

    def crop(seed: int, epoch: int, index: int) -> bytes:
        return to_image(Augmented(16, hflip=True, seed=seed, epoch=epoch)(to_tensor(image), index)).tobytes()

    assert crop(1, 2, 3) == crop(1, 2, 3)
    assert len({crop(1, 2, 3), crop(2, 2, 3), crop(1, 3, 3), crop(1, 2, 4)}) == 4


def test_flips_happen_only_where_allowed() -> None:
    image = Image.linear_gradient("L").rotate(90).convert("RGB")  # darker to one side

    def is_flipped(hflip: bool, index: int) -> bool:
        crop = to_image(Augmented(16, hflip=hflip, seed=0, epoch=1)(to_tensor(image), index))
        left, right = crop.getpixel((0, 8)), crop.getpixel((15, 8))
        assert isinstance(left, tuple)
        assert isinstance(right, tuple)
        return left[0] > right[0]

    assert len({is_flipped(False, index) for index in range(50)}) == 1
    flipped = sum(is_flipped(True, index) for index in range(200))
    assert 60 < flipped < 140


@pytest.mark.parametrize("side", [40, 97, 300])
def test_scaling_down_is_pillows_to_one_level(side: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (320, 340, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    box = (7, 11, 7 + side, 11 + side)
    expected = np.asarray(image.crop(box).resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    found = np.asarray(to_image(scaled(to_tensor(image), box, 32))).astype(int)
    assert np.abs(found - expected).max() <= 1


def test_parts_of_a_pixel_count_where_an_image_is_made_larger() -> None:
    image = to_tensor(Image.effect_noise((8, 8), 100).convert("RGB"))
    found = {scaled(image, (left, 0, left + 7, 7), 32).numpy().tobytes() for left in (0, 0.1, 0.2, 0.3)}
    assert len(found) == 4


def test_an_image_is_left_as_it_was() -> None:
    for size in (8, 16, 64):
        image = to_tensor(Image.effect_noise((size, size), 100).convert("RGB"))
        before = image.clone()
        for index in range(5):
            Augmented(16, hflip=True, seed=0, epoch=1)(image, index).zero_()
            Central(16)(image, index).zero_()
        assert (image == before).all()
