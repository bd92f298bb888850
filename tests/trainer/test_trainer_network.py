"""A network starts from weights that fit, adapted where that is safe, or not at all."""

from __future__ import annotations

import argparse
import logging
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import VisionTransformer

from tests.trainer.helpers import logger_and_lines, never, request_for
from trainer.errors import TrainingFailed
from trainer.network import bare_network, build_network
from trainer.weights import head_name, load_weights, read_weights

QUIET = logging.Logger("quiet", level=logging.CRITICAL)
NAME = "squeezenet1_1"


def saved(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


def built(tmp_path: Path, **changes: object) -> tuple[nn.Module, list[str]]:
    logger, lines = logger_and_lines()
    request = request_for(tmp_path, model=NAME, **changes)
    return build_network(request, logger=logger, should_stop=never)[0], lines.messages


def is_same(network: nn.Module, other: nn.Module, *, but: str = "nothing") -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in network.state_dict().items() if but not in key)


def test_a_state_dict_is_loaded(tmp_path: Path) -> None:
    source = bare_network(NAME, 2, 32)
    path = saved(tmp_path / "weights.pt", source.state_dict())
    network, lines = built(tmp_path, weight_path=path)
    assert is_same(network, source)
    assert lines == [f"Weights loaded from {path}"]


def test_a_checkpoint_with_a_state_dict_in_it_is_loaded(tmp_path: Path) -> None:
    source = bare_network(NAME, 2, 32)
    path = saved(tmp_path / "best.pt", {"state_dict": source.state_dict(), "epoch": 3})
    assert is_same(built(tmp_path, weight_path=path)[0], source)


def test_weights_win_over_pretrained_ones(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", bare_network(NAME, 2, 32).state_dict())
    _, lines = built(tmp_path, weight_path=path, pretrained=True)
    assert lines == [f"Weights loaded from {path}"]


def test_a_head_of_another_size_is_dropped_with_a_line(tmp_path: Path) -> None:
    source = bare_network(NAME, 1000, 32)
    network, lines = built(tmp_path, weight_path=saved(tmp_path / "weights.pt", source.state_dict()), num_classes=10)
    assert lines[0] == "Head of weight_path has 1000 classes, needs 10: head dropped, the rest loaded"
    assert is_same(network, source, but="classifier")
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_weights_without_a_head_are_loaded_with_a_line(tmp_path: Path) -> None:
    source = bare_network(NAME, 2, 32)
    backbone = {key: value for key, value in source.state_dict().items() if not key.startswith("classifier")}
    network, lines = built(tmp_path, weight_path=saved(tmp_path / "weights.pt", backbone))
    assert lines[0] == "No head in weight_path: it starts fresh, the rest is loaded"
    assert is_same(network, source, but="classifier")


def test_the_prefix_of_a_data_parallel_network_is_stripped(tmp_path: Path) -> None:
    source = bare_network(NAME, 2, 32)
    path = saved(tmp_path / "weights.pt", nn.DataParallel(source).state_dict())
    assert is_same(built(tmp_path, weight_path=path)[0], source)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    state = bare_network(NAME, 2, 32).state_dict()
    state["features.0.weight"] = torch.zeros(5, 3, 3, 3)
    with pytest.raises(
        TrainingFailed, match=r"features\.0\.weight is \(5, 3, 3, 3\), needs \(64, 3, 3, 3\)"
    ) as failure:
        built(tmp_path, weight_path=saved(tmp_path / "shape.pt", state))
    assert failure.value.reason == "bad_weights"

    other = saved(tmp_path / "other.pt", bare_network("shufflenet_v2_x0_5", 2, 32).state_dict())
    with pytest.raises(TrainingFailed, match=r"unknown to the network: \S+, \S+, \S+ and \d+ more") as failure:
        built(tmp_path, weight_path=other)
    assert failure.value.reason == "bad_weights"


def test_missing_weights_are_refused_by_name(tmp_path: Path) -> None:
    state = bare_network(NAME, 2, 32).state_dict()
    del state["features.0.weight"]
    with pytest.raises(TrainingFailed, match=r"are missing: features\.0\.weight\."):
        built(tmp_path, weight_path=saved(tmp_path / "weights.pt", state))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    for content in ({"state_dict": {}, "code": Code()}, {"model": {}, "args": argparse.Namespace(lr=1)}):
        with pytest.raises(TrainingFailed, match="could run code") as failure:
            read_weights(Path(saved(tmp_path / "evil.pt", content)))
        assert failure.value.reason == "bad_weights"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {"a": 1}}, torch.zeros(3)])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(TrainingFailed, match="holds no weights") as failure:
        read_weights(Path(saved(tmp_path / "file.pt", content)))
    assert failure.value.reason == "bad_weights"


@pytest.mark.parametrize("content", [b"", b"plain text", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(TrainingFailed, match=r"file\.pt.* cannot be loaded"):
        read_weights(tmp_path / "file.pt")


def test_old_densenet_keys_are_understood() -> None:
    source = bare_network("densenet121", 3, 32)
    old = OrderedDict(
        (re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key), value)
        for key, value in source.state_dict().items()
    )
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    network = bare_network("densenet121", 3, 32)
    load_weights(network, old, num_classes=3, source="weight_path", logger=QUIET)
    assert is_same(network, source)


def test_auxiliary_heads_are_left_out() -> None:
    with_auxiliary = models.get_model("googlenet", weights=None, init_weights=False, num_classes=3)
    network = bare_network("googlenet", 3, 32)
    load_weights(network, with_auxiliary.state_dict(), num_classes=3, source="weight_path", logger=QUIET)
    assert is_same(network, with_auxiliary)


def test_positions_of_a_vision_transformer_are_stretched_to_the_image_size() -> None:
    def transformer(image_size: int) -> VisionTransformer:
        return VisionTransformer(image_size, 8, 1, 2, hidden_dim=8, mlp_dim=8, num_classes=3)

    source, network = transformer(32), transformer(64)
    load_weights(network, source.state_dict(), num_classes=3, source="weight_path", logger=QUIET)
    assert is_same(network, source, but="pos_embedding")
    small, large = source.encoder.pos_embedding[0], network.encoder.pos_embedding[0]
    assert torch.equal(small[0], large[0])
    assert torch.allclose(small[[1, 4, 13, 16]], large[[1, 8, 57, 64]], atol=1e-6)  # the corners stay


def test_positions_that_are_no_square_are_refused() -> None:
    network = VisionTransformer(32, 8, 1, 2, hidden_dim=8, mlp_dim=8, num_classes=3)
    state = network.state_dict()
    state["encoder.pos_embedding"] = torch.zeros(1, 7, 8)
    with pytest.raises(TrainingFailed, match=r"encoder\.pos_embedding is \(1, 7, 8\), needs \(1, 17, 8\)"):
        load_weights(network, state, num_classes=3, source="weight_path", logger=QUIET)


@pytest.mark.parametrize("wrapped", [False, True])
def test_mnasnet_is_loaded_with_the_versions_that_it_needs(tmp_path: Path, wrapped: bool) -> None:
    source = bare_network("mnasnet0_5", 2, 32)
    state = nn.DataParallel(source).state_dict() if wrapped else source.state_dict()
    request = request_for(tmp_path, model="mnasnet0_5", weight_path=saved(tmp_path / "weights.pt", state))
    assert is_same(build_network(request, logger=QUIET, should_stop=never)[0], source)


@pytest.mark.parametrize(
    ("name", "size", "head"),
    [
        ("squeezenet1_1", 32, "classifier.1"),
        ("googlenet", 32, "fc"),
        ("mobilenet_v3_small", 32, "classifier.3"),
        ("densenet121", 32, "classifier"),
        ("convnext_tiny", 32, "classifier.2"),
        ("swin_t", 32, "head"),
        ("maxvit_t", 224, "classifier.5"),
    ],
)
def test_the_head_is_the_last_layer(name: str, size: int, head: str) -> None:
    network = bare_network(name, 7, size)
    assert head_name(network) == head
    layer = network.get_submodule(head)
    assert getattr(layer, "out_features", None) == 7 or getattr(layer, "out_channels", None) == 7
