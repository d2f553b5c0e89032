"""The settings of a training run: one frozen dataclass, from defaults, a TOML file and options.

Every field has a help text, from which the command line, the TOML file and the documentation are
made.
"""

import difflib
import json
import math
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from esper.leyline.durable_files import replace_file
from esper.leyline.errors import EsperError
from esper.leyline.plain_text import short_repr
from esper.leyline.task_names import BUILT_IN, WITH_PLACE, UnknownTaskError, parse_task_name

AMP_MODES = ("off", "bf16", "fp16")
ON_NONFINITE = ("skip", "rollback", "halt")
DEVICES = ("auto", "cpu", "cuda")
MOST_THREADS = 1024  # torch crashes with many more
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
#: Largest settings file that is read, in bytes.
_LONGEST_FILE = 1 << 20
#: Device files of GPUs that torch can use: of NVIDIA, AMD and Windows Subsystem for Linux.
_GPU_PLACES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


class ConfigError(EsperError, ValueError):
    """A setting is unknown or has an invalid value; the message is one clear sentence.

    Args:
        message: the sentence.
        setting: the setting at the beginning of the sentence; empty if there is none.
    """

    def __init__(self, message: str, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting

    def as_typed(self) -> "ConfigError":
        """Return the same error with the setting as a command-line option."""
        if not self.setting:
            return self
        return ConfigError(option_of(self.setting) + str(self).removeprefix(self.setting))


def _setting(
    default: Any, help_text: str, *, choices: tuple[str, ...] | None = None, key: str = ""
) -> Any:
    """Return a field; `key` is its name in files and on the command line, if that differs."""
    return field(default=default, metadata={"help": help_text, "choices": choices, "key": key})


@dataclass(frozen=True)
class TrainingConfig:
    """All settings of a run. Rates and fractions have no unit."""

    episodes: int = _setting(4800, "total number of training episodes")
    envs: int = _setting(
        0,
        "number of environments (hosts) in lockstep; 0 means a fifth of the episodes, from 1 to 32",
    )
    steps: int = _setting(24, "steps per episode")
    task: str = _setting(
        "mnist1d", f"training task of the hosts: {', '.join((*BUILT_IN, *WITH_PLACE))}"
    )
    rng_seed: int = _setting(0, "random seed", key="seed")
    device: str = _setting("auto", "device for training", choices=DEVICES)
    processes: int = _setting(
        2, "processes to divide the hosts among, on CPU; each gets at least 8 hosts"
    )
    threads: int = _setting(
        1,
        "PyTorch threads per process; 0 measures and picks a number, so results may differ between "
        "runs",
    )
    amp: str = _setting(
        "off", "mixed precision of the policy network in the PPO update", choices=AMP_MODES
    )

    ppo_epochs: int = _setting(6, "epochs per PPO update")
    minibatches: int = _setting(4, "minibatches per epoch; each holds whole episodes")
    learning_rate: float = _setting(3e-3, "initial learning rate (Adam); it decays linearly")
    anneal_episodes: int = _setting(
        4800, "episodes over which the learning rate decays to 1 % of its initial value"
    )
    gamma: float = _setting(1.0, "discount factor")
    gae_lambda: float = _setting(1.0, "lambda of generalized advantage estimation (GAE)")
    siblings: int = _setting(
        8,
        "hosts per batch that share one initialisation seed; advantages are relative to their mean",
    )
    clip_range: float = _setting(0.2, "PPO clip range of the probability ratio")
    entropy_coefficient: float = _setting(
        0.01, "initial weight of the entropy bonus; it decays with the learning rate"
    )
    value_coefficient: float = _setting(0.5, "weight of the value loss")
    max_gradient_norm: float = _setting(0.5, "maximum gradient norm (clipping)")
    target_kl: float = _setting(
        0.03, "an update stops early when the KL divergence exceeds 1.5 times this; 0 disables it"
    )
    feature_size: int = _setting(64, "width of the policy's feature network")
    lstm_size: int = _setting(64, "width of the policy's LSTM")
    checkpoint_every: int = _setting(
        1, "updates between two checkpoints; one is also written at the end"
    )
    on_nonfinite: str = _setting(
        "skip",
        "after NaN or Inf in an update: skip its bad minibatches, roll it back, or halt training",
        choices=ON_NONFINITE,
    )
    nonfinite_patience: int = _setting(
        5, "consecutive bad updates before a rollback, then consecutive rollbacks before a halt"
    )
    incidents_kept: int = _setting(
        20, "maximum number of saved incidents (capsules) besides the first of each kind of fault"
    )
    incident_megabytes: int = _setting(500, "maximum size of all capsules of a run")
    store_megabytes: int = _setting(
        2048,
        "store size above which old steps, decisions and transitions are removed; 0 means never",
    )
    inject: tuple[str, ...] = _setting(
        (),
        "plant a value as a drill: HEAD[.QUANTITY]:KIND@UPDATE, for example op:inf@2 (repeatable); "
        "QUANTITY is logits or log_prob",
    )

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_envs(self) -> int:
        """Number of environments in lockstep: `envs`, or a fifth of the episodes if that is 0."""
        return min(self.envs or min(max(self.episodes // 5, 1), 32), self.episodes)


_AT_LEAST_ONE = (
    "episodes", "anneal_episodes", "steps", "processes", "siblings", "ppo_epochs", "minibatches",
    "feature_size", "lstm_size", "checkpoint_every", "nonfinite_patience",
)  # fmt: skip
_AT_LEAST_ZERO = (
    "envs", "threads", "seed", "entropy_coefficient", "value_coefficient", "target_kl",
    "incidents_kept", "incident_megabytes", "store_megabytes",
)  # fmt: skip
_ABOVE_ZERO = ("learning_rate", "clip_range", "max_gradient_norm")
_FRACTIONS = ("gamma", "gae_lambda")
#: Limits that keep memory and processes within what machines have.
_AT_MOST = {
    "envs": 4096,
    "steps": 100_000,
    "processes": MOST_THREADS,
    "threads": MOST_THREADS,
    "feature_size": 8192,
    "lstm_size": 8192,
}


def _check(config: TrainingConfig) -> None:
    for setting in fields(config):
        value, name = getattr(config, setting.name), key_of(setting)
        expected = type(setting.default)
        if expected is float and type(value) is int:
            try:
                value = float(value)
            except OverflowError:
                value = math.inf
            object.__setattr__(config, setting.name, value)
        if expected is tuple:
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                raise ConfigError(
                    f"{name} must be a list of strings, not {short_repr(value)}", name
                )
        elif type(value) is not expected:
            raise ConfigError(
                f"{name} must be {_TYPE_WORDS[expected]}, not {short_repr(value)}", name
            )
        most = _AT_MOST.get(name, _LARGEST_INTEGER)
        if expected is int and value > most:
            raise ConfigError(f"{name} must be at most {most}, not {short_repr(value)}", name)
        if expected is float and not math.isfinite(value):
            raise ConfigError(f"{name} must be a finite number, not {value}", name)
        if expected is float and abs(value) > _LARGEST_FLOAT32:
            raise ConfigError(
                f"{name} must be at most 3.4e38, the largest float32, not {value}", name
            )
        choices = setting.metadata["choices"]
        if choices and value not in choices:
            raise ConfigError(
                f"{name} must be one of {', '.join(choices)}, not {short_repr(value)}", name
            )
    _require(config, _AT_LEAST_ONE, lambda value: value >= 1, "at least 1")
    _require(config, _AT_LEAST_ZERO, lambda value: value >= 0, "0 or more")
    _require(config, _ABOVE_ZERO, lambda value: value > 0, "above 0")
    _require(config, _FRACTIONS, lambda value: 0 <= value <= 1, "between 0 and 1")
    try:
        parse_task_name(config.task)
    except UnknownTaskError as error:
        raise ConfigError(str(error)) from error


_LARGEST_FLOAT32 = 3.4028234663852886e38
_LARGEST_INTEGER = 2**63 - 1  # the largest random seed, and the largest integer in the store
_TYPE_WORDS = {int: "a whole number", float: "a number", str: "a string"}


def _require(config: TrainingConfig, names: tuple[str, ...], holds: Any, words: str) -> None:
    for name in names:
        value = value_of(config, name)
        if not holds(value):
            raise ConfigError(f"{name} must be {words}, not {short_repr(value)}", name)


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


def key_of(setting: Field[Any]) -> str:
    """Return the name of a setting in files; the option adds `--` and hyphens."""
    return setting.metadata["key"] or setting.name


def setting_names() -> tuple[str, ...]:
    """Return the names of all settings, in order."""
    return tuple(map(key_of, fields(TrainingConfig)))


def value_of(config: TrainingConfig, name: str) -> Any:
    """Return the value of a setting by its name."""
    return getattr(config, _ATTRIBUTES[name])


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    """Return all settings by name, in order."""
    return {name: value_of(config, name) for name in setting_names()}


def updated(config: TrainingConfig, values: Mapping[str, Any]) -> TrainingConfig:
    """Return `config` with some settings replaced.

    Raises:
        ConfigError: a key is not a setting, or a value is invalid.
    """
    known = setting_names()
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:80], known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{short_repr(key)} is not a setting; {hint}")
    converted: dict[str, Any] = {
        _ATTRIBUTES[key]: tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
    }
    return replace(config, **converted)


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
        with path.open("rb") as file:
            data = file.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the config file {path}: {error.strerror}") from error
    if len(data) > _LONGEST_FILE:
        raise ConfigError(f"{path} is not a config file: it is longer than {_LONGEST_FILE} bytes")
    try:
        return tomllib.loads(data.decode())
    except RecursionError as error:
        raise ConfigError(f"{path} is not valid TOML: its values are nested too deeply") from error
    except ValueError as error:  # numbers of thousands of digits, too
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def load_config(path: Path, known: Collection[str] | None = None) -> TrainingConfig:
    """Return the config of a run, as `write_config` wrote it.

    Args:
        path: the file.
        known: names of the settings that the file must have, as the run recorded them; by default
            all but `_LATER_SETTINGS`. Settings of later versions of Esper have their defaults.

    Raises:
        ConfigError: the file is missing, is not TOML, lacks a setting or has an unknown one.
    """
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
    for setting in fields(config):
        lines += [
            f"# {setting.metadata['help']}",
            f"{key_of(setting)} = {_toml(config, setting)}",
            "",
        ]
    replace_file(path, ["\n".join(lines).encode()])


def _toml(config: TrainingConfig, setting: Any) -> str:
    value = getattr(config, setting.name)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_text(item) for item in value) + "]"
    return _toml_text(value) if isinstance(value, str) else repr(value)


def _toml_text(text: str) -> str:
    # A JSON string is a TOML basic string, except that TOML wants DEL escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


assert all(setting.default is not MISSING for setting in fields(TrainingConfig))
_ATTRIBUTES = {key_of(setting): setting.name for setting in fields(TrainingConfig)}
