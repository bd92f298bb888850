"""A mixed image is of both classes, by their shares."""

# ruff: noqa: N803, N806 - shape suffixes are upper case
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.helpers import request_for
from trainer.mixing import Mixing, mixing

ANYWHERE = Path("/anywhere")


def mixed(step: int = 1, epoch: int = 1, **changes: Any) -> tuple[Tensor, Tensor]:
    """Two images of 0 and 1, each of the class of its number."""
    images_BCHW = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    step_of = mixing(request_for(ANYWHERE, num_classes=3, **changes))
    assert step_of is not None
    found: tuple[Tensor, Tensor] = step_of(images_BCHW, torch.tensor([0, 1]), epoch=epoch, step=step)
    return found


def is_cut(images_BCHW: Tensor) -> bool:
    """Whether every pixel is of one of the two images."""
    return bool(((images_BCHW == 0) | (images_BCHW == 1)).all())


def test_without_being_asked_nothing_is_mixed() -> None:
    assert mixing(request_for(ANYWHERE)) is None


@pytest.mark.parametrize(
    "changes", [{"mixup_alpha": 0.3}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 1, "cutmix_alpha": 1}]
)
def test_the_targets_are_the_shares_of_the_images(changes: dict[str, Any]) -> None:
    for step in range(40):
        images_BCHW, targets_BC = mixed(step, **changes)
        shares_B = images_BCHW.mean(dim=(1, 2, 3))
        assert targets_BC[:, 1].tolist() == pytest.approx(shares_B.tolist(), abs=1e-5)
        assert targets_BC.sum(dim=1).tolist() == pytest.approx([1, 1])


def test_mixup_blends_all_pixels_and_cutmix_replaces_some() -> None:
    for step in range(20):
        blended, _ = mixed(step, mixup_alpha=1.0)
        assert torch.allclose(blended[0], blended[0, 0, 0, 0].expand_as(blended[0]))
        cut, _ = mixed(step, cutmix_alpha=1.0)
        assert is_cut(cut)


def test_with_both_each_batch_has_one_of_them() -> None:
    kinds = {is_cut(images) for images, _ in (mixed(step, mixup_alpha=1.0, cutmix_alpha=1.0) for step in range(30))}
    assert kinds == {True, False}


def test_how_a_batch_is_mixed_depends_on_seed_epoch_and_step_only() -> None:
    def share(**place: Any) -> float:
        torch.rand(1)
        return float(mixed(mixup_alpha=1.0, **place)[1][0, 0])

    assert share(seed=1, epoch=2, step=3) == share(seed=1, epoch=2, step=3)
    places: list[dict[str, Any]] = [{}, {"seed": 1}, {"epoch": 2}, {"step": 2}]
    assert len({share(**place) for place in places}) == 4


def test_strong_mixing_mixes_more_than_weak_mixing() -> None:
    def smaller_share(alpha: float) -> float:
        step_of = Mixing(request_for(ANYWHERE, num_classes=2, mixup_alpha=alpha))
        targets = [step_of(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), epoch=1, step=step)[1] for step in range(200)]
        return float(torch.stack(targets).min(dim=2).values.mean())

    assert smaller_share(0.1) < 0.12
    assert smaller_share(10.0) > 0.35
