"""Remarks on a replay: what limits it, a sentence each."""

import platform
from collections.abc import Iterator

import torch
from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting
from esper.leyline.version import VERSION
from esper.simic.replay.incidents import Capsule
from esper.simic.replay.verdict import REPEATED_PHASES


def environment_remarks(capsule: Capsule, device: torch.device) -> Iterator[str]:
    """Yield the differences between the machine of the replay and that of training."""
    here = {
        "esper": VERSION,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    for name, version in capsule.versions.items():
        if here.get(name, version) != version:
            yield f"recorded with {name} {version}, replayed with {here[name]}"
    if torch.device(capsule.device).type != device.type:
        yield f"recorded on {capsule.device}, replayed on {device}"


def other_head_remarks(seen: tuple[NonfiniteSighting, ...]) -> Iterator[str]:
    """Yield the heads that lit besides the one whose origin is shown."""
    first, *others = dict.fromkeys(sighting.head for sighting in seen) or [""]
    if others:
        yield f"the origin is that of {first}, which lit first; {' and '.join(others)} lit, too"


def log_prob_remarks(capsule: Capsule, now: Tensor) -> Iterator[str]:
    """Yield a remark if the replay computed other old log-probabilities than training.

    Args:
        capsule: the capsule.
        now: old log-probabilities of the replay.
    """
    then = capsule.old_log_probs.to(now.device)
    differ = ((then != now) & ~(then.isnan() & now.isnan())).sum().item()
    if differ:
        yield f"{differ} of {then.numel()} old log-probabilities differ from those of training"


def unrepeated_remarks(recorded: tuple[NonfiniteSighting, ...]) -> Iterator[str]:
    """Yield what was recorded and cannot be shown by a replay."""
    phases = {seen.phase for seen in recorded} - {*REPEATED_PHASES}
    for phase, words in {"acting": "while acting", "hosts": "in the training of hosts"}.items():
        if phase in phases:
            yield f"what was seen {words} is only recorded: a replay repeats the update alone"
    once = [seen for seen in recorded if not seen.reproduced]
    if once:
        yield (
            f"{len(once)} of {len(recorded)} sightings were not reproduced when training repeated "
            "the update at once"
        )
