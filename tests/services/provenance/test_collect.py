"""What a record holds, by where its run is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from models.schemas import CommandRequest
from services.devices import Gpu
from services.executors.base import Place
from services.provenance.collect import collect
from trainer.roots import ANYWHERE


def collected(folder: Path, place: Place, device: str = "cpu", **more: Any) -> dict[str, Any]:
    fields = {"command": [sys.executable, "x.py"], "working_dir": str(folder), "device": "cpu", **more}
    gpus = [Gpu("cuda:0", 0, 2**30, "A card"), Gpu("cuda:1", 0)]
    request = CommandRequest.model_validate(fields)
    return collect(request, device, gpus, ANYWHERE, place=place, is_cancelled=lambda: False)


def test_the_machines_of_a_cluster_are_not_taken_for_this_one(tmp_path: Path) -> None:
    here, there = collected(tmp_path, "process"), collected(tmp_path, "cluster")
    assert {"host", "platform", "cpus", "python", "packages"} <= here.keys()
    assert here.keys() - there.keys() >= {"host", "platform", "machine", "cpus", "python", "packages"}
    assert "problems" not in here
    assert len(there["problems"]) == 1


def test_a_gpu_is_called_what_its_driver_calls_it(tmp_path: Path) -> None:
    known = {"device": "cuda:0", "model": "A card", "memory_total": 2**30}
    assert collected(tmp_path, "process", "cuda:0")["devices"] == [known]
    assert collected(tmp_path, "process", "cuda:1")["devices"] == [{"device": "cuda:1"}]


@pytest.mark.parametrize(
    ("words", "env", "seeds"),
    [
        (["--seed", "3"], {}, {"seed": "3"}),
        (["--data_seed=4", "train.seed=5"], {}, {"data_seed": "4", "train.seed": "5"}),
        (["--seeds", "3", "--seed"], {"PYTHONHASHSEED": "0"}, {"PYTHONHASHSEED": "0"}),
        ([], {}, None),
    ],
)
def test_seeds_of_a_command(tmp_path: Path, words: list[str], env: dict[str, str], seeds: object) -> None:
    found = collected(tmp_path, "cluster", command=["x", *words], env=env)
    assert found.get("seeds") == seeds


def test_neither_python_nor_git_is_told_the_services_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is named `python` in a command is run to ask for its packages."""
    monkeypatch.setenv("API_TOKENS", "the-token")
    seen = tmp_path / "seen"
    for name in ("python3", "git"):
        (tmp_path / name).write_text(f"#!/bin/sh\nenv >> {seen}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    collected(tmp_path, "process", command=["./python3"])
    assert "PATH=" in seen.read_text("utf-8")
    assert "the-token" not in seen.read_text("utf-8")
