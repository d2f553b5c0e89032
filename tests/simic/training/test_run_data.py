"""The data of a run: other data is refused when it resumes, or accepted and reported."""

import errno
import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from esper.cli import main
from esper.growth.tasks.loading import load_task
from esper.karn.store.run_store import CONFIG_NAME
from esper.simic.training.run_data import DATA_NAME

Esper = Callable[..., tuple[int, str, str]]
numbers = np.random.default_rng(0)
X, Y = numbers.normal(size=(300, 6)), numbers.integers(3, size=300)


@pytest.fixture
def esper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Esper:
    """Runs a command on the runs of this test: exit code, output, errors."""

    def esper(verb: str, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main((verb, "--run-dir", str(tmp_path / "runs"), *arguments))
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return esper


def begin(esper: Esper, task: str, *options: str) -> tuple[int, str, str]:
    sizes = ("--episodes", "2", "--envs", "2", "--steps", "2", "--minibatches", "1")
    return esper("ppo", "--no-sanctum", "--name", "a", "--task", task, *sizes, *options)


def resume(esper: Esper, episodes: int, *options: str) -> tuple[int, str, str]:
    given = ("--no-sanctum", "--resume", "a", "--episodes", str(episodes))
    return esper("ppo", *given, *options)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_the_same_data_resumes(esper: Esper, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    assert begin(esper, f"npz:{tmp_path / 'data.npz'}")[0] == 0
    np.savez_compressed(tmp_path / "data.npz", y=Y, x=X)  # another file of the same data
    code, output, errors = resume(esper, 4)
    assert code == 0, errors
    assert "data of this run changed" not in output


CHANGES = {
    "other values": {"x": X + 1e-9, "y": Y},
    "other order": {"x": X[::-1], "y": Y[::-1]},
    "another label": {"x": X, "y": np.where(np.arange(300) == 7, (Y + 1) % 3, Y)},
    "another feature": {"x": X[:, :5], "y": Y},
    "other classes": {"x": X, "y": np.array(["a", "b", "c"])[Y]},
    "another type": {"x": X.astype(np.float32), "y": Y},
    "a separate test part": {"x": X, "y": Y, "x_test": X[:60], "y_test": Y[:60]},
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_is_refused_and_the_run_unchanged(
    esper: Esper, tmp_path: Path, change: str
) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    assert begin(esper, f"npz:{tmp_path / 'data.npz'}")[0] == 0
    np.savez(tmp_path / "data.npz", **CHANGES[change])
    before = contents(tmp_path / "runs")
    code, output, errors = resume(esper, 4)
    assert (code, output) == (2, "")
    (sentence,) = errors.splitlines()
    assert "is not what" in sentence
    assert "--data-changed" in sentence
    assert contents(tmp_path / "runs") == before


def test_changed_data_is_accepted_with_the_option_and_reported(
    esper: Esper, tmp_path: Path
) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    assert begin(esper, f"npz:{tmp_path / 'data.npz'}")[0] == 0
    np.savez(tmp_path / "data.npz", x=X[:, :4], y=Y)
    code, output, _ = resume(esper, 4, "--data-changed")
    assert code == 0
    notice = "the data of this run changed after update 1 (--data-changed)"
    assert notice in output.splitlines()
    (run,) = (tmp_path / "runs").iterdir()
    assert [entry["after_update"] for entry in json.loads((run / DATA_NAME).read_text())] == [0, 1]
    # From here on the new data is the run's own, and the change stays reported.
    code, output, _ = resume(esper, 6)
    assert code == 0
    assert notice in output.splitlines()
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    assert resume(esper, 8)[0] == 2


def test_an_option_that_does_nothing_is_refused(esper: Esper, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    code, _, errors = begin(esper, f"npz:{tmp_path / 'data.npz'}", "--data-changed")
    assert (code, errors) == (2, "esper: --data-changed only applies to --resume\n")
    assert begin(esper, f"npz:{tmp_path / 'data.npz'}")[0] == 0
    code, _, errors = resume(esper, 4, "--data-changed")
    assert code == 2
    assert "has not changed since it was trained: leave out --data-changed" in errors


def test_a_text_has_a_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("ab cd" * 400)
    first = load_task(f"chars:{tmp_path / 't.txt'}").fingerprint
    assert first
    assert load_task(f"chars:{tmp_path / 't.txt'}").fingerprint == first
    assert load_task(f"chars:{tmp_path / 't.txt'}?context=9").fingerprint != first
    (tmp_path / "t.txt").write_text("ab cd" * 399 + "ab dc")
    assert load_task(f"chars:{tmp_path / 't.txt'}").fingerprint != first


def test_a_run_without_a_record_resumes(esper: Esper, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    assert begin(esper, f"npz:{tmp_path / 'data.npz'}")[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    (run / DATA_NAME).unlink()
    np.savez(tmp_path / "data.npz", x=X + 1, y=Y)
    assert resume(esper, 4)[0] == 0
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    assert resume(esper, 6)[0] == 2, "it was recorded when the run resumed"


@pytest.mark.parametrize("content", ["", "[1]", '[{"fingerprint": "a"}]', "{}1", '"a"'])
def test_a_damaged_record_gets_one_sentence(esper: Esper, tmp_path: Path, content: str) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    assert begin(esper, f"npz:{tmp_path / 'data.npz'}")[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    (run / DATA_NAME).write_text(content)
    code, _, errors = resume(esper, 4)
    assert code == 2
    assert "the record of the run's data, is damaged" in errors
    assert (run / CONFIG_NAME).read_text().count("episodes = 2\n") == 1


def test_evaluating_on_changed_data_is_reported(esper: Esper, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    assert begin(esper, f"npz:{tmp_path / 'data.npz'}")[0] == 0
    options = ("a", "--episodes", "2", "--against", "none")
    code, output, errors = esper("eval", *options)
    assert code == 0
    assert "is not what" not in errors
    words = " ".join(output.split())
    assert "Always answering with the largest class has a test accuracy of 0." in words
    np.savez(tmp_path / "data.npz", x=X + 1, y=Y)
    code, _, errors = esper("eval", *options)
    assert code == 0
    assert f"note: the data of npz:{tmp_path / 'data.npz'} is not what 2" in errors


def test_a_run_trains_where_files_cannot_be_locked(
    esper: Esper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    code, output, errors = begin(esper, "digits")
    assert code == 0, errors
    assert "has no locks (No locks available): make sure that no other process trains" in output


def test_the_description_of_the_samples_comes_first(esper: Esper, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y, x_val=X, y_val=Y)
    name = f"npz:{tmp_path / 'data.npz'}"
    code, output, _ = begin(esper, name)
    assert code == 0
    assert output.startswith(f"{name}: 300 vectors of 6 features (guessed from their shape")
    assert "not used: x_val, y_val" in output.splitlines()[0]
    assert "the largest class is 0." in output.splitlines()[1]
