"""The command line says what is wrong in a sentence, and its exit status says how a training ended."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.helpers import request_for, write_images
from trainer import loop
from trainer.__main__ import main, resolve_device
from trainer.errors import REASON_OF_STATUS, STATUS_OF_REASON, TrainingFailed, TrainingStopped


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Put back what `main` replaces."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_images(tmp_path / "train", {"cat": 3, "dog": 3})
    write_images(tmp_path / "val", {"cat": 1, "dog": 1})
    return tmp_path


def spec(root: Path, **changes: Any) -> str:
    request = request_for(root, **{"name": "first"} | changes)
    path = root / "spec.json"
    path.write_text(request.model_dump_json(), encoding="utf-8")
    return str(path)


def test_a_training_completes_with_its_lines_on_stdout(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([spec(root)]) == 0
    printed = capsys.readouterr()
    for line in printed.out.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - (INFO|WARNING) - \S", line)
    assert "INFO - Epoch [1/1] started" in printed.out
    assert printed.err == ""
    assert (root / "runs/first/best.pt").is_file()


def test_a_field_that_nobody_knows_is_told_of(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([spec(root, lr=0.1)]) == 0
    assert "WARNING - Unknown field 'lr' was ignored." in capsys.readouterr().out


def test_without_a_name_every_run_has_a_folder_of_its_own(root: Path) -> None:
    assert main([spec(root, name=None, task_id="task-1")]) == 0
    assert main([spec(root, name=None)]) == 0
    assert main([spec(root, name=None)]) == 0
    names = sorted(path.name for path in (root / "runs").iterdir())
    assert len(names) == 3
    assert names[-1] == "task-1"
    assert all(re.fullmatch(r"shufflenet_v2_x0_5-\d{8}-\d{6}-\d{6}", name) for name in names[:2])


def test_an_existing_run_is_not_overwritten(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "runs/first").mkdir(parents=True)
    assert main([spec(root)]) == 2
    assert re.fullmatch(
        r"'.*/runs/first' exists and is not overwritten: choose another name\.\n", capsys.readouterr().err
    )
    assert list((root / "runs/first").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_bad_request(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([spec(root, save_path=str(root / "train/cat/000.png"))]) == 2
    assert "cannot be created: Not a directory." in capsys.readouterr().err


def test_what_the_preflight_finds_is_a_bad_request(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([spec(root, model="resnet_18", num_classes=5)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("model: There is no network 'resnet_18': did you mean resnet18")
    assert "\nnum_classes: " in error
    assert not (root / "runs").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "valid dictionary"),
        (b'{"model": "resnet18"}', "num_classes: Field required"),
        (None, "cannot be read: No such file or directory."),
    ],
)
def test_a_specification_that_is_none_is_a_bad_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "spec.json").write_bytes(content)
    assert main([str(tmp_path / "spec.json")]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(("reason", "status"), [("of_some_kind", 1), *STATUS_OF_REASON.items()])
def test_a_failure_ends_with_the_status_of_its_reason(
    root: Path, monkeypatch: pytest.MonkeyPatch, reason: str, status: int
) -> None:
    def fail(*_arguments: object, **_named: object) -> None:
        raise TrainingFailed(reason, "it failed")

    monkeypatch.setattr(loop, "train", fail)
    assert main([spec(root)]) == status


def test_every_reason_has_a_status_that_means_nothing_else() -> None:
    assert len(REASON_OF_STATUS) == len(STATUS_OF_REASON)
    assert REASON_OF_STATUS.keys().isdisjoint({0, 1, 2, *range(126, 256)}), "shells and signals have these"


def test_a_folder_and_a_device_can_be_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called_with: dict[str, Any] = {}
    monkeypatch.setattr(loop, "train", lambda _request, **named: called_with.update(named))
    claimed = root / "claimed"
    claimed.mkdir()
    assert main([spec(root, device="cuda:7"), "--output-dir", str(claimed), "--device", "cpu"]) == 0
    assert called_with["output_dir"] == claimed
    assert called_with["device"] == "cpu"
    assert not (root / "runs").exists()


def test_plain_lines_are_bare_messages_and_warnings_say_what_they_are(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def print_lines(*_arguments: object, logger: logging.Logger, **_named: object) -> None:
        logger.info("Epoch [1/1] started")
        logger.warning("one\ntwo")
        logger.error("100% wrong")

    monkeypatch.setattr(loop, "train", print_lines)
    assert main([spec(root), "--plain"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Epoch [1/1] started",
        "WARNING: one",
        "WARNING: two",
        "ERROR: 100% wrong",
    ]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_a_stop(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signum: signal.Signals,
    status: int,
) -> None:
    def train_until_stopped(*_arguments: object, should_stop: Any, **_named: object) -> None:
        assert not should_stop()
        signal.raise_signal(signum)
        assert should_stop()
        assert signal.getsignal(signum) is signal.SIG_DFL, "a second signal must not wait"
        raise TrainingStopped

    monkeypatch.setattr(loop, "train", train_until_stopped)
    assert main([spec(root)]) == status
    assert f"WARNING - Stopped by {signum.name}" in capsys.readouterr().out


def test_a_process_stops_within_a_batch_and_its_checkpoint_is_whole(root: Path) -> None:
    command = [sys.executable, "-u", "-m", "trainer", spec(root, num_epochs=100_000)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Epoch [2/100000] started" in line:
                break
        process.terminate()
        started = time.monotonic()
        rest = process.stdout.read()
        assert process.wait() == 143
        assert time.monotonic() - started < 15
    assert rest.rstrip().endswith("WARNING - Stopped by SIGTERM")
    assert torch.load(root / "runs/first/last.pt", weights_only=True)["epoch"] >= 1


def test_a_training_is_resumed_in_its_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([spec(root)]) == 0
    capsys.readouterr()
    assert main([spec(root), "--plain", "--resume"]) == 0
    assert main([spec(root, name=None), "--plain", "--resume", "--output-dir", str(root / "runs/first")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == said[2] == "Resuming from last.pt: epochs 1 to 1 of 1 are done"
    assert said[1].startswith("Training complete.")
    assert [path.name for path in (root / "runs").iterdir()] == ["first"]


def test_a_resume_without_a_folder_is_a_bad_request(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([spec(root, name=None), "--resume"]) == 2
    assert "give --output-dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "count", "expected"),
    [("cpu", 0, "cpu"), ("cpu", 2, "cpu"), ("cuda", 2, "cuda:0"), ("cuda:1", 2, "cuda:1"), ("cuda", 0, "cpu")],
)
def test_a_device_is_resolved(monkeypatch: pytest.MonkeyPatch, wanted: str, count: int, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert resolve_device(wanted, logging.Logger("test")) == expected


def test_training_on_the_cpu_for_want_of_a_gpu_is_said(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([spec(root, device="cuda")]) == 0
    assert "WARNING - No GPU found: training on the CPU" in capsys.readouterr().out


def test_a_gpu_that_is_not_there_is_a_bad_request(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([spec(root, device="cuda:7")]) == 2
    assert "there is no cuda:7, this machine has 0 GPUs" in capsys.readouterr().err
    assert not (root / "runs").exists()


def test_help_shows_a_specification_that_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    example = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert {"model", "num_classes", "train_path", "val_path", "save_path"} <= example.keys()
