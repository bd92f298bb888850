"""The trainer on a real GPU. Everything else is tested on the CPU; a machine without a GPU cannot run these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from services.devices import list_gpus
from tests.trainer.helpers import logger_and_lines, request_for, write_digits
from trainer.checkpoint import load_classifier
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
DEVICE = "cuda:0"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), training=100, validation=20)


def trained(digits: Path, output_dir: Path, *, until: str | None = None, resume: bool = False, **changes: Any) -> Any:
    """Best accuracy and what was said; with `until`, the training is stopped at that line."""
    settings: dict[str, Any] = {"num_classes": 10, "batch_size": 64, "learning_rate": 0.05, "num_epochs": 6}
    request = request_for(digits, **settings | changes)
    logger, said = logger_and_lines()
    try:
        result = train(
            request,
            output_dir=output_dir,
            device=DEVICE,
            logger=logger,
            should_stop=lambda: until in said.messages,
            resume=resume,
        )
    except TrainingStopped:
        assert until is not None
        return None, said.messages
    return result.best_acc, said.messages


@pytest.fixture(scope="module")
def level(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Memory that a process holds on the GPU once it has trained: what cuBLAS works in, for as long as it runs."""
    for precision in ("fp32", "bf16"):
        trained(digits, tmp_path_factory.mktemp("first") / "out", amp=precision, num_epochs=1)
    return torch.cuda.memory_reserved(DEVICE)


@pytest.fixture
def _memory_returned(level: int) -> Iterator[None]:
    yield
    assert torch.cuda.memory_reserved(DEVICE) == level


@pytest.mark.usefixtures("_memory_returned")
@pytest.mark.parametrize("amp", ["auto", "fp32", "bf16"])
def test_a_network_learns_the_digits_and_is_loaded_without_a_gpu(digits: Path, tmp_path: Path, amp: str) -> None:
    best, messages = trained(digits, tmp_path / "out", model="resnet18", amp=amp)
    assert best > 80
    assert any("cuda:0" in message for message in messages)
    network = load_classifier(tmp_path / "out" / "best.pt").network
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


@pytest.mark.usefixtures("_memory_returned")
def test_a_training_that_was_stopped_goes_on_where_it_was(digits: Path, tmp_path: Path) -> None:
    trained(digits, tmp_path / "cut", until="Epoch [4/6] started")
    best, messages = trained(digits, tmp_path / "cut", resume=True)
    whole, _ = trained(digits, tmp_path / "whole")
    assert any("Epoch [4/6] started" in message for message in messages)
    assert not any("Epoch [3/6] started" in message for message in messages)
    assert best == pytest.approx(whole, abs=5)


@pytest.mark.usefixtures("_memory_returned")
def test_a_training_with_every_option_learns_the_digits_and_goes_on(digits: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model": "resnet18",
        "accumulate_batches": 2,
        "backbone_lr_scale": 0.5,
        "clip_grad_norm": 5.0,
        "schedule": "plateau",
        "early_stopping_patience": 20,
        "ema_decay": 0.9,
        "label_smoothing": 0.1,
        "class_weights": "balanced",
        "freeze": "last_n",
        "trainable_layers": 19,
        "random_erasing": 0.2,
        "mixup_alpha": 0.2,
        "cutmix_alpha": 1.0,
        "num_epochs": 12,
    }
    trained(digits, tmp_path / "out", until="Epoch [3/12] started", **options)
    best, _ = trained(digits, tmp_path / "out", resume=True, **options)
    assert best > 50


@pytest.mark.usefixtures("_memory_returned")
def test_too_little_memory_is_said_and_given_back(digits: Path, tmp_path: Path) -> None:
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction(256 * 2**20 / total, DEVICE)
    try:
        with pytest.raises(TrainingFailed) as failure:
            trained(digits, tmp_path / "out", model="resnet50", image_size=224, batch_size=512)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    assert failure.value.reason == "out_of_memory"
    assert "batch_size (now 512)" in str(failure.value)


def test_the_gpus_of_the_driver_are_those_of_torch() -> None:
    found = list_gpus() or []
    assert [gpu.name for gpu in found] == [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    assert [gpu.model for gpu in found] == [torch.cuda.get_device_name(index) for index in range(len(found))]
