"""Image files: `open_image` gives the pixels of one, `open_rgb` its colours; `listed` what lies in
a folder, without what file browsers leave there."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cifar_hpo.data.untrusted import damage_refused
from cifar_hpo.errors import DataError
from cifar_hpo.printable import printable

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Of Pillow's formats those of photographs; one of the others (EPS) calls a program."""

CERTAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LA", "PA", "RGBA")
"""Pillow's modes whose colours it converts to RGB as viewers do."""

GREY_MODES = ("1", "L", "LA")
"""Those of them without colours."""

SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
"""Formats in which whole numbers from 0 to 65,535 say how bright a pixel is. In a TIFF they may be
anything that was measured."""

LEFT_BY_BROWSERS = (
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "__pycache__",
)
"""What Finder, Explorer, disk stations and Python leave in folders beside hidden files, in lower
case."""


def listed(folder: Path) -> list[Path]:
    """What lies in a folder by its name, without hidden files and what file browsers leave there.

    Raises DataError where it can't be listed.
    """
    with damage_refused(f"{printable(folder)}: can't be listed"):
        entries = sorted(folder.iterdir())
    return [entry for entry in entries if not _is_passed_over(entry.name)]


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BY_BROWSERS


class OtherSize(DataError):
    """An image that does not have the size that it must have."""


def open_rgb(file: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """The image of a file as RGB, as `open_image` gives it."""
    return open_image(file, size).convert("RGB")


def open_image(file: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """The image of a file with 8 bits a channel, L where it is grey and else RGB, the way up in
    which viewers show it.

    16-bit grey is scaled to 8 bits. size: the width and height that it must have, which are looked
    at before anything is decoded; raises OtherSize for any other. Raises DataError for what is no
    image, is damaged or holds several, and where the colour of a pixel is not certain: it is
    transparent, or a number without a known range.
    """
    where = printable(file)
    with (
        damage_refused(f"{where}: not an image"),
        warnings.catch_warnings(action="ignore"),  # of odd files, and of large ones
        Image.open(file, formats=FORMATS) as image,
    ):
        if size and image.size not in (size, size[::-1]):  # it may lie on its side
            raise _other_size(where, image, size)
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise DataError(f"{where}: {frames} images in one file, expected one")
        is_sixteen_bit = image.format in SIXTEEN_BIT_FORMATS and image.mode.startswith("I")
        if not is_sixteen_bit and image.mode not in CERTAIN_MODES:
            problem = f"pixels of the form {image.mode}, whose range is not known"
            raise DataError(f"{where}: {problem}; save it as RGB")
        upright = ImageOps.exif_transpose(image)
        if size and upright.size != size:
            raise _other_size(where, upright, size)
        if upright.has_transparency_data and _is_transparent(upright):
            problem = "transparent pixels, and nobody knows what is behind them"
            raise DataError(f"{where}: {problem}; save it without an alpha channel")
        if is_sixteen_bit:
            return _from_sixteen_bits(upright)
        return upright.convert("L" if image.mode in GREY_MODES else "RGB")


def _other_size(where: str, image: Image.Image, size: tuple[int, int]) -> OtherSize:
    found = f"{image.width}×{image.height} pixels"
    return OtherSize(f"{where}: {found}, expected {size[0]}×{size[1]}")


def _is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    alpha = np.asarray(image.convert("RGBA"))[:, :, 3]
    return int(alpha.min()) < 255


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """Grey from 0 to 65,535, scaled to 0 to 255."""
    grey = np.asarray(image).astype(np.uint32)
    scaled = (grey + 128) // 257  # rounded; 65,535 is 255 × 257
    return Image.fromarray(scaled.astype(np.uint8))
