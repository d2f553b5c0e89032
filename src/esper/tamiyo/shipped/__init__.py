"""The policy that comes with the package, and how to load it.

`scripts/train_shipped_policy.py` made the files beside this one:

| file                 | what it holds                                                          |
|----------------------|------------------------------------------------------------------------|
| `policy.safetensors` | the weights; what the policy sees and decides stands in its metadata   |
| `config.toml`        | the settings it was trained with                                       |
| `training_curve.csv` | update, episodes done, mean score, mean accuracy                       |
| `evaluation.json`    | `esper eval` of it, and `evaluation.md` the same to read               |
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from esper.leyline.durable_files import replace_file
from esper.leyline.errors import EsperError
from esper.leyline.heads import HEAD_CHOICES, HEAD_NAMES
from esper.tamiyo.policy import RecurrentPolicy

#: Where the shipped policy lies.
SHIPPED = Path(__file__).parent
POLICY_NAME = "policy.safetensors"
CONFIG_NAME = "config.toml"
CURVE_NAME = "training_curve.csv"
EVALUATION_NAME = "evaluation.json"
TABLE_NAME = "evaluation.md"


class ShippedPolicyError(EsperError, ValueError):
    """The shipped policy is missing, damaged or made for other code; the message says which."""


@dataclass(frozen=True)
class ShippedPolicy:
    """A learnt policy that needs no run.

    Attributes:
        policy: on the CPU.
        config: the path of the settings it was trained with.
        episodes: it has learnt from.
    """

    policy: RecurrentPolicy
    config: Path
    episodes: int


def save_policy(
    policy: RecurrentPolicy, features: Sequence[str], episodes: int, folder: Path
) -> None:
    """Write the weights, and beside them what they mean.

    Args:
        policy: what to write.
        features: names of the entries of its observation, in order.
        episodes: it has learnt from.
        folder: to write into.

    Raises:
        OSError: the disk does not take it; what was there before stays.
    """
    meaning = {"features": list(features), "heads": _heads(), "episodes": episodes}
    metadata = {name: json.dumps(value) for name, value in meaning.items()}
    # not save_file, which lets nobody but its owner read what it writes
    replace_file(folder / POLICY_NAME, [save(policy.state_dict(), metadata=metadata)])


def load_shipped_policy(features: Sequence[str], folder: Path = SHIPPED) -> ShippedPolicy:
    """Return the policy that comes with the package.

    Args:
        features: names of the entries of the observation as this code has it, in order.
        folder: that holds it.

    Raises:
        ShippedPolicyError: the files are missing or damaged, or were made for other observations or
            heads than this code has.
    """
    path = folder / POLICY_NAME
    try:
        with safe_open(path, framework="pt") as file:
            meaning = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise ShippedPolicyError(f"the shipped policy {path} cannot be read: {error}") from error
    for what, here in (("features", list(features)), ("heads", _heads())):
        if meaning.get(what) != here:
            raise ShippedPolicyError(
                f"the shipped policy was trained with other {_WORDS[what]} than this version has: "
                "make it anew with scripts/train_shipped_policy.py"
            )
    if "features.weight" not in state or "lstm.weight_hh_l0" not in state:
        raise ShippedPolicyError(f"{path} holds no policy of Tamiyo")
    try:
        policy = RecurrentPolicy(
            len(features),
            feature_size=state["features.weight"].shape[0],
            lstm_size=state["lstm.weight_hh_l0"].shape[1],
        )
        policy.load_state_dict(state)
        episodes = int(meaning["episodes"])
    except (RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ShippedPolicyError(
            f"the shipped policy {path} is damaged: its parts do not fit together"
        ) from error
    return ShippedPolicy(policy, folder / CONFIG_NAME, episodes)


_WORDS = {"features": "observations", "heads": "choices of its heads"}


def _heads() -> dict[str, list[str]]:
    return {head: list(HEAD_CHOICES[head]) for head in HEAD_NAMES}
