"""The loss is cross entropy as the field defines it."""

# ruff: noqa: N806 - shape suffixes are upper case
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional

from tests.trainer.helpers import request_for
from trainer.objective import balanced_weights, build_objective, right_answers

CPU = torch.device("cpu")
LOGITS_BC = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0], [0.0, 1.0, 0.0], [1.0, -1.0, 0.0]])
TARGETS_B = torch.tensor([0, 2, 1, 1])


def loss(targets: Tensor, of_all: list[int], **changes: Any) -> float:
    request = request_for(Path("/anywhere"), num_classes=3, **changes)
    return float(build_objective(request, of_all, CPU)(LOGITS_BC, targets))


def test_by_default_it_is_the_plain_cross_entropy_bit_for_bit() -> None:
    assert loss(TARGETS_B, [0, 1, 1, 1, 2]) == float(functional.cross_entropy(LOGITS_BC, TARGETS_B))


def test_smoothing_spreads_a_share_of_the_target_over_all_classes() -> None:
    smooth_BC = 0.7 * functional.one_hot(TARGETS_B, 3) + 0.3 / 3
    expected = -(smooth_BC * LOGITS_BC.log_softmax(dim=1)).sum(dim=1).mean()
    assert loss(TARGETS_B, [0, 1, 2], label_smoothing=0.3) == pytest.approx(float(expected))


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    targets = [0] * 50 + [1] * 3 + [2] * 11
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.array(targets))
    assert balanced_weights(targets, 3).tolist() == pytest.approx(expected.tolist())


def test_with_balanced_classes_a_rare_one_counts_as_much_as_a_common_one() -> None:
    rare = loss(torch.tensor([1, 0, 0, 2]), [1, 0, 0, 2], class_weights="balanced")
    each = -LOGITS_BC.log_softmax(dim=1)
    by_class = (each[0, 1] + each[1:3, 0].mean() + each[3, 2]) / 3
    assert rare == pytest.approx(float(by_class))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_balanced_classes_count_the_same_however_images_are_grouped(size: int, smoothing: float) -> None:
    targets = TARGETS_B.tolist()
    objective = build_objective(
        request_for(Path("/anywhere"), num_classes=3, class_weights="balanced", label_smoothing=smoothing), targets, CPU
    )
    batches = [slice(start, start + size) for start in range(0, len(targets), size)]
    apart = sum(float(objective(LOGITS_BC[of], TARGETS_B[of])) * len(TARGETS_B[of]) for of in batches)
    assert apart / len(targets) == pytest.approx(float(objective(LOGITS_BC, TARGETS_B)))


def test_mixed_targets_are_smoothed_and_weighted_as_well() -> None:
    mixed_BC = torch.tensor([[0.6, 0.4, 0], [0, 0, 1.0], [0.5, 0.5, 0], [0, 1.0, 0]])
    weights_C = balanced_weights([0, 0, 1, 2], 3)
    smooth_BC = 0.9 * mixed_BC + 0.1 / 3
    expected = -(smooth_BC * weights_C * LOGITS_BC.log_softmax(dim=1)).sum(dim=1).mean()
    found = loss(mixed_BC, [0, 0, 1, 2], label_smoothing=0.1, class_weights="balanced")
    assert found == pytest.approx(float(expected))


def test_of_a_mixed_image_the_larger_share_is_right() -> None:
    assert int(right_answers(LOGITS_BC, TARGETS_B)) == 3
    mixed_BC = torch.tensor([[0.4, 0.6, 0], [0.1, 0, 0.9], [0.4, 0.6, 0], [0.7, 0.3, 0]])
    assert int(right_answers(LOGITS_BC, mixed_BC)) == 3
