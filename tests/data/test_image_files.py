"""Pixels of image files in every form: right, or refused with the path."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support import clean

from cifar_hpo.data.image_files import open_rgb
from cifar_hpo.errors import DataError

SIZE = (32, 32)
GREY: NDArray[np.uint8] = (np.arange(1024) // 4).astype(np.uint8).reshape(SIZE)
COLOURS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)

Write = Callable[[Path], object]


def as_rgb(grey: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(grey[:, :, None], 3, axis=2)


def with_alpha(alpha: int) -> Image.Image:
    image = Image.fromarray(COLOURS)
    image.putalpha(255)
    image.putpixel((3, 5), (1, 2, 3, alpha))
    return image


def palette(transparency: int | None = None) -> Write:
    """An image of 256 colours, of which one may be transparent."""

    def write(path: Path) -> None:
        image = Image.fromarray(GREY, "P")
        image.putpalette([value for grey in range(256) for value in (grey, 255 - grey, 7)])
        options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
        image.save(path, **options)

    return write


def rotated(path: Path) -> None:
    """A camera's picture that says how it is turned; TIFF keeps every pixel."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOURS).save(path, exif=exif)


PALETTE = np.stack([GREY, 255 - GREY, np.full(SIZE, 7, np.uint8)], axis=2)
SLIGHTLY_LESS = (GREY > 0).astype(np.uint16) * 100
BITS = (GREY > 100).astype(np.uint8) * 255
OPAQUE = np.asarray(with_alpha(255))[:, :, :3]

RIGHT: dict[str, tuple[str, Write, NDArray[Any]]] = {
    "colours": ("a.png", lambda path: Image.fromarray(COLOURS).save(path), COLOURS),
    "grey": ("a.png", lambda path: Image.fromarray(GREY).save(path), as_rgb(GREY)),
    "16-bit grey": (
        "a.png",
        lambda path: Image.fromarray(GREY.astype(np.uint16) * 257).save(path),
        as_rgb(GREY),
    ),
    "16-bit grey between two of 8 bits": (
        "a.png",
        lambda path: Image.fromarray(GREY.astype(np.uint16) * 257 - SLIGHTLY_LESS).save(path),
        as_rgb(GREY),
    ),
    "16-bit grey of a PGM": (
        "a.pgm",
        lambda path: Image.fromarray(GREY.astype(np.uint16) * 257).save(path),
        as_rgb(GREY),
    ),
    "1 bit": ("a.png", lambda path: Image.fromarray(BITS).convert("1").save(path), as_rgb(BITS)),
    "palette": ("a.png", palette(), PALETTE),
    "palette of a GIF": ("a.gif", palette(), PALETTE),
    "opaque alpha": ("a.png", lambda path: with_alpha(255).save(path), OPAQUE),
    "opaque grey with alpha": (
        "a.png",
        lambda path: Image.fromarray(GREY).convert("LA").save(path),
        as_rgb(GREY),
    ),
    "CMYK": (
        "a.tif",
        lambda path: Image.fromarray(COLOURS).convert("CMYK").save(path),
        np.asarray(Image.fromarray(COLOURS).convert("CMYK").convert("RGB")),
    ),
    "turned": ("a.tif", rotated, np.rot90(COLOURS, -1)),
    "PNG named .jpg": (
        "a.jpg",
        lambda path: Image.fromarray(COLOURS).save(path, format="PNG"),
        COLOURS,
    ),
    "BMP": ("a.bmp", lambda path: Image.fromarray(COLOURS).save(path), COLOURS),
    "WebP": ("a.webp", lambda path: Image.fromarray(COLOURS).save(path, lossless=True), COLOURS),
}


@pytest.mark.parametrize("case", RIGHT)
def test_pixels_are_what_a_viewer_shows(case: str, tmp_path: Path) -> None:
    name, write, expected = RIGHT[case]
    write(tmp_path / name)
    image = open_rgb(tmp_path / name, SIZE)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), expected)


def test_a_jpeg_has_about_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", SIZE, (200, 100, 50)).save(tmp_path / "a.png", format="JPEG")
    pixels = np.asarray(open_rgb(tmp_path / "a.png", SIZE)).astype(int)
    assert np.abs(pixels - (200, 100, 50)).max() < 4


def cut(name: str, share: float) -> Write:
    def write(path: Path) -> None:
        Image.fromarray(COLOURS).save(path.with_name(name))
        content = path.with_name(name).read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write


def bomb(path: Path) -> None:
    """A PNG that says of itself that it has 100,000 × 100,000 pixels."""
    Image.fromarray(COLOURS).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    checksum = __import__("zlib").crc32(content[12:29])
    content[29:33] = struct.pack(">I", checksum)
    path.write_bytes(bytes(content))


def animated(path: Path) -> None:
    frames = [Image.fromarray(np.roll(COLOURS, place, 0)) for place in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


REFUSED: dict[str, tuple[str, Write, str]] = {
    "a transparent pixel": ("a.png", lambda path: with_alpha(254).save(path), "transparent pixels"),
    "a transparent colour": ("a.png", palette(transparency=9), "transparent pixels"),
    "transparent grey": (
        "a.png",
        lambda path: Image.fromarray(GREY).save(path, transparency=9),
        "transparent pixels",
    ),
    "16 bits of a measurement": (
        "a.tif",
        lambda path: Image.fromarray(GREY.astype(np.uint16)).save(path),
        "form I;16, whose range is not known; save it as RGB",
    ),
    "32 bits": (
        "a.tif",
        lambda path: Image.fromarray(GREY.astype(np.int32)).save(path),
        "form I, whose range",
    ),
    "floats": (
        "a.tif",
        lambda path: Image.fromarray(GREY.astype(np.float32)).save(path),
        "form F, whose range",
    ),
    "an animation": ("a.gif", animated, "3 images in one file, expected one"),
    "an animated PNG": ("a.png", animated, "3 images in one file, expected one"),
    "pages": ("a.tif", animated, "3 images in one file, expected one"),
    "another size": (
        "a.png",
        lambda path: Image.new("RGB", (64, 40)).save(path),
        "64×40 pixels, expected 32×32",
    ),
    "a bomb": ("a.png", bomb, r"not an image \(Image size"),
    "a cut PNG": ("a.png", cut("b.png", 0.5), "not an image"),
    "a cut JPEG": ("a.jpg", cut("b.jpg", 0.7), "not an image"),
    "a cut GIF": ("a.gif", cut("b.gif", 0.7), "not an image"),
    "a cut BMP": ("a.bmp", cut("b.bmp", 0.7), "not an image"),
    "a head alone": ("a.png", cut("b.png", 0.01), "not an image"),
    "no bytes": ("a.png", lambda path: path.touch(), "not an image"),
    "a program's drawing": (
        "a.png",
        lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n"),
        "not an image",
    ),
    "a socket": ("a.png", lambda path: path.symlink_to("/dev/null"), "not an image"),
    "a circle": ("a.png", lambda path: path.symlink_to(path), "not an image"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_certain_pixels_is_refused(case: str, tmp_path: Path) -> None:
    name, write, message = REFUSED[case]
    write(tmp_path / name)
    with pytest.raises(DataError, match=rf"^{tmp_path}/{name}: .*{message}") as raised:
        open_rgb(tmp_path / name, SIZE)
    assert "\n" not in str(raised.value)


def test_a_transparent_colour_that_no_pixel_has_changes_nothing(tmp_path: Path) -> None:
    write = palette(transparency=255)
    write(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.putdata([min(place // 4, 254) for place in range(1024)])
        image.save(tmp_path / "b.png", transparency=255)
    pixels = np.asarray(open_rgb(tmp_path / "b.png", SIZE))
    assert np.array_equal(pixels[:31], PALETTE[:31])


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    """In a process of a user who is not root, who may read everything."""
    path = tmp_path / "a.png"
    Image.fromarray(COLOURS).save(path)
    path.chmod(0)
    code = (
        "import os, sys; from pathlib import Path; "
        "from cifar_hpo.data.image_files import open_rgb\n"
        "from PIL import PngImagePlugin\n"
        "fd = os.open(sys.argv[1], os.O_PATH)\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: open_rgb(Path(f'/proc/self/fd/{fd}'))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=clean(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "DataError" in asked.stdout, asked.stderr
    assert "not an image (Permission denied)" in asked.stdout
    assert os.access(tmp_path, os.W_OK)
