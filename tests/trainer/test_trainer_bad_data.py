"""A training lives with a few broken images, says which, and does not live with many."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.schemas import TrainingRequest
from tests.trainer.helpers import (
    Lines,
    logger_and_lines,
    never,
    read,
    request_for,
    same,
    split_of,
    write_digits,
    write_images,
)
from trainer.checkpoint import load_classifier
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.images import MAX_PIXELS, UnreadableImage, read_rgb
from trainer.loop import TrainingResult, train
from trainer.preflight import check
from trainer.split import load_split


def png_of(width: int, height: int) -> bytes:
    """A few bytes that ask for `width` x `height` pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-1000])


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncated, "image file is truncated bytes not processed"),
    "empty": (Path.touch, "it is no image of a known format"),
    "html": (lambda path: path.write_text("<!DOCTYPE html><title>404"), "it is no image of a known format"),
    "postscript": (lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "it is no image"),
    "bomb": (lambda path: path.write_bytes(png_of(60_000, 60_000)), "it has too many pixels"),
    "small bomb": (lambda path: path.write_bytes(png_of(MAX_PIXELS // 1000 + 1, 1000)), "it has too many pixels"),
    "pipe": (pipe, "it is no regular file"),
    "device": (device, "it is no regular file"),
    "loop": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "gone": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
}


bombs_are_ours = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
"""As `trainer.images` has it outside of pytest, which sets all filters anew."""


@bombs_are_ours
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named_with_what_is_wrong(tmp_path: Path, kind: str) -> None:
    make, reason = BROKEN[kind]
    make(tmp_path / "broken.jpg")
    with pytest.raises(UnreadableImage, match=rf"'.*/broken\.jpg' cannot be read as an image: {reason}"):
        read_rgb(tmp_path / "broken.jpg")


def test_an_image_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    """By whoever the trainer runs as; root may read anything, and is somebody else for the moment."""
    write_images(tmp_path, {"cat": 1})
    path = tmp_path / "cat/000.png"
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(UnreadableImage, match="Permission denied"):
            read_rgb(path)
    finally:
        os.seteuid(user)


@bombs_are_ours
def test_a_large_photograph_that_is_decoded_small_is_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("L", (12_000, 8_000)).save(path)
    assert MAX_PIXELS < 12_000 * 8_000
    assert read_rgb(path, at_least=448).size == (1_500, 1_000)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        read_rgb(path)


def test_a_process_without_descriptors_blames_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, {"cat": 1})

    def exhausted(*_arguments: object, **_named: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", exhausted)
    with pytest.raises(OSError, match="Too many open files") as error:
        read_rgb(tmp_path / "cat/000.png")
    assert not isinstance(error.value, UnreadableImage)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six classes with five training and two validation images each; none is named 9.*"""
    return write_digits(tmp_path, training=5, validation=2, classes=6)


def trained(request: TrainingRequest, output_dir: Path, *, resume: bool = False) -> tuple[TrainingResult, Lines]:
    logger, lines = logger_and_lines()
    result = train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=never, resume=resume)
    return result, lines


def failure_of(request: TrainingRequest, output_dir: Path) -> tuple[TrainingFailed, Lines]:
    logger, lines = logger_and_lines()
    with pytest.raises(TrainingFailed) as failure:
        train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=never)
    assert lines.at("ERROR") == [str(failure.value)]
    return failure.value, lines


def without_timings(lines: Lines) -> list[str]:
    return [re.sub(r"finished in [\d.]+s", "", message) for message in lines.messages]


@bombs_are_ours
def test_broken_images_are_left_out_with_one_line_each(root: Path, tmp_path: Path) -> None:
    for number, (make, _) in enumerate(BROKEN.values()):
        make(root / f"train/{number % 6}/broken{number}.jpg")
    (root / "val/0/broken.jpg").touch()
    (root / "val/5/broken.jpg").touch()
    request = request_for(root, num_classes=6, num_epochs=2, max_unreadable_share=0.3)
    _, lines = trained(request, tmp_path / "run")

    assert lines.messages[0].startswith(
        "Training shufflenet_v2_x0_5 on cpu: 40 training and 14 validation images, 6 classes"
    )
    warnings = lines.at("WARNING")
    assert all(re.fullmatch(r"Left out: '\S+' cannot be read as an image: [A-Za-z ]+", line) for line in warnings)
    named = sorted(line.split("'")[1] for line in warnings)
    assert named == sorted(str(path) for path in root.rglob("broken*.jpg"))


def test_a_training_with_broken_images_measures_the_others(root: Path, tmp_path: Path) -> None:
    """Left out, they change no other image's part: validation is as without them."""
    request = request_for(root, num_classes=6, max_unreadable_share=0.5, learning_rate=1e-9, weight_decay=0)
    _, clean = trained(request, tmp_path / "clean")
    for number in range(3):
        (root / f"val/{number}/!.png").touch()
        (root / f"val/{number}/middle.png").touch()
    _, broken = trained(request, tmp_path / "broken")
    assert [line for line in broken.messages if line.startswith("Validation")] == [
        line for line in clean.messages if line.startswith("Validation")
    ]


def test_a_training_with_broken_images_is_the_same_every_time(root: Path, tmp_path: Path) -> None:
    for number in (0, 2):
        (root / f"train/{number}/broken.png").touch()
    request = request_for(root, num_classes=6, num_epochs=3, max_unreadable_share=0.2)
    _, once = trained(request, tmp_path / "once")
    _, again = trained(request, tmp_path / "again")
    assert without_timings(once) == without_timings(again)
    contents = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("once", "again")]
    assert same(*contents)


def test_a_resumed_training_leaves_out_the_same_images_and_names_them_once(root: Path, tmp_path: Path) -> None:
    """Also where a file vanished: the others keep their places in the order."""

    request = request_for(root, num_classes=6, num_epochs=3, max_unreadable_share=0.2)
    image, content = root / "train/1/002.png", (root / "train/1/002.png").read_bytes()
    (root / "val/3/\udcffbroken.png").touch()

    def until(lines: Lines, line: str) -> Callable[[], bool]:
        def should_stop() -> bool:
            if "Epoch [1/3] started" in lines.messages:
                image.unlink(missing_ok=True)
            return line in lines.messages

        return should_stop

    logger, whole = logger_and_lines()
    train(request, output_dir=tmp_path / "whole", device="cpu", logger=logger, should_stop=until(whole, "never"))
    image.write_bytes(content)
    logger, first = logger_and_lines()
    with pytest.raises(TrainingStopped):
        train(
            request,
            output_dir=tmp_path / "cut",
            device="cpu",
            logger=logger,
            should_stop=until(first, "Epoch [2/3] started"),
        )
    _, rest = trained(request, tmp_path / "cut", resume=True)

    assert len(whole.at("WARNING")) == len(first.at("WARNING")) == 2
    assert rest.at("WARNING") == []
    begun = first.messages.index("Epoch [2/3] started")
    assert without_timings(first)[:begun] + without_timings(rest)[2:] == without_timings(whole)
    contents = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "cut")]
    assert same(*contents)


@pytest.mark.parametrize(("share", "bad", "fails"), [(0, 1, True), (0.1, 1, False), (0.1, 2, True), (1, 8, False)])
def test_more_broken_images_than_allowed_are_a_failure(tmp_path: Path, share: float, bad: int, fails: bool) -> None:
    """Of ten in all. A share of nothing fails at the first."""
    write_images(tmp_path, {"cat": 5, "dog": 5})
    logger, lines = logger_and_lines()
    split = split_of(tmp_path, logger, max_unreadable_share=share)
    broken = [0, 5, 1, 6, 2, 7, 3, 8][:bad]
    for index in broken:
        split.paths[index].write_bytes(b"")
    for index in broken[:-1]:
        assert read(split, index) is None
    if not fails:
        assert read(split, broken[-1]) is None
        assert len(lines.at("WARNING")) == bad
        assert split.indices == sorted(set(range(10)) - set(broken))
        return
    with pytest.raises(
        TrainingFailed, match=rf"More images in train_path cannot be read .*, namely {bad} out of 10"
    ) as failure:
        read(split, broken[-1])
    assert failure.value.reason == "unreadable_image"
    assert "max_unreadable_share" in str(failure.value)
    assert split.paths[broken[-1]].name in str(failure.value)


@pytest.mark.parametrize(("images", "share"), [(100, 0.29), (50, 0.14), (20, 0.05), (3, 1 / 3)])
def test_a_share_is_counted_without_rounding(tmp_path: Path, images: int, share: float) -> None:
    """0.29 of 100 images are 29, although 0.29 * 100 is less."""
    write_images(tmp_path, {"cat": images - 1, "dog": 1})
    split = split_of(tmp_path, max_unreadable_share=share)
    allowed = round(images * share)
    for path in split.paths[: allowed + 1]:
        path.write_bytes(b"")
    for index in range(allowed):
        assert read(split, index) is None
    with pytest.raises(TrainingFailed):
        read(split, allowed)


@pytest.mark.parametrize("field", ["train", "val"])
def test_a_class_without_a_readable_image_is_an_empty_class(root: Path, tmp_path: Path, field: str) -> None:
    """As a folder without images is: it cannot be learned, or not be measured."""
    for image in (root / field / "3").iterdir():
        image.write_bytes(b"<html>")
    failure, _ = failure_of(request_for(root, num_classes=6, max_unreadable_share=1), tmp_path / "run")
    assert failure.reason == "empty_class"
    assert f"No image of class '3' in {field}_path can be read" in str(failure)


def test_an_image_that_is_deleted_meanwhile_is_left_out(root: Path, tmp_path: Path) -> None:
    logger, lines = logger_and_lines()

    def should_stop() -> bool:
        if "Epoch [2/3] started" in lines.messages:
            (root / "train/4/001.png").unlink(missing_ok=True)
        return False

    request = request_for(root, num_classes=6, num_epochs=3)
    train(request, output_dir=tmp_path / "run", device="cpu", logger=logger, should_stop=should_stop)
    assert lines.at("WARNING") == [
        f"Left out: '{root}/train/4/001.png' cannot be read as an image: No such file or directory"
    ]


def test_a_folder_that_vanishes_is_a_failure(root: Path, tmp_path: Path) -> None:
    logger, lines = logger_and_lines()

    def should_stop() -> bool:
        if "Epoch [2/3] started" in lines.messages and (root / "train").exists():
            (root / "train").rename(root / "moved")
        return False

    with pytest.raises(TrainingFailed, match="is gone: bring it back") as failure:
        train(
            request_for(root, num_classes=6, num_epochs=3),
            output_dir=tmp_path / "run",
            device="cpu",
            logger=logger,
            should_stop=should_stop,
        )
    assert failure.value.reason == "path_not_found"


def test_a_batch_with_one_image_left_is_not_normalised(tmp_path: Path) -> None:
    """Batches of two, each with a broken image: nothing to train on until they are drawn anew."""
    write_images(tmp_path / "train", {"cat": 4, "dog": 4})
    write_images(tmp_path / "val", {"cat": 1, "dog": 1})
    logger, lines = logger_and_lines()

    def should_stop() -> bool:
        if lines.messages[-1] == "Epoch [1/1] started":
            for name in ("cat", "dog"):
                for number in (0, 2):
                    (tmp_path / "train" / name / f"{number:03}.png").write_bytes(b"")
        return False

    train(
        request_for(tmp_path, model="resnet18", batch_size=2, shuffle=False, max_unreadable_share=0.5),
        output_dir=tmp_path / "run",
        device="cpu",
        logger=logger,
        should_stop=should_stop,
    )
    assert len(lines.at("WARNING")) == 4
    assert sum(line.startswith("Train Loss") for line in lines.messages) == 1


NAMES = {
    "line break": "a\nEpoch [9] started",
    "terminal": "\x1b[31mred\x1b[0m",
    "page": "<img src=x onerror=alert(1)>",
    "no UTF-8": "\udcff\udc80",
    "forged": "Validation Accuracy: 99.00%",
    "Chinese": "狐狸",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_of_any_kind_trains_resumes_and_predicts(tmp_path: Path, name: str) -> None:
    for folder in ("train", "val"):
        write_images(tmp_path / folder, {name: 4, "dog": 4})
        (tmp_path / folder / name / f"{name}.png").touch()
    request = request_for(tmp_path, num_epochs=2, max_unreadable_share=0.2)
    assert check(request) == []
    logger, lines = logger_and_lines()
    with pytest.raises(TrainingStopped):
        train(
            request,
            output_dir=tmp_path / "run",
            device="cpu",
            logger=logger,
            should_stop=lambda: "Epoch [2/2] started" in lines.messages,
        )
    _, rest = trained(request, tmp_path / "run", resume=True)
    assert len(lines.at("WARNING")) == 2
    assert rest.at("WARNING") == []
    for message in (*lines.messages, *rest.messages):
        assert message.isprintable(), "one line, without a terminal's escapes"
        message.encode()
    assert load_classifier(tmp_path / "run/best.pt").classes == sorted([name, "dog"])


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_of_any_kind_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    write_images(tmp_path / "train", {name: 2, "dog": 2})
    write_images(tmp_path / "val", {name: 2, "dog": 2})
    request = request_for(tmp_path, max_unreadable_share=1)
    for image in (tmp_path / "train" / name).iterdir():
        image.write_bytes(b"")
    failure, _ = failure_of(request, tmp_path / "run")
    assert failure.reason == "empty_class"
    assert str(failure).isprintable()
    for image in (tmp_path / "train" / name).iterdir():
        image.unlink()
    (problem,) = check(request)
    assert problem.code == "empty_class"
    assert problem.message.isprintable()
    problem.model_dump_json()


def test_a_folder_below_a_class_that_cannot_be_listed_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check before the training looks for one image a class, and may not meet it. Root may list anything."""
    (root / "train/3/hidden").mkdir()
    real = os.open

    def forbid(path: Path, *arguments: Any, **named: Any) -> int:
        if Path(path).name == "hidden":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", forbid)
    with pytest.raises(TrainingFailed, match=r"Permission denied, at '.*/train/3/hidden'") as failure:
        load_split(request_for(root), "train_path", logger=logger_and_lines()[0])
    assert failure.value.reason == "path_not_readable"


def test_the_check_before_a_training_waits_for_no_pipe(tmp_path: Path) -> None:
    for folder in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / folder / name).mkdir(parents=True)
            os.mkfifo(tmp_path / folder / name / "pipe.png")
    os.mkfifo(tmp_path / "weights.pt")
    problems = check(request_for(tmp_path, weight_path=str(tmp_path / "weights.pt")))
    assert [(problem.field, problem.code) for problem in problems] == [
        ("train_path", "no_readable_image"),
        ("val_path", "no_readable_image"),
        ("weight_path", "path_not_found"),
    ]
