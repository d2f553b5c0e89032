"""Settings: what is refused, in which words, and that what is written is what is read."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.growth.tasks import TASK_LOADERS
from esper.leyline.task_names import BUILT_IN, WITH_PLACE
from esper.simic.config import (
    ConfigError,
    TrainingConfig,
    load_config,
    read_config,
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
        ({"envs": -1}, "envs must be 0 or more, not -1"),
        ({"gamma": 1.5}, "gamma must be between 0 and 1, not 1.5"),
        ({"learning_rate": 0}, "learning_rate must be above 0, not 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, not nan"),
        ({"amp": "int8"}, "amp must be one of off, bf16, fp16, not 'int8'"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, not 'tpu'"),
        (
            {"task": "mnist"},
            "there is no task 'mnist': the tasks are mnist1d, digits, cifar10, npz:FILE.npz, "
            "hf:NAME, chars:FILE.txt; did you mean mnist1d?",
        ),
        ({"task": "npz:"}, "the task 'npz:' must be written npz:FILE.npz"),
        ({"inject": "op:inf@2"}, "inject must be a list of texts, not 'op:inf@2'"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(
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


def test_a_file_that_is_not_there_or_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("episodes = = 3")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_config(broken)


@given(
    episodes=st.integers(1, 10**9),
    rate=st.floats(1e-30, 1e3),
    inject=st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
)
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, episodes: int, rate: float, inject: list[str]
) -> None:
    config = TrainingConfig(episodes=episodes, learning_rate=rate, inject=tuple(inject))
    path = tmp_path_factory.mktemp("config") / "config.toml"
    write_config(config, path)
    assert load_config(path) == config


def test_options_go_over_the_file() -> None:
    config = updated(updated(TrainingConfig(), {"episodes": 7, "steps": 3}), {"episodes": 9})
    assert (config.episodes, config.steps) == (9, 3)


@pytest.mark.parametrize(
    ("episodes", "envs", "environments"),
    [(10, 0, 2), (1, 0, 1), (4, 0, 1), (500, 0, 32), (10, 4, 4), (3, 8, 3)],
)
def test_how_many_hosts_there_are(episodes: int, envs: int, environments: int) -> None:
    assert TrainingConfig(episodes=episodes, envs=envs).environments == environments


def test_every_setting_says_what_it_is() -> None:
    assert all(setting.metadata["help"] for setting in fields(TrainingConfig))


def test_the_tasks_offered_are_those_that_exist() -> None:
    offered = (*BUILT_IN, *(form.partition(":")[0] for form in WITH_PLACE))
    assert set(offered) == set(TASK_LOADERS)
