"""What a fingerprint of data notices, and what it covers."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from models.schemas import ImportRequest, TrainingRequest
from services.provenance import data
from services.provenance.data import fingerprints
from trainer.roots import Roots


@pytest.fixture
def folders(image_folders: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(image_folders, tmp_path / "data"))


def of(folder: Path, **more: Any) -> dict[str, Any]:
    request = TrainingRequest(
        model="resnet18",
        num_classes=3,
        train_path=str(folder / "train"),
        val_path=str(folder / "val"),
        save_path=str(folder / "runs"),
    )
    return fingerprints(request, **more)


def test_a_copy_with_its_times_is_the_same_wherever_it_lies(folders: Path, tmp_path: Path) -> None:
    first = of(folders)
    assert first["train_path"]["files"] == 6
    assert first["train_path"]["bytes"] == sum(file.stat().st_size for file in (folders / "train").rglob("*.png"))
    assert first["train_path"]["is_complete"] is True
    assert of(Path(shutil.copytree(folders, tmp_path / "copy"))) == first


def test_a_touched_image_changes_the_digest_with_times_alone(folders: Path) -> None:
    before = of(folders)
    os.utime(folders / "train" / "cat" / "0.png", (1, 1))
    after = of(folders)
    assert after["train_path"]["names_and_sizes"] == before["train_path"]["names_and_sizes"]
    assert after["train_path"]["names_sizes_and_times"] != before["train_path"]["names_sizes_and_times"]
    assert after["val_path"] == before["val_path"]


@pytest.mark.parametrize("change", ["rename", "grow", "remove", "move"])
def test_other_images_change_both(folders: Path, change: str) -> None:
    before = of(folders)["train_path"]
    image = folders / "train" / "cat" / "0.png"
    match change:
        case "rename":
            image.rename(image.with_name("9.png"))
        case "grow":
            image.write_bytes(image.read_bytes() + b"x")
        case "remove":
            image.unlink()
        case "move":
            image.rename(folders / "train" / "dog" / "9.png")
    after = of(folders)["train_path"]
    assert after["names_and_sizes"] != before["names_and_sizes"]
    assert after["names_sizes_and_times"] != before["names_sizes_and_times"]


def test_what_the_trainer_does_not_read_does_not_count(folders: Path) -> None:
    before = of(folders)
    (folders / "train" / "cat" / "notes.txt").write_text("x", encoding="utf-8")
    (folders / "train" / "cat" / "._0.png").write_text("x", encoding="utf-8")
    assert of(folders) == before


def test_it_ends_when_its_time_is_up_or_it_is_told_to(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert of(folders, is_cancelled=lambda: True)["train_path"]["is_complete"] is False
    monkeypatch.setattr(data, "LIMIT_S", -1.0)
    assert of(folders)["val_path"]["is_complete"] is False


def test_links_out_of_the_roots_say_nothing(folders: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"x" * 12_345)
    before = of(folders, roots=Roots(data=(folders,)))
    (folders / "train" / "cat" / "7.png").symlink_to(secret)
    assert of(folders, roots=Roots(data=(folders,))) == before
    assert of(folders)["train_path"]["bytes"] == before["train_path"]["bytes"] + 12_345


def test_weights_are_known_by_their_content(folders: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"weights")
    request = TrainingRequest(
        model="resnet18", num_classes=3, train_path="/x", val_path="/x", save_path="/x", weight_path=str(weights)
    )
    found = fingerprints(request)["weight_path"]
    assert (found["bytes"], found["sha256"]) == (7, hashlib.sha256(b"weights").hexdigest())
    outside = fingerprints(request, Roots(data=(folders,), save=(folders,)))
    assert "weight_path" not in outside


def test_an_imported_log_is_known_by_size_and_time(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("loss: 1\n", encoding="utf-8")
    os.utime(log, (5, 5))
    assert fingerprints(ImportRequest(path=str(log))) == {"path": {"bytes": 8, "modified": 5.0}}


def test_data_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert of(tmp_path)["train_path"]["files"] == 0
