"""Drills in an update: a hook that plants values, and the marking of the sightings they cause."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec
import torch
from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.figures import UpdateResult
from esper.simic.agent.minibatch import Minibatch
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.drill import DRILL_VALUES, Injection
from esper.tamiyo.policy import HeadLayout


def update_with_drills(
    agent: PPOAgent,
    rollout: Rollout,
    injections: Sequence[Injection],
    before: Sequence[NonfiniteSighting] = (),
) -> UpdateResult:
    """Update an agent while drills plant values.

    Args:
        agent: the agent to update.
        rollout: the episodes to learn from.
        injections: values to plant, each in the first minibatch that has a place for it.
        before: sightings from collecting the rollout.

    Returns:
        The result of the update. Sightings that a drill caused are marked, and `not_planted` lists
        the injections that found no place.
    """
    if not injections:
        return agent.update(rollout, before)
    hook = DrillHook(injections, agent.policy.layout)
    result = agent.update(rollout, before, hook)
    if result.start is not None:
        per_epoch = result.start.minibatches_per_epoch
        sightings = mark_planted(result.figures.head_nonfinite, hook.planted, per_epoch)
        figures = msgspec.structs.replace(result.figures, head_nonfinite=sightings)
        own = tuple(mark_planted(result.own, hook.planted, per_epoch))
        result = replace(result, figures=figures, own=own)
    return replace(result, not_planted=tuple(hook.waiting))


class DrillHook:
    """A `ForwardHook` that plants values into logits and log-probabilities.

    A value is planted once in each pass over the minibatches: in the first minibatch in which its
    head is active.

    Attributes:
        waiting: injections that the last pass has found no place for.
        planted: head and minibatch index of each injection that the last pass has planted.
    """

    def __init__(self, injections: Sequence[Injection], layout: HeadLayout) -> None:
        self._injections = injections
        self._layout = layout
        self.waiting: list[Injection] = list(injections)
        self.planted: list[tuple[str, int]] = []

    def start_pass(self) -> None:
        """Plant everything again."""
        self.waiting = list(self._injections)
        self.planted = []

    def logits(self, index: int, logits: Tensor, batch: Minibatch) -> Tensor:
        """Return the logits of a minibatch with the values that are planted there."""
        for injection in self._due("logits"):
            head = self._layout.names.index(injection.head)
            column = self._layout.offsets[head] + batch.actions[0, 0, head]
            logits = plant_in_logits(logits, injection, column)
            self._done(injection, index)
        return logits

    def log_probs(self, index: int, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return the log-probabilities of a minibatch with the values that are planted there."""
        for injection in self._due("log_prob"):
            head = self._layout.names.index(injection.head)
            changed = plant_in_log_probs(log_probs, batch.active, injection, head)
            if changed is not None:
                log_probs = changed
                self._done(injection, index)
        return log_probs

    def _due(self, quantity: str) -> list[Injection]:
        return [injection for injection in self.waiting if injection.quantity == quantity]

    def _done(self, injection: Injection, index: int) -> None:
        self.waiting.remove(injection)
        self.planted.append((injection.head, index))


def plant_in_logits(logits: Tensor, injection: Injection, column: Tensor) -> Tensor:
    """Return logits `[T, n, total]` with the value in a column of the first step and host."""
    planted = logits.clone()
    planted[0, 0, column] = DRILL_VALUES[injection.kind]
    return planted


def plant_in_log_probs(
    log_probs: Tensor, active: Tensor, injection: Injection, head: int
) -> Tensor | None:
    """Return log-probabilities `[T, n, H]` with the value where the head was first active.

    Returns None if the head was active in no step, since inactive heads are not in the loss.
    """
    places = active[..., head].nonzero()
    if not len(places):
        return None
    step, host = places[0].tolist()
    planted = log_probs.clone()
    planted[step, host, head] = torch.as_tensor(DRILL_VALUES[injection.kind])
    return planted


def mark_planted(
    sightings: Iterable[NonfiniteSighting], planted: Sequence[tuple[str, int]], per_epoch: int
) -> list[NonfiniteSighting]:
    """Return sightings with those marked that a drill caused.

    A drill caused a sighting if it is of the drill's head, and was seen only in minibatches in
    which a value was planted.

    Args:
        sightings: sightings of an update.
        planted: head and minibatch index of each planted value.
        per_epoch: number of minibatches in an epoch.
    """
    places: dict[str, set[tuple[int, int]]] = {}
    for head, index in planted:
        place = index // per_epoch + 1, index % per_epoch + 1
        places.setdefault(head, set()).add(place)

    def is_planted(seen: NonfiniteSighting) -> bool:
        ends = {(seen.epoch, seen.minibatch), (seen.last_epoch, seen.last_minibatch)}
        is_there_only = ends <= places.get(seen.head, set()) and seen.count == len(ends)
        return seen.phase == "update" and is_there_only

    return [msgspec.structs.replace(seen, planted=is_planted(seen)) for seen in sightings]
