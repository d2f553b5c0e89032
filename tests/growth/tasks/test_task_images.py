"""Encoded images of every mode: their values reach the task, and a broken one is named."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures

from esper.growth.tasks.loading import load_task
from esper.growth.tasks.sources.images import read_images
from esper.growth.tasks.task import InvalidTaskError, Task

HEIGHT, WIDTH = 5, 7
numbers = np.random.default_rng(0)


def values(dtype: str, *channels: int, high: int = 256) -> np.ndarray:
    return numbers.integers(high, size=(HEIGHT, WIDTH, *channels)).astype(dtype)


def encoded(image: Pictures.Image, kind: str = "PNG") -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, kind)
    return {"bytes": file.getvalue(), "path": None}


def png_of_16_bits(pixels: np.ndarray) -> dict[str, Any]:
    """Write 16-bit values `[H, W, C]` as PNG, which Pillow cannot for colours."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").tobytes()
    stride = len(rows) // height
    # the second row is filtered (up), as encoders do
    lines = [rows[at : at + stride] for at in range(0, len(rows), stride)]
    difference = bytes((b - a) % 256 for a, b in zip(lines[0], lines[1], strict=True))
    body = b"\0" + lines[0] + b"\2" + difference + b"".join(b"\0" + line for line in lines[2:])
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(body)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        data += struct.pack(">I", len(content)) + name + content
        data += struct.pack(">I", zlib.crc32(name + content))
    return {"bytes": data, "path": None}


def tiff_of_16_bit_colours(pixels: np.ndarray) -> dict[str, Any]:
    """Write 16-bit values `[H, W, 3]` as TIFF, without compression."""
    height, width, _ = pixels.shape
    data = pixels.astype("<u2").tobytes()
    depths = struct.pack("<3H", 16, 16, 16)
    first = 8 + len(data) + len(depths)
    entries = (
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, 3, 8 + len(data)),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8),
        (277, 3, 1, 3),
        (278, 3, 1, height),
        (279, 4, 1, len(data)),
    )
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    header = b"II*\0" + struct.pack("<I", first)
    return {"bytes": header + data + depths + directory, "path": None}


def read(*entries: Any, mode: str | None = None) -> tuple[np.ndarray, list[str]]:
    def none(_: Any) -> Any:
        raise FileNotFoundError("there is no file")

    return read_images("the images", entries, len(entries), none, mode)


GREY8, GREY16, COLOUR = values("u1"), values("u2", high=65536), values("u1", 3)
ALPHA = values("u1", 1)
FLOAT = numbers.normal(size=(HEIGHT, WIDTH)).astype("f4") * 1e-3 + 7
INTEGERS = values("i4", high=2**31 - 1) - 2**30
DEEP, DEEP_ALPHA = values("u2", 3, high=65536), values("u2", 4, high=65536)
ONE_BIT = GREY8 > 127
PALETTE = Pictures.fromarray(GREY8 % 4).convert("P")
PALETTE.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 200])
COLOURS_OF_PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 9, 200]], "u1")
GREY_PALETTE = Pictures.fromarray(GREY8 % 2).convert("P")
GREY_PALETTE.putpalette([3, 3, 3, 180, 180, 180])
GREY_ALPHA, COLOUR_ALPHA = np.dstack([GREY8, ALPHA]), np.dstack([COLOUR, ALPHA])
OPAQUE = np.full_like(ALPHA, 255)


def picture(array: np.ndarray) -> Pictures.Image:
    return Pictures.fromarray(array)


CASES = {
    "8 bits": (encoded(picture(GREY8)), GREY8),
    "16 bits": (encoded(picture(GREY16)), GREY16),
    "16 bits, TIFF": (encoded(picture(GREY16), "TIFF"), GREY16),
    "32 bits": (encoded(picture(INTEGERS), "TIFF"), INTEGERS),
    "floating point": (encoded(picture(FLOAT), "TIFF"), FLOAT),
    "1 bit": (encoded(picture(ONE_BIT)), ONE_BIT * np.uint8(255)),
    "colour": (encoded(picture(COLOUR)), COLOUR),
    "16-bit colour": (png_of_16_bits(DEEP), DEEP),
    "16-bit colour with alpha": (png_of_16_bits(DEEP_ALPHA), DEEP_ALPHA),
    "small 16-bit colour": (png_of_16_bits(DEEP % 200), DEEP % 200),
    "grey with alpha": (encoded(picture(GREY_ALPHA)), GREY_ALPHA),
    "grey, opaque": (encoded(picture(np.dstack([GREY8, OPAQUE]))), GREY8),
    "colour with alpha": (encoded(picture(COLOUR_ALPHA)), COLOUR_ALPHA),
    "colour, opaque": (encoded(picture(np.dstack([COLOUR, OPAQUE]))), COLOUR),
    "shape in alpha only": (
        encoded(picture(np.dstack([0 * COLOUR, ALPHA]))),
        np.dstack([0 * COLOUR, ALPHA]),
    ),
    "palette": (encoded(PALETTE), COLOURS_OF_PALETTE[GREY8 % 4]),
    "grey palette": (encoded(GREY_PALETTE), np.array([3, 180], "u1")[GREY8 % 2]),
    "palette, GIF": (encoded(PALETTE, "GIF"), COLOURS_OF_PALETTE[GREY8 % 4]),
}


@pytest.mark.parametrize("case", CASES)
def test_values_are_kept(case: str) -> None:
    entry, expected = CASES[case]
    array, notes = read(entry, entry)
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, np.stack([expected, expected]))
    assert notes == []


def test_transparent_palettes_keep_their_alpha() -> None:
    file = io.BytesIO()
    PALETTE.save(file, "PNG", transparency=bytes([0, 255, 100, 255]))
    array, _ = read({"bytes": file.getvalue(), "path": None})
    index = GREY8 % 4
    expected = np.dstack(
        [COLOURS_OF_PALETTE[index], np.array([0, 255, 100, 255], "u1")[index][..., None]]
    )
    np.testing.assert_array_equal(array[0], expected)


def grey_as_colour(array: np.ndarray) -> np.ndarray:
    return np.repeat(array[..., None], 3, axis=-1)


def test_colour_is_kept_if_any_image_has_it() -> None:
    for order in ((0, 1), (1, 0)):
        entries = (CASES["8 bits"][0], CASES["colour"][0])
        expected = (grey_as_colour(GREY8), COLOUR)
        array, notes = read(*(entries[at] for at in order))
        np.testing.assert_array_equal(array, np.stack([expected[at] for at in order]))
        assert notes == []


def test_alpha_is_kept_if_any_image_has_it() -> None:
    array, _ = read(CASES["8 bits"][0], CASES["grey with alpha"][0])
    np.testing.assert_array_equal(array, np.stack([np.dstack([GREY8, OPAQUE]), GREY_ALPHA]))
    array, _ = read(CASES["grey with alpha"][0], CASES["palette"][0])
    first = np.dstack([grey_as_colour(GREY8), ALPHA])
    second = np.dstack([CASES["palette"][1], OPAQUE])
    np.testing.assert_array_equal(array, np.stack([first, second]))
    array, _ = read(CASES["16-bit colour with alpha"][0], CASES["16 bits"][0])
    assert (array[1, ..., 3] == 65535).all()


def test_depths_can_be_mixed_and_that_is_noted() -> None:
    array, notes = read(CASES["8 bits"][0], CASES["16 bits"][0], CASES["floating point"][0])
    np.testing.assert_array_equal(array[0], GREY8)
    np.testing.assert_array_equal(array[1], GREY16)
    np.testing.assert_array_equal(array[2], FLOAT)
    assert notes == [
        "the images mixes images of type float32, uint16, uint8: their values are not rescaled"
    ]


def test_bits_that_cannot_be_read_are_noted() -> None:
    deep = png_of_16_bits(values("u2", 2, high=65536))
    array, notes = read(CASES["colour"][0], tiff_of_16_bit_colours(DEEP))
    np.testing.assert_array_equal(array[1], DEEP >> 8)
    assert "has 1 image with 16-bit colours, the first in row 1: Pillow" in notes[0]
    _, notes = read(CASES["grey with alpha"][0], deep, deep)
    assert notes == [
        "the images has 2 images with 16-bit colours, the first in row 1: Pillow reads "
        "only the upper 8 bits"
    ]


def test_a_mode_that_the_data_set_asks_for_is_respected() -> None:
    array, _ = read(CASES["colour"][0], mode="L")
    np.testing.assert_array_equal(array[0], np.asarray(picture(COLOUR).convert("L")))


def test_images_in_files_are_turned_upright(tmp_path: Path) -> None:
    exif = Pictures.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture(GREY8).save(tmp_path / "a.png", exif=exif)
    array, _ = read({"bytes": None, "path": str(tmp_path / "a.png")})
    np.testing.assert_array_equal(array[0], np.rot90(GREY8, -1))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (None, "has no image in row 1"),
        ({"bytes": None, "path": None}, "has no image in row 1"),
        ({"bytes": b"some text", "path": None}, "cannot be read in row 1: cannot identify"),
        ({"bytes": None, "path": "absent.png"}, "cannot be read in row 1: there is no file"),
        (encoded(picture(GREY8[:, :4])), "different sizes, 7x5 and 4x5 (row 1)"),
        ("a.png", "cannot be read in row 1"),
    ],
)
def test_a_broken_image_is_named_by_its_row(entry: Any, words: str) -> None:
    with pytest.raises(InvalidTaskError) as error:
        read(CASES["8 bits"][0], entry)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "BytesIO" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about what it skips
@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(CASES)),
    st.lists(st.tuples(st.integers(26, 400), st.binary(min_size=1, max_size=4)), max_size=3),
    st.integers(0, 400),
)
@example("8 bits", [(33, b"\xff\xff\xff\xff")], 400)
def test_damaged_images_are_read_or_named(
    case: str, changes: list[tuple[int, bytes]], length: int
) -> None:
    data = CASES[case][0]["bytes"]
    for at, new in changes:
        data = data[:at] + new + data[at + len(new) :]
    trouble = ""
    try:
        array, _ = read({"bytes": data[:length], "path": None})
    except InvalidTaskError as error:
        trouble = str(error)
    else:
        assert len(array) == 1
    assert trouble == "" or "row 0" in trouble
    assert "\n" not in trouble


def task_of(folder: Path, entries: list[dict[str, Any]], labels: list[int]) -> Task:
    features = Features({"image": Image(), "label": ClassLabel(names=["dark", "bright"])})
    made = Dataset.from_dict({"image": entries, "label": labels}, features=features)
    made.save_to_disk(folder)
    return load_task(f"hf:{folder}")


def test_a_dataset_of_16_bit_images_keeps_its_values(tmp_path: Path) -> None:
    labels = numbers.integers(2, size=300)
    pixels = [2000 + 8000 * label + values("u2", high=1000) for label in labels]
    task = task_of(
        tmp_path / "d", [encoded(picture(p.astype("u2"))) for p in pixels], labels.tolist()
    )
    for part in (task.train, task.validation, task.test):
        raw = task.raw(part).flatten(1)
        assert ((raw > 9000).all(dim=1) == part.labels.bool()).all()
        assert (raw > 1999.5).all()
        assert (raw < 11000).all()
    assert task.description == "images of 5x7"


def test_a_dataset_of_grey_images_with_alpha_has_two_channels(tmp_path: Path) -> None:
    entries = [encoded(picture(np.dstack([values("u1"), values("u1")]))) for _ in range(200)]
    task = task_of(tmp_path / "d", entries, [0, 1] * 100)
    assert task.input_shape == (2, HEIGHT, WIDTH)
    assert task.raw(task.test).shape[1:] == (HEIGHT, WIDTH, 2)
    assert task.description == "images of 5x7 with 2 channels, channels last"


def test_images_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidTaskError, match="are the same: there is nothing to learn"):
        task_of(tmp_path / "d", [CASES["16 bits"][0]] * 200, [0, 1] * 100)
    black = encoded(picture(0 * GREY8))
    with pytest.raises(InvalidTaskError, match=r"the same \(every value is 0\)"):
        task_of(tmp_path / "e", [black] * 200, [0, 1] * 100)
