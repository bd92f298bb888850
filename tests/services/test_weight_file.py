"""Weights are looked into before a training waits for its device."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch

from models.schemas import FieldProblem, TrainingRequest
from services import weight_file
from services.checks import find_problems
from services.paths import PathPolicy
from trainer.checkpoint import save_checkpoint
from trainer.network import bare_network


def problems(body: dict[str, Any], weights: Path, **changes: Any) -> list[FieldProblem]:
    return find_problems(TrainingRequest(**(body | {"weight_path": str(weights)} | changes)), PathPolicy())


def save_best(path: Path, body: dict[str, Any], **changes: Any) -> None:
    request = TrainingRequest(**(body | changes))
    network = bare_network(request.model, request.num_classes, request.image_size)
    save_checkpoint(path, network, classes=["request", "model", "b"], request=request, epoch=1, metrics={})


def save_older(path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)


def write_archive(path: Path) -> None:
    with ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")


def write_script(path: Path) -> None:
    with ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps({}))
        archive.writestr("net/constants.pkl", pickle.dumps(()))


def write_half(path: Path) -> None:
    torch.save({"weight": torch.zeros(5_000)}, path)
    path.write_bytes(path.read_bytes()[:10_000])


NO_WEIGHTS: dict[str, Callable[[Path], Any]] = {
    "nothing": Path.touch,
    "text": lambda path: path.write_text("root:x:0:0:root:/root:/bin/bash\n" * 10),
    "JSON": lambda path: path.write_text(json.dumps({"weight": [0.0]})),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"weight": 0.0}, protocol=2)),
    "another archive": write_archive,
    "a script of torch": write_script,
    "half of a checkpoint": write_half,
    "the begin of an archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(1_000)),
}


@pytest.mark.parametrize("write", NO_WEIGHTS.values(), ids=NO_WEIGHTS)
def test_what_torch_would_not_read_is_refused(
    body: dict[str, Any], tmp_path: Path, write: Callable[[Path], Any]
) -> None:
    write(tmp_path / "weights")
    (problem,) = problems(body, tmp_path / "weights")
    assert (problem.field, problem.code) == ("weight_path", "bad_weights")
    assert "torch.save" in problem.message


@pytest.mark.parametrize("save", [lambda path: torch.save({"weight": torch.zeros(2)}, path), save_older])
def test_what_torch_has_saved_is_let_pass(body: dict[str, Any], tmp_path: Path, save: Callable[[Path], None]) -> None:
    save(tmp_path / "weights")
    assert problems(body, tmp_path / "weights") == []


def test_a_checkpoint_of_another_network_is_refused_by_name(body: dict[str, Any], tmp_path: Path) -> None:
    save_best(tmp_path / "best.pt", body, model="squeezenet1_1", name="model", description="model")
    assert problems(body, tmp_path / "best.pt", model="squeezenet1_1", num_classes=3) == []
    (problem,) = problems(body, tmp_path / "best.pt", model="resnet34")
    assert (problem.field, problem.code) == ("weight_path", "bad_weights")
    assert "squeezenet1_1" in problem.message
    assert "resnet34" in problem.message


def test_a_directory_that_would_fill_the_memory_is_not_read(
    body: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ZipFile(tmp_path / "weights", "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps({}))
        for number in range(100):
            archive.writestr(f"net/data/{number}", b"")
    assert problems(body, tmp_path / "weights") == []
    monkeypatch.setattr(weight_file, "_MOST_DIRECTORY", 4_000)
    assert [problem.code for problem in problems(body, tmp_path / "weights")] == ["bad_weights"]


def test_torch_is_not_imported_to_look() -> None:
    script = "import sys, services.weight_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
