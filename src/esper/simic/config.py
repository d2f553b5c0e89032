"""The settings of a training run: one struct, from defaults, a TOML file and command-line options.

Each field declares its type, range or choices, default and help text, from which the command line,
the TOML keys, the checks and the documentation are derived.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from esper.leyline.files.durable_files import replace_file
from esper.leyline.settings import (
    Count,
    Fraction,
    NonNegative,
    Positive,
    PositiveCount,
    SettingError,
    checked_settings,
    declared_settings,
    read_toml,
)
from esper.leyline.task_names import BUILT_IN, WITH_PLACE, UnknownTaskError, parse_task_name
from esper.leyline.text.plain_text import short_repr

MAX_THREADS = 1024  # PyTorch crashes with many more
#: Settings that may change when a run resumes.
RESUMABLE_SETTINGS = (
    "episodes",
    "device",
    "processes",
    "threads",
    "checkpoint_every",
    "on_nonfinite",
    "nonfinite_patience",
    "incidents_kept",
    "incident_megabytes",
    "store_megabytes",
    "inject",
)
#: Settings that may be missing in configs of older runs whose checkpoints have no settings.
_LATER_SETTINGS = ("store_megabytes",)
#: Maximum size of a settings file, in bytes.
_MAX_FILE_BYTES = 1 << 20
#: Device files of GPUs that torch can use: of NVIDIA, AMD and Windows Subsystem for Linux.
_GPU_PLACES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


class ConfigError(SettingError):
    """A setting is unknown or has an invalid value; the message is one clear sentence."""

    def as_typed(self) -> "ConfigError":
        """Return the same error with the setting as a command-line option."""
        if not self.setting:
            return self
        return ConfigError(option_of(self.setting) + str(self).removeprefix(self.setting))


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of one run. Counts are whole numbers, rates and fractions have no unit.

    Raises:
        ConfigError: a value does not fit its annotation.
    """

    episodes: Annotated[PositiveCount, Meta(description="total number of training episodes")] = 4800
    envs: Annotated[
        int,
        Meta(
            ge=0,
            le=4096,
            description="number of hosts (environments) in lockstep; 0 means a fifth of the "
            "episodes, from 1 to 32",
        ),
    ] = 0
    steps: Annotated[int, Meta(ge=1, le=100_000, description="steps per episode")] = 24
    task: Annotated[
        str,
        Meta(description=f"training task of the hosts: {', '.join((*BUILT_IN, *WITH_PLACE))}"),
    ] = "mnist1d"
    rng_seed: Annotated[Count, Meta(description="random seed")] = msgspec.field(
        default=0, name="seed"
    )
    device: Annotated[Literal["auto", "cpu", "cuda"], Meta(description="device for training")] = (
        "auto"
    )
    processes: Annotated[
        int,
        Meta(
            ge=1,
            le=MAX_THREADS,
            description="processes to divide the hosts among, on CPU; each gets at least 8 hosts",
        ),
    ] = 2
    threads: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_THREADS,
            description="PyTorch threads per process; 0 measures and picks a number, so results "
            "may differ between runs",
        ),
    ] = 1
    amp: Annotated[
        Literal["off", "bf16", "fp16"],
        Meta(description="mixed precision of the policy network in the PPO update"),
    ] = "off"

    ppo_epochs: Annotated[PositiveCount, Meta(description="epochs per PPO update")] = 6
    minibatches: Annotated[
        PositiveCount, Meta(description="minibatches per epoch; each holds whole episodes")
    ] = 4
    learning_rate: Annotated[
        Positive, Meta(description="initial learning rate (Adam); it decays linearly")
    ] = 3e-3
    anneal_episodes: Annotated[
        PositiveCount,
        Meta(
            description="episodes over which the learning rate decays to 1 % of its initial value"
        ),
    ] = 4800
    gamma: Annotated[Fraction, Meta(description="discount factor")] = 1.0
    gae_lambda: Annotated[
        Fraction, Meta(description="lambda of generalized advantage estimation (GAE)")
    ] = 1.0
    siblings: Annotated[
        PositiveCount,
        Meta(
            description="hosts per batch that share one initialisation seed; advantages are "
            "relative to their mean"
        ),
    ] = 8
    clip_range: Annotated[Positive, Meta(description="PPO clip range of the probability ratio")] = (
        0.2
    )
    entropy_coefficient: Annotated[
        NonNegative,
        Meta(description="initial weight of the entropy bonus; it decays with the learning rate"),
    ] = 0.01
    value_coefficient: Annotated[NonNegative, Meta(description="weight of the value loss")] = 0.5
    max_gradient_norm: Annotated[Positive, Meta(description="maximum gradient norm (clipping)")] = (
        0.5
    )
    target_kl: Annotated[
        NonNegative,
        Meta(
            description="an update stops early when the KL divergence exceeds 1.5 times this; "
            "0 disables it"
        ),
    ] = 0.03
    feature_size: Annotated[
        int, Meta(ge=1, le=8192, description="width of the policy's feature network")
    ] = 64
    lstm_size: Annotated[int, Meta(ge=1, le=8192, description="width of the policy's LSTM")] = 64
    checkpoint_every: Annotated[
        PositiveCount,
        Meta(description="updates between two checkpoints; one is also written at the end"),
    ] = 1
    on_nonfinite: Annotated[
        Literal["skip", "rollback", "halt"],
        Meta(description="what to do after an update with NaN or Inf"),
    ] = "skip"
    nonfinite_patience: Annotated[
        PositiveCount,
        Meta(
            description="consecutive bad updates before a rollback, then consecutive rollbacks "
            "before a halt"
        ),
    ] = 5
    incidents_kept: Annotated[
        Count,
        Meta(
            description="maximum number of incident capsules, not counting the first of each kind "
            "of fault"
        ),
    ] = 20
    incident_megabytes: Annotated[
        Count, Meta(description="maximum size of all capsules of a run")
    ] = 500
    store_megabytes: Annotated[
        Count,
        Meta(
            description="store size above which old steps, decisions and transitions are removed; "
            "0 means never"
        ),
    ] = 2048
    inject: Annotated[
        tuple[str, ...],
        Meta(
            description="plant a value as a drill: HEAD[.QUANTITY]:KIND@UPDATE, for example "
            "op:inf@2 (repeatable); QUANTITY is logits or log_prob"
        ),
    ] = ()

    def __post_init__(self) -> None:
        settings = declared_settings(TrainingConfig).values()
        given = {setting.name: getattr(self, setting.attribute) for setting in settings}
        try:
            for attribute, value in checked_settings(TrainingConfig, given).items():
                msgspec.structs.force_setattr(self, attribute, value)  # a rate of 1 becomes 1.0
            parse_task_name(self.task)
        except SettingError as error:
            raise ConfigError(str(error), error.setting) from error
        except UnknownTaskError as error:
            raise ConfigError(str(error)) from error

    @property
    def num_envs(self) -> int:
        """Number of environments in lockstep: `envs`, or a fifth of the episodes if that is 0."""
        return min(self.envs or min(max(self.episodes // 5, 1), 32), self.episodes)


def option_of(setting: str) -> str:
    """Return the command-line option of a setting."""
    return "--" + setting.replace("_", "-")


def check_device(name: str) -> None:
    """Check a device as far as that is possible without torch.

    Raises:
        ConfigError: the device is cuda, and this machine has no GPU.
    """
    if name == "cuda" and not any(Path(place).exists() for place in _GPU_PLACES):
        raise ConfigError("device cuda needs a GPU, and this machine has none: use cpu", "device")


def setting_names() -> tuple[str, ...]:
    """Return the names of all settings, in order."""
    return tuple(declared_settings(TrainingConfig))


def value_of(config: TrainingConfig, name: str) -> Any:
    """Return the value of a setting by its name."""
    return getattr(config, declared_settings(TrainingConfig)[name].attribute)


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    """Return all settings by name, in order."""
    return {name: value_of(config, name) for name in setting_names()}


def updated(config: TrainingConfig, values: Mapping[str, Any]) -> TrainingConfig:
    """Return a copy of `config` with some settings replaced.

    Raises:
        ConfigError: a name is unknown, or a value does not fit.
    """
    try:
        return msgspec.structs.replace(config, **checked_settings(TrainingConfig, values))
    except SettingError as error:
        raise ConfigError(str(error), error.setting) from error


def updated_by_options(config: TrainingConfig, given: Mapping[str, Any]) -> TrainingConfig:
    """Return `config` with the settings of command-line options replaced.

    Raises:
        ConfigError: a value is invalid; the message names the option.
    """
    try:
        return updated(config, given)
    except ConfigError as error:
        raise (error.as_typed() if error.setting in given else error) from error


def updated_by_file(config: TrainingConfig, path: Path) -> TrainingConfig:
    """Return `config` with the settings of a TOML file replaced.

    Raises:
        ConfigError: the file cannot be read, or a setting in it is impossible; the message names
            the file.
    """
    values = read_config(path)
    try:
        return updated(config, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file.

    Raises:
        ConfigError: the file is missing or is not TOML.
    """
    try:
        return read_toml(path, _MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}") from error
    except SettingError as error:
        raise ConfigError(str(error)) from error


def load_config(path: Path, known: Collection[str] | None = None) -> TrainingConfig:
    """Return the config of a run, as `write_config` wrote it.

    Args:
        path: the file.
        known: names of the settings that the file must have, as the run recorded them; by default
            all but `_LATER_SETTINGS`. Settings of later versions of Esper have their defaults.

    Raises:
        ConfigError: the file is missing, is not TOML, lacks a setting or has an unknown one.
    """
    if not path.exists():
        raise ConfigError(
            f"{path} is missing: it holds the settings of the run; restore the file that the run "
            "was started with"
        )
    values = read_config(path)
    if known is None:
        known = set(setting_names()) - set(_LATER_SETTINGS)
    required = [name for name in setting_names() if name in known]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(
            f"{path} is damaged: it lacks {len(missing)} of {len(required)} settings "
            f"({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}); restore the file that "
            "the run was started with"
        )
    return updated(TrainingConfig(), values)


def check_same_settings(config: TrainingConfig, known: Mapping[str, Any], source: str) -> None:
    """Check that the settings of a run have not changed, except those that may.

    Args:
        config: its current settings.
        known: its recorded settings, by name.
        source: where they were recorded, for the message.

    Raises:
        ConfigError: a setting has changed.
    """
    for name in setting_names():
        if name in RESUMABLE_SETTINGS or name not in known:
            continue
        before = tuple(known[name]) if isinstance(known[name], list) else known[name]
        if (value := value_of(config, name)) != before:
            raise ConfigError(
                f"{name} is {short_repr(value)} in the config of the run and {short_repr(before)} "
                f"in {source}: the config was changed or damaged; set {name} back"
            )


def write_config(config: TrainingConfig, path: Path) -> None:
    """Write every setting with its help text as TOML, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    lines = []
    for setting in declared_settings(TrainingConfig).values():
        value = getattr(config, setting.attribute)
        lines += [f"# {setting.help}", f"{setting.name} = {_toml(value)}", ""]
    replace_file(path, ["\n".join(lines).encode()])


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return _toml_text(value) if isinstance(value, str) else repr(value)


def _toml_text(text: str) -> str:
    # A JSON string is a TOML basic string, except for DEL, which TOML requires to be escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
