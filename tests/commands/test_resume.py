"""`esper ppo --resume`: what may change, and what a refused resume leaves unchanged."""

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.commands.ppo.ending import EXIT_CODE_INCOMPLETE
from esper.karn.sanctum.following.follower import RunFollower
from esper.services.launch.other_machine import check_not_trained_elsewhere
from esper.services.run_lock import HeldRun
from esper.simic.config import ConfigError

Run = Callable[..., tuple[int, str, str]]


def test_only_some_settings_can_change_at_a_resume(run: Run) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "2")[0] == 0
    code, _, errors = run("ppo", "--resume", "2", "--learning-rate", "0.1")
    assert code == 2
    assert "--learning-rate cannot change when a run is resumed; only --episodes," in errors
    code, _, errors = run("ppo", "--resume", "2")
    assert code == 2
    assert "has trained 1 episode already" in errors
    code, _, errors = run("ppo", "--resume", "2", "--episodes", "2", "--inject", "op:inf@1")
    assert code == 2
    assert "is done already" in errors


def test_more_episodes_do_not_change_the_number_of_hosts(run: Run) -> None:
    assert run("ppo", "--episodes", "10", "--steps", "1")[0] == 0
    code, output, _ = run("ppo", "--resume", "2", "--episodes", "20")
    assert code == 0
    assert "20 episodes, 2 at a time" in output


def _beat(run: Path, age: float, machine: str) -> None:
    """Have a process of another machine beat in a store."""
    with sqlite3.connect(run / "run.sqlite") as connection:
        connection.execute(
            "UPDATE heartbeat SET time = ?, machine = ?, pid = 99", (time.time() - age, machine)
        )
    connection.close()


def test_a_run_of_another_machine_resumes_when_its_heartbeat_has_stopped(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[str] = []

    def check(*, force: bool = False) -> None:
        reported.clear()
        check_not_trained_elsewhere(written, force=force, report=reported.append)

    _beat(written, 3_600.0, "node-17")
    check()  # at any age and with any name
    assert reported == []
    _beat(written, 8.0, "node-17")
    check()  # fresh at first, and then silent
    assert reported == ["waiting to see whether process 99 on node-17 is alive"]

    _beat(written, 1.0, "node-17")
    sleep = time.sleep
    monkeypatch.setattr(
        time, "sleep", lambda seconds: (_beat(written, 0.0, "node-17"), sleep(seconds))
    )
    with pytest.raises(ConfigError, match="by process 99 on node-17: stop that first, or resume"):
        check()
    check(force=True)
    assert (
        "--force: resuming although process 99 on node-17 sent a heartbeat seconds ago"
        in reported[0]
    )


def _forget_the_end(directory: Path) -> None:
    """Make a store what it is when its process was killed on the line of its last update."""
    with contextlib.closing(sqlite3.connect(directory / "run.sqlite")) as connection, connection:
        connection.execute("DELETE FROM events WHERE kind = 'run_finished'")


@pytest.mark.parametrize("lost", [0, 1, 2], ids=["the end", "the last checkpoint", "all of them"])
def test_a_run_killed_on_its_last_update_is_finished_by_a_resume(
    run: Run, trained: Path, lost: int
) -> None:
    _forget_the_end(trained)
    checkpoints = sorted((trained / "checkpoints").iterdir())
    for path in checkpoints[len(checkpoints) - lost :]:
        path.unlink()
    code, output, errors = run("ppo", "--resume", "2")
    assert code == 0, errors
    assert output.count("\nupdate 2 ") == min(lost, 1)  # the last update, if it was trained again
    frame = RunFollower(trained).catch_up()
    assert (frame.status.kind, frame.snapshot.run.episodes_done) == ("FINISHED", 2)
    assert frame.doubt.lights is None
    assert [path.name for path in sorted((trained / "checkpoints").iterdir())][-1] == (
        "update-000002.pt"
    )
    code, _, errors = run("ppo", "--resume", "2")
    assert (code, "has trained 2 episodes already" in errors) == (2, True)


def test_a_missing_last_checkpoint_has_an_exit_code_and_is_trained_again(
    run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("esper.simic.training.checkpoint_writer.save_checkpoint", full)
        code, output, _ = run("ppo", "--resume", "2", "--episodes", "3")
    assert code == EXIT_CODE_INCOMPLETE
    assert "the checkpoint of update 3 could not be written" in output
    assert output.rstrip().endswith("--resume " + trained.name)
    code, output, _ = run("ppo", "--resume", "2")
    assert code == 0
    assert "resumed after update 2" in output


def _content(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_refused_resume_changes_nothing(run: Run, trained: Path) -> None:
    before = _content(trained)
    with HeldRun(trained):
        code, _, errors = run(
            "ppo", "--resume", "2", "--episodes", "5000", "--on-nonfinite", "halt"
        )
        assert (code, errors.count("\n")) == (2, 1)
        assert "stop that first" in errors
    for arguments in (
        ("--episodes", "9", "--steps", "3"),
        ("--episodes", "9", "--inject", "op:inf@2"),
        ("--episodes", "9", "--data-changed"),
        ("--checkpoint-every", "7"),
    ):
        assert run("ppo", "--resume", "2", *arguments)[0] == 2
    assert _content(trained) == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: "", "config.toml is damaged: it lacks"),
        (lambda text: text[: text.index("siblings")], "config.toml is damaged: it lacks"),
        (lambda text: text.replace("steps = 2", "steps = 12"), "steps is 12 in the config"),
    ],
    ids=["empty", "cut", "changed"],
)
@pytest.mark.parametrize("has_store", [True, False])
def test_a_changed_or_damaged_config_is_refused(
    run: Run, trained: Path, spoil: Callable[[str], str], words: str, has_store: bool
) -> None:
    path = trained / "config.toml"
    path.write_text(spoil(path.read_text()))
    if not has_store:
        (trained / "run.sqlite").unlink()
    before = _content(trained)
    code, _, errors = run("ppo", "--resume", str(trained), "--episodes", "4")
    assert (code, errors.count("\n")) == (2, 1)
    assert words in errors
    if "changed" in words or "steps" in words:
        source = "its start event" if has_store else "the checkpoint of update 2"
        assert f"and 2 in {source}" in errors
    assert _content(trained) == before


def test_a_missing_config_is_named_with_what_to_do(run: Run, trained: Path) -> None:
    (trained / "config.toml").unlink()
    code, _, errors = run("ppo", "--resume", str(trained), "--episodes", "4")
    assert (code, errors) == (
        2,
        f"esper: {trained / 'config.toml'} is missing: it holds the settings of the run; restore "
        "the file that the run was started with\n",
    )


def test_a_resume_without_a_checkpoint_reports_that_it_starts_again(
    run: Run, trained: Path
) -> None:
    for path in (trained / "checkpoints").iterdir():
        path.unlink()
    code, _, errors = run("ppo", "--resume", str(trained), "--episodes", "4")
    assert code == 0
    sentence = f"{trained.name} has no checkpoint: training starts again at update 1"
    assert [line for line in errors.splitlines() if "no checkpoint" in line] == [sentence]


def test_a_run_whose_checkpoints_are_damaged_is_not_resumed(run: Run, trained: Path) -> None:
    for path in (trained / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    before = _content(trained)
    code, _, errors = run("ppo", "--resume", "2", "--episodes", "4")
    assert (code, errors.count("\n")) == (2, 1)
    assert "has no undamaged checkpoint" in errors
    assert _content(trained) == before
    code, _, errors = run("eval", "2", "--episodes", "2", "--against", "none")
    assert (code, "update-000002.pt is damaged" in errors) == (2, True)


def test_resume_auto_starts_a_run_then_goes_on_with_it(run: Run, tmp_path: Path) -> None:
    settings = tmp_path / "run.toml"
    settings.write_text('task = "digits"\nsteps = 2\nenvs = 1\n')
    command = ("ppo", "--resume", "auto", "--name", "my run", "--config", str(settings))
    assert run("ppo", "--episodes", "1", "--steps", "1", "--name", "another")[0] == 0
    code, output, errors = run(*command, "--episodes", "1", "--inject", "op:inf@1")
    assert (code, errors) == (0, "")
    assert "resumed" not in output
    (name,) = (path.name for path in (tmp_path / "runs").iterdir() if "my-run" in path.name)

    code, output, errors = run(*command, "--episodes", "2", "--inject", "op:inf@1")
    assert code == 0
    assert errors == f"--resume auto: resuming {name}\n"
    assert "resumed after update 1" in output
    # A scheduler that starts it once more than needed sees no failure.
    code, output, errors = run(*command, "--episodes", "2")
    assert (code, output) == (0, "")
    assert errors.endswith(
        "has trained 2 episodes already; give a larger --episodes to train more\n"
    )
    settings.write_text('task = "digits"\nsteps = 3\nenvs = 1\n')
    code, _, errors = run(*command, "--episodes", "3")
    assert code == 2
    assert "--steps cannot change when a run is resumed" in errors
