"""What the demonstration stands on: its data, its service, its display."""

from __future__ import annotations

import io
import socket
from collections import Counter
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from client import TrainingClient, display
from client.demo import digits, local_service
from client.demo.local_service import NoServiceError, answers, free_url, service_at
from models.schemas import StoredLogEntry, TaskResponse
from tests.client.log_server import Log, serving


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address where a stand-in for the service would start."""
    monkeypatch.setattr(local_service, "APP", Path(__file__).with_name("fake_app.py"))
    return free_url()


def test_digits_are_split_evenly_and_always_the_same(tmp_path: Path) -> None:
    train, val = digits.digit_folders(tmp_path / "data")
    images = {part: sorted(part.rglob("*.png")) for part in (train, val)}
    assert (len(images[train]), len(images[val])) == (1437, 360)
    shares = Counter(image.parent.name for image in images[val])
    assert sorted(shares) == [str(digit) for digit in range(10)]
    assert max(shares.values()) - min(shares.values()) <= 3
    with Image.open(images[val][0]) as image:
        assert (image.size, image.mode, image.getextrema()) == ((8, 8), "L", (0, 255))

    again = digits.digit_folders(tmp_path / "again")[1]
    names = [image.relative_to(val) for image in images[val]]
    assert names == sorted(image.relative_to(again) for image in again.rglob("*.png"))
    assert all((val / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_digits_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def write(folder: Path) -> None:
        made.append(folder)
        folder.mkdir()

    monkeypatch.setattr(digits, "_write_digits", write)
    digits.digit_folders(tmp_path / "data")
    digits.digit_folders(tmp_path / "data")
    assert len(made) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


def test_digits_that_are_half_made_are_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        (folder / "train").mkdir()
        raise OSError("disk full")

    monkeypatch.setattr(digits, "_write_digits", fail)
    with pytest.raises(OSError, match="disk full"):
        digits.digit_folders(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_two_runs_make_the_digits_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slower(folder: Path) -> None:
        folder.mkdir()
        (folder / "slower").touch()
        (tmp_path / "data" / "train").mkdir(parents=True)  # the other run is done first

    monkeypatch.setattr(digits, "_write_digits", slower)
    train, _ = digits.digit_folders(tmp_path / "data")
    assert train.is_dir()
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


def test_a_service_is_started_and_ended(fake: str, tmp_path: Path) -> None:
    said: list[str] = []
    with service_at(fake, tmp_path, say=said.append) as process:
        assert process is not None
        assert answers(fake)
        with service_at(fake, tmp_path, say=said.append) as second:
            assert second is None
        assert answers(fake)
    assert process.returncode == 0
    assert not answers(fake)
    assert (tmp_path / "service.log").read_text().endswith("goodbye\n")
    assert len(said) == 1


def test_a_service_that_ends_at_its_start(fake: str, tmp_path: Path) -> None:
    with (
        pytest.raises(NoServiceError, match="did not start: the address is taken"),
        service_at(fake, tmp_path, environment={"FAKE": "dies"}),
    ):
        pass


def test_a_service_elsewhere_is_not_started_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_service, "answers", lambda *_: False)
    for url in ("http://192.0.2.1:1", "https://127.0.0.1:1", "http://127.0.0.1:1/prefix"):
        with pytest.raises(NoServiceError, match="No training service answers"), service_at(url, tmp_path):
            pass


def test_something_else_answers(tmp_path: Path) -> None:
    with (
        serving(Log(["a"])) as url,
        pytest.raises(NoServiceError, match=r"answers at .*not the training service"),
        service_at(url, tmp_path),
    ):
        pass


def test_something_that_speaks_no_http_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            for _ in range(2):  # the question for its health, the look whether anything listens
                connection, _address = listener.accept()
                connection.sendall(b"220 mail\r\n")
                connection.close()

        thread = Thread(target=greet)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(NoServiceError, match="Something listens"), service_at(url, tmp_path):
            pass
        thread.join()


def line(number: int, message: str, **more: object) -> StoredLogEntry:
    entry = {"timestamp": "2025-01-01T00:00:00", "level": "INFO", "message": message, "id": number, **more}
    return StoredLogEntry.model_validate(entry)


def task(status: str, progress: int = 0) -> TaskResponse:
    now = "2025-01-01T00:00:00"
    fields = {"task_id": "t", "status": status, "progress": progress, "device": "cpu"}
    return TaskResponse.model_validate({**fields, "created_at": now, "updated_at": now})


LINES = [
    line(1, "Epoch [1/2] started", metrics={"epoch": 1, "total_epochs": 2}),
    line(2, "Step [1/9]", metrics={"epoch": 1, "total_steps": 9, "throughput": 840.4, "eta": 2.2}, step=1),
    line(3, "[bold]it is \x1b[31mhot\x1b[0m\x1b[2J\x07", level="WARNING"),
    line(4, "Train Loss: 0.5", metrics={"epoch": 1, "train_loss": 0.5, "train_acc": 82.45, "val_loss": None}),
    line(5, "Epoch [2/2] started", metrics={"epoch": 2}),
    line(6, "Train Loss: 0.25", metrics={"epoch": 2, "train_loss": 0.25, "learning_rate": 1e-3}),
]


def test_plain_lines_where_there_is_no_terminal() -> None:
    output = io.StringIO()
    with display.board_for(Console(file=output, width=80)) as board:
        assert isinstance(board, display.PlainBoard)
        board.update(task("queued"))
        board.update(task("running"))
        for entry in LINES:
            board.add(entry)
        board.update(task("completed", 100))
    assert output.getvalue().splitlines() == [
        "The training is queued.",
        "The training is running.",
        "WARNING: [bold]it is hot",
        "epoch 1/2: train_loss 0.5000, train_acc 82.45%, val_loss -",
        "epoch 2/2: train_loss 0.2500, learning_rate 1.00e-03",
        "The training is completed.",
    ]


def test_a_plain_line_when_nothing_else_was_said_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    monkeypatch.setattr(display, "PLAIN_INTERVAL", 0.0)
    board = display.PlainBoard(Console(file=output, width=80))
    board.update(task("running", 5))
    board.add(LINES[0])
    board.add(LINES[1])
    assert output.getvalue().splitlines()[-1] == "  5% epoch 1/2, step 1/9, 840 images/s, 2 s to the epoch's end"


def test_a_live_picture_on_a_terminal() -> None:
    output = io.StringIO()
    console = Console(file=output, width=100, height=40, force_terminal=True, color_system=None)
    with display.LiveBoard(console) as board:
        board.update(task("queued"))
        for entry in LINES[:3]:
            board.add(entry)
        console.print("above")
        board.update(task("running", 55))
        board.add(LINES[1])
    picture = output.getvalue()
    assert "55% epoch 1/2, step 1/9, 840 images/s, 2 s to the epoch's end" in picture
    assert "epoch  train_loss  train_acc" in picture
    assert "    3 [bold]it is hot" in picture
    assert "\x07" not in picture


def test_the_picture_fits_a_common_terminal() -> None:
    output = io.StringIO()
    console = Console(file=output, width=80, height=40, force_terminal=True, color_system=None)
    with display.LiveBoard(console) as board:
        for entry in LINES:
            board.add(entry)
    assert "learning" not in output.getvalue()
    assert "epoch  train_loss  train_acc  val_loss  val_acc  macro_f1  mAP  lr" in output.getvalue()


def test_a_client_sees_the_stand_in(fake: str, tmp_path: Path) -> None:
    """Holds the stand-in to the contract, so that tests with it mean something."""
    with service_at(fake, tmp_path, say=lambda _: None), TrainingClient(fake) as client:
        assert client.health().status == "ok"
        assert client.wait("t").status == "completed"


@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=50))
def test_nothing_that_is_said_steers_the_terminal_or_looks_like_two_lines(text: str) -> None:
    output = io.StringIO()
    display.say(Console(file=output, width=80, force_terminal=True), f"[red]{text}\x1b]0;title\x07\r\nWARNING: forged")

    (line,) = output.getvalue().split("\n")[:-1]
    assert line.isprintable()
    assert line.startswith("[red]")
