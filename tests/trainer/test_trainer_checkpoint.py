"""A checkpoint is whole, safe to read, and three lines away from a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from PIL import Image

from tests.trainer.helpers import request_for
from trainer.checkpoint import load_classifier, load_network, save_checkpoint
from trainer.data import normalise
from trainer.errors import TrainingFailed
from trainer.framing import to_tensor
from trainer.network import bare_network

CLASSES = ["cat", "dog", "狐狸"]


@pytest.fixture
def network() -> torch.nn.Module:
    return bare_network("shufflenet_v2_x0_5", 3, 32).eval()


@pytest.fixture
def path(tmp_path: Path, network: torch.nn.Module) -> Path:
    request = request_for(tmp_path, num_classes=3, extra_field={"kept": [1, None]})
    save_checkpoint(tmp_path / "best.pt", network, classes=CLASSES, request=request, epoch=2, metrics={"val_acc": 81.5})
    return tmp_path / "best.pt"


def test_it_holds_tensors_and_plain_values_only(path: Path, tmp_path: Path) -> None:
    content = torch.load(path, weights_only=True)
    assert content["classes"] == CLASSES
    assert content["epoch"] == 2
    assert content["metrics"] == {"val_acc": 81.5}
    assert content["request"]["model"] == "shufflenet_v2_x0_5"
    assert content["request"]["train_path"] == str(tmp_path / "train")
    assert content["request"]["extra_field"] == {"kept": [1, None]}


def test_a_network_is_loaded_as_it_was(path: Path, network: torch.nn.Module) -> None:
    loaded, classes = load_network(path)
    images_BCHW = torch.rand(2, 3, 32, 32)  # noqa: N806 - a shape suffix
    assert classes == CLASSES
    assert not loaded.training
    assert torch.equal(loaded(images_BCHW), network(images_BCHW))


def test_mnasnet_is_loaded_as_it_was(tmp_path: Path) -> None:
    network = bare_network("mnasnet0_5", 2, 32)
    request = request_for(tmp_path, model="mnasnet0_5")
    save_checkpoint(tmp_path / "a.pt", network, classes=["a", "b"], request=request, epoch=1, metrics={})
    load_network(tmp_path / "a.pt")


def test_a_classifier_predicts_from_a_file(path: Path, network: torch.nn.Module, tmp_path: Path) -> None:
    image = Image.effect_noise((32, 32), 90).convert("RGB")
    image.save(tmp_path / "image.png")
    with torch.inference_mode():
        expected = network(normalise(to_tensor(image)[None]))[0].softmax(dim=0).tolist()

    prediction = load_classifier(path).predict(tmp_path / "image.png")
    assert prediction == pytest.approx(dict(zip(CLASSES, expected, strict=True)))
    assert list(prediction.values()) == sorted(expected, reverse=True)
    assert list(load_classifier(str(path)).predict(str(tmp_path / "image.png"), top=1)) == [next(iter(prediction))]


def test_an_image_that_cannot_be_read_is_a_value_error(path: Path) -> None:
    with pytest.raises(ValueError, match=r"best\.pt"):
        load_classifier(path).predict(path)


def test_a_file_of_something_else_is_a_value_error(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is not a checkpoint of this trainer"):
        load_network(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError):
        load_classifier(tmp_path / "nothing.pt")


@pytest.mark.parametrize("content", [b"", b"root:x:0:0\n", b'{"a": 1}', b"PK\x03\x04", bytes(100)])
def test_what_no_trainer_has_saved_is_a_value_error_that_advises_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.pt").write_bytes(content)
    with pytest.raises(ValueError, match="is not a checkpoint of this trainer") as refused:
        load_classifier(tmp_path / "other.pt")
    assert "weights_only" not in str(refused.value)


def test_a_write_that_fails_leaves_the_old_checkpoint_and_nothing_else(
    path: Path, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(_content: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise RuntimeError("unexpected pos")

    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(TrainingFailed, match="unexpected pos") as failure:
        save_checkpoint(path, network, classes=CLASSES, request=request_for(path.parent), epoch=3, metrics={})
    assert failure.value.reason == "not_saved"
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["best.pt"]
