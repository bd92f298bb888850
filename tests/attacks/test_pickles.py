"""Weights that are a program."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app_refactored import create_app
from settings import Settings
from tests.attacks.conftest import Target, machine
from tests.running_server import RunningServer
from trainer.checkpoint import load_classifier, load_network


class Program:
    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._marker),)


def plant(target: Target) -> tuple[Path, Path]:
    """Weights, and the folder that appears if they have run."""
    weights, marker = target.folder / "data/weights.pt", target.folder / "data/owned"
    torch.save({"network": Program(marker), "classes": ["a", "b"]}, weights)
    return weights, marker


def test_weights_run_nothing_where_a_training_starts_from_them(
    tmp_path: Path, image_folders: Path, stock: Target
) -> None:
    (tmp_path / "ours").mkdir()
    folder = machine(tmp_path / "ours", image_folders)
    server = RunningServer(create_app(Settings(state_dir=tmp_path / "state", executor="thread")))
    ours = Target(server.url, folder)

    def run(target: Target) -> bool:
        weights, marker = plant(target)
        request = target.body(weight_path=str(weights), task_id="attack", image_size=32, num_epochs=1)
        target.post("training/start", json=request)
        target.get("training/attack/logs")  # to the end
        return marker.exists()

    try:
        assert not run(ours)
        assert ours.get("training/attack").json()["reason"] == "bad_weights"
        assert run(stock)
    finally:
        server.stop()


@pytest.mark.parametrize("load", [load_classifier, load_network])
def test_a_checkpoint_runs_nothing_where_it_is_used(ours: Target, load: Callable[[Path], Any]) -> None:
    checkpoint, marker = plant(ours)
    with pytest.raises(Exception, match=r"(?i)weights|unsafe|checkpoint"):
        load(checkpoint)
    assert not marker.exists()

    torch.load(checkpoint, weights_only=False)
    assert marker.exists()
