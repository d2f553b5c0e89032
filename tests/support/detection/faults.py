"""Faults of one head for the detection campaign: a value put into a tensor, and what must be seen.

Each function plants one fault and returns the expected sighting, or None if the fault has no place
in that stage (a head that is inactive there has no log-probability that counts).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from detection.stage import ANY, PREPARATION, VALUES, Sight, Stage, Where, planted, with_parts
from esper.simic.agent import ppo

Planting = Callable[[Stage, Where], Sight | None]


@dataclass(frozen=True)
class Fault:
    """A fault, and what else it breaks.

    Attributes:
        plant: plants it.
        reach: "input" (the trunk of its host from its step on), "trunk", "head", "value" and
            "advantage" (the loss); "term" (the loss); "shown" (nothing); the derivatives "loss
            derivative", "joint derivative", "value derivative", "logit derivative" and "weight
            derivative"; "step" (a parameter), "moment" (nothing: its steps are left out).
        times: "both", or "lasting" if it cannot be transient.
        prepares: whether it may also be planted in the preparation.
        needs_moments: whether it needs an update before it.
    """

    plant: Planting
    reach: str
    times: str = "both"
    prepares: bool = False
    needs_moments: bool = False

    @property
    def name(self) -> str:
        """Return the name of the fault."""
        return self.plant.__name__


def logits(stage: Stage, where: Where) -> Sight:
    """A raw logit of any head, active or not; -inf only on a choice that is legal."""
    kind = stage.kind()
    columns = list(range(stage.layout.total))[stage.layout.offsets[where.head] :]
    columns = columns[: stage.layout.sizes[where.head]]
    if kind == "-inf":
        legal = stage.rollout.masks[where.step, where.host].tolist()
        columns = [column for column in columns if legal[column]]
    place = (where.step, stage.position(where), stage.random.choice(columns))
    stage.change_output(
        stage.policy.heads, where, lambda output: planted(output, place, VALUES[kind])
    )
    return stage.sight_in_host(where, stage.head_name(where), "logits", kind)


def _change_likelihoods(stage: Stage, where: Where, part: str, quantity: str) -> Sight:
    """Change a part of what `likelihoods` returns, in the fault's place."""
    kind, place = stage.kind(), (where.step, stage.position(where), where.head)

    def change(taken: Any) -> Any:
        if not stage.fires(where):
            return taken
        return taken._replace(**{part: planted(getattr(taken, part), place, VALUES[kind])})

    stage.wrap(ppo, "likelihoods", change)
    return stage.sight_in_host(where, stage.head_name(where), quantity, kind)


def log_prob(stage: Stage, where: Where) -> Sight | None:
    """The log-probability of a choice that counts."""
    if not stage.is_active(where):
        return None
    return _change_likelihoods(stage, where, "log_probs", "log_prob")


def old_log_prob(stage: Stage, where: Where) -> Sight | None:
    """The old log-probability, as the minibatch reads it."""
    if not stage.is_active(where):
        return None
    kind, place = stage.kind(), (where.step, stage.position(where), where.head)

    def change(batch: Any) -> None:
        if stage.fires(where):
            batch.old_log_probs[place] = VALUES[kind]

    stage.before_forward.append(change)
    return stage.sight_in_host(where, stage.head_name(where), "old_log_prob", kind)


def _change_prepared(stage: Stage, where: Where, change: Callable[[Tensor], Tensor]) -> None:
    """Change the old log-probability of the fault's place when the preparation ends."""
    place = (where.step, where.host, where.head)

    def changed(old: Tensor) -> Tensor:
        if not stage.armed or not (where.lasting or stage.preparations == 1):
            return old
        stage.fired.append((where, stage.preparations))
        return planted(old, place, change(old[place]))

    stage.wrap(stage.agent, "_old_log_probs", changed)


def prepared_log_prob(stage: Stage, where: Where) -> Sight | None:
    """The old log-probability, where the preparation computes it."""
    if not stage.is_active(where):
        return None
    kind = stage.kind()
    _change_prepared(stage, where, lambda _old: torch.tensor(VALUES[kind]))
    sight = stage.sight_in_host(where, stage.head_name(where), "old_log_prob", kind)
    return replace(sight, at=(PREPARATION,), last=None)


def exploding_ratio(stage: Stage, where: Where) -> Sight | None:
    """An old log-probability so low that the exponential overflows."""
    if not stage.is_active(where):
        return None
    _change_prepared(stage, where, lambda _old: torch.tensor(-500.0))
    first, last = stage.places_of(where.host)
    sight = stage.sight_in_host(where, stage.head_name(where), "ratio", "+inf")
    return replace(sight, at=(("update", *first),), last=last if where.lasting else None)


def forbidden_choice_taken(stage: Stage, where: Where) -> Sight | None:
    """A mask that forbids the choice taken, whose probability is then 0."""
    if not stage.is_active(where) or stage.layout.sizes[where.head] < 2:
        return None
    offset, size = stage.layout.offsets[where.head], stage.layout.sizes[where.head]
    masks = stage.rollout.masks.clone()
    masks[where.step, where.host, offset : offset + size] = True
    column = offset + stage.rollout.actions[where.step, where.host, where.head]
    masks[where.step, where.host, column] = False
    stage.rollout = with_parts(stage.rollout, masks=masks)
    head = stage.head_name(where)
    return Sight(head, "old_log_prob", "-inf", (PREPARATION,), host=where.host, step=where.step + 1)


def change_terms(
    stage: Stage, where: Where, change: Callable[[Any], dict[str, Tensor] | None]
) -> None:
    """Have parts of the minibatch's terms replaced, or hooks put on them, when a fault fires."""

    def changed(terms: Any) -> Any:
        return replace(terms, **(change(terms) or {})) if stage.fires(where) else terms

    stage.wrap(ppo, "ppo_loss", changed)


def ratio(stage: Stage, where: Where) -> Sight | None:
    """The ratio of one head alone, which is shown and not learnt from."""
    if not stage.is_active(where):
        return None
    kind, place = stage.kind(), (where.step, stage.position(where), where.head)
    change_terms(stage, where, lambda terms: {"ratios": planted(terms.ratios, place, VALUES[kind])})
    return stage.sight_in_host(where, stage.head_name(where), "ratio", kind)


def entropy(stage: Stage, where: Where) -> Sight | None:
    """The entropy of a head where it counts."""
    if not stage.is_active(where):
        return None
    return _change_likelihoods(stage, where, "entropies", "entropy")


def break_gradient(stage: Stage, where: Where, of: nn.Parameter, place: Any, kind: str) -> None:
    """Put a value into the gradient of a parameter when a fault fires."""
    of.register_hook(
        lambda gradient: planted(gradient, place, VALUES[kind]) if stage.fires(where) else gradient
    )


def head_gradient(stage: Stage, where: Where) -> Sight:
    """The gradient of a weight or a bias of one head, with a finite forward pass."""
    kind, parameter = stage.kind(), stage.policy.heads.bias
    place: tuple[int, ...] = (stage.choice(where.head),)
    if stage.random.random() < 0.5:
        parameter = stage.policy.heads.weight
        place = (*place, stage.random.randrange(parameter.shape[1]))
    break_gradient(stage, where, parameter, place, kind)
    return stage.sight(where, stage.head_name(where), "gradient", kind)


def hook_gradient(tensor: Tensor, place: tuple[Any, ...], value: float) -> None:
    """Have the gradient of a tensor of the graph broken in one place."""
    if tensor.requires_grad:
        tensor.register_hook(lambda gradient: planted(gradient, place, value))


def logit_gradient(stage: Stage, where: Where) -> Sight:
    """A derivative that breaks on its way back through one logit: head and trunk receive it."""
    kind = stage.kind()
    # Where the mask forbids a choice, a background may put out the derivative again.
    legal = stage.rollout.masks[where.step, where.host].nonzero().flatten().tolist()
    first = stage.layout.offsets[where.head]
    own = [column for column in legal if 0 <= column - first < stage.layout.sizes[where.head]]
    place = (where.step, stage.position(where), stage.random.choice(own))

    def change(output: Tensor) -> Tensor:
        hook_gradient(output, place, VALUES[kind])
        return output

    stage.change_output(stage.policy.heads, where, change)
    return stage.sight(where, stage.head_name(where), "gradient", None, host=ANY, step=ANY)


def log_prob_gradient(stage: Stage, where: Where) -> Sight | None:
    """A derivative that breaks on its way back through the log-probability of one head."""
    if not stage.is_active(where):
        return None
    kind, place = stage.kind(), (where.step, stage.position(where), where.head)

    def change(taken: Any) -> Any:
        if stage.fires(where):
            hook_gradient(taken.log_probs, place, VALUES[kind])
        return taken

    stage.wrap(ppo, "likelihoods", change)
    return stage.sight(where, stage.head_name(where), "gradient", None, host=ANY, step=ANY)


@torch.no_grad()
def huge_weight(stage: Stage, where: Where) -> Sight:
    """A finite weight so large that the product of its head overflows."""
    row = stage.choice(where.head)
    masks = stage.rollout.masks.clone()
    masks[..., row] = True  # legal everywhere: -inf is then a fault too
    stage.rollout = with_parts(stage.rollout, masks=masks)
    stage.policy.heads.weight[row] = 3e38
    # A trunk that is far from 0, so that every product exceeds float32.
    bias = stage.policy.lstm.bias_ih_l0
    bias[bias.isfinite()] = 4.0  # and what another fault planted there stays
    return Sight(stage.head_name(where), "logits", None, (PREPARATION, stage.at(0)))


HEAD_FAULTS = (
    Fault(logits, "head", prepares=True),
    Fault(log_prob, "head"),
    Fault(old_log_prob, "head"),
    Fault(prepared_log_prob, "prepared"),
    Fault(exploding_ratio, "prepared"),
    Fault(forbidden_choice_taken, "prepared", times="lasting"),
    Fault(ratio, "shown"),
    Fault(entropy, "head"),
    Fault(head_gradient, "weight derivative"),
    Fault(logit_gradient, "logit derivative"),
    Fault(log_prob_gradient, "logit derivative"),
    Fault(huge_weight, "given", times="lasting"),
)
