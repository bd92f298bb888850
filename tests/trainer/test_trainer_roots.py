"""What is opened lies where it may lie, whatever became of the path since it was checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.schemas import TrainingRequest
from tests.trainer.helpers import Lines, logger_and_lines, never, read, request_for, write_images
from trainer.__main__ import main
from trainer.errors import STATUS_OF_REASON, TrainingFailed
from trainer.images import UnreadableImage, read_rgb
from trainer.loop import train
from trainer.network import bare_network
from trainer.preflight import check
from trainer.roots import NotAFile, OutsideRoots, Roots, open_file
from trainer.split import load_split


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A root with images of two classes in `train` and `val`, beside it a folder `outside` of the same."""
    for name in ("inside", "outside"):
        write_images(tmp_path / name / "train", {"cat": 3, "dog": 3})
        write_images(tmp_path / name / "val", {"cat": 2, "dog": 2})
    return tmp_path / "inside"


def roots_of(inside: Path) -> Roots:
    return Roots(data=(inside,), save=(inside,))


def test_a_file_opens_where_it_lies_in_a_root(inside: Path) -> None:
    image = inside / "train/cat/000.png"
    for folders in ((), (inside,), (Path("/no/such/root"), inside / "train")):
        with open_file(image, folders) as file:
            assert file.read() == image.read_bytes()


@pytest.mark.parametrize("target", ["outside/train/cat/000.png", "outside/nothing", "outside/train", "outside-pipe"])
def test_a_link_out_of_the_roots_does_not_tell_what_is_there(inside: Path, tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "outside-pipe")
    link = inside / "train/cat/link.png"
    link.symlink_to(tmp_path / target)
    with pytest.raises(UnreadableImage) as error:
        read_rgb(link, folders=(inside,))
    assert str(error.value) == f"'{link}' cannot be read as an image: it leads out of the folders that may be read"


def test_a_name_that_begins_like_a_root_is_outside(inside: Path) -> None:
    shutil.copytree(inside, f"{inside}-2")
    with pytest.raises(OutsideRoots):
        open_file(Path(f"{inside}-2/train/cat/000.png"), (inside,))


def test_a_root_may_itself_be_a_link(inside: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(inside)
    roots = Roots(data=(tmp_path / "link",))
    open_file(tmp_path / "link/train/cat/000.png", roots.data).close()


def test_a_folder_is_no_file(inside: Path) -> None:
    with pytest.raises(NotAFile, match="no regular file"):
        open_file(inside)


def test_an_image_is_looked_at_after_it_was_opened(inside: Path, tmp_path: Path) -> None:
    """A check of the path alone passes while the folder is one, and opens what a link in its place leads to."""
    split = load_split(
        request_for(inside, max_unreadable_share=0.5),
        "train_path",
        logger=logger_and_lines()[0],
        folders=roots_of(inside).data,
    )
    assert read(split, 0) is not None
    (inside / "train/cat").rename(inside / "moved")
    (inside / "train/cat").symlink_to(tmp_path / "outside/train/cat")
    assert isinstance(read_rgb(split.paths[1]), Image.Image), "without roots there is nothing to leave"
    assert read(split, 1) is None


def test_a_class_that_leads_out_of_the_roots_holds_nothing(inside: Path, tmp_path: Path) -> None:
    shutil.rmtree(inside / "train/cat")
    (inside / "train/cat").symlink_to(tmp_path / "outside/train/cat")
    assert check(request_for(inside)) == []
    (problem,) = check(request_for(inside), roots_of(inside))
    assert (problem.field, problem.code) == ("train_path", "empty_class")


def test_data_and_weights_outside_are_problems_before_the_training(inside: Path, tmp_path: Path) -> None:
    weights = tmp_path / "outside/weights.pt"
    request = request_for(inside, weight_path=str(weights), val_path=str(tmp_path / "outside/val"))
    expected = [("val_path", "path_forbidden"), ("weight_path", "path_forbidden")]
    for exists in (False, True):
        if exists:
            weights.touch()
        problems = check(request, roots_of(inside))
        assert [(problem.field, problem.code) for problem in problems] == expected


def exchanging(inside: Path, exchange: Callable[[], object], at: str) -> tuple[TrainingFailed, Lines]:
    """Train within roots; `exchange` happens when line `at` is said."""
    logger, lines = logger_and_lines()
    done = False

    def should_stop() -> bool:
        nonlocal done
        if not done and any(line.startswith(at) for line in lines.messages):
            exchange()
            done = True
        return False

    with pytest.raises(TrainingFailed) as failure:
        train(
            request_for(inside, num_epochs=3),
            output_dir=inside / "run",
            device="cpu",
            logger=logger,
            should_stop=should_stop,
            roots=roots_of(inside),
        )
    assert lines.at("ERROR") == [str(failure.value)]
    assert failure.value.reason in STATUS_OF_REASON
    return failure.value, lines


def test_an_output_folder_that_was_exchanged_for_a_link_is_not_written_to(inside: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()

    def exchange() -> None:
        (inside / "run").rename(inside / "moved")
        (inside / "run").symlink_to(tmp_path / "target")

    failure, _ = exchanging(inside, exchange, "Epoch [2/3] started")
    assert failure.reason == "path_forbidden"
    assert list((tmp_path / "target").iterdir()) == []
    assert torch.load(inside / "moved/last.pt", weights_only=True)["epoch"] == 1


def test_an_output_folder_that_vanished_is_said(inside: Path, tmp_path: Path) -> None:
    failure, _ = exchanging(inside, lambda: shutil.rmtree(inside / "run"), "Epoch [2/3] started")
    assert failure.reason == "not_saved"
    assert "No such file or directory" in str(failure)


def test_data_that_was_exchanged_for_a_link_is_not_read(inside: Path, tmp_path: Path) -> None:
    def exchange() -> None:
        (inside / "train").rename(inside / "moved")
        (inside / "train").symlink_to(tmp_path / "outside/train")

    failure, _ = exchanging(inside, exchange, "Epoch [2/3] started")
    assert failure.reason == "unreadable_image"
    assert "it leads out of the folders that may be read" in str(failure)


def trained(request: TrainingRequest, output_dir: Path, roots: Roots) -> None:
    logger, _ = logger_and_lines()
    train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=never, roots=roots)


def test_an_output_folder_outside_is_not_even_made(inside: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed) as failure:
        trained(request_for(inside), tmp_path / "outside/run", roots_of(inside))
    assert failure.value.reason == "path_forbidden"
    assert not (tmp_path / "outside/run").exists()


def test_weights_may_lie_among_the_data_and_among_the_checkpoints(inside: Path, tmp_path: Path) -> None:
    state = bare_network("shufflenet_v2_x0_5", 2, 32).state_dict()
    for folder in ("inside", "saved", "outside"):
        (tmp_path / folder).mkdir(exist_ok=True)
        torch.save(state, tmp_path / folder / "weights.pt")
    roots = Roots(data=(inside,), save=(tmp_path / "saved",))
    for folder in ("inside", "saved"):
        request = request_for(inside, weight_path=str(tmp_path / folder / "weights.pt"))
        trained(request, tmp_path / "saved/run", roots)
    (inside / "link.pt").symlink_to(tmp_path / "outside/weights.pt")
    with pytest.raises(TrainingFailed) as failure:
        trained(request_for(inside, weight_path=str(inside / "link.pt")), tmp_path / "saved/run", roots)
    assert failure.value.reason == "path_forbidden"


def test_roots_can_be_given_on_the_command_line(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(request_for(inside).model_dump_json(), encoding="utf-8")
    command = [str(spec), "--plain", "--output-dir", str(inside / "run")]
    elsewhere = ["--save-root", str(tmp_path / "outside"), "--save-root", str(tmp_path / "outside/train")]
    assert main([*command, "--data-root", str(inside), "--save-root", str(inside)]) == 0
    assert main([*command, *elsewhere]) == STATUS_OF_REASON["path_forbidden"]
    assert main([*command, "--data-root", str(tmp_path / "outside")]) == STATUS_OF_REASON["path_forbidden"]
    assert "leads out of the folders that may be read" in capsys.readouterr().out
