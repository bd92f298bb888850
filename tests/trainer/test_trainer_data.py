"""Batches are what the seed says they are."""

# ruff: noqa: N806 - shape suffixes are upper case
from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.trainer.helpers import never, split_of, write_images
from trainer.data import IMAGENET_MEAN, IMAGENET_STD, batches, epoch_order, group, normalise
from trainer.errors import TrainingStopped
from trainer.framing import Augmented, Central, to_tensor


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 60), st.integers(1, 70))
def test_every_image_is_in_one_batch_and_none_is_alone(count: int, batch_size: int) -> None:
    groups = group(list(range(count)), batch_size)
    assert [index for indices in groups for index in indices] == list(range(count))
    assert all(len(indices) <= batch_size + 1 for indices in groups)
    if batch_size > 1:
        assert min(map(len, groups)) >= 2


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31 - 1), st.integers(1, 1000))
def test_an_order_is_a_permutation_that_the_seed_fixes(seed: int, epoch: int) -> None:
    order = epoch_order(50, seed=seed, epoch=epoch, shuffle=True)
    assert sorted(order) == list(range(50))
    assert order == epoch_order(50, seed=seed, epoch=epoch, shuffle=True)
    assert order != epoch_order(50, seed=seed, epoch=epoch + 1, shuffle=True)


def test_without_shuffle_the_order_is_that_of_the_folder() -> None:
    assert epoch_order(5, seed=1, epoch=2, shuffle=False) == [0, 1, 2, 3, 4]


def test_shuffling_and_augmenting_leave_the_process_alone() -> None:
    state, torch_state = random.getstate(), torch.get_rng_state()
    epoch_order(50, seed=0, epoch=1, shuffle=True)
    Augmented(8, hflip=True, seed=0, epoch=1)(to_tensor(Image.new("RGB", (9, 9))), 0)
    assert random.getstate() == state
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_pixels_arrive_with_their_channels_and_targets(tmp_path: Path) -> None:
    for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (5, 5), colour).save(tmp_path / name / "image.png")
    split = split_of(tmp_path)
    assert split.classes == ["blue", "red"]
    [(images_BCHW, targets_B)] = batches(split, [[1, 0]], Central(4), image_size=4, should_stop=never)
    assert images_BCHW.shape == (2, 3, 4, 4)
    assert images_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert images_BCHW[:, :, 2, 2].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert targets_B.tolist() == [1, 0]


def test_normalising_uses_the_mean_and_deviation_of_imagenet() -> None:
    image_CHW = to_tensor(Image.new("RGB", (2, 2), (0, 128, 255)))
    normal_C = normalise(image_CHW[None])[0, :, 0, 0]
    expected = [(value / 255 - IMAGENET_MEAN[c]) / IMAGENET_STD[c] for c, value in enumerate((0, 128, 255))]
    assert normal_C.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_broken_image_is_missing_from_its_batch_alone(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 4, "dog": 1})
    (tmp_path / "cat/001.png").write_bytes(b"broken")
    (tmp_path / "cat/003.png").write_bytes(b"broken")
    split = split_of(tmp_path, max_unreadable_share=0.5)
    groups = [[4, 1, 0], [3], [2]]
    found = list(batches(split, groups, Central(8), image_size=8, should_stop=never))
    assert [targets_B.tolist() for _, targets_B in found] == [[1, 0], [], [0]]
    assert [len(images_BCHW) for images_BCHW, _ in found] == [2, 0, 1]
    whole = next(batches(split, [[4, 0]], Central(8), image_size=8, should_stop=never))
    assert torch.equal(found[0][0], whole[0])
    assert found[0][0].is_contiguous(memory_format=torch.channels_last)


def test_a_stop_takes_effect_between_two_images_of_a_batch(tmp_path: Path) -> None:
    split = split_of(write_images(tmp_path, {"cat": 10}))
    asked = 0

    def third_time() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    with pytest.raises(TrainingStopped):
        next(batches(split, [list(range(10))], Central(8), image_size=8, should_stop=third_time))
    assert asked == 3
