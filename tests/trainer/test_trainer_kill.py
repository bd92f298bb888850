"""SIGKILL at any moment costs the epoch that was running, and nothing else."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.forked import forked_trainer
from tests.trainer.helpers import logger_and_lines, never, request_for, same, write_digits
from tests.trainer.mounts import run_mounted
from trainer.checkpoint_file import find_damage
from trainer.errors import STATUS_OF_REASON
from trainer.loop import train

EPOCHS = 3
NETWORKS = [("mnasnet0_5", "adamw"), ("squeezenet1_1", "sgd")]
"""The first one normalises batches and drops out, the second one drops out."""

DIES_IN_A_CALL = """
import os, signal
name, number = {name!r}, {number}
real, calls = getattr(os, name), 0
def dying(*arguments, **named):
    global calls
    calls += 1
    if calls == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)
setattr(os, name, dying)
"""
"""What kills a process in its n-th call of a function of the operating system."""

TRAINS_AND_KEEPS = """
import runpy, shutil, sys
run, kept = sys.argv[1:3]
sys.argv[1:] = sys.argv[3:]
try:
    runpy.run_module("trainer", run_name="__main__")
finally:
    shutil.copytree(run, kept, dirs_exist_ok=True)
"""
"""`python -m trainer` whose folder is copied before its file system goes with it."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), training=5, validation=2, classes=6)


def arguments(folder: Path, digits: Path, model: str, optimizer: str, **changes: Any) -> list[str]:
    request = request_for(
        digits, num_classes=6, num_epochs=EPOCHS, model=model, optimizer=optimizer, learning_rate=1e-3, **changes
    )
    spec = folder / "spec.json"
    spec.write_text(request.model_dump_json(), encoding="utf-8")
    return [str(spec), "--plain", "--output-dir", str(folder / "run")]


def ran(folder: Path, arguments: list[str], prelude: str = "") -> tuple[int | None, list[str]]:
    with forked_trainer(folder / "stderr", arguments, prelude) as (process, output):
        lines = output.read().splitlines()
    assert (folder / "stderr").read_text() == ""
    return process.exitcode, lines


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda pair: "-".join(pair))
def uninterrupted(
    request: pytest.FixtureRequest, digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str], str, str]:
    model, optimizer = request.param
    folder = tmp_path_factory.mktemp("uninterrupted")
    status, lines = ran(folder, arguments(folder, digits, model, optimizer))
    assert status == 0
    return folder / "run", lines, model, optimizer


def metric_lines(lines: list[str]) -> dict[int, list[str]]:
    """Lines of each epoch, without those that tell how long it took."""
    epochs: dict[int, list[str]] = {}
    epoch = 0
    for line in lines:
        if begun := re.match(r"Epoch \[(\d+)/\d+\] started", line):
            epoch = int(begun[1])
            epochs[epoch] = []
        elif epoch and " finished in " not in line and ", Step [" not in line:
            epochs[epoch].append(line)
    return epochs


@pytest.mark.parametrize(
    "place",
    [
        "Epoch [2/3] started",
        "fsync 1",  # epoch 1: best.pt is written and not in its place
        "rename 2",  # epoch 1: best.pt is there, its evaluation is not
        "rename 3",  # epoch 1: both are there, last.pt is written and not in its place
        "rename 4",  # epoch 2: a checkpoint is written, the one before is in its place
    ],
)
def test_a_killed_training_goes_on_as_if_it_had_not_been(
    uninterrupted: tuple[Path, list[str], str, str], digits: Path, tmp_path: Path, place: str
) -> None:
    whole, whole_lines, model, optimizer = uninterrupted
    command = arguments(tmp_path, digits, model, optimizer)
    if place[-1].isdigit():
        name, number = place.split()
        status, first = ran(tmp_path, command, DIES_IN_A_CALL.format(name=name, number=number))
        assert status == -signal.SIGKILL
    else:
        first = killed_at_line(tmp_path, place, command)

    for name in ("last.pt", "best.pt"):
        if (tmp_path / "run" / name).exists():
            assert find_damage(tmp_path / "run" / name) is None
    done = int(torch.load(tmp_path / "run/last.pt")["epoch"]) if (tmp_path / "run/last.pt").exists() else 0

    status, second = ran(tmp_path, [*command, "--resume"])
    assert status == 0
    assert second[0] == (
        f"Resuming from last.pt: epochs 1 to {done} of {EPOCHS} are done"
        if done
        else "No last.pt to resume from: beginning at epoch 1"
    )
    said = {epoch: lines for epoch, lines in metric_lines(first).items() if epoch <= done} | metric_lines(second)
    assert said == metric_lines(whole_lines)
    for name in ("last.pt", "best.pt"):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (whole, tmp_path / "run"))
        assert same(one, other), name
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["best.pt", "evaluation.json", "last.pt"]


def test_a_training_with_options_goes_on_as_if_it_had_not_been_killed(digits: Path, tmp_path: Path) -> None:
    """Those that have a state: an average, a plateau, a count, and numbers drawn for images and batches."""
    options = {
        "schedule": "plateau",
        "lr_patience": 0,
        "early_stopping_patience": 5,
        "ema_decay": 0.9,
        "mixup_alpha": 0.3,
        "cutmix_alpha": 1.0,
        "trivial_augment": True,
        "random_erasing": 0.5,
        "accumulate_batches": 2,
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    status, whole_lines = ran(whole, arguments(whole, digits, "mnasnet0_5", "adamw", **options))
    assert status == 0
    command = arguments(cut, digits, "mnasnet0_5", "adamw", **options)
    killed_at_line(cut, "Epoch [3/3] started", command)
    status, second = ran(cut, [*command, "--resume"])
    assert status == 0
    assert metric_lines(second)[3] == metric_lines(whole_lines)[3]
    for name in ("last.pt", "best.pt"):
        one, other = (torch.load(folder / "run" / name, weights_only=True) for folder in (whole, cut))
        assert same(one, other), name


def killed_at_line(folder: Path, start: str, arguments: list[str]) -> list[str]:
    """Run until a line begins so, and kill it from outside at that moment."""
    said: list[str] = []
    with forked_trainer(folder / "stderr", arguments) as (process, output):
        for line in output:
            said.append(line.rstrip("\n"))
            if line.startswith(start):
                process.kill()
    assert process.exitcode == -signal.SIGKILL
    return said


def test_a_training_whose_disk_fills_up_keeps_its_checkpoint_and_goes_on_elsewhere(
    digits: Path, tmp_path: Path
) -> None:
    """A disk with room for the checkpoints of the first epoch, and not for new ones beside them."""
    request = request_for(digits, num_classes=6, num_epochs=EPOCHS, learning_rate=1e-3)
    logger, lines = logger_and_lines()

    def train_here(output_dir: Path, *, epochs: int = EPOCHS, resume: bool = False) -> None:
        asked = request.model_copy(update={"num_epochs": epochs})
        train(asked, output_dir=output_dir, device="cpu", logger=logger, should_stop=never, resume=resume)

    train_here(tmp_path / "sizes", epochs=1)
    room = sum(path.stat().st_size for path in (tmp_path / "sizes").iterdir()) // 1024 + 64
    for name in ("run", "kept"):
        (tmp_path / name).mkdir()
    (tmp_path / "spec.json").write_text(request.model_dump_json(), encoding="utf-8")
    arguments = [str(tmp_path / "spec.json"), "--plain", "--output-dir", str(tmp_path / "run")]
    ended = run_mounted(
        f"mount -t tmpfs -o size={room}k none '{tmp_path / 'run'}'",
        ["-c", TRAINS_AND_KEEPS, str(tmp_path / "run"), str(tmp_path / "kept"), *arguments],
    )
    assert ended.returncode == STATUS_OF_REASON["disk_full"]
    last_line = ended.stdout.splitlines()[-1]
    assert last_line.startswith("ERROR: ")
    assert "Free some space and resume" in last_line
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["best.pt", "evaluation.json", "last.pt"]
    assert all(find_damage(path) is None for path in (tmp_path / "kept").glob("*.pt"))
    train_here(tmp_path / "kept", resume=True)
    assert "Resuming from last.pt: epochs 1 to 1 of 3 are done" in lines.messages
