"""Images vary as they are asked to, the same way for the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.trainer.helpers import request_for
from trainer.data import normalise
from trainer.framing import Central, to_image, to_tensor
from trainer.variation import varied

ANYWHERE = Path("/anywhere")
NOISE = Image.effect_noise((32, 32), 100).convert("RGB")


def variants(image: Image.Image, count: int, *, epoch: int = 1, **changes: Any) -> list[Image.Image]:
    frame = varied(Central(32), request_for(ANYWHERE, **changes), epoch=epoch)
    return [to_image(frame(to_tensor(image), index)) for index in range(count)]


def test_without_being_asked_nothing_varies() -> None:
    frame = Central(32)
    assert varied(frame, request_for(ANYWHERE), epoch=1) is frame


@pytest.mark.parametrize("changes", [{"trivial_augment": True}, {"random_erasing": 0.5}])
def test_variation_depends_on_seed_epoch_and_image_only(changes: dict[str, Any]) -> None:
    def bytes_of(**more: Any) -> list[bytes]:
        return [image.tobytes() for image in variants(NOISE, 12, **changes, **more)]

    first = bytes_of(seed=1)
    assert bytes_of(seed=1) == first
    assert bytes_of(seed=2) != first
    assert bytes_of(seed=1, epoch=2) != first
    assert len(set(first)) > 5
    assert all(image.size == (32, 32) and image.mode == "RGB" for image in variants(NOISE, 60, **changes))


def test_as_many_images_as_asked_for_have_a_rectangle_of_the_mean_colour() -> None:
    white = Image.new("RGB", (32, 32), "white")
    found = variants(white, 300, random_erasing=0.4)
    erased = [image for image in found if image.getextrema() != ((255, 255),) * 3]
    assert 90 < len(erased) < 150
    for image in erased:
        colours = image.getcolors()
        assert colours is not None
        [share] = [count / 32**2 for count, colour in colours if colour != (255, 255, 255)]
        assert 0.01 < share < 0.36
        where = (to_tensor(image) != 255).any(dim=0)
        assert normalise(to_tensor(image)[None])[0][:, where].abs().max() < 0.01
        rows, columns = (torch.nonzero(where.any(dim=dim)).flatten() for dim in (1, 0))
        assert where[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_trivial_augment_changes_shapes_and_colours() -> None:
    gradient = Image.linear_gradient("L").convert("RGB")
    plain = variants(gradient, 1)[0]
    found = variants(gradient, 100, trivial_augment=True)
    sorted_pixels = sorted(plain.convert("L").tobytes())
    assert sum(image.tobytes() == plain.tobytes() for image in found) < 40
    assert sum(sorted(image.convert("L").tobytes()) != sorted_pixels for image in found) > 30
