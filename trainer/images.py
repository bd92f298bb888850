"""Any image file as RGB.

People train on what they have: scans, screenshots with transparency, 16-bit medical and depth images,
photographs that a phone stored sideways. Each is turned into the three channels of 8 bits that a
person would see, and a file that cannot be is named. Pillow only, so that the check before a training
can use it too.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps


class UnreadableImage(ValueError):
    """A file that should be an image and is not. The message names it."""


def read_rgb(path: Path, *, at_least: int | None = None) -> Image.Image:
    """Decode `path` to RGB, turned upright by its EXIF orientation, transparency on white.

    `at_least` (pixels) allows the decoder of a large JPEG to skip detail: libjpeg decodes at a half, a
    quarter or an eighth for a fraction of the time. Neither side comes out shorter than `at_least`
    because of it.

    Raises `UnreadableImage`.
    """
    try:
        with Image.open(path) as image:
            if at_least is not None:
                image.draft(image.mode, (at_least, at_least))
            return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # on a broken file, Pillow's decoders raise nearly anything
        why = str(error) or type(error).__name__
        raise UnreadableImage(f"{str(path)!r} cannot be read as an image: {why}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits: Pillow has them in modes "I;16*" and, for some formats, "I". Its own conversion cuts
        # everything above 255 off.
        return image.convert("I").point(lambda value: value / 257).convert("L").convert("RGB")
    if image.has_transparency_data:
        upright = image.convert("RGBA")
        paper = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(paper, upright).convert("RGB")
    return image.convert("RGB")
