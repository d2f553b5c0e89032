"""Files of arrays: what is no .npz file, damaged or malformed is refused with one sentence."""

import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from array_files import save
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.growth.tasks.loading import load_task
from esper.growth.tasks.task import InvalidTaskError

X, Y = np.random.default_rng(0).normal(size=(150, 3)), np.arange(150) % 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no file"),
        (b"", "is not an .npz file, or is damaged"),
        (b"some text", "not an .npz file"),
        (b"PK\x03\x04 and then nothing", "is not an .npz file, or is damaged"),
    ],
)
def test_a_file_that_is_no_npz_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "data.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidTaskError) as error:
        load_task(f"npz:{path}")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_single_array_and_a_folder_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(InvalidTaskError, match=r"is not an \.npz file"):
        load_task(f"npz:{tmp_path / 'a.npy'}")
    with pytest.raises(InvalidTaskError, match="Is a directory"):
        load_task(f"npz:{tmp_path}")


def test_a_damaged_array_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / "data.npz"
    whole = path.read_bytes()
    for hole in range(0, len(whole) - 64, 997):
        path.write_bytes(whole[:hole] + bytes(64) + whole[hole + 64 :])
        with pytest.raises(InvalidTaskError) as error:
            load_task(f"npz:{path}")
        assert "\n" not in str(error.value)


def test_the_sentence_about_a_damaged_array_is_short(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / "data.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:26] + b"\xff\x0f" + whole[28:])  # the length of the first name
    with pytest.raises(InvalidTaskError, match="is damaged: File name in directory") as error:
        load_task(f"npz:{path}")
    assert len(str(error.value).partition("is damaged: ")[2]) <= 200


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, data in members.items():
            made.writestr(f"{name}.npy", data)
    return file.getvalue()


def npy(array: np.ndarray, header: str | None = None) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    data = file.getvalue()
    if header is None:
        return data
    text = header.encode("latin-1") + b"\n"
    return data[:8] + len(text).to_bytes(2, "little") + text + array.tobytes()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "[" * 3000,
        "{'descr': '<f8', 'fortran_order': False, 'shape': (150, 3)",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (10**30, 3)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000, 3)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999999, 3)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-150, 3)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': ('a', 3)}",
        "{'descr': '<f8', 'fortran_order': 7, 'shape': (150, 3)}",
        "{'descr': 'no type', 'fortran_order': False, 'shape': (150, 3)}",
        "{'descr': [('a', '<f8', -1)], 'fortran_order': False, 'shape': (150, 3)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (150, 3)}",
        "{'descr': ',', 'fortran_order': False, 'shape': (150, 3)}",
        "{'descr': ('<f8', (10**9, 10**9)), 'fortran_order': False, 'shape': (150, 3)}",
        "{1: 2, 'descr': '<f8', 'fortran_order': False, 'shape': (150, 3)}",
        "\xff\xfe\0",
    ],
)
def test_malformed_headers_are_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(archive({"x": npy(X, header), "y": npy(Y)}))
    with pytest.raises(InvalidTaskError) as error:
        load_task(f"npz:{path}")
    assert "the array x of" in str(error.value)
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=8)), max_size=4),
    st.one_of(st.just(6000), st.integers(0, 6000)),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]),
)
def test_damaged_files_make_a_task_or_are_refused(
    changes: list[tuple[int, bytes]], length: int, compression: int
) -> None:
    data = archive({"x": npy(X), "y": npy(Y)}, compression)
    for at, new in changes:
        at %= len(data)
        data = data[:at] + new + data[at + len(new) :]
    sentence = ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        path.write_bytes(data[:length])
        try:
            task = load_task(f"npz:{path}")
        except InvalidTaskError as error:
            sentence = str(error)
        else:
            assert task.train.inputs.isfinite().all()
    assert "\n" not in sentence
