"""A folder of runs as a sweep leaves it: healthy, lit, dead, live."""

import os
import shutil

import pytest

from esper.karn.store.run_store import RunWriter, create_run


@pytest.fixture(scope="session")
def swept(tmp_path_factory, payloads):
    """Return a folder of six runs over two learning rates, three of them lit; not to be changed."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    for number, (name, rate, light) in enumerate(
        (
            ("amber", 1e-3, None),
            ("birch", 1e-2, "op"),
            ("cedar", 1e-3, "slot"),
            ("douglas", 1e-2, "op"),
            ("elm", 1e-2, None),
            ("fir", 1e-3, None),
        )
    ):
        with RunWriter(create_run(folder, name, now=86_400.0 * number)) as writer:
            config = {"learning_rate": rate, "batch": {"size": 8 * number}, "amp": number == 0}
            writer.emit(payloads.start(name=name, seed=number, config=config))
            for update in range(1, 4):
                writer.emit(payloads.episodes(update, score=[0.1 * number + 0.01 * update]))
                if light and update == 1 + number % 2:
                    writer.emit(payloads.broken_update(update, light, "nan"))
                else:
                    writer.emit(payloads.update(update))
            if name != "fir":
                writer.emit(payloads.finish(update=3, episodes_done=6))
    for path in folder.rglob("*"):  # a file that changed just now is read again
        os.utime(path, (1_000.0, 1_000.0))
    return folder


@pytest.fixture
def sweep(swept, tmp_path, monkeypatch):
    """Return a copy of the folder, which gets an index although it is small."""
    monkeypatch.setattr("esper.karn.reports.run_catalogue.FEWEST_INDEXED", 1)
    return shutil.copytree(swept, tmp_path / "sweep")
