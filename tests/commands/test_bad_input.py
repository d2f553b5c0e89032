"""Every verb has a help text, and bad input gets one sentence and exit code 2."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.cli import sanctum_main
from esper.commands import sanctum
from esper.karn.sanctum.cockpit.screen_map import SCREENS
from esper.karn.sanctum.cockpit.settings import THEME_NAMES
from esper.simic.config import setting_names

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("grow!",), "there is no command 'grow!'; did you mean grow? (see esper --help)"),
        (("zzz",), "there is no command 'zzz'; the commands are run, ppo, runs, health"),
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
        (("ppo", "--config", "absent.toml"), "cannot read the settings file absent.toml"),
        (("ppo", "--inject", "op:inf"), "--inject takes HEAD[.QUANTITY]:KIND@UPDATE"),
        (("ppo", "--inject", "tempoo:inf@1"), "op; did you mean tempo?"),
        (("ppo", "--inject", "op:inf@9", "--episodes", "2"), "this run ends with update 2"),
        (("ppo", "--resume", "absent"), "there is no run 'absent'"),
        (("ppo", "--envs", "1e9"), "argument --envs: must be a whole number, not '1e9'"),
        (("ppo", "--envs", "1" + "0" * 9), "envs must be between 0 and 4096, not 1000000000"),
        (("ppo", "--threads", "20000"), "threads must be between 0 and 1024, not 20000"),
        (("ppo", "--run-dir", "x" * 250 + "/" + "y" * 250), "at most 500 are possible"),
        (("runs", "lit:"), "'lit:' has no value: write for example lit:1"),
        (("runs", "status:ded"), "there is no status 'ded'; did you mean dead?"),
        (("runs", "score>=high"), "'score>=high' compares with 'high', which is not a number"),
        (("runs", "lit>3"), "'lit>3' compares lit with >, but it only goes with lit:"),
        (("runs", "'a b"), "has no partner: close it"),
        (("runs", "sort:"), "sort: needs a name, such as newest"),
        (("prune",), "give a filter"),
        (("archive", "--older-than", "soon"), "must be a number of days, not 'soon'"),
        (("health",), "there is no run in runs: start one"),
        (("health", "absent"), "there is no run 'absent'"),
        (("health", "--fail-on", "zero"), "zero"),
        (("telemetry", "TELE-9999"), "TELE-9999"),
        (("alert",), "give at least one sink: --exec, --webhook, --notify, --heartbeat or --log"),
        (("alert", "absent", "--log", "-"), "there is no run 'absent'"),
        (("alert", "--on", "ligt", "--log", "-"), "alert kind 'ligt'; did you mean light?"),
        (("alert", "--stalled-after", "soon", "--log", "-"), "such as 90s, 15m or 2h, not 'soon'"),
        (("alert", "--webhook", "secret"), "must be a URL that begins with http:// or https://"),
        (("alert", "--webhook", "env:NOT_SET"), "the environment variable NOT_SET is not set"),
        (("alert", "--heartbeat", "file:absent"), "--heartbeat: cannot read absent"),
        (("alert", "--exec", "no-such-program"), "--exec: there is no program 'no-such-program'"),
        (("alert", "--exec", "'"), "--exec: the command cannot be parsed"),
        (("alert", "--log", "absent/file"), "--log: there is no folder absent"),
        (
            ("alert", "--notify", "nothing://x"),
            "apprise does not support the URL of notify nothing",
        ),
        (("alert", "--metrics", "host"), "--metrics must be PORT or HOST:PORT, not 'host'"),
        (("alert", "--metrics", "0", "--once"), "--metrics cannot be combined with --once"),
        (("alert", "--textfile", "absent/x.prom"), "--textfile: there is no folder absent"),
        (("alert", "--config", "absent.toml"), "cannot read absent.toml"),
        (("incidents",), "there is no run in runs: start one"),
        (("replay", "2", "1", "--update", "1"), "give one of them"),
        (("replay", "absent"), "there is no run 'absent'"),
        (("eval",), "there is no run in runs: start one"),
        (("eval", "absent"), "there is no run 'absent'"),
        (("eval", "--against", "luck"), "there is no baseline 'luck'"),
        (("eval", "--episodes", "many"), "argument --episodes: must be a whole number"),
        (("eval", "--plot", "out.png"), "--plot out.png: the file's name must end in .svg"),
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
        "esper: run.toml: learning_rate must be above 0, not -1\n",
    )
    (tmp_path / "run.toml").write_text('inject = ["op:inf@9"]\n')
    assert run("ppo", "--config", "run.toml", "--episodes", "2")[2].startswith("esper: inject op")
    arguments = ("ppo", "--inject", "op:inf@9", "--episodes", "2")
    assert run(*arguments)[2].startswith(
        "esper: --inject op.logits:inf@9: this run ends with update 2 (2 episodes, 1 at a time); "
        "inject at an earlier update, or train more episodes"
    )


def test_a_config_file_with_an_unknown_key_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("episods = 3\n")
    code, _, errors = run("ppo", "--config", "run.toml")
    assert code == 2
    assert "did you mean 'episodes'?" in errors
    assert not (tmp_path / "runs").exists()


def test_the_options_and_the_cockpit_have_the_same_screens_and_themes() -> None:
    assert tuple(title.lower() for title, _ in SCREENS.values()) == sanctum.SCREENS
    assert sanctum.THEMES == THEME_NAMES


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


def test_force_only_applies_to_resume(run: Run) -> None:
    code, _, error = run("ppo", "--force", "--episodes", "2")
    assert (code, error) == (2, "esper: --force only applies to --resume\n")
