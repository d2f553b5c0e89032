"""Named pipes among the files of a stranger's run: readers refuse them, and wait for nothing."""

import os

import pytest

from esper.cli import main
from esper.karn.alerts.settings import AlertSettingsError, read_settings
from esper.karn.sanctum.cockpit.observer import plan_of
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_directory import CONFIG_NAME
from esper.karn.store.run_store import RunWriter
from esper.leyline.files.regular_files import open_regular, read_regular
from esper.leyline.settings import SettingError, read_toml


@pytest.fixture
def ended(run, payloads):
    """A run that ended, with one light."""
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.broken_update(1, "op", "+inf"))
        writer.emit(payloads.finish(update=1))
    return run


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("name", "command", "codes"),
    [
        ("run.sqlite", "health", (1,)),
        ("run.sqlite", "incidents", (2,)),
        ("latches.jsonl", "health", (1,)),
        ("acknowledgements.jsonl", "health", (1,)),
        ("console.log", "health", (1,)),
        ("incidents/0001/incident.json", "incidents", (0, 2)),
        ("checkpoints/update-000001.pt", "health", (1,)),
    ],
)
def test_a_command_does_not_wait_for_a_pipe(ended, name, command, codes, capsys):
    path = ended / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(SystemExit) as end:
        main((command, str(ended)))
    assert end.value.code in codes
    assert "Traceback" not in capsys.readouterr().err
    frame = RunFollower(ended).catch_up()
    if name == "run.sqlite":
        assert "Not a regular file" in frame.doubt.error


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    assert read_regular(tmp_path / "file") == b"content"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Not a regular file"):
        open_regular(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
    (tmp_path / "null").symlink_to(os.devnull)
    with pytest.raises(OSError, match="Not a regular file"):
        open_regular(tmp_path / "null")


@pytest.mark.timeout(30)
def test_settings_are_only_read_from_regular_files(tmp_path):
    pipe = tmp_path / "settings.toml"
    os.mkfifo(pipe)
    with pytest.raises(SettingError, match="Not a regular file"):
        read_toml(pipe, 1000)
    with pytest.raises(AlertSettingsError, match="Not a regular file"):
        read_settings(pipe)
    (tmp_path / CONFIG_NAME).unlink(missing_ok=True)
    os.mkfifo(tmp_path / CONFIG_NAME)
    assert plan_of(tmp_path) is None
