"""Images grow from epoch to epoch, to what they are validated at, and whoever reads the log is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.parsing import LineParser
from tests.trainer.helpers import logger_and_lines, never, request_for, write_digits
from trainer import lines
from trainer.catalogue import find_network
from trainer.data import batches
from trainer.loop import train
from trainer.progressive import training_image_size

ANYWHERE = Path("/anywhere")


def sizes(**changes: Any) -> list[int]:
    request = request_for(ANYWHERE, **{"model": "resnet18", "image_size": 224} | changes)
    return [training_image_size(request, epoch) for epoch in range(1, request.num_epochs + 1)]


def test_they_grow_evenly_and_are_whole_in_the_last_third() -> None:
    assert sizes(num_epochs=6, progressive_resizing=0.5) == [112, 144, 168, 192, 224, 224]
    assert sizes(num_epochs=3, progressive_resizing=0.5) == [112, 168, 224]


def test_by_default_and_in_a_single_epoch_they_are_whole() -> None:
    assert sizes(num_epochs=4) == [224] * 4
    assert sizes(num_epochs=1, progressive_resizing=0.25) == [224]


@pytest.mark.parametrize(("model", "size"), [("vit_b_32", 224), ("maxvit_t", 224)])
def test_a_network_that_takes_one_size_gets_it(model: str, size: int) -> None:
    assert set(sizes(model=model, image_size=size, num_epochs=5, progressive_resizing=0.5)) == {size}


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(["resnet18", "alexnet", "inception_v3", "swin_t"]),
    st.integers(75, 600),
    st.integers(1, 12),
    st.floats(0.01, 1),
    st.sampled_from([1, 8]),
)
def test_no_epoch_has_images_that_the_network_does_not_take(
    model: str, image_size: int, epochs: int, start: float, batch_size: int
) -> None:
    network = find_network(model)
    assert network is not None
    smallest = network.min_image_size_alone if batch_size == 1 else network.min_image_size
    image_size = max(image_size, smallest)
    found = sizes(
        model=model, image_size=image_size, num_epochs=epochs, progressive_resizing=start, batch_size=batch_size
    )
    assert found == sorted(found)
    assert smallest <= found[0]
    assert found[-1] == image_size


def test_the_network_sees_them_so_and_the_log_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each epoch the sizes in training and in validation."""
    write_digits(tmp_path, training=4, validation=2, classes=2)
    seen: list[int] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(options["image_size"])
        return batches(*arguments, **options)

    monkeypatch.setattr("trainer.loop.batches", watched)
    logger, said = logger_and_lines()
    request = request_for(tmp_path, num_epochs=3, progressive_resizing=0.5)
    train(request, output_dir=tmp_path / "run", device="cpu", logger=logger, should_stop=never)
    assert seen == [16, 32, 24, 32, 32, 32]
    began = [said.messages.index(f"Epoch [{epoch}/3] started") for epoch in (1, 2, 3)]
    after = [said.messages[index + 1] for index in began]
    assert after[:2] == [lines.smaller_images(16, 32), lines.smaller_images(24, 32)]
    assert not after[2].startswith("Progressive")


def test_the_line_is_no_metric() -> None:
    parser = LineParser()
    parser.parse(lines.epoch_started(3, 5))
    read = parser.parse(lines.smaller_images(16, 32))
    assert (read.metrics, read.step, read.stage) == ({}, None, None)
