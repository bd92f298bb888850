"""The service keeps to its own OpenAPI document, whatever is sent to it.

Thousands of requests, right ones and wrong ones, against a running service whose trainings are scripted: no 500, 503
only where it is documented, no status and no body that the document does not have.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.documents import PAIRS, ROOT, blocks_of
from tests.running_server import RunningServer

Serve = Callable[..., RunningServer]
ADDRESS = "http://127.0.0.1:8000"
FEW = ("--seed", "1", "--max-examples", "10", "--no-color")
"""Of each route, so that it takes a minute at most; without it, there are a hundred."""


def command_of(readme: Path) -> list[str]:
    """The command as the README shows it."""
    (line,) = (
        line
        for block in blocks_of(readme, "bash")
        for line in block.code.replace("\\\n", " ").splitlines()
        if line.startswith("schemathesis run")
    )
    return line.replace("'", "").split()


@pytest.fixture
def machine(tmp_path: Path, image_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders for all that requests may name; nothing outside is allowed."""
    shutil.copytree(image_folders, tmp_path / "data")
    (tmp_path / "data" / "train.log").write_text("Epoch [1/2] started\nTrain Loss: 0.5, Train Accuracy: 50%\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("app_refactored.list_gpus", list)
    return tmp_path


def test_no_request_is_answered_otherwise_than_documented(machine: Path, serve: Serve, body: dict[str, Any]) -> None:
    data = machine / "data"
    server = serve(data_roots=(data,), save_roots=(machine / "runs",), max_training_concurrent_cpu=1000)
    body |= {"train_path": str(data / "train"), "val_path": str(data / "val")}
    task_ids = ["first", "second", "third"]
    for task_id in task_ids:
        httpx.post(f"{server.url}/api/v2/training/start", json=body | {"task_id": task_id}).raise_for_status()
    known = {"body": body, "path": str(data / "train.log"), "task_ids": task_ids}

    program, *arguments = (part.replace(ADDRESS, server.url) for part in command_of(PAIRS["README"][0]))
    done = subprocess.run(
        [Path(sys.executable).parent / program, *arguments, *FEW],
        cwd=machine,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks",
            "SCHEMATHESIS_KNOWN": json.dumps(known),
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert httpx.get(f"{server.url}/api/v1/health").json()["status"] == "ok"


def test_both_languages_show_the_same_command() -> None:
    assert command_of(PAIRS["README"][1]) == command_of(PAIRS["README"][0])
