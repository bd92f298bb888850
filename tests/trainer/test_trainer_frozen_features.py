"""What does not change is computed once; what does change is not kept, and the log says why."""

# ruff: noqa: N803, N806 - shape suffixes are upper case
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from services.parsing import LineParser
from tests.trainer.helpers import logger_and_lines, never, request_for, same, write_digits
from trainer import lines, run
from trainer.errors import TrainingStopped
from trainer.features import head_of
from trainer.frozen_features import reason_against_training
from trainer.layers import freeze
from trainer.loop import train
from trainer.network import bare_network

FROZEN: dict[str, Any] = {"freeze": "head_only", "augment": False}
BOTH = "Frozen backbone: its features of train_path and val_path are computed once and kept ("
EVERY_FAMILY = {
    "alexnet": 64,
    "resnet18": 32,
    "squeezenet1_1": 32,
    "densenet121": 32,
    "googlenet": 32,
    "shufflenet_v2_x0_5": 32,
    "mobilenet_v3_small": 32,
    "mnasnet0_5": 32,
    "efficientnet_b0": 32,
    "convnext_tiny": 32,
    "vit_b_32": 32,
    "swin_t": 32,
    "maxvit_t": 224,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), training=6, validation=3, classes=3)


def trained(
    digits: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch | None = None, **changes: Any
) -> tuple[dict[str, Any], list[str], int]:
    """`last.pt`, what was said, and how many images have gone through the network."""
    logger, said = logger_and_lines()
    count = 0
    plain = run.Run.ready

    def counting(self: run.Run, images_BCHW: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += len(images_BCHW) if images_BCHW.dtype == torch.uint8 and len(images_BCHW) > 1 else 0
        return plain(self, images_BCHW)

    if monkeypatch:
        monkeypatch.setattr(run.Run, "ready", counting)
    request = request_for(digits, **{"num_classes": 3, "num_epochs": 3, "learning_rate": 1e-2} | changes)
    train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=never)
    content: dict[str, Any] = torch.load(output_dir / "last.pt", weights_only=True)
    return content, said.messages, count


def about_features(said: list[str]) -> str:
    [line] = [message for message in said if message.startswith("Frozen backbone")]
    return line


@pytest.mark.parametrize("model", EVERY_FAMILY)
def test_the_head_makes_of_the_features_what_the_network_makes_of_the_image(model: str) -> None:
    torch.manual_seed(0)
    size = EVERY_FAMILY[model]
    network = bare_network(model, 3, size).eval()
    images_BCHW = torch.randn(2, 3, size, size)
    found: list[torch.Tensor] = []
    head = head_of(network)
    hook = next(head.children()).register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0].clone()))
    with torch.no_grad():
        logits_BC = network(images_BCHW)
        hook.remove()
        assert torch.equal(head.eval()(found[0]), logits_BC)


def test_every_image_goes_through_the_backbone_once(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, said, count = trained(digits, tmp_path, monkeypatch, **FROZEN)
    assert about_features(said).startswith(BOTH)
    assert count == 18 + 9
    assert said.index(about_features(said)) < said.index("Epoch [1/3] started")


def test_with_augmentation_only_validation_images_are_kept(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, said, count = trained(digits, tmp_path, monkeypatch, freeze="head_only")
    assert about_features(said).endswith(
        "train_path goes through it in every epoch, because augment changes the images in each epoch"
    )
    assert count == 3 * 18 + 9


def test_they_give_the_validation_that_the_images_give(digits: Path, tmp_path: Path) -> None:
    """The same batches go through the same backbone: not a bit differs."""
    kept, _, _ = trained(digits, tmp_path / "kept", freeze="head_only")
    not_kept, said, _ = trained(digits, tmp_path / "not", freeze="head_only", cache_mb=0)
    assert about_features(said).endswith("and cache_mb is 0")
    for content in (kept, not_kept):
        del content["request"]
    assert same(kept, not_kept)


def test_what_is_trained_on_them_is_what_is_trained_on_images(digits: Path, tmp_path: Path) -> None:
    """But for the last bits: an image is in another batch than it would be."""
    kept, _, _ = trained(digits, tmp_path / "kept", **FROZEN)
    not_kept, _, _ = trained(digits, tmp_path / "not", **FROZEN, cache_mb=0)
    for name, value in kept["state_dict"].items():
        torch.testing.assert_close(value, not_kept["state_dict"][name], rtol=1e-3, atol=1e-5)


def test_they_can_be_cut_in_front_of_the_head_only(digits: Path, tmp_path: Path) -> None:
    _, said, _ = trained(digits, tmp_path, freeze="last_n", trainable_layers=3, augment=False)
    assert about_features(said).endswith("are not kept, because layers in front of the head are trained")


def test_without_freezing_nothing_is_said(digits: Path, tmp_path: Path) -> None:
    _, said, _ = trained(digits, tmp_path, augment=False, num_epochs=1)
    assert not any(message.startswith("Frozen") for message in said)


def test_a_broken_image_is_left_out_and_the_training_goes_on_as_it_began(tmp_path: Path) -> None:
    write_digits(tmp_path, training=6, validation=3, classes=3)
    (tmp_path / "train/1/002.png").write_bytes(b"no image")
    options = FROZEN | {"max_unreadable_share": 0.5, "batch_size": 4}
    whole, said, _ = trained(tmp_path, tmp_path / "whole", **options)
    assert sum(message.startswith("Left out") for message in said) == 1
    logger, _ = logger_and_lines()
    request = request_for(tmp_path, num_classes=3, num_epochs=3, learning_rate=1e-2, **options)
    saved: list[int] = []

    def after_an_epoch() -> bool:
        saved.append((tmp_path / "cut/last.pt").exists())
        return saved[-1] == 1

    with pytest.raises(TrainingStopped):
        train(request, output_dir=tmp_path / "cut", device="cpu", logger=logger, should_stop=after_an_epoch)
    train(request, output_dir=tmp_path / "cut", device="cpu", logger=logger, should_stop=never, resume=True)
    assert same(torch.load(tmp_path / "cut/last.pt", weights_only=True), whole)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trivial_augment": True}, "trivial_augment changes the images in each epoch"),
        ({"mixup_alpha": 0.2, "cutmix_alpha": 1}, "mixup_alpha, cutmix_alpha change the images in each epoch"),
        ({"random_erasing": 0.5}, "random_erasing changes the images in each epoch"),
        ({"progressive_resizing": 0.5}, "progressive_resizing changes the images in each epoch"),
        ({"model": "efficientnet_b0"}, "efficientnet_b0 leaves out parts of its backbone at random"),
        ({}, ""),
        ({"model": "mnasnet0_5"}, ""),  # the dropout is the head's in all three
        ({"model": "vgg11"}, ""),
        ({"model": "googlenet"}, ""),
    ],
)
def test_what_changes_is_not_kept(changes: dict[str, Any], reason: str) -> None:
    request = request_for(Path("/anywhere"), **FROZEN | changes)
    network = bare_network(request.model, 2, 32)
    freeze(network, request)
    assert reason_against_training(request, network) == reason


def test_a_normalisation_without_weights_learns_from_its_batch() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(4, 2))
    request = request_for(Path("/anywhere"), **FROZEN)
    freeze(network, request)
    assert reason_against_training(request, network).endswith("normalises by the statistics of a batch")


@pytest.mark.parametrize("at", ["before the first epoch", "in an epoch"])
def test_the_lines_are_no_metrics(at: str) -> None:
    parser = LineParser()
    if at == "in an epoch":
        parser.parse(lines.epoch_started(3, 5))
    for line in (
        lines.features_kept(["train_path", "val_path"], 10_000_000, ""),
        lines.features_kept(["val_path"], 10_000_000, "augment changes the images in each epoch"),
        lines.features_not_kept("those of all images take 1.8 MiB, and cache_mb is 0"),
    ):
        read = parser.parse(line)
        assert (read.metrics, read.step, read.stage) == ({}, None, None), line
