"""Settings: what is refused, in which words, and that what is written is what is read."""

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from faults import Faults, injected
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline.settings import declared_settings
from esper.leyline.task_names import BUILT_IN, WITH_PLACE
from esper.simic.config import (
    ConfigError,
    TrainingConfig,
    check_same_settings,
    load_config,
    read_config,
    setting_names,
    settings_of,
    updated,
    write_config,
)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"episodes": 0}, "episodes must be at least 1, not 0"),
        ({"episodes": "ten"}, "episodes must be a whole number, not 'ten'"),
        ({"episodes": 2.5}, "episodes must be a whole number, not 2.5"),
        ({"episodes": True}, "episodes must be a whole number, not True"),
        ({"envs": -1}, "envs must be between 0 and 4096, not -1"),
        ({"gamma": 1.5}, "gamma must be between 0 and 1, not 1.5"),
        ({"learning_rate": 0}, "learning_rate must be above 0, not 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, not nan"),
        ({"amp": "int8"}, "amp must be one of off, bf16, fp16, not 'int8'"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, not 'tpu'"),
        (
            {"task": "mnist"},
            f"there is no task 'mnist': the tasks are {', '.join((*BUILT_IN, *WITH_PLACE))}; "
            "did you mean mnist1d?",
        ),
        ({"task": "npz:"}, "the task 'npz:' must have the form npz:FILE.npz"),
        ({"inject": "op:inf@2"}, "inject must be a list of strings, not 'op:inf@2'"),
        ({"envs": 10**9}, "envs must be between 0 and 4096, not 1000000000"),
        ({"threads": 20_000}, "threads must be between 0 and 1024, not 20000"),
        ({"lstm_size": 10**9}, "lstm_size must be between 1 and 8192, not 1000000000"),
        (
            {"learning_rate": 10**400},
            f"learning_rate must be a finite number, not 1{'0' * 79}…",
        ),
        (
            {"seed": 2**20_000},
            f"seed must be at most {2**63 - 1}, not a value that is too long to show",
        ),
        ({"amp": "x" * 500}, f"amp must be one of off, bf16, fp16, not '{'x' * 79}…"),
    ],
)
def test_an_invalid_value_is_named_with_the_valid_ones(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        updated(TrainingConfig(), settings)
    assert str(error.value) == words


def test_an_unknown_key_is_named_with_the_nearest_known() -> None:
    with pytest.raises(ConfigError, match="'episods' is not a setting; did you mean 'episodes'"):
        updated(TrainingConfig(), {"episods": 3})
    with pytest.raises(ConfigError, match="'zzz' is not a setting; known are episodes, envs"):
        updated(TrainingConfig(), {"zzz": 3})


def test_a_missing_or_invalid_toml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    for text in (
        "episodes = = 3",
        f"inject = {'[' * 5_000}{']' * 5_000}",
        f"x = {'{a=' * 5_000}1{'}' * 5_000}",
        f"episodes = {'9' * 4_301}",
        "\udcff",
    ):
        broken.write_text(text, errors="surrogateescape")
        with pytest.raises(ConfigError, match="not valid TOML") as caught:
            read_config(broken)
        assert len(str(caught.value)) < 400
    broken.write_text(f"# {'x' * (1 << 20)}")
    with pytest.raises(ConfigError, match="it is longer than 1048576 bytes"):
        read_config(broken)


def test_a_truncated_config_of_a_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    config = TrainingConfig(episodes=3)
    write_config(config, path)
    whole = path.read_text()
    lines = [at for at in range(len(whole)) if whole.startswith("\n", at)]
    for size in (0, *lines[:-2:4]):
        path.write_text(whole[:size])
        with pytest.raises(
            ConfigError, match=r"config\.toml is damaged: it lacks \d+ of \d+ settings"
        ):
            load_config(path)
    path.write_text(whole.replace("store_megabytes = 2048", ""))  # an older Esper has not got it
    known = [name for name in setting_names() if name != "store_megabytes"]
    assert load_config(path, known) == config


def test_settings_that_cannot_change_are_compared(tmp_path: Path) -> None:
    config = TrainingConfig(inject=("op:inf@1",))
    known = settings_of(config)
    check_same_settings(config, known | {"inject": [], "episodes": 9, "future": 1}, "x")
    with pytest.raises(ConfigError) as caught:
        check_same_settings(config, known | {"steps": 12}, "its start event")
    assert str(caught.value) == (
        "steps is 24 in the config of the run and 12 in its start event: the config was changed or "
        "damaged; set steps back"
    )


@pytest.mark.parametrize("late", [False, True], ids=["at once", "after it was done"])
def test_after_any_failed_call_a_config_is_whole(tmp_path: Path, late: bool) -> None:
    path = tmp_path / "config.toml"
    configs = [TrainingConfig(episodes=number) for number in (1, 2)]
    for number in range(1, 50):
        write_config(configs[0], path)
        faults = Faults(tmp_path, number, late=late)
        with injected(faults), contextlib.suppress(OSError):
            write_config(configs[1], path)
        assert load_config(path) in configs
        assert len(list(tmp_path.iterdir())) == 1, faults.failed
        if not faults.failed:
            break
    assert any(call.startswith("os.fsync") for call in faults.calls)


@given(
    episodes=st.integers(1, 10**9),
    rate=st.floats(1e-30, 1e3),
    inject=st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
)
def test_a_config_round_trip(
    tmp_path_factory: pytest.TempPathFactory, episodes: int, rate: float, inject: list[str]
) -> None:
    config = TrainingConfig(episodes=episodes, learning_rate=rate, inject=tuple(inject))
    path = tmp_path_factory.mktemp("config") / "config.toml"
    write_config(config, path)
    assert load_config(path) == config


def test_options_override_the_file() -> None:
    config = updated(updated(TrainingConfig(), {"episodes": 7, "steps": 3}), {"episodes": 9})
    assert (config.episodes, config.steps) == (9, 3)


@pytest.mark.parametrize(
    ("episodes", "envs", "environments"),
    [(10, 0, 2), (1, 0, 1), (4, 0, 1), (500, 0, 32), (10, 4, 4), (3, 8, 3)],
)
def test_the_default_number_of_environments(episodes: int, envs: int, environments: int) -> None:
    assert TrainingConfig(episodes=episodes, envs=envs).num_envs == environments


def test_every_setting_has_a_help_text_and_a_default() -> None:
    settings = declared_settings(TrainingConfig).values()
    assert all(setting.help and setting.default is not msgspec.NODEFAULT for setting in settings)
