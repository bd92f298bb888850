"""What a task was asked for and has left behind, over HTTP."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.api.conftest import Start
from tests.api.viewer import Event
from tests.running_server import RunningServer
from trainer.class_report import report
from trainer.evaluation import evaluate

TRAINING = "/api/v2/training"


@pytest.fixture
def ended(train: Any, server: RunningServer) -> tuple[str, Path]:
    """An ended training, and its folder with a checkpoint in it."""
    task_id, _ = train("one line", "<b>another</b>")
    folder = Path(server.service.get_task(task_id).output_dir)
    (folder / "best.pt").write_bytes(bytes(range(256)) * 4)
    return task_id, folder


def names(http: httpx.Client, task_id: str) -> list[str]:
    answer = http.get(f"{TRAINING}/{task_id}/artifacts")
    assert answer.status_code == 200, answer.text
    return [each["name"] for each in answer.json()["artifacts"]]


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


class TestRequest:
    def test_a_training_is_started_again_from_it(self, http: httpx.Client, train: Any, body: dict[str, Any]) -> None:
        task_id, _ = train("a line", learning_rate=0.5)
        answer = http.get(f"{TRAINING}/{task_id}/request").json()
        assert (answer["task_id"], answer["kind"]) == (task_id, "training")
        assert answer["request"] == {**body, "learning_rate": 0.5}

    def test_secrets_of_a_command_are_not_told(self, serve_module: Any, tmp_path: Path) -> None:
        with httpx.Client(base_url=serve_module(allow_commands=True).url) as http:
            command = {"command": ["true"], "working_dir": str(tmp_path), "env": {"TOKEN": "hunter2"}, "task_id": "c"}
            http.post(f"{TRAINING}/start", json=command).raise_for_status()
            answer = http.get(f"{TRAINING}/c/request")
        assert answer.json()["kind"] == "command"
        assert answer.json()["request"]["env"] == {"TOKEN": ""}
        assert "hunter2" not in answer.text


class TestEvaluation:
    def test_it_is_that_of_the_best_epoch(self, http: httpx.Client, ended: tuple[str, Path]) -> None:
        task_id, folder = ended
        evaluation = evaluate(torch.eye(2), torch.tensor([0, 0]))
        (folder / "evaluation.json").write_bytes(report(evaluation, 3, ["<img>", "\udcff"]))
        answer = http.get(f"{TRAINING}/{task_id}/evaluation").json()
        assert (answer["epoch"], answer["classes"]) == (3, ["<img>", "\\udcff"])
        assert answer["confusion_matrix"] == [[1, 1], [0, 0]]
        assert answer["per_class"][1] == {
            "class": "\\udcff",
            "support": 0,
            "precision": 0.0,
            "recall": 0.0,
            "f1": 0.0,
            "ap": None,
        }

    def test_one_of_another_network_than_the_best_checkpoint_is_none(
        self, http: httpx.Client, ended: tuple[str, Path]
    ) -> None:
        """The trainer was killed between the two files."""
        task_id, folder = ended
        evaluation = evaluate(torch.eye(2), torch.tensor([0, 1]))
        (folder / "best.pt").write_bytes(b"PK...sha256:" + b"0" * 64)
        for checksum, status in (("sha256:" + "0" * 64, 200), ("sha256:" + "1" * 64, 404)):
            (folder / "evaluation.json").write_bytes(report(evaluation, 1, ["a", "b"], checkpoint=checksum))
            assert http.get(f"{TRAINING}/{task_id}/evaluation").status_code == status

    @pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"epoch": 1}', b"\xff"])
    def test_without_one_it_says_so(self, http: httpx.Client, ended: tuple[str, Path], content: bytes | None) -> None:
        task_id, folder = ended
        if content is not None:
            (folder / "evaluation.json").write_bytes(content)
        assert code(http.get(f"{TRAINING}/{task_id}/evaluation")) == (404, "no_evaluation")


class TestArtifacts:
    def test_checkpoints_and_the_log_are_listed_and_served(self, http: httpx.Client, ended: tuple[str, Path]) -> None:
        task_id, folder = ended
        (listed,) = [
            each
            for each in http.get(f"{TRAINING}/{task_id}/artifacts").json()["artifacts"]
            if each["name"] == "best.pt"
        ]
        assert (listed["kind"], listed["size"]) == ("checkpoint", 1024)
        answer = http.get(f"{TRAINING}/{task_id}/artifacts/best.pt")
        assert answer.content == (folder / "best.pt").read_bytes()
        assert answer.headers["content-disposition"] == 'attachment; filename="best.pt"'
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"

    def test_a_download_that_was_cut_off_goes_on(self, http: httpx.Client, ended: tuple[str, Path]) -> None:
        task_id, folder = ended
        part = http.get(f"{TRAINING}/{task_id}/artifacts/best.pt", headers={"Range": "bytes=1000-"})
        assert (part.status_code, part.content) == (206, (folder / "best.pt").read_bytes()[1000:])
        beyond = http.get(f"{TRAINING}/{task_id}/artifacts/best.pt", headers={"Range": "bytes=5000-"})
        assert code(beyond) == (416, "range_not_satisfiable")
        assert beyond.headers["content-range"] == "bytes */1024"

    @pytest.mark.parametrize("written", ["bytes=abc", "bytes=", "lines=1-2", "1-2", "bytes=9-3"])
    def test_a_range_that_is_none_is_told_how_to_write_one(
        self, http: httpx.Client, ended: tuple[str, Path], written: str
    ) -> None:
        answer = http.get(f"{TRAINING}/{ended[0]}/artifacts/best.pt", headers={"Range": written})
        assert code(answer) == (400, "invalid_range")
        assert "bytes=FIRST-LAST" in answer.json()["detail"]

    def test_the_log_is_always_whole_and_says_so(self, http: httpx.Client, train: Any) -> None:
        task_id, _ = train("one line")
        whole = http.get(f"{TRAINING}/{task_id}/artifacts/log.txt")
        part = http.get(f"{TRAINING}/{task_id}/artifacts/log.txt", headers={"Range": "bytes=5-"})
        assert (part.status_code, part.content) == (200, whole.content)
        assert part.headers["accept-ranges"] == "none"

    def test_the_log_is_text_line_by_line(self, http: httpx.Client, train: Any) -> None:
        task_id, events = train(*(f"line {number}" for number in range(1500)))
        answer = http.get(f"{TRAINING}/{task_id}/artifacts/log.txt")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.text.splitlines() == [_message(event) for event in events]

    def test_what_is_hidden_or_no_file_is_neither_listed_nor_served(
        self, http: httpx.Client, ended: tuple[str, Path], tmp_path: Path
    ) -> None:
        task_id, folder = ended
        (tmp_path / "secret").write_text("hunter2")
        (folder / "link.pt").symlink_to(tmp_path / "secret")
        (folder / ".best.pt.partial").write_text("half")
        (folder / "folder").mkdir()
        os.mkfifo(folder / "pipe")
        (folder / "two\nlines").write_text("")
        assert names(http, task_id) == ["log.txt", "best.pt"]
        for name in ("link.pt", ".best.pt.partial", "folder", "pipe", "two%0Alines", "none", "..%2fsecret", "%2e%2e"):
            answer = http.get(f"{TRAINING}/{task_id}/artifacts/{name}")
            assert answer.status_code == 404, name
            assert "hunter2" not in answer.text

    def test_a_page_among_them_is_a_download(self, http: httpx.Client, ended: tuple[str, Path]) -> None:
        task_id, folder = ended
        (folder / "page.html").write_text("<script>alert(1)</script>")
        answer = http.get(f"{TRAINING}/{task_id}/artifacts/page.html")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment")

    def test_a_folder_that_is_gone_leaves_the_log(self, http: httpx.Client, ended: tuple[str, Path]) -> None:
        task_id, folder = ended
        folder.rename(folder.with_name("elsewhere"))
        assert names(http, task_id) == ["log.txt"]

    def test_a_folder_that_leads_out_of_the_roots_is_refused(
        self, serve_module: Any, body: dict[str, Any], start: Start, tmp_path: Path, image_folders: Path
    ) -> None:
        allowed = tmp_path / "allowed"
        allowed.mkdir()
        server = serve_module(save_roots=(allowed,), data_roots=(image_folders,))
        with httpx.Client(base_url=server.url) as http:
            task_id = start(http, save_path=str(allowed), task_id="moved")
            folder = Path(server.service.get_task(task_id).output_dir)
            outside = folder.rename(tmp_path / "outside")
            (outside / "best.pt").write_text("hunter2")
            folder.symlink_to(outside)
            for route in ("artifacts", "artifacts/best.pt", "evaluation"):
                assert code(http.get(f"{TRAINING}/{task_id}/{route}")) == (403, "path_forbidden")

    def test_open_files_are_closed(self, http: httpx.Client, ended: tuple[str, Path]) -> None:
        task_id, folder = ended
        for _ in range(5):
            http.get(f"{TRAINING}/{task_id}/artifacts/best.pt", headers={"Range": "bytes=9999-"})
            http.get(f"{TRAINING}/{task_id}/artifacts/best.pt")
        with suppress(FileNotFoundError):  # others come and go meanwhile
            opened = [each.readlink() for each in Path("/proc/self/fd").iterdir()]
            assert folder / "best.pt" not in opened


def _message(event: Event) -> str:
    return str(event.entry["message"])
