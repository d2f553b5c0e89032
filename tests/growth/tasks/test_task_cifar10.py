"""CIFAR-10 from files in its formats, which the tests write; nothing is downloaded."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pictures

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.tasks.loading import load_task
from esper.growth.tasks.sources.cifar10 import CLASS_NAMES, DATA_DIR
from esper.growth.tasks.task import InvalidTaskError, Task
from esper.leyline.text.command_lines import install_command

Part = tuple[np.ndarray, np.ndarray]


def pictures(count: int, seed: int) -> Part:
    """Return random images `[n, 3, 32, 32]` and labels; each class has a different colour."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(10, size=count)
    images = generator.integers(64, size=(count, 3, 32, 32)) + 16 * labels[:, None, None, None]
    return images.astype(np.uint8), labels.astype(np.uint8)


def write_batches(folder: Path, train: Part, test: Part) -> None:
    """Write the format of the "binary version": a label, then red, green and blue."""
    folder.mkdir(parents=True)
    half = len(train[1]) // 2
    parts = {
        "data_batch_1.bin": (train[0][:half], train[1][:half]),
        "data_batch_2.bin": (train[0][half:], train[1][half:]),
        "test_batch.bin": test,
    }
    for name, (images, labels) in parts.items():
        np.hstack([labels[:, None], images.reshape(len(labels), -1)]).tofile(folder / name)


def write_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Pictures.fromarray(image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def write_parquet(folder: Path, train: Part, test: Part) -> None:
    """Write what Hugging Face keeps: encoded images and class labels."""
    folder.mkdir(parents=True)
    features = Features({"img": Image(), "label": ClassLabel(names=list(CLASS_NAMES))})
    for name, (images, labels) in (("train", train), ("test", test)):
        encoded = [{"bytes": write_png(image), "path": None} for image in images]
        made = Dataset.from_dict({"img": encoded, "label": labels.tolist()}, features=features)
        made.to_parquet(folder / f"{name}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images in both formats, by format."""
    train, test = pictures(240, 0), pictures(50, 1)
    here = tmp_path_factory.mktemp("data")
    write_batches(here / "binary" / "cifar-10-batches-bin", train, test)
    write_parquet(here / "parquet" / "plain_text", train, test)
    return {"binary": here / "binary", "parquet": here / "parquet"}


@pytest.mark.parametrize("kind", ["binary", "parquet"])
def test_both_formats_give_the_images_that_were_written(
    folders: dict[str, Path], kind: str
) -> None:
    task = load_task(f"cifar10:{folders[kind]}")
    images, labels = pictures(50, 1)
    raw = task.raw(task.test)
    raw = raw if kind == "binary" else raw.movedim(-1, 1)
    assert raw.dtype == torch.uint8
    np.testing.assert_array_equal(raw.numpy(), images)
    np.testing.assert_array_equal(task.test.labels.numpy(), labels)
    assert (task.input_shape, task.class_names) == ((3, 32, 32), CLASS_NAMES)
    assert len(task.train) + len(task.validation) == 240


def test_all_formats_train_identically(folders: dict[str, Path]) -> None:
    losses = []
    for folder in folders.values():
        env = GrowthVectorEnv(1, task=f"cifar10:{folder}", batch=40, batches=2)
        env.reset(seed=0)
        *_, info = env.step(np.zeros((1, 8), dtype=np.int64))
        losses.append(info["loss"])
    np.testing.assert_array_equal(*losses)


def test_the_environment_names_the_folder(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_DIR, str(folders["binary"]))
    named: Task = load_task("cifar10")
    assert named.train.inputs.equal(load_task(f"cifar10:{folders['binary']}").train.inputs)


def test_images_are_kept_as_bytes_once_for_all_hosts(folders: dict[str, Path]) -> None:
    task = load_task(f"cifar10:{folders['binary']}")
    env = GrowthVectorEnv(8, task=task, batch=40, batches=2)
    train, *_ = env.parts
    assert train.inputs.dtype == torch.uint8
    assert train.inputs.data_ptr() == task.train.inputs.data_ptr()


def test_a_folder_without_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidTaskError,
        match="does not contain CIFAR-10: it or a subfolder must contain data_batch",
    ):
        load_task(f"cifar10:{tmp_path}")
    with pytest.raises(InvalidTaskError, match="does not contain CIFAR-10"):
        load_task(f"cifar10:{tmp_path / 'absent'}")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    write_batches(tmp_path / "binary", pictures(20, 0), pictures(10, 1))
    batch = tmp_path / "binary" / "data_batch_2.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(
        InvalidTaskError, match=r"data_batch_2\.bin is damaged: .* 3073 bytes, not 30729"
    ):
        load_task(f"cifar10:{tmp_path / 'binary'}")
    batch.unlink()
    batch.mkdir()
    with pytest.raises(InvalidTaskError, match="cannot be read: Is a directory"):
        load_task(f"cifar10:{tmp_path / 'binary'}")
    folder = tmp_path / "parquet"
    folder.mkdir()
    for name in ("train.parquet", "test.parquet"):
        (folder / name).write_text("no parquet")
    with pytest.raises(InvalidTaskError, match="has no CIFAR-10 parquet files"):
        load_task(f"cifar10:{folder}")
    for name in ("train.parquet", "test.parquet"):
        broken = Dataset.from_dict({"img": [{"bytes": b"no image"}], "label": [1]})
        broken.to_parquet(folder / name)
    with pytest.raises(InvalidTaskError, match="cannot be read in row 0"):
        load_task(f"cifar10:{folder}")
    images = [{"bytes": write_png(image), "path": None} for image in pictures(20, 0)[0]]
    for labels, words in (
        ([10] * 20, "has the label 10, which is not one of the 10 classes"),
        (["cat"] * 20, "has strings as labels: they must be class numbers from 0 to 9"),
        ([None] * 20, "have the type object"),
        ([[1, 2]] * 20, "one label per sample"),
    ):
        made = Dataset.from_dict({"img": images, "label": labels})
        for name in ("train.parquet", "test.parquet"):
            made.to_parquet(folder / name)
        with pytest.raises(InvalidTaskError, match=words):
            load_task(f"cifar10:{folder}")


def test_without_files_and_without_the_extra_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(DATA_DIR, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InvalidTaskError) as error:
        load_task("cifar10")
    assert install_command("datasets") in str(error.value)
    assert "cifar10:FOLDER" in str(error.value)
