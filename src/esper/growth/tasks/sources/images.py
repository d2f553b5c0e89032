"""Decode images of any mode into one array that keeps their values.

However an image is stored (8, 16 or 32 bits, floating point, a palette, with alpha), its pixel
values reach the array unchanged. Images of one data set may differ in mode: the array has colour if
one of them has, alpha if that of one is not opaque everywhere, and the type that holds all values.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from esper.growth.tasks.samples import counted
from esper.growth.tasks.task import InvalidTaskError

#: Modes whose pixels are kept as they are, grey.
_GREY = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_PNG = b"\x89PNG\r\n\x1a\n"
#: Types of colour in a PNG's header, and the modes they are read as.
_PNG_COLOURS = {2: "RGB", 6: "RGBA"}
#: Exceptions of decoders for damaged files; Pillow documents nothing narrower.
_UNREADABLE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError,
    AttributeError, MemoryError, AssertionError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

#: Decodes an entry of a data set that has neither bytes nor a local file.
Decode = Callable[[dict[str, Any]], Any]


@dataclass
class ImageArray:
    """Images gathered one by one.

    Attributes:
        where: their name in messages.
        count: number of images.
        pixels: `[n, H, W, C]`; C is 1 for grey, 2 with alpha, 3 for colour, 4 with alpha.
        types: types of values so far.
        halved: rows of which only the upper 8 of 16 bits could be read.
    """

    where: str
    count: int
    pixels: np.ndarray | None = None
    types: set[str] = field(default_factory=set)
    halved: list[int] = field(default_factory=list)

    def put(self, row: int, image: np.ndarray) -> None:
        """Store an image `[H, W, C]` in its row; widen the array if channels or type need it."""
        self.types.add(image.dtype.name)
        if self.pixels is None:
            self.pixels = np.empty((self.count, *image.shape), image.dtype)
        elif image.shape[:2] != self.pixels.shape[1:3]:
            height, width = self.pixels.shape[1:3]
            raise InvalidTaskError(
                f"{self.where} has images of different sizes, {width}x{height} and "
                f"{image.shape[1]}x{image.shape[0]} (row {row}): resize them to one "
                "size first"
            )
        colour = max(image.shape[-1], self.pixels.shape[-1]) > 2
        alpha = image.shape[-1] % 2 == 0 or self.pixels.shape[-1] % 2 == 0
        channels = (3 if colour else 1) + alpha
        dtype = np.result_type(self.pixels, image)
        if channels != self.pixels.shape[-1] or dtype != self.pixels.dtype:
            grown = np.empty((*self.pixels.shape[:3], channels), dtype)
            grown[:row] = _with_channels(self.pixels[:row], channels)
            self.pixels = grown
        self.pixels[row] = _with_channels(image, channels)

    def result(self) -> tuple[np.ndarray, list[str]]:
        """Return the images, `[n, H, W]` if grey and else `[n, H, W, C]`, and notes about them."""
        assert self.pixels is not None
        notes = []
        if len(self.types) > 1:
            notes.append(
                f"{self.where} mixes images of type {', '.join(sorted(self.types))}: their "
                "values are not rescaled"
            )
        if self.halved:
            images = counted(len(self.halved), "image")
            notes.append(
                f"{self.where} has {images} with 16-bit colours, the first in row "
                f"{self.halved[0]}: Pillow reads only the upper 8 bits"
            )
        pixels = self.pixels[..., 0] if self.pixels.shape[-1] == 1 else self.pixels
        return pixels, notes


def read_images(
    where: str, entries: Iterable[Any], count: int, decode: Decode, mode: str | None = None
) -> tuple[np.ndarray, list[str]]:
    """Return the images of a data set as one array, and notes for its user.

    Args:
        where: their name in messages.
        entries: for each image a dict with its `bytes` or its `path`; None where it is missing. No
            more than one image is decoded at a time.
        count: number of images.
        decode: returns the PIL image of an entry that has neither bytes nor a local file.
        mode: of PIL, that the data set asks for; None keeps the values that the files have.

    Returns:
        `[n, H, W]` for grey images and `[n, H, W, C]` for all others.

    Raises:
        InvalidTaskError: one is missing or cannot be read, or they differ in size.
    """
    from PIL import Image

    gathered = ImageArray(where, count)
    for row, entry in enumerate(entries):
        if entry is None or (isinstance(entry, dict) and not any(entry.values())):
            raise InvalidTaskError(f"{where} has no image in row {row}")
        try:
            pixels, is_halved = _pixels_of(entry, decode, mode)
        except (*_UNREADABLE, Image.DecompressionBombError) as error:
            # without the memory buffer that Pillow names in its message
            reason = str(error).partition("\n")[0].partition(" <_io.")[0]
            reason = reason or type(error).__name__
            raise InvalidTaskError(f"{where} cannot be read in row {row}: {reason}") from error
        if is_halved:
            gathered.halved.append(row)
        gathered.put(row, pixels)
    if gathered.pixels is None:
        raise InvalidTaskError(f"{where} has no images")
    return gathered.result()


def _pixels_of(entry: Any, decode: Decode, mode: str | None) -> tuple[np.ndarray, bool]:
    """Return the pixels of an image `[H, W, C]`, and whether half of their bits are lost."""
    from PIL import Image

    data = _bytes_of(entry)
    if data is None:
        image = decode(entry)
    elif mode is None and (colours := _deep_png(data)):
        return _deep_colour(data, colours), False
    else:
        image = Image.open(io.BytesIO(data))
        image.load()
    if mode is not None:
        return _pixels(_upright(image).convert(mode)), False
    return _pixels(_upright(image)), _loses_bits(image, data)


def _bytes_of(entry: Any) -> bytes | None:
    if entry["bytes"] is not None:
        return bytes(entry["bytes"])
    path = Path(entry["path"])
    return path.read_bytes() if path.is_file() else None


def _upright(image: Any) -> Any:
    """Return the image turned as its camera says."""
    from PIL import ExifTags, ImageOps

    if image.getexif().get(ExifTags.Base.Orientation) is None:
        return image
    return ImageOps.exif_transpose(image)


def _pixels(image: Any) -> np.ndarray:
    """Return the values of an image, `[H, W, C]`."""
    mode = image.mode
    if mode in _GREY:
        values = np.asarray(image)
        return values.astype(values.dtype.newbyteorder("="), copy=False)[..., None]
    if mode == "1":
        return np.asarray(image.convert("L"))[..., None]
    if mode in ("LA", "La"):
        return _without_opaque_alpha(np.asarray(image.convert("LA")))
    if mode in ("RGBA", "RGBa", "P", "PA"):
        values = np.asarray(image.convert("RGBA"))
        is_grey = mode in ("P", "PA") and (values[..., :2] == values[..., 1:3]).all()
        return _without_opaque_alpha(values[..., 2:] if is_grey else values)
    return np.asarray(image if mode == "RGB" else image.convert("RGB"))


def _without_opaque_alpha(values: np.ndarray) -> np.ndarray:
    return values[..., :-1] if (values[..., -1] == _opaque(values)).all() else values


def _opaque(values: np.ndarray) -> int:
    """Return the alpha of a pixel that nothing shows through."""
    return 65535 if values.dtype == np.uint16 else 255


def _with_channels(values: np.ndarray, channels: int) -> np.ndarray:
    """Return pixels `[..., C]` with as many channels as are wanted, or more than they had."""
    has_alpha, is_colour = values.shape[-1] % 2 == 0, values.shape[-1] > 2
    colours = values[..., :-1] if has_alpha else values
    if channels > 2 and not is_colour:
        colours = np.repeat(colours, 3, axis=-1)
    if channels % 2:
        return colours
    alpha = values[..., -1:] if has_alpha else np.full_like(colours[..., :1], _opaque(values))
    return np.concatenate([colours, alpha], axis=-1)


def _deep_png(data: bytes) -> str:
    """Return the mode of a PNG of 16-bit colours; else nothing."""
    is_deep = data.startswith(_PNG) and data[24:25] == b"\x10"
    return _PNG_COLOURS.get(data[25], "") if is_deep else ""


def _deep_colour(data: bytes, mode: str) -> np.ndarray:
    """Return the 16-bit values of a PNG of colours, `[H, W, C]`.

    Pillow keeps 8 bits of each colour. Read as big-endian, as they are, these are the upper ones,
    and read as little-endian the lower ones.
    """
    from PIL import Image

    halves = []
    for order in ("B", "L"):
        image: Any = Image.open(io.BytesIO(data))  # tiles are plain tuples in older versions
        image.tile = [(*tile[:3], f"{mode};16{order}") for tile in image.tile]
        image.load()
        halves.append(np.asarray(_upright(image)).astype(np.uint16))
    values = 256 * halves[0] + halves[1]
    return _without_opaque_alpha(values) if mode == "RGBA" else values


def _loses_bits(image: Any, data: bytes | None) -> bool:
    """Return whether a file has 16 bits for a value of which the image has 8."""
    if np.asarray(image).dtype != np.uint8:
        return False
    if data is not None and data.startswith(_PNG):
        return data[24:25] == b"\x10"
    tags = getattr(image, "tag_v2", {})
    return max(tags.get(258, (8,)), default=8) > 8  # bits per sample
