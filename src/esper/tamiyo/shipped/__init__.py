"""The policy that comes with the package, and how to load it.

`scripts/train_shipped_policy.py` made the files next to this one:

| file                 | what it holds                                                          |
|----------------------|------------------------------------------------------------------------|
| `policy.safetensors` | the weights; its metadata has what the policy sees and decides, and a   |
|                      | SHA-256 of the whole file, taken with zeros in the digest's own place  |
| `config.toml`        | the settings it was trained with                                       |
| `training_curve.csv` | update, episodes done, mean score, mean accuracy                       |
| `evaluation.json`    | `esper eval` of it, and `evaluation.md` the same to read               |
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from esper.leyline.errors import EsperError
from esper.leyline.files.durable_files import replace_file
from esper.leyline.heads import HEAD_CHOICES, HEAD_NAMES
from esper.tamiyo.policy import RecurrentPolicy

#: Where the shipped policy lies.
SHIPPED = Path(__file__).parent
POLICY_NAME = "policy.safetensors"
CONFIG_NAME = "config.toml"
CURVE_NAME = "training_curve.csv"
EVALUATION_NAME = "evaluation.json"
TABLE_NAME = "evaluation.md"
#: Where the digest stands in the metadata, and what stands there while it is taken.
_DIGEST = "sha256"
_NO_DIGEST = "0" * 64
#: All that the metadata of a policy has that an older version wrote.
_MEANING = frozenset({"features", "heads", "episodes"})
#: Bytes that are read at most: far more than any policy of Tamiyo takes.
_LARGEST = 256 << 20


class ShippedPolicyError(EsperError, ValueError):
    """The shipped policy is missing, is damaged, or was trained for another version."""


@dataclass(frozen=True)
class ShippedPolicy:
    """A trained policy that needs no run.

    Attributes:
        policy: the policy, on the CPU.
        config: path of the settings that it was trained with.
        episodes: number of episodes that it was trained on.
        has_digest: whether a digest proves that no bit has changed; what an older
            version wrote has none.
    """

    policy: RecurrentPolicy
    config: Path
    episodes: int
    has_digest: bool


def save_policy(
    policy: RecurrentPolicy, features: Sequence[str], episodes: int, folder: Path
) -> None:
    """Write the weights, and next to them what they mean.

    Args:
        policy: what to write.
        features: names of the entries of its observation, in order.
        episodes: number of episodes that it was trained on.
        folder: to write into.

    Raises:
        OSError: the disk does not take it; what was there before stays.
    """
    meaning = {"features": list(features), "heads": _heads(), "episodes": episodes}
    metadata = {name: json.dumps(value) for name, value in meaning.items()}
    metadata[_DIGEST] = _NO_DIGEST
    data = save(policy.state_dict(), metadata=metadata)
    digest = hashlib.sha256(data).hexdigest()
    # not save_file, whose files only their owner can read
    replace_file(folder / POLICY_NAME, [data.replace(_NO_DIGEST.encode(), digest.encode(), 1)])


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
        with path.open("rb") as file:
            data = file.read(_LARGEST)
        metadata = _metadata_of(data)
        digest = metadata.pop(_DIGEST, None)
        if digest is None and metadata.keys() != _MEANING:
            raise ShippedPolicyError(f"the shipped policy {path} is damaged: it lacks its digest")
        if digest is not None and digest != _digest_of(data, digest):
            raise ShippedPolicyError(
                f"the shipped policy {path} is damaged: its digest does not match"
            )
        meaning = {name: json.loads(text) for name, text in metadata.items()}
        state = load(data)
    except ShippedPolicyError:
        raise
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ShippedPolicyError(f"the shipped policy {path} cannot be read: {error}") from error
    for what, here in (("features", list(features)), ("heads", _heads())):
        if meaning.get(what) != here:
            raise ShippedPolicyError(
                f"the shipped policy was trained with other {_WORDS[what]} than this version has "
                f"({_difference(meaning.get(what), here)}): train it again with "
                "scripts/train_shipped_policy.py"
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
    return ShippedPolicy(policy, folder / CONFIG_NAME, episodes, digest is not None)


def _metadata_of(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file.

    Raises:
        ValueError, RecursionError: it has none.
    """
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(one, str) for one in metadata.values()):
        raise ValueError("its header is not one of a safetensors file")
    return metadata


def _digest_of(data: bytes, written: str) -> str:
    """Return the digest of a file in which a digest was written."""
    return hashlib.sha256(data.replace(written.encode(), _NO_DIGEST.encode(), 1)).hexdigest()


_WORDS = {"features": "observations", "heads": "choices of its heads"}


def _difference(trained: object, here: object) -> str:
    """Return what only the policy or only this version has, in words.

    Args:
        trained, here: names of features, or choices by head.
    """
    then, now = _flat_names(trained), _flat_names(here)
    found = [
        f"{', '.join(list(names)[:3])}{' ...' if len(names) > 3 else ''} only {where}"
        for names, where in (
            ([name for name in now if name not in then], "in this version"),
            ([name for name in then if name not in now], "in the policy"),
        )
        if names
    ]
    return "; ".join(found) or "in another order"


def _flat_names(names: object) -> list[str]:
    if isinstance(names, dict):
        listed = {head: choices for head, choices in names.items() if isinstance(choices, list)}
        return [f"{head}.{choice}" for head, choices in listed.items() for choice in choices]
    return [str(name) for name in names] if isinstance(names, list) else []


def _heads() -> dict[str, list[str]]:
    return {head: list(HEAD_CHOICES[head]) for head in HEAD_NAMES}
