"""Tasks from datasets in the format of Hugging Face, written here with `save_to_disk`."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Pictures

from esper.growth.tasks.loading import load_task
from esper.growth.tasks.task import InvalidTaskError
from esper.leyline.text.command_lines import install_command

SAMPLES = 200


def images(size: tuple[int, ...] = (9, 8), count: int = SAMPLES) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(count, *size), dtype=np.uint8)


def pictures(arrays: np.ndarray) -> list[Pictures.Image]:
    return [Pictures.fromarray(array) for array in arrays]


LABELS = (np.arange(SAMPLES) % 2).tolist()
WITH_IMAGES = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})


def save(folder: Path, columns: dict[str, Any], features: Features | None = None) -> str:
    Dataset.from_dict(columns, features=features).save_to_disk(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize("size", [(9, 8), (9, 8, 3)])
def test_images_and_class_labels_are_found(tmp_path: Path, size: tuple[int, ...]) -> None:
    arrays = images(size)
    name = save(tmp_path / "d", {"image": pictures(arrays), "label": LABELS}, WITH_IMAGES)
    task = load_task(name)
    assert task.class_names == ("cat", "dog")
    parts = (task.train, task.validation, task.test)
    raw = torch.cat([task.raw(part) for part in parts]).numpy()
    assert raw.dtype == np.uint8
    order = [tuple(image.flatten()) for image in arrays]
    labels = torch.cat([part.labels for part in parts]).tolist()
    for image, label in zip(raw, labels, strict=True):
        assert LABELS[order.index(tuple(image.flatten()))] == label


def test_the_parts_of_a_dataset_stay_parts(tmp_path: Path) -> None:
    made = Dataset.from_dict({"image": pictures(images()), "label": LABELS}, features=WITH_IMAGES)
    folder = tmp_path / "d"
    DatasetDict(
        train=made, validation=made.select(range(30)), test=made.select(range(40)), extra=made
    ).save_to_disk(folder)
    task = load_task(f"hf:{folder}")
    assert (len(task.train), len(task.validation), len(task.test)) == (SAMPLES, 30, 40)
    np.testing.assert_array_equal(task.raw(task.test).numpy(), images()[:40])


def test_columns_can_be_named(tmp_path: Path) -> None:
    columns = {
        "first": images((4,)).astype(float).tolist(),
        "second": images((6,)).astype(float).tolist(),
        "kind": [["a", "b"][label] for label in LABELS],
    }
    name = save(tmp_path / "d", columns)
    with pytest.raises(
        InvalidTaskError, match="not clear which column is the label; the columns are"
    ):
        load_task(name)
    with pytest.raises(InvalidTaskError, match="which column is the input"):
        load_task(f"{name}?label=kind")
    for options, words in (
        ("label=kind&input=third", "there is no column third for input=; the columns are"),
        ("label=sort&input=first", "there is no column sort for label=; the columns are"),
    ):
        with pytest.raises(InvalidTaskError, match=f"{words} first, second, kind$"):
            load_task(f"{name}?{options}")
    task = load_task(f"{name}?label=kind&input=second")
    assert (task.input_shape, task.class_names) == ((6,), ("a", "b"))
    task = load_task(f"{name}?label=kind&input=second&kind=signal")
    assert task.input_shape == (1, 6)


def test_splits_can_be_named_and_others_are_reported(tmp_path: Path) -> None:
    made = Dataset.from_dict({"image": pictures(images()), "label": LABELS}, features=WITH_IMAGES)
    folder = tmp_path / "d"
    DatasetDict(train=made, val=made.select(range(30)), dev=made.select(range(40))).save_to_disk(
        folder
    )
    task = load_task(f"hf:{folder}")
    assert task.description == (
        "images of 9x8; not used: val, dev (choose with train=, validation= and test= in the "
        "task name)"
    )
    assert task.drawn == ("test", "validation")
    task = load_task(f"hf:{folder}?validation=val&test=dev")
    assert (len(task.train), len(task.validation), len(task.test)) == (SAMPLES, 30, 40)
    assert (task.description, task.drawn) == ("images of 9x8", ())
    with pytest.raises(
        InvalidTaskError, match="has no part eval, only train, val, dev: choose one with test=NAME"
    ):
        load_task(f"hf:{folder}?test=eval")
    DatasetDict(a=made, b=made).save_to_disk(tmp_path / "e")
    with pytest.raises(
        InvalidTaskError, match="has no part train, only a, b: choose one with train=NAME"
    ):
        load_task(f"hf:{tmp_path / 'e'}")
    assert len(load_task(f"hf:{tmp_path / 'e'}?train=a&test=b&validation=b").train) == SAMPLES


def test_labels_that_are_bytes_or_texts_are_classes(tmp_path: Path) -> None:
    for number, kind in enumerate(("string", "binary", "bool", "int8")):
        values = {"string": "ab", "binary": [b"a", b"b"], "bool": [False, True], "int8": [-1, 5]}
        labels = [values[kind][label] for label in LABELS]
        features = Features({"image": Image(), "label": Value(kind)})
        columns = {"image": pictures(images()), "label": labels}
        task = load_task(save(tmp_path / str(number), columns, features))
        assert task.class_labels == tuple(values[kind])


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    columns = {"image": pictures(images()), "label": LABELS}
    name = save(tmp_path / "d", columns, WITH_IMAGES)
    for file in sorted((tmp_path / "d").iterdir()):
        whole = file.read_bytes()
        for damaged in (b"", b"\0" * 40, whole[: len(whole) // 2], b"[1, 2", b"{}"):
            file.write_bytes(damaged)
            sentence = ""
            try:
                load_task(name)
            except InvalidTaskError as error:
                sentence = str(error)
            assert "\n" not in sentence
        file.write_bytes(whole)


def test_names_that_cannot_be_paths_are_refused(tmp_path: Path) -> None:
    names = ["hf:" + "a" * 300, "npz:" + "a" * 300, "npz:~nosuchuser1/a.npz"]
    program = f"""
from esper.growth.tasks.loading import InvalidTaskError, load_task
for name in {names}:
    try:
        load_task(name)
    except InvalidTaskError as error:
        print("refused:", error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert [line.split(":")[0] for line in ended.stdout.splitlines()] == ["refused"] * 3


@pytest.mark.parametrize(
    ("columns", "features", "words"),
    [
        (
            {"image": [*pictures(images(count=199)), *pictures(images((8, 8), 1))]},
            WITH_IMAGES,
            "images of different sizes, 8x9 and 8x8",
        ),
        (
            {"image": [*pictures(images(count=199)), None]},
            WITH_IMAGES,
            "has no image in row",
        ),
        ({"label": [*LABELS[:-1], None]}, WITH_IMAGES, "without a label"),
        (
            {"label": [*LABELS[:-1], -1]},
            WITH_IMAGES,
            "the label -1, which is not one of the",
        ),
        (
            {"image": [[1.0] * (1 + row % 2) for row in range(SAMPLES)]},
            Features({"image": List(Value("float32")), "label": Value("int64")}),
            "samples of different shapes",
        ),
        (
            {"image": [*({"bytes": b"no image", "path": None} for _ in range(SAMPLES))]},
            WITH_IMAGES,
            "cannot be read in row 0: cannot identify image file",
        ),
        (
            {"label": [[0, 1]] * SAMPLES},
            Features({"image": Image(), "label": List(ClassLabel(names=["cat", "dog"]))}),
            "has several labels for a sample, such as [0, 1]: every sample must have one class",
        ),
        (
            {"label": [[0] * (1 + row % 3) for row in range(SAMPLES)]},
            Features({"image": Image(), "label": List(Value("int64"))}),
            "has several labels for a sample, such as [0]: every sample must have one class",
        ),
        (
            {"label": [{"a": 1}] * SAMPLES},
            Features({"image": Image(), "label": {"a": Value("int64")}}),
            "has several labels for a sample",
        ),
        ({"image": [], "label": []}, WITH_IMAGES, "has no samples"),
        (
            {"image": [{"a": 1.0}] * SAMPLES},
            Features({"image": {"a": Value("float64")}, "label": Value("int64")}),
            "samples of different shapes",
        ),
        (
            {"image": ["some text"] * SAMPLES},
            Features({"image": Value("string"), "label": Value("int64")}),
            "must be numbers",
        ),
    ],
)
def test_data_that_cannot_be_used_gets_one_sentence(
    tmp_path: Path, columns: dict[str, Any], features: Features, words: str
) -> None:
    columns = {"image": pictures(images()), "label": LABELS} | columns
    name = save(tmp_path / "d", columns, features)
    with pytest.raises(InvalidTaskError) as error:
        load_task(name)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_sounds_are_refused_in_one_sentence(tmp_path: Path) -> None:
    made = Dataset.from_dict({"sound": [{"bytes": b"a", "path": None}] * 200, "label": LABELS})
    made.cast_column("sound", Audio()).save_to_disk(tmp_path / "d")
    with pytest.raises(InvalidTaskError, match=r"sound in the train part of .* cannot be read as"):
        load_task(f"hf:{tmp_path / 'd'}")


def test_a_folder_that_holds_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidTaskError) as error:
        load_task(f"hf:{tmp_path}")
    assert "cannot be loaded" in str(error.value)
    assert "\n" not in str(error.value)


def test_without_the_extra_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InvalidTaskError, match=re.escape(install_command("datasets"))):
        load_task(f"hf:{tmp_path}")


@pytest.mark.parametrize("task", ["cifar10", "hf:offline/nothing"])
def test_without_a_network_one_error_is_shown_at_once(tmp_path: Path, task: str) -> None:
    program = (
        "import time; time.sleep = None\n"  # code that waits before a retry fails
        "from esper.growth.tasks.loading import load_task\n"
        f"load_task({task!r})\n"
    )
    kept = {key: text for key, text in os.environ.items() if not key.startswith("HF_")}
    kept.pop("ESPER_DATA_DIR", None)
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "no_proxy": "*"}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=kept | offline, capture_output=True, text=True
    )
    (*_, sentence) = ended.stderr.splitlines()
    assert sentence.startswith("esper.growth.tasks.task.InvalidTaskError: the dataset ")
    assert "cannot be loaded: http://127.0.0.1:9 cannot be reached (Connection refused)" in sentence
    assert "Retrying" not in ended.stderr
    assert "thrown while requesting" not in ended.stderr
    assert ended.stdout == ""
