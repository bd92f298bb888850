"""Whatever is asked for is said, is part of the training, and changes nothing where it is not asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from services.parsing import LineParser
from tests.trainer.helpers import logger_and_lines, never, request_for, same, write_digits
from trainer import lines as wording
from trainer.checkpoint_file import write_checkpoint_file
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.layers import freeze
from trainer.loop import train
from trainer.network import bare_network
from trainer.optimizer import build_optimizer, set_learning_rate
from trainer.options import OPTIONS, chosen, default_of, without_effect
from trainer.resume import read_last

OTHER: dict[str, Any] = {
    "accumulate_batches": 2,
    "backbone_lr_scale": 0.1,
    "layer_decay": 0.8,
    "clip_grad_norm": 1.0,
    "schedule": "one_cycle",
    "lr_factor": 0.5,
    "lr_step_epochs": 2,
    "lr_patience": 3,
    "monitor": "macro_f1",
    "early_stopping_patience": 5,
    "ema_decay": 0.9,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "freeze": "last_n",
    "trainable_layers": 3,
    "progressive_resizing": 0.5,
    "trivial_augment": True,
    "random_erasing": 0.25,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
}
"""A value that is not the default."""
WITH: dict[str, dict[str, Any]] = {
    "lr_factor": {"schedule": "step", "lr_step_epochs": 1},
    "lr_step_epochs": {"schedule": "step"},
    "lr_patience": {"schedule": "plateau"},
    "monitor": {"schedule": "plateau"},
    "trainable_layers": {"freeze": "last_n"},
}
"""What an option needs to have an effect."""
WAITS = {"lr_step_epochs", "lr_patience", "monitor", "early_stopping_patience"}
"""Options that a training of two epochs may end without."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes; one has more images than the others."""
    root = write_digits(tmp_path_factory.mktemp("digits"), training=6, validation=2, classes=3)
    (root / "train/2/000.png").unlink()
    return root


def ran(digits: Path, output_dir: Path, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    """`last.pt`, and what was said."""
    fields: dict[str, Any] = {"num_classes": 3, "num_epochs": 2, "batch_size": 4, "model": "mnasnet0_5"}
    logger, lines = logger_and_lines()
    request = request_for(digits, **fields | {"learning_rate": 1e-2} | changes)
    train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=never)
    content: dict[str, Any] = torch.load(output_dir / "last.pt", weights_only=True)
    return content, lines.messages


def test_every_option_is_tried_here() -> None:
    assert OTHER.keys() == set(OPTIONS)
    assert all(value != default_of(name) for name, value in OTHER.items())


@pytest.mark.parametrize("name", [name for name in OTHER if name not in WAITS])
def test_every_option_changes_the_training_and_is_said(digits: Path, tmp_path: Path, name: str) -> None:
    needed = WITH.get(name, {})
    if name in ("backbone_lr_scale", "layer_decay"):  # of layers that were trained before
        ran(digits, tmp_path / "before")
        needed = {"weight_path": str(tmp_path / "before" / "best.pt")}
    without, _ = ran(digits, tmp_path / "without", **needed)
    content, said = ran(digits, tmp_path / "with", **needed, **{name: OTHER[name]})
    assert not same(dict(content["state_dict"]), dict(without["state_dict"]))
    [line] = [message for message in said if message.startswith("Options: ")]
    assert said.index(line) < said.index("Epoch [1/2] started")
    assert f"{name}={OTHER[name]}" in line.removeprefix("Options: ").split(", ")
    assert same(ran(digits, tmp_path / "again", **needed, **{name: OTHER[name]})[0], content)


def test_where_nothing_is_chosen_nothing_is_said(digits: Path, tmp_path: Path) -> None:
    assert chosen(request_for(digits)) == {}
    assert not any(message.startswith("Options") for message in ran(digits, tmp_path)[1])


@pytest.mark.parametrize("preset", ["fast", "balanced", "accurate"])
def test_a_preset_trains_and_is_said_with_what_it_has_filled_in(digits: Path, tmp_path: Path, preset: str) -> None:
    _, said = ran(digits, tmp_path, preset=preset, num_epochs=1)
    [line] = [message for message in said if message.startswith("Options: ")]
    assert line.startswith(f"Options: preset={preset}, ")
    assert "clip_grad_norm=1.0" in line
    assert LineParser().parse(line).metrics == {}


@pytest.mark.parametrize("name", WITH)
def test_an_option_that_does_nothing_without_another_is_warned_of(name: str) -> None:
    alone = request_for(Path("/anywhere"), **{name: OTHER[name]})
    assert without_effect(alone).keys() == {name}
    together = request_for(Path("/anywhere"), **{name: OTHER[name]} | WITH[name])
    assert without_effect(together) == {}


def test_images_of_a_network_that_takes_one_size_do_not_grow() -> None:
    request = request_for(Path("/anywhere"), model="vit_b_16", progressive_resizing=0.5)
    assert without_effect(request) == {"progressive_resizing": "a network that takes images of several sizes"}


def test_early_stopping_is_a_use_of_the_monitor() -> None:
    assert without_effect(request_for(Path("/anywhere"), monitor="val_loss", early_stopping_patience=2)) == {}


def test_the_warning_is_a_line_of_its_own(digits: Path, tmp_path: Path) -> None:
    logger, lines = logger_and_lines()
    request = request_for(digits, num_classes=3, lr_patience=2, freeze="head_only")
    train(request, output_dir=tmp_path, device="cpu", logger=logger, should_stop=never)
    assert lines.at("WARNING") == [
        "What freeze leaves as it is are random weights: nothing was loaded that they could know",
        "Options without effect: lr_patience (needs schedule=plateau)",
    ]


@pytest.mark.parametrize("at", ["before the first epoch", "in an epoch"])
def test_the_line_is_no_metric(at: str) -> None:
    parser = LineParser()
    if at == "in an epoch":
        parser.parse(wording.epoch_started(3, 5))
    every = [{name: value} for name, value in OTHER.items()]
    for line in [
        *map(wording.options, [*every, OTHER]),
        *(wording.options_without_effect(without_effect(request_for(Path("/anywhere"), **one))) for one in every),
        *(wording.stopped_early(monitor, 5) for monitor in ("val_acc", "val_loss", "macro_f1", "mAP")),
    ]:
        read = parser.parse(line)
        assert (read.metrics, read.step, read.stage) == ({}, None, None), line


@pytest.fixture(scope="module")
def cut(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the `last.pt` of the first of two epochs, by default."""
    folder = tmp_path_factory.mktemp("cut")
    logger, lines = logger_and_lines()
    request = request_for(digits, num_classes=3, num_epochs=2)
    with pytest.raises(TrainingStopped):
        train(
            request,
            output_dir=folder,
            device="cpu",
            logger=logger,
            should_stop=lambda: "Epoch [2/2] started" in lines.messages,
        )
    return folder


@pytest.mark.parametrize("name", OTHER)
def test_a_training_goes_on_with_the_options_that_it_had(digits: Path, cut: Path, name: str) -> None:
    request = request_for(digits, num_classes=3, num_epochs=2, **{name: OTHER[name]})
    with pytest.raises(TrainingFailed, match=f"{name} {default_of(name)!r}, now {OTHER[name]!r}") as failure:
        read_last(cut, request)
    assert failure.value.reason == "checkpoint_differs"


def test_a_training_from_before_there_were_options_goes_on(digits: Path, cut: Path, tmp_path: Path) -> None:
    content = torch.load(cut / "last.pt", weights_only=True)
    for name in OPTIONS:
        del content["request"][name]
    write_checkpoint_file(tmp_path / "last.pt", lambda sink: torch.save(content, sink))
    request = request_for(digits, num_classes=3, num_epochs=2)
    saved = read_last(tmp_path, request)
    assert saved is not None
    assert saved.epoch == 1
    logger, _ = logger_and_lines()
    train(request, output_dir=tmp_path, device="cpu", logger=logger, should_stop=never, resume=True)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 2


def test_the_optimizer_of_a_head_without_biases_works() -> None:
    network = bare_network("maxvit_t", 2, 224)
    request = request_for(Path("/anywhere"), freeze="head_only", backbone_lr_scale=0.5)
    freeze(network, request)
    optimizer = build_optimizer(request, network)
    head = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert [tuple(parameter.shape) for parameter in head] == [(2, 512)]
    before = head[0].detach().clone()
    head[0].grad = torch.ones_like(head[0])
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    assert not torch.equal(head[0], before)
