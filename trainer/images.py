"""Any image file as RGB.

People train on what they have: scans, screenshots with transparency, 16-bit medical and depth images,
photographs that a phone stored sideways. Each is turned into the three channels of 8 bits that a
person would see, and a file that cannot be is named. Pillow only, so that the check before a training
can use it too.
"""

from __future__ import annotations

import errno
import re
import warnings
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from trainer.quoting import quoted
from trainer.roots import Folders, OutsideRoots, open_file

MAX_PIXELS = 1024**3 // 4 // 3
"""Of an image as it is decoded, 89 million: 358 MB in Pillow, and up to four times that to put transparency on paper.
A few bytes of PNG can ask for any amount. The bound is Pillow's own, at which it warns; a large JPEG passes it,
because it is decoded smaller, up to twice the bound, where Pillow refuses every file."""

_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""What is tried, whatever a file is called: Pillow knows formats that start another program to be drawn."""
_OF_THE_PROCESS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_SHOWN = 100
"""Characters of a decoder's reason."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS decides


class UnreadableImage(ValueError):
    """A file that should be an image and is not. The message names it, in one line without a number of its own."""


def read_rgb(path: Path, *, at_least: int | None = None, folders: Folders = ()) -> Image.Image:
    """Decode `path` to RGB, turned upright by its EXIF orientation, transparency on white.

    `at_least` (pixels) allows the decoder of a large JPEG to skip detail: libjpeg decodes at a half, a
    quarter or an eighth for a fraction of the time. Neither side comes out shorter than `at_least`
    because of it. The file must lie in one of `folders`, if there are any.

    Raises `UnreadableImage`; `OSError` where this process can open no file at all.
    """
    try:
        with open_file(path, folders) as file, Image.open(file, formats=_formats()) as image:
            if at_least is not None:
                image.draft(image.mode, (at_least, at_least))
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if not image.width * image.height:
                raise ValueError("it has no pixels")
            return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # on a broken file, Pillow's decoders raise nearly anything
        if isinstance(error, OSError) and error.errno in _OF_THE_PROCESS:
            raise
        raise UnreadableImage(f"{quoted(path)} cannot be read as an image: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Why, in words: what a decoder says may quote the file."""
    if isinstance(error, OutsideRoots):
        return "it leads out of the folders that may be read"
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return "it has too many pixels"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(re.findall(r"[A-Za-z]+", said))[:_SHOWN] or type(error).__name__


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


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
