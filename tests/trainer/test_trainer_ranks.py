"""Several processes that train one network do what one would, and end together."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.schemas import TrainingRequest
from tests.trainer.helpers import evaluated_alone, logger_and_lines, never, request_for, same, write_digits
from tests.trainer.mounts import ROOT
from trainer.errors import FAILED, NODE_LOST, PEER_LOST, STATUS_OF_REASON
from trainer.loop import train
from trainer.ranks import Ranks
from trainer.workers import Ended, Ends, verdict

EPOCHS = 3
TRAINING, VALIDATION, CLASSES = 5, 3, 5
"""Images of each class and split: no number of them is a multiple of a batch, nor of the ranks."""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
WITHOUT_DROPOUT = """
import runpy, torch
torch.nn.functional.dropout = lambda images, *_: images
runpy.run_module("trainer", run_name="__main__")
"""


@given(st.integers(1, 200), st.integers(1, 16))
def test_a_batch_is_shared_so_that_each_image_has_one_rank_and_no_image_is_alone(images: int, count: int) -> None:
    indices = list(range(images))
    shares = [Ranks(rank, count).share_of(indices) for rank in range(count)]
    assert [index for share in shares for index in share] == indices
    assert all(len(share) != 1 for share in shares) or images == 1
    working = [len(share) for share in shares if share]
    assert max(working) - min(working) <= 1


class TestVerdict:
    def test_the_one_that_failed_is_the_cause_and_not_those_that_lost_it(self) -> None:
        ended = {0: Ended(PEER_LOST), 1: Ended(STATUS_OF_REASON["disk_full"], "ERROR: no space"), 2: Ended(-15)}
        assert verdict(ended) == (STATUS_OF_REASON["disk_full"], "ERROR: no space")

    def test_the_first_one_has_said_it_itself(self) -> None:
        diverged = STATUS_OF_REASON["diverged"]
        assert verdict({0: Ended(diverged), 1: Ended(diverged, "ERROR: diverged")}) == (diverged, "")

    def test_a_kill_is_told_with_what_was_printed_before(self) -> None:
        said = "ERROR: Worker 1 was killed by signal 9, and the training with it."
        assert verdict({0: Ended(PEER_LOST), 1: Ended(-9, "last words")}) == (-9, f"last words\n{said}")

    def test_a_stop_is_no_failure(self) -> None:
        assert verdict({0: Ended(143), 1: Ended(-15)}) == (143, "")

    def test_nobody_knows_why_all_have_lost_another(self) -> None:
        status, text = verdict({0: Ended(PEER_LOST), 1: Ended(PEER_LOST)})
        assert status == FAILED
        assert text.startswith("ERROR: ")


class TestEnds:
    def test_a_worker_that_is_lost_is_no_failure_of_the_training(self) -> None:
        status, text = Ends({0: Ended(143)}, {1: "its node is gone"}).conclude()
        assert status == NODE_LOST
        assert "its node is gone" in text

    def test_all_that_ended_well_are_a_success(self) -> None:
        assert Ends({0: Ended(0), 1: Ended(0)}).conclude() == (0, "")

    @pytest.mark.parametrize(("returncode", "fails"), [(0, False), (PEER_LOST, False), (1, True), (-9, True)])
    def test_the_others_are_ended_for_a_failure_and_not_for_one_that_has_lost_them(
        self, returncode: int, fails: bool
    ) -> None:
        assert Ends({0: Ended(returncode)}).is_failure is fails
        assert Ends({0: Ended(returncode)}).has_lost_peers is (returncode == PEER_LOST)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    return write_digits(folder, training=TRAINING, validation=VALIDATION, classes=CLASSES)


def request_of(digits: Path, **changes: Any) -> TrainingRequest:
    fields: dict[str, Any] = {"num_classes": CLASSES, "num_epochs": EPOCHS, "learning_rate": 1e-3, "num_workers": 2}
    return request_for(digits, **(fields | changes))


def start(folder: Path, request: TrainingRequest, *more: str) -> subprocess.Popen[str]:
    spec = folder / "spec.json"
    spec.write_text(request.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "trainer", str(spec), "--plain", "--output-dir", str(folder / "run"), *more]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    output, _ = process.communicate()
    return process.returncode, output.splitlines()


def timeless(lines: list[str]) -> list[str]:
    return [re.sub(r"finished in .*", "finished", line) for line in lines if ", Step [" not in line]


@pytest.fixture(scope="module")
def uninterrupted(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    status, lines = ended(start(folder, request_of(digits)))
    assert status == 0, lines
    return folder / "run", lines


def test_only_the_first_one_speaks(uninterrupted: tuple[Path, list[str]], digits: Path) -> None:
    _, lines = uninterrupted
    alone, kept = logger_and_lines()
    train(request_of(digits), output_dir=digits / "alone", device="cpu", logger=alone, should_stop=never)

    def words(said: list[str]) -> list[str]:
        return [re.sub(r"[\d.]+(e-\d+)?", "#", line) for line in said if "best" not in line and "kept in" not in line]

    assert words(lines) == [line.replace("on cpu", "on # x cpu") for line in words(kept.messages)]


def test_what_the_first_one_chooses_is_chosen_for_all(digits: Path, tmp_path: Path) -> None:
    """Ranks that trained with other numbers would wait for batches that nobody else has."""
    options: dict[str, Any] = {"batch_size": "auto", "learning_rate": "auto", "freeze": "head_only", "augment": False}
    status, lines = ended(start(tmp_path, request_of(digits, **options)))
    assert status == 0, lines
    chosen = [line for line in lines if line.startswith("Chosen for auto: ")]
    content = torch.load(tmp_path / "run/last.pt", weights_only=True)
    assert [line.removeprefix("Chosen for auto: ").split("=")[0] for line in chosen] == list(content["chosen"])
    assert content["epoch"] == EPOCHS
    assert "Frozen backbone: its features are not kept, because several processes share its work" in lines


def test_metrics_are_of_every_validation_image_once(uninterrupted: tuple[Path, list[str]], digits: Path) -> None:
    run, _ = uninterrupted
    alone = evaluated_alone(run / "last.pt", request_of(digits))
    assert sum(each.support for each in alone.classes) == VALIDATION * CLASSES
    metrics = torch.load(run / "last.pt", weights_only=True)["metrics"]
    assert {name: metrics[name] for name in alone.as_metrics()} == pytest.approx(alone.as_metrics(), abs=1e-6)


def ranks_of(launcher: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    found = {}
    for child in psutil.Process(launcher.pid).children(recursive=True):
        if "RANK" in (environment := child.environ()):
            found[int(environment["RANK"])] = child
    return found


def read_until(process: subprocess.Popen[str], place: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if place in line:
            return lines
    raise AssertionError(lines)


def test_a_worker_that_is_killed_ends_all_and_the_training_goes_on_as_if_it_had_not_been(
    uninterrupted: tuple[Path, list[str]], digits: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, request_of(digits))
    first = read_until(process, "Epoch [2/3] started")
    workers = ranks_of(process)
    workers[1].kill()
    status, last = ended(process)
    assert status == -signal.SIGKILL
    assert last[-1] == "ERROR: Worker 1 was killed by signal 9, and the training with it."
    assert not any(worker.is_running() for worker in workers.values())
    done = torch.load(tmp_path / "run/last.pt", weights_only=True)["epoch"]

    status, second = ended(start(tmp_path, request_of(digits), "--resume"))
    assert status == 0, second
    whole, whole_lines = uninterrupted
    said = [*first, *last]
    cut = said.index(f"Epoch [{done + 1}/{EPOCHS}] started")
    assert timeless(said[1:cut] + second[2:]) == timeless(whole_lines[1:])
    one, other = (torch.load(folder / "last.pt", weights_only=True) for folder in (whole, tmp_path / "run"))
    assert same(one, other)


def test_a_stop_of_one_is_one_of_all(digits: Path, tmp_path: Path) -> None:
    process = start(tmp_path, request_of(digits, num_epochs=100_000, num_workers=3))
    read_until(process, "Epoch [2/100000] started")
    workers = ranks_of(process)
    assert sorted(workers) == [0, 1, 2]
    workers[2].send_signal(signal.SIGTERM)
    status, lines = ended(process)
    assert (status, lines[-1]) == (128 + signal.SIGTERM, "WARNING: Stopped by SIGTERM")
    assert not any(worker.is_running() for worker in workers.values())


def test_images_that_any_of_them_cannot_read_are_left_out_by_all_and_named_once(digits: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(digits, root, ignore=shutil.ignore_patterns("alone"))
    broken = [*sorted((root / "train").glob("*/002.png")), *sorted((root / "val").glob("*/006.png"))]
    for path in broken:
        path.write_bytes(b"no image")
    status, lines = ended(start(tmp_path, request_of(root, num_epochs=2, max_unreadable_share=0.5)))
    assert status == 0, lines
    named = [line for line in lines if line.startswith("WARNING: Left out: ")]
    assert len(named) == len(broken) == 2 * CLASSES
    assert all(sum(str(path) in line for line in named) == 1 for path in broken)
    left_out = torch.load(tmp_path / "run/last.pt", weights_only=True)["left_out"]
    assert sorted(map(len, left_out.values())) == [CLASSES, CLASSES]


def test_a_failure_of_all_is_said_once_with_its_status(digits: Path, tmp_path: Path) -> None:
    changes = {"learning_rate": 100.0, "num_epochs": 50, "optimizer": "sgd", "warmup_epochs": 0.0}
    status, lines = ended(start(tmp_path, request_of(digits, **changes)))
    assert status == STATUS_OF_REASON["diverged"]
    assert [line for line in lines if line.startswith("ERROR: ")] == [lines[-1]]


@pytest.fixture
def _no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda images, *_: images)


@pytest.mark.usefixtures("_no_dropout")
def test_without_batch_normalisation_the_weights_are_those_of_one_process(digits: Path, tmp_path: Path) -> None:
    """Under any launcher that sets what torchrun sets."""
    changes = {"model": "squeezenet1_1", "optimizer": "sgd", "accumulate_batches": 2, "ema_decay": 0.5}
    request = request_of(digits, num_workers=None, num_epochs=2, clip_grad_norm=1.0, **changes)
    train(request, output_dir=tmp_path / "alone", device="cpu", logger=logger_and_lines()[0], should_stop=never)
    spec = tmp_path / "spec.json"
    spec.write_text(request.model_dump_json(), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = ENVIRONMENT | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "3"}
    arguments = [str(spec), "--plain", "--output-dir", str(tmp_path / "run")]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WITHOUT_DROPOUT, *arguments],
            cwd=ROOT,
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(3)
    ]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    one, other = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("alone", "run"))
    for part in ("metrics", "state_dict"):
        for name, value in one[part].items():
            torch.testing.assert_close(other[part][name], value, rtol=1e-4, atol=1e-5)
