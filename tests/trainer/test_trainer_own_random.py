"""What draws inside is fixed by its seed, in any thread, and nobody else's numbers change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

from trainer.own_random import OwnRandom

IMAGE = Image.effect_noise((24, 24), 100).convert("RGB")
TRANSFORMS: dict[str, Any] = {
    "trivial": v2.TrivialAugmentWide(),
    "erasing": v2.RandomErasing(0.9),
    "either": v2.RandomChoice([v2.MixUp(alpha=0.4, num_classes=3), v2.CutMix(alpha=1.0, num_classes=3)]),
}


def outcome(seed: str) -> bytes:
    """All that the transforms do, as bytes."""
    images_BCHW = torch.arange(4 * 3 * 8 * 8).view(4, 3, 8, 8).float()  # noqa: N806 - shape suffixes are upper case
    with OwnRandom(seed):
        alone = [TRANSFORMS[name](IMAGE).tobytes() for name in ("trivial", "erasing")]
        mixed, targets = TRANSFORMS["either"](images_BCHW, torch.tensor([0, 1, 2, 0]))
    return b"".join([*alone, mixed.numpy().tobytes(), targets.numpy().tobytes()])


def test_the_global_generator_neither_matters_nor_moves() -> None:
    torch.manual_seed(1)
    first = [outcome(f"seed {number}") for number in range(30)]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert [outcome(f"seed {number}") for number in range(30)] == first
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(first)) == 30


def test_threads_do_not_disturb_one_another() -> None:
    seeds = [f"seed {number}" for number in range(40)]
    alone = [outcome(seed) for seed in seeds]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, seeds)) == alone


def test_outside_torch_draws_as_ever() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        with OwnRandom("a"):
            torch.rand(3)
        assert torch.equal(torch.rand(3), expected)
