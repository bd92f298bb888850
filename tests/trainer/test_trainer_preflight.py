"""Everything that would stop a training is said before it takes a device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from models.schemas import FieldProblem
from tests.trainer.helpers import request_for, write_images
from trainer.folders import IMAGE_EXTENSIONS, images_in, scan_classes
from trainer.images import read_rgb
from trainer.preflight import check
from trainer.roots import Folders


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes with three training and two validation images each."""
    write_images(tmp_path / "train", {"cat": 3, "dog": 3})
    write_images(tmp_path / "val", {"cat": 2, "dog": 2})
    return tmp_path


def only_problem(root: Path, **changes: Any) -> FieldProblem:
    problems = check(request_for(root, **changes))
    assert len(problems) == 1, problems
    return problems[0]


def test_a_request_that_can_be_trained_has_no_problems(root: Path) -> None:
    assert check(request_for(root)) == []


def test_an_unknown_network_comes_with_near_names(root: Path) -> None:
    problem = only_problem(root, model="resnet_18")
    assert (problem.field, problem.code) == ("model", "unknown_network")
    assert "did you mean resnet18" in problem.message


def test_an_unknown_network_that_is_near_nothing_points_to_the_list(root: Path) -> None:
    assert "list of networks" in only_problem(root, model="qwerty").message


@pytest.mark.parametrize(
    ("model", "size", "advice"),
    [
        ("inception_v3", 74, "set image_size to 75."),
        ("vit_b_16", 230, "set image_size to 224 or 240."),
        ("vit_b_32", 16, "set image_size to 32."),
        ("maxvit_t", 223, "set image_size to 224."),
        ("maxvit_t", 256, "set image_size to 224 or 448."),
    ],
)
def test_an_image_size_that_the_network_cannot_take_is_refused(root: Path, model: str, size: int, advice: str) -> None:
    problem = only_problem(root, model=model, image_size=size)
    assert (problem.field, problem.code) == ("image_size", "image_size_unsupported")
    assert advice in problem.message


@pytest.mark.parametrize(("model", "size"), [("inception_v3", 75), ("vit_b_16", 240), ("maxvit_t", 448)])
def test_an_image_size_that_the_network_takes_is_accepted(root: Path, model: str, size: int) -> None:
    assert check(request_for(root, model=model, image_size=size)) == []


def test_batches_of_one_small_image_are_refused_where_they_cannot_be_normalised(root: Path) -> None:
    problem = only_problem(root, model="resnet18", image_size=32, batch_size=1)
    assert (problem.field, problem.code) == ("batch_size", "batch_size_unsupported")
    assert check(request_for(root, model="resnet18", image_size=33, batch_size=1)) == []
    assert check(request_for(root, model="squeezenet1_1", image_size=32, batch_size=1)) == []


@pytest.mark.parametrize("field", ["train_path", "val_path"])
@pytest.mark.parametrize("path", ["/no/such/folder", "bad\0name", "\ud800", "x" * 300])
def test_a_folder_that_does_not_exist_is_named(root: Path, field: str, path: str) -> None:
    request = request_for(root).model_copy(update={field: path})
    problems = check(request)
    assert [(problem.field, problem.code) for problem in problems] in (
        [(field, "path_not_found")],
        [(field, "path_not_readable")],
    )
    problems[0].model_dump_json()


def test_a_file_is_not_a_folder(root: Path) -> None:
    problem = only_problem(root, train_path=str(root / "train/cat/000.png"))
    assert (problem.field, problem.code) == ("train_path", "not_a_folder")


def test_a_folder_of_bare_images_has_no_classes(root: Path) -> None:
    problem = only_problem(root, val_path=str(root / "val/cat"))
    assert (problem.field, problem.code) == ("val_path", "no_classes")


def test_a_class_without_images_is_named(root: Path) -> None:
    for name in ("bird", "fish"):
        (root / "train" / name / "nested").mkdir(parents=True)
    (root / "train/bird/notes.txt").touch()
    write_images(root / "val", {"bird": 1, "fish": 1})
    problem = only_problem(root, num_classes=4)
    assert (problem.field, problem.code) == ("train_path", "empty_class")
    assert "'bird', 'fish'" in problem.message


def test_another_number_of_classes_says_how_many_were_found(root: Path) -> None:
    problems = check(request_for(root, num_classes=37))
    assert {(problem.field, problem.code) for problem in problems} == {("num_classes", "num_classes_mismatch")}
    assert "has 2 class folders, num_classes is 37" in problems[0].message


def test_classes_that_differ_are_named_at_most_a_few(root: Path) -> None:
    write_images(root / "train", {f"extra{number}": 1 for number in range(8)})
    write_images(root / "val", {f"other{number}": 1 for number in range(8)})
    problem = only_problem(root, num_classes=10)
    assert (problem.field, problem.code) == ("val_path", "classes_differ")
    assert "only in train_path: 'extra0', 'extra1', 'extra2', 'extra3', 'extra4' and 3 more" in problem.message
    assert "only in val_path: 'other0'" in problem.message


def test_a_split_without_one_readable_image_is_refused(root: Path) -> None:
    for image in (root / "val").rglob("*.png"):
        image.write_bytes(b"not an image")
    problem = only_problem(root)
    assert (problem.field, problem.code) == ("val_path", "no_readable_image")
    assert "000.png" in problem.message


def test_one_readable_image_is_enough(root: Path) -> None:
    (root / "val/cat/000.png").write_bytes(b"not an image")
    assert check(request_for(root)) == []


def test_weights_that_are_not_there_are_refused(root: Path) -> None:
    for path in ("/no/such/file.pt", str(root), "x" * 300):
        problem = only_problem(root, weight_path=path)
        assert (problem.field, problem.code) == ("weight_path", "path_not_found")


def test_all_problems_are_found_together(root: Path) -> None:
    problems = check(request_for(root, model="nothing", train_path="/no", val_path="/no", weight_path="/no"))
    assert [problem.field for problem in problems] == ["model", "train_path", "val_path", "weight_path"]


def test_a_large_folder_does_not_make_a_request_wait(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images there are, a few are opened."""
    image = root / "train/cat/000.png"
    for number in range(2_000):
        os.link(image, root / f"train/cat/link{number}.png")
    opened: list[Path] = []

    def counting(path: Path, *, at_least: int | None = None, folders: Folders = ()) -> Image.Image:
        opened.append(path)
        return read_rgb(path, at_least=at_least, folders=folders)

    monkeypatch.setattr("trainer.preflight.read_rgb", counting)
    assert check(request_for(root)) == []
    assert 0 < len(opened) <= 16


def test_what_counts_as_an_image_is_what_torchvision_counts() -> None:
    assert sorted(IMAGE_EXTENSIONS) == sorted(IMG_EXTENSIONS)


def test_images_are_found_in_any_case_nested_and_through_links(tmp_path: Path) -> None:
    outside = write_images(tmp_path / "outside", {"a": 2})
    data = tmp_path / "data"
    data.mkdir()
    (data / "linked").symlink_to(outside / "a")
    write_images(data / "plain", {"deep/deeper": 1})
    (data / "plain/SHOUTING.JPeG").touch()
    (data / "plain/notes.txt").touch()
    (data / "file.png").touch()
    found = scan_classes(data)
    assert {name: [path.name for path in paths] for name, paths in found.items()} == {
        "linked": ["000.png", "001.png"],
        "plain": ["SHOUTING.JPeG", "000.png"],
    }


def test_what_is_hidden_is_neither_class_nor_image(tmp_path: Path) -> None:
    write_images(tmp_path, {".ipynb_checkpoints": 1, "cat": 1})
    write_images(tmp_path / "cat", {".thumbnails": 1})
    (tmp_path / "cat/._000.png").touch()
    assert {name: len(paths) for name, paths in scan_classes(tmp_path).items()} == {"cat": 1}


def test_a_link_to_a_parent_ends(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 1})
    (tmp_path / "cat/again").symlink_to(tmp_path / "cat")
    assert len(list(images_in(tmp_path / "cat"))) == 1
