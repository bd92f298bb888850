"""Every kind of image becomes the RGB that a person would see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.images import UnreadableImage, read_rgb

Pixel = tuple[int, ...]


def saved(tmp_path: Path, image: Image.Image, name: str = "image.png", **options: Any) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = read_rgb(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (100, 0), (255, 255, 255)),
        ("I;16", 0, (0, 0, 0)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 100 * 257, (100, 100, 100)),
    ],
)
def test_a_mode_becomes_rgb(tmp_path: Path, mode: str, colour: int | Pixel, expected: Pixel) -> None:
    path = saved(tmp_path, Image.new(mode, (4, 3), colour))
    assert (pixels(path) == expected).all()


def test_a_sixteen_bit_ramp_keeps_its_steps(tmp_path: Path) -> None:
    ramp = Image.fromarray(np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16))
    for name in ("ramp.png", "ramp.tif", "ramp.pgm"):
        assert (pixels(saved(tmp_path, ramp, name))[:, :, 0] == np.arange(256).reshape(16, 16)).all(), name


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    assert pixels(saved(tmp_path, image)).tolist() == [[[255, 0, 0], [0, 255, 0]]]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_transparency_of_a_palette_is_paper(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path, image, transparency=transparency)
    assert pixels(path).tolist() == [[[255, 255, 255], [0, 255, 0]]]


def test_a_transparent_colour_of_an_rgb_png_is_paper(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))
    assert (pixels(path) == 255).all()


def test_cmyk_is_converted(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "image.jpg", quality=100)
    red, green, blue = pixels(path)[4, 4]
    assert red < 5
    assert green > 250
    assert blue > 250


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_orientation_is_respected(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (3, 2))
    image.putpixel((0, 0), (255, 255, 255) if mode == "RGB" else 255 if mode == "L" else 65535)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    turned = pixels(saved(tmp_path, image, exif=exif))
    assert turned.shape == (3, 2, 3)
    assert turned[0, 1].tolist() == [255, 255, 255]
    assert turned.sum() == 3 * 255


def test_a_large_jpeg_is_decoded_small_and_never_too_small(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (1000, 600), (200, 100, 50)), "image.jpg")
    small = read_rgb(path, at_least=100)
    assert small.size == (250, 150)
    assert read_rgb(path).size == (1000, 600)
    assert np.abs(np.asarray(small).astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"broken\.png"):
        read_rgb(tmp_path / "broken.png")


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), "cut.jpg")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UnreadableImage, match=r"cut\.jpg"):
        read_rgb(path)
