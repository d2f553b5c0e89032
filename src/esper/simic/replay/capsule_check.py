"""Checks a capsule before it is replayed, since its origin is unknown.

An inconsistent capsule is refused in one sentence. The cost of a replay is bounded by the size of
the capsule's file and by `MOST_MINIBATCHES`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES
from esper.leyline.telemetry import GROUPS, PHASES, NonfiniteSighting
from esper.simic.config import MAX_THREADS
from esper.simic.replay.incidents import Capsule, IncidentError

#: Maximum of epochs times minibatches, far above that of any real update.
MOST_MINIBATCHES = 10_000
_HEADS, _CHOICES = len(HEAD_SIZES), sum(HEAD_SIZES)
_FLOAT = (torch.float32,)
_DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")
_LIGHTS = (*HEAD_NAMES, *GROUPS)
_KINDS = ("nan", "+inf", "-inf")
_Sizes = tuple[int, ...]


def check_capsule(capsule: Capsule) -> None:
    """Check that the parts of a capsule are consistent; loading checks the agent's state.

    Raises:
        IncidentError: they are not; the message names the first wrong part.
    """
    for complaint in _complaints(capsule):
        raise IncidentError(f"the capsule cannot be replayed: {complaint}")


def _complaints(capsule: Capsule) -> Iterator[str]:
    yield from _of_plain_values(capsule)
    yield from _of_rollout(capsule)
    yield from _of_minibatches(capsule)


def _of_plain_values(capsule: Capsule) -> Iterator[str]:
    if type(capsule.update) is not int or capsule.update < 1:
        yield "its update must be a whole number of at least 1"
    if type(capsule.threads) is not int or not 1 <= capsule.threads <= MAX_THREADS:
        yield f"its threads must be from 1 to {MAX_THREADS}"
    if not _is_texts(capsule.versions) or not isinstance(capsule.config, dict):
        yield "its versions and its settings must be tables"
    if not isinstance(capsule.device, str) or not _DEVICE.fullmatch(capsule.device):
        yield "its device must be cpu or cuda"
    if not isinstance(capsule.injections, list) or not all(
        isinstance(one, str) for one in capsule.injections
    ):
        yield "its injections must be a list of strings"
    try:
        sightings = msgspec.convert(capsule.sightings, list[NonfiniteSighting])
    except msgspec.ValidationError as error:
        yield f"its sightings are not sightings ({error})"
    else:
        for seen in sightings:
            if seen.head not in _LIGHTS or seen.kind not in _KINDS or seen.phase not in PHASES:
                yield "it has a sighting of an unknown head, kind or phase"
    generator = capsule.torch_generator
    if not isinstance(generator, Tensor) or generator.shape != torch.get_rng_state().shape:
        yield "the state of its random generator has the wrong size"


def _is_texts(table: Any) -> bool:
    return isinstance(table, dict) and all(
        isinstance(text, str) for pair in table.items() for text in pair
    )


def _of_rollout(capsule: Capsule) -> Iterator[str]:
    try:
        weights = capsule.agent["policy"]
        inputs, lstm_size = weights["features.weight"].shape[1], len(weights["heads.weight"][0])
    except (KeyError, TypeError, IndexError, AttributeError):
        yield "it holds no agent that this version knows"
        return
    rollout = capsule.rollout
    if not isinstance(rollout, dict) or not isinstance(rollout.get("rewards"), Tensor):
        yield "its rollout is not one of this version: it has no rewards"
        return
    rewards = rollout["rewards"]
    if rewards.dim() != 2 or not rewards.numel():
        yield f"its rewards have the shape {tuple(rewards.shape)}, not steps × hosts"
        return
    steps, hosts = rewards.shape
    known = _shapes(steps, hosts, inputs)
    unknown = rollout.keys() - known.keys() - {"initial_state", "learnable"}
    if unknown:
        yield f"its rollout has an unknown part {min(map(repr, unknown))[:80]}"
    for name, (shape, kinds) in known.items():
        yield from _of_tensor(name, rollout.get(name), shape, kinds)
    yield from _of_state(rollout.get("initial_state"), (1, hosts, lstm_size))
    if (learnable := rollout.get("learnable")) is not None:
        yield from _of_tensor("learnable", learnable, (hosts,), (torch.bool,))
    log_probs = capsule.old_log_probs
    yield from _of_tensor("old_log_probs", log_probs, (steps, hosts, _HEADS), _FLOAT)
    for head, name in enumerate(HEAD_NAMES):
        actions = rollout["actions"][..., head]
        if int(actions.min()) < 0 or int(actions.max()) >= HEAD_SIZES[head]:
            yield f"its actions of {name} are not from 0 to {HEAD_SIZES[head] - 1}"


def _shapes(
    steps: int, hosts: int, inputs: int
) -> Mapping[str, tuple[_Sizes, tuple[torch.dtype, ...]]]:
    table = (steps, hosts)
    figures = dict.fromkeys(("values", "rewards", "next_values"), (table, _FLOAT))
    marks = dict.fromkeys(("terminated", "truncated"), (table, (torch.bool,)))
    return {
        "observations": ((*table, inputs), _FLOAT),
        "actions": ((*table, _HEADS), (torch.int64,)),
        "masks": ((*table, _CHOICES), (torch.bool,)),
        "active": ((*table, _HEADS), (torch.bool,)),
        **figures,
        **marks,
    }


def _of_state(state: Any, shape: _Sizes) -> Iterator[str]:
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        yield "its initial_state must be two tensors"
        return
    for part in state:
        yield from _of_tensor("initial_state", part, shape, _FLOAT)


def _of_tensor(
    name: str, value: Any, shape: _Sizes, kinds: tuple[torch.dtype, ...]
) -> Iterator[str]:
    if not isinstance(value, Tensor):
        yield f"its {name} is missing"
    elif tuple(value.shape) != shape or value.dtype not in kinds:
        yield (
            f"its {name} has the shape {tuple(value.shape)} and the type {value.dtype}, not "
            f"{shape} and {kinds[0]}"
        )


def _of_minibatches(capsule: Capsule) -> Iterator[str]:
    minibatches, per_epoch = capsule.minibatches, capsule.minibatches_per_epoch
    if not isinstance(minibatches, list) or type(per_epoch) is not int or per_epoch < 1:
        yield "its minibatches must be a list, and minibatches_per_epoch a number of 1 or more"
        return
    if len(minibatches) > MOST_MINIBATCHES:
        yield f"it has {len(minibatches)} minibatches; at most {MOST_MINIBATCHES} are replayed"
        return
    if not minibatches or len(minibatches) % per_epoch:
        yield f"its {len(minibatches)} minibatches are not epochs of {per_epoch}"
        return
    hosts = capsule.rollout["rewards"].shape[1]
    for first in range(0, len(minibatches), per_epoch):
        epoch = minibatches[first : first + per_epoch]
        if not all(isinstance(part, Tensor) and part.dtype == torch.int64 for part in epoch):
            yield "a minibatch is not a tensor of host numbers"
            return
        if not all(part.dim() == 1 and part.numel() for part in epoch):
            yield "a minibatch is empty, or not a list of host numbers"
            return
        numbers = torch.cat([part.cpu() for part in epoch])
        if len(numbers) > hosts or int(numbers.min()) < 0 or int(numbers.max()) >= hosts:
            yield f"a minibatch names hosts that are not from 0 to {hosts - 1}"
            return
