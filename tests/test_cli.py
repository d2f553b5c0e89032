"""The command line: every verb helps at once, and bad input gets one sentence and exit code 2."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.cli import main, sanctum_main
from esper.commands import sanctum
from esper.commands.ppo.ending import EXIT_CODE_INCOMPLETE
from esper.karn.sanctum.cockpit.screen_map import SCREENS
from esper.karn.sanctum.cockpit.settings import THEME_NAMES
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunReader, RunWriter, create_run, find_run
from esper.launch.other_machine import check_not_trained_elsewhere
from esper.launch.training_process import TrainingProcess
from esper.leyline.telemetry import Notice, RunFinished, RunStarted
from esper.run_lock import HeldRun
from esper.simic.config import ConfigError, setting_names

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command in a folder of its own: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESPER_RUN_DIR", raising=False)

    def run(*arguments: str, command: Callable[..., object] = main) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            command(arguments)
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("grow!",), "there is no command 'grow!'; did you mean grow? (see esper --help)"),
        (("zzz",), "there is no command 'zzz'; the commands are ppo, runs, health"),
        (("sanctum",), "sanctum is a separate program: run `sanctum`"),
        (("ppo", "--episodes", "ten"), "argument --episodes: must be a whole number, not 'ten'"),
        (("ppo", "--episodes", "0"), "episodes must be at least 1, not 0"),
        (("ppo", "--gamma", "x"), "argument --gamma: must be a number, not 'x'"),
        (
            ("ppo", "--episods", "3"),
            "unknown option --episods; did you mean --episodes? (see esper ppo",
        ),
        (("ppo", "--lr", "1"), "unknown option --lr; did you mean --learning-rate? (see esper ppo"),
        (("ppo", "--zz", "1"), "unknown option --zz (see esper ppo --help)"),
        (("health", "one", "two"), "unexpected argument 'two' (see esper health --help)"),
        (("ppo", "--learning-rate", "-1"), "esper: --learning-rate must be above 0, not -1.0"),
        (("ppo", "--gae-lambda", "2"), "esper: --gae-lambda must be between 0 and 1, not 2.0"),
        (("ppo", "--seed", "9" * 30), "seed must be at most 9223372036854775807"),
        (("ppo", "--amp", "int8"), "argument --amp: must be one of off, bf16, fp16, not 'int8'"),
        (("ppo", "--config", "absent.toml"), "cannot read the config file absent.toml"),
        (("ppo", "--inject", "op:inf"), "--inject takes HEAD[.QUANTITY]:KIND@UPDATE"),
        (("ppo", "--inject", "tempoo:inf@1"), "op are; did you mean tempo?"),
        (("ppo", "--inject", "op:inf@9", "--episodes", "2"), "this run has 2 updates"),
        (("ppo", "--resume", "absent"), "there is no run 'absent'"),
        (("ppo", "--envs", "1e9"), "argument --envs: must be a whole number, not '1e9'"),
        (("ppo", "--envs", "1" + "0" * 9), "envs must be at most 4096, not 1000000000"),
        (("ppo", "--threads", "20000"), "threads must be at most 1024, not 20000"),
        (("ppo", "--run-dir", "x" * 250 + "/" + "y" * 250), "at most 500 are possible"),
        (("health",), "there is no run in runs yet"),
        (("health", "absent"), "there is no run 'absent'"),
        (("health", "--fail-on", "zero"), "zero"),
        (("telemetry", "TELE-9999"), "TELE-9999"),
        (("incidents",), "there is no run in runs yet"),
        (("replay", "2", "1", "--update", "1"), "give one of them"),
        (("replay", "absent"), "there is no run 'absent'"),
        (("eval",), "there is no run in runs yet"),
        (("eval", "absent"), "there is no run 'absent'"),
        (("eval", "--against", "luck"), "there is no baseline 'luck'"),
        (("eval", "--episodes", "many"), "argument --episodes: must be a whole number"),
        (("eval", "--plot", "out.png"), "must end in .svg, not 'out.png'"),
        (("eval", "--plot", "absent/out.svg"), "there is no folder absent"),
        (("replay", "absent", "one"), "argument N: must be a whole number, not 'one'"),
    ],
)
def test_bad_input_gets_one_sentence(run: Run, arguments: tuple[str, ...], words: str) -> None:
    code, output, errors = run(*arguments)
    assert code == 2
    assert output == ""
    assert words in errors
    assert errors.count("\n") == 1
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("absent",),
        ("--once",),
        ("--size", "big"),
        ("--size", "1x1", "--export", "a.svg"),
        ("--size", "9999x9999", "--export", "a.svg"),
        ("--size", "120x40"),
        ("--screen", "heads"),
        ("--screen", "home", "--export", "a.svg"),
        ("--once", "--export", "a.svg"),
        ("--line",),
        ("--line", "--once"),
        ("--line", "--export", "a.svg"),
        ("--theme", "pink"),
        ("serve", "absent"),
        ("serve", "--port", "0"),
        ("serve", "--host", "0.0.0.0"),
        ("serve", "--host", "0.0.0.0", "--token", "short"),
    ],
)
def test_sanctum_refuses_in_one_sentence(run: Run, arguments: tuple[str, ...]) -> None:
    code, output, errors = run(*arguments, command=sanctum_main)
    assert (code, output, errors.count("\n")) == (2, "", 1)


def test_without_arguments_esper_prints_its_help(run: Run) -> None:
    code, output, errors = run()
    assert (code, errors) == (0, "")
    assert output.startswith("usage: esper")
    assert "let a trained policy grow a network" in output


def test_errors_name_a_setting_as_it_was_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("learning_rate = -1\n")
    code, _, errors = run("ppo", "--config", "run.toml", "--gamma", "0.9")
    assert (code, errors) == (
        2,
        "esper: run.toml: learning_rate must be above 0, not -1.0\n",
    )
    (tmp_path / "run.toml").write_text('inject = ["op:inf@9"]\n')
    assert run("ppo", "--config", "run.toml", "--episodes", "2")[2].startswith("esper: inject op")
    arguments = ("ppo", "--inject", "op:inf@9", "--episodes", "2")
    assert run(*arguments)[2].startswith("esper: --inject op.logits:inf@9: this run has 2 updates")


def test_a_config_file_with_an_unknown_key_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("episods = 3\n")
    code, _, errors = run("ppo", "--config", "run.toml")
    assert code == 2
    assert "did you mean 'episodes'?" in errors
    assert not (tmp_path / "runs").exists()


def test_sanctum_knows_its_screens_and_themes_by_the_same_names_as_the_cockpit() -> None:
    assert tuple(title.lower() for title, _ in SCREENS.values()) == sanctum.SCREENS
    assert sanctum.THEMES == THEME_NAMES


def test_settings_come_from_defaults_then_the_file_then_options(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("episodes = 3\nsteps = 2\nminibatches = 1\n")
    arguments = ("--config", "run.toml", "--episodes", "1", "--name", "my run")
    code, output, errors = run("ppo", *arguments)
    assert code == 0, errors
    directory = find_run(tmp_path / "runs")
    for place in (output, (directory / "console.log").read_text()):  # for whoever is not there
        assert place.splitlines()[-1].endswith(f"esper ppo --resume {directory.name} --episodes 2")
    assert directory.name.endswith("-my-run")
    payloads = [event.payload for event in RunReader(directory).read(0, 1000)]
    (start,) = [payload for payload in payloads if isinstance(payload, RunStarted)]
    assert (start.episodes, start.steps) == (1, 2)
    assert start.config["minibatches"] == 1
    assert start.config["ppo_epochs"] == 6


def test_what_is_a_runs_own_cannot_change_when_it_goes_on(run: Run) -> None:
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


def test_the_environment_names_the_folder_of_runs(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ESPER_RUN_DIR", str(tmp_path / "elsewhere"))
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
    assert run("runs")[0] == 0


def test_help_names_every_setting(run: Run) -> None:
    code, output, _ = run("ppo", "--help")
    assert code == 0
    for name in setting_names():
        assert "--" + name.replace("_", "-") in output


@pytest.mark.parametrize("command", ["main", "sanctum_main"])
def test_help_loads_neither_torch_nor_textual(command: str) -> None:
    program = (
        f"import sys, esper.cli\n"
        f"try: esper.cli.{command}(['--help'])\n"
        f"except SystemExit: pass\n"
        f"print({{'torch', 'textual', 'numpy', 'gymnasium'}} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "set()"


def test_incidents_are_listed_and_replayed(run: Run, tmp_path: Path) -> None:
    """What a developer does who was just told which head went Inf."""
    options = ("--episodes", "2", "--envs", "1", "--steps", "2", "--incidents-kept", "0")
    drills = ("--inject", "op:inf@1", "--inject", "op:inf@2")
    assert run("ppo", *options, *drills)[0] == 0
    code, output, _ = run("incidents", "--json")
    assert code == 0
    first, second = json.loads(output)["incidents"]
    assert (first["number"], first["update"], first["kept"]) == (1, 1, True)
    assert first["sightings"][0]["quantity"] == "logits"
    assert (second["number"], second["update"], second["kept"]) == (2, 2, False)
    assert "--incidents-kept" in second["reason"]
    assert (first["planted"], second["planted"]) == (True, True)
    assert {seen["planted"] for row in (first, second) for seen in row["sightings"]} == {True}
    code, output, _ = run("incidents")
    assert code == 0
    assert "not kept" in output
    assert max(map(len, output.splitlines())) <= 100
    assert output.count("op Inf in logits") == 2  # of what was not kept, what was seen is known
    assert output.count("planted by a drill") == output.count("op ")

    code, output, errors = run("replay", "2", "--html", "page.html")
    assert (code, errors) == (0, "")
    assert "REPRODUCED" in output
    assert "planted by a drill: op.logits:inf@1" in output
    assert "planted by a drill" in (tmp_path / "page.html").read_text()
    code, output, _ = run("replay", "2", "1", "--json")
    assert code == 0
    assert json.loads(output)["origin"]["function"] == "plant_in_logits"

    code, output, errors = run("replay", "2", "2")
    assert (code, output) == (2, "")
    assert errors.endswith("has kept no incident 2; kept are 1 (update 1)\n")
    code, output, _ = run("replay", "2", "--update", "1")
    assert code == 0
    assert "incident 1 of" in output
    code, _, errors = run("replay", "--update", "2")
    assert errors.endswith("has kept no incident of update 2; kept are 1 (update 1)\n")
    elsewhere = tmp_path / "a capsule from elsewhere"
    shutil.copytree(first["path"], elsewhere)
    code, output, errors = run("replay", str(elsewhere))
    assert (code, errors) == (0, "")
    assert "REPRODUCED" in output
    code, _, errors = run("replay", "2", "--html", "absent/page.html")
    assert (code, errors.count("\n")) == (2, 1)
    (tmp_path / first["path"] / "capsule.pt").write_bytes(b"damaged")
    code, _, errors = run("replay", "2")
    assert code == 2
    assert "capsule.pt is damaged: its SHA-256 digest does not match" in errors


def test_a_run_that_halted_in_its_last_update_is_not_called_finished(run: Run) -> None:
    options = ("--episodes", "1", "--steps", "2", "--inject", "op:inf@1")
    code, output, _ = run("ppo", *options, "--on-nonfinite", "halt")
    assert code == 3
    assert output.rstrip().endswith("--episodes 2")  # how to go on: there is nothing else to do
    code, _, errors = run("ppo", "--resume", "2")
    assert (code, errors.count("\n")) == (2, 1)
    assert "has trained 1 episode already; give a larger --episodes" in errors
    assert run("ppo", "--resume", "2", "--episodes", "2")[0] == 0
    code, _, errors = run("ppo", "--resume", "2", "--episodes", "1")
    assert code == 2
    assert "has trained 2 episodes already; give a larger --episodes" in errors


def test_a_run_without_incidents_says_so(run: Run) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "2")[0] == 0
    code, output, _ = run("incidents")
    assert (code, output.split()[:2]) == (0, ["No", "incidents"])
    code, _, errors = run("replay", "2")
    assert code == 2
    assert "has kept no incident" in errors


def test_a_picture_that_cannot_be_written_is_one_sentence(run: Run) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    code, _, errors = run("--export", "absent/a.svg", command=sanctum_main)
    assert code == 2
    assert errors == "sanctum: cannot write absent/a.svg: No such file or directory\n"
    code, _, errors = run("--export", "a.pdf", command=sanctum_main)
    assert code == 2
    assert errors.startswith("sanctum: a.pdf does not say what to write: end it in one of .svg")


def test_off_a_terminal_sanctum_prints_one_frame(run: Run) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    code, output, _ = run(command=sanctum_main)
    assert code == 0
    assert "Action heads" in output


@pytest.mark.parametrize(
    ("command", "arguments", "lit", "unlit"),
    [
        ("sanctum_main", ("--once",), "*", "o"),
        ("main", ("health",), "*", "o"),
        ("main", ("runs",), "Inf op", "HALTED"),
    ],
)
def test_an_output_without_signs_beyond_ascii_gets_ascii(
    run: Run, command: str, arguments: tuple[str, ...], lit: str, unlit: str
) -> None:
    halting = ("--inject", "op:inf@1", "--on-nonfinite", "halt", "--no-sanctum")
    assert run("ppo", "--episodes", "2", "--steps", "2", *halting)[0] == 3
    printed = subprocess.run(
        [sys.executable, "-c", f"from esper.cli import {command}; {command}({arguments!r})"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert printed.returncode == (1 if arguments == ("health",) else 0)
    assert printed.stderr == b""
    assert printed.stdout.isascii()
    assert lit in printed.stdout.decode()
    assert unlit in printed.stdout.decode()
    assert "\\u" not in printed.stdout.decode()


def test_on_a_terminal_without_a_cursor_sanctum_prints_one_frame(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    code, output, _ = run(command=sanctum_main)
    assert code == 0
    assert "Action heads" in output
    assert "\x1b" not in output


def test_a_frame_of_a_store_that_cannot_be_read_fails_with_the_reason(run: Run) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    (store,) = Path("runs").glob("*/run.sqlite")
    os.truncate(store, 4096)
    code, output, errors = run("--once", command=sanctum_main)
    assert code == 2
    assert "NO DATA" in output
    assert errors.startswith("sanctum: ")
    assert "cannot be read" in errors
    assert errors.count("\n") == 1


def test_a_frame_of_a_store_with_damaged_events_fails_too(run: Run) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    (store,) = Path("runs").glob("*/run.sqlite")
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("UPDATE events SET payload = x'c1' WHERE kind = 'ppo_update'")
        connection.commit()
    code, output, errors = run("--once", command=sanctum_main)
    assert code == 2
    assert "Action heads" in output
    assert errors == "sanctum: 1 event is damaged and left out: figures may have gaps\n"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("UPDATE events SET payload = x'c1' WHERE kind = 'ppo_update'", "1 event is damaged"),
        ("DROP TABLE events", "is cut short or damaged: what is left of it cannot be read"),
    ],
)
def test_a_picture_of_a_damaged_store_is_written_and_fails(run: Run, query: str, said: str) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    assert run("--export", "sound.txt", command=sanctum_main) == (0, "", "")
    (store,) = Path("runs").glob("*/run.sqlite")
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute(query)
        connection.commit()
    code, _, errors = run("--export", "a.txt", command=sanctum_main)
    assert code == 2
    assert said in errors
    assert errors.startswith("sanctum: ")
    assert errors.count("\n") == 1
    assert "Action heads" in Path("a.txt").read_text()


def test_a_line_has_the_exit_code_of_health(run: Run) -> None:
    directory = Path("runs/20260101-000000-lit")
    directory.mkdir(parents=True)
    with RunWriter(directory) as writer:
        writer.emit(Notice(level="info", text="loading PyTorch"))
    code, output, errors = run("--line", command=sanctum_main)
    assert (code, errors) == (0, "")
    assert output.count("\n") == 1
    assert run("health", "--fail-on", "inf,nan")[0] == code
    (directory / "run.sqlite").write_bytes(b"no database" * 100)
    code, output, errors = run("--line", command=sanctum_main)
    assert (code, output.count("\n"), errors.count("\n")) == (2, 1, 1)
    assert run("health")[0] == code


def test_a_store_that_is_a_directory_is_said_to_be_one(run: Run) -> None:
    Path("runs/20260101-000000-odd/run.sqlite").mkdir(parents=True)
    code, _, errors = run("--once", "20260101-000000-odd", command=sanctum_main)
    assert code == 2
    assert errors == (
        "sanctum: runs/20260101-000000-odd/run.sqlite is a directory, not a run store\n"
    )


def test_a_run_is_shown_as_of_any_update(run: Run) -> None:
    assert run("ppo", "--episodes", "6", "--envs", "2", "--steps", "1")[0] == 0
    code, output, _ = run("--once", "--at", "2", command=sanctum_main)
    assert code == 0
    assert "update 2" in output
    assert re.search(r"update 3\b(?!%)", output) is None  # the share of the update's time is there
    code, output, errors = run("--once", "--at", "9", command=sanctum_main)
    assert (code, output) == (2, "")
    assert errors.endswith("has no update 9: give one from 1 to 3\n")
    assert run("--export", "a.svg", "--at", "0", command=sanctum_main)[0] == 2


def test_threads_can_be_chosen_for_the_shortest_episode(run: Run) -> None:
    code, output, errors = run("ppo", "--episodes", "1", "--steps", "1", "--threads", "0")
    assert (code, errors) == (0, "")
    assert "FINISHED" in output


def test_more_episodes_do_not_change_the_number_of_hosts(run: Run) -> None:
    assert run("ppo", "--episodes", "10", "--steps", "1")[0] == 0
    code, output, _ = run("ppo", "--resume", "2", "--episodes", "20")
    assert code == 0
    assert "20 episodes, 2 at a time" in output


def test_a_report_into_a_closed_pipe_dies_of_it_and_training_does_not(
    run: Run, tmp_path: Path
) -> None:
    def into_closed_pipe(*arguments: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "esper", *arguments], cwd=tmp_path, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.close()
        return process.wait(timeout=100)

    assert into_closed_pipe("ppo", "--episodes", "2", "--steps", "1") == 0
    assert into_closed_pipe("health") == -signal.SIGPIPE


def test_eval_compares_a_run_with_baselines(run: Run, tmp_path: Path) -> None:
    settings = ("--episodes", "2", "--steps", "2", "--task", "digits", "--lstm-size", "8")
    assert run("ppo", "--no-sanctum", "--name", "one", *settings)[0] == 0
    asked = ("--episodes", "2", "--against", "none,random", "--seed", "4")
    code, out, err = run("eval", *asked, "--json", "--plot", "out.svg")
    assert code == 0
    assert "random: uniform legal choices" in err
    told = json.loads(out)
    assert (told["task"], told["steps"], told["seed"]) == ("digits", 2, 4)
    assert [each["name"] for each in told["contestants"]] == ["agent", "none", "random"]
    assert (tmp_path / "out.svg").read_text(encoding="utf-8").startswith("<svg")

    directory = find_run(tmp_path / "runs")
    (checkpoint,) = [*(directory / "checkpoints").glob("*.pt")][-1:]
    code, out, _ = run("eval", str(checkpoint), *asked)
    assert code == 0
    assert re.search(r"^random +0\.\d{3} \[", out, re.MULTILINE)
    copy = checkpoint.with_name("update-000009.pt")
    copy.write_bytes(checkpoint.read_bytes())
    code, out, _ = run("eval", str(checkpoint), str(copy), directory.name, *asked, "--json")
    assert code == 0
    names = [f"{directory.name}/{checkpoint.stem}", f"{directory.name}/update-000009"]
    assert [each["name"] for each in json.loads(out)["policies"]] == [*names, directory.name]
    code, _, err = run("eval", "absent/update-000001.pt", *asked)
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no file absent/update-000001.pt" in err

    lost = checkpoint.rename(tmp_path / "lost.pt")
    code, _, err = run("eval", str(lost), *asked)
    assert (code, err.count("\n")) == (2, 1)
    assert "lies in no run" in err
    for other in (directory / "checkpoints").iterdir():
        other.unlink()
    code, _, err = run("eval", *asked)
    assert (code, err.count("\n")) == (2, 1)
    assert "has no checkpoint yet" in err


def _esper(run: Path, command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of a shell in which `esper` and `R`, the folder of runs, are known."""
    program = f"{sys.executable} -m esper"
    return subprocess.run(
        ["bash", "-c", command.replace("esper", program, 1).replace("R", str(run.parent))],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


@pytest.fixture
def written(tmp_path: Path, payloads: Any) -> Path:
    """A finished run that is healthy."""
    made = create_run(tmp_path / "runs", "fine")
    with RunWriter(made) as writer:
        for payload in (payloads.start(), payloads.update(1), payloads.finish(update=1)):
            writer.emit(payload)
    return made


@pytest.mark.parametrize("verb", ["health", "runs"])
def test_a_report_that_cannot_be_printed_is_no_verdict(written: Path, verb: str) -> None:
    full = _esper(written, f"esper {verb} --run-dir R > /dev/full")
    assert full.returncode == 2
    assert full.stderr.startswith("esper: the report cannot be printed: ")
    assert len(full.stderr.splitlines()) == 1
    assert _esper(written, f"esper {verb} --run-dir R >&-").returncode == 0
    assert _esper(written, f"esper {verb} --run-dir R >&- 2>&-").returncode == 0


@pytest.mark.parametrize("columns", ["0", "-1", "²", "9" * 5_000, "wide"])
def test_an_odd_width_leaves_no_report_empty(written: Path, columns: str) -> None:
    for command in ("esper health --run-dir R", "esper runs --run-dir R"):
        shown = _esper(written, command, COLUMNS=columns, LINES=columns)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "FINISHED" in shown.stdout


def test_a_fault_of_the_program_is_not_taken_for_a_latch(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object, **_options: object) -> int:
        raise RuntimeError("a fault")

    monkeypatch.setattr("esper.karn.reports.health.print_health", fail)
    with pytest.raises(SystemExit) as ended:
        main(["health", "--run-dir", str(written.parent)])
    assert ended.value.code == 70
    assert "RuntimeError: a fault" in capsys.readouterr().err


def test_an_interrupted_report_ends_without_a_traceback(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_arguments: object, **_options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("esper.karn.reports.health.print_health", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["health", "--run-dir", str(written.parent)])
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""


def _beat(run: Path, age: float, machine: str) -> None:
    """Have a process of another machine beat in a store."""
    with sqlite3.connect(run / "run.sqlite") as connection:
        connection.execute(
            "UPDATE heartbeat SET time = ?, machine = ?, pid = 99", (time.time() - age, machine)
        )
    connection.close()


def test_a_run_of_another_machine_is_resumed_once_its_heart_is_silent(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[str] = []

    def check(*, force: bool = False) -> None:
        reported.clear()
        check_not_trained_elsewhere(written, force=force, report=reported.append)

    _beat(written, 3_600.0, "node-17")
    check()  # however old, whatever the name
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
    assert "--force: the heartbeat of process 99 on node-17 is fresh" in reported[0]


def test_force_is_for_resuming(run: Run) -> None:
    code, _, error = run("ppo", "--force", "--episodes", "2")
    assert (code, error) == (2, "esper: --force only applies to --resume\n")


@pytest.fixture
def trained(run: Run, tmp_path: Path) -> Path:
    """A run of two updates that has finished."""
    code, _, errors = run("ppo", "--episodes", "2", "--envs", "1", "--steps", "2")
    assert code == 0, errors
    return find_run(tmp_path / "runs")


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
    assert frame.doubt is None
    assert [path.name for path in sorted((trained / "checkpoints").iterdir())][-1] == (
        "update-000002.pt"
    )
    code, _, errors = run("ppo", "--resume", "2")
    assert (code, "has trained 2 episodes already" in errors) == (2, True)


def test_a_last_checkpoint_that_is_lost_has_an_exit_code_and_is_trained_again(
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
def test_a_config_that_is_not_the_runs_own_is_refused(
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


def test_a_run_without_a_whole_checkpoint_is_not_resumed(run: Run, trained: Path) -> None:
    for path in (trained / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    before = _content(trained)
    code, _, errors = run("ppo", "--resume", "2", "--episodes", "4")
    assert (code, errors.count("\n")) == (2, 1)
    assert "has no checkpoint that is whole" in errors
    assert _content(trained) == before
    code, _, errors = run("eval", "2", "--episodes", "2", "--against", "none")
    assert (code, "update-000002.pt is damaged" in errors) == (2, True)


def test_training_goes_on_where_standard_output_is_full(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, errors = run("ppo", "--episodes", "2", "--envs", "1", "--steps", "2")
        monkeypatch.undo()
    assert code == 0
    assert errors.count("standard output cannot be written: No space left on device") == 1
    directory = find_run(tmp_path / "runs")
    frame = RunFollower(directory).catch_up()
    assert frame.status.kind == "FINISHED"
    assert any("standard output cannot be written" in entry.text for entry in frame.snapshot.log)
    assert "update 2  episodes 2" in (directory / "console.log").read_text()


def test_a_process_that_was_asked_to_stop_at_once_ends_without_taking_torch_down(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object) -> RunFinished:
        os.kill(os.getpid(), signal.SIGTERM)
        return RunFinished(status="stopped", update=0, episodes_done=0, reason="asked to stop")

    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("esper.simic.training.trainer.train", train)
    monkeypatch.setattr(os, "_exit", end)
    code, output, _ = run("ppo", "--episodes", "2", "--envs", "1", "--steps", "2")
    assert (code, "next:" in output) == (130, False)
    directory = find_run(tmp_path / "runs")
    with HeldRun(directory):  # the lock was let go of
        assert list(directory.glob("run.sqlite*")) == [directory / "run.sqlite"]


def test_the_process_behind_sanctum_takes_over_the_lock(trained: Path) -> None:
    child = TrainingProcess(HeldRun(trained))
    try:
        # There is no moment in which another process could come between.
        with pytest.raises(ConfigError, match="stop that first"):
            HeldRun(trained)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    HeldRun(trained).close()
