"""The figures of an update: measured per minibatch on the device, summed up once on the host."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.losses import Minibatch, MinibatchTerms
from esper.simic.config import TrainingConfig
from esper.simic.drill import Injection
from esper.simic.telemetry.nonfinite import detected
from esper.tamiyo.policy import PolicyOutput

_FORWARD = (
    "policy_loss", "value_loss", "entropy_loss", "entropy", "approximate_kl", "clip_fraction",
    "steps", "silent_sum",
)  # fmt: skip
_SUMS = ("entropy", "clip_fraction", "kl", "active")  # over the steps in which a head was active
_EXTREMES = ("ratio_max", "log_prob_min", "log_prob_max")
_HEAD_FORWARD = (*_SUMS, *_EXTREMES)
_VERDICTS = ("bad", "overflow", "stopped")


@dataclass(frozen=True)
class UpdateStart:
    """What an update that was not finite started from, so that it can be gone through again.

    Attributes:
        agent: `PPOAgent.state_dict()` when the update began.
        minibatches: the numbers of the hosts in each, in the order they were learnt from.
        minibatches_per_epoch: how those divide into epochs.
        old_log_probs: of the choices taken, before the first step, `[T, N, H]`.
    """

    agent: dict[str, Any]
    minibatches: list[Tensor]
    minibatches_per_epoch: int
    old_log_probs: Tensor


@dataclass(frozen=True)
class UpdateResult:
    """One update, on the host. Dictionaries are keyed by head; a head never active is left out.

    Means are over the minibatches that took part in learning, or over all of them when none did;
    extremes are over all. What was not finite is not made so.
    """

    minibatches: int
    minibatches_skipped: int
    minibatches_stopped: int
    minibatches_rescaled: int
    policy_loss: float
    value_loss: float
    entropy: float
    approximate_kl: float
    clip_fraction: float
    explained_variance: float
    gradient_norm: float
    learning_rate: float
    loss_scale: float | None
    head_inf_detected: dict[str, bool]
    head_nan_detected: dict[str, bool]
    head_nonfinite: list[NonfiniteSighting]
    head_entropy: dict[str, float]
    head_gradient_norm: dict[str, float]
    head_ratio_max: dict[str, float]
    head_clip_fraction: dict[str, float]
    head_kl: dict[str, float]
    head_log_prob_min: dict[str, float]
    head_log_prob_max: dict[str, float]
    head_active_fraction: dict[str, float]
    not_planted: tuple[Injection, ...] = ()  # drills that found no step to go into
    reproduced: bool = True  # False: something was not finite once, and not when gone through again
    start: UpdateStart | None = None  # of an update in which something was not finite


@dataclass(frozen=True)
class Figures:
    """What one pass over the minibatches of an update measured, on the host.

    Attributes:
        scalars: by name, each `[M]`.
        by_head: by name, each `[M, H]`.
        bad: minibatches whose step was left out because something was not finite, `[M]`.
        overflow: those whose gradients overflowed by fp16 loss scaling, as is ordinary, `[M]`.
        stopped: those whose step was left out because the policy had moved far enough, `[M]`.
        state_norm: of all parameters and moments after the last step.
    """

    heads: tuple[str, ...]
    scalars: Mapping[str, Tensor]
    by_head: Mapping[str, Tensor]
    bad: Tensor
    overflow: Tensor
    stopped: Tensor
    explained_variance: float
    state_norm: float
    loss_scale: float | None
    learning_rate: float
    not_planted: tuple[Injection, ...]

    @property
    def tripped(self) -> Tensor:
        """Return the minibatches that measured something non-finite, `[M]`."""
        columns = [*(values[:, None] for values in self.scalars.values()), *self.by_head.values()]
        return ~torch.cat(columns, dim=1).isfinite().all(1)

    @property
    def is_suspicious(self) -> bool:
        """Return whether anything that was measured is not finite, in a minibatch or after all.

        It may still be that only a sum overflowed, or a gradient by the fp16 loss scale.
        """
        after = (self.state_norm, self.loss_scale or 0.0)
        return bool(self.tripped.any()) or not all(map(math.isfinite, after))


@torch.no_grad()
def forward_figures(terms: MinibatchTerms, batch: Minibatch, config: TrainingConfig) -> Tensor:
    """Return the figures of a minibatch's forward pass as one vector on the device.

    Its layout is `_FORWARD`, then `_HEAD_FORWARD` by head. All are finite if and only if everything
    that they are made of is, but for sums that overflow; so whatever stands for "none" is finite.
    """
    active = batch.rollout.active
    ratios = terms.ratios
    scalars = torch.stack(
        (
            terms.policy_loss,
            terms.value_loss,
            terms.entropy_loss,
            terms.entropy.mean(),
            divergence(terms),
            ((terms.joint_ratio - 1).abs() > config.clip_range).float().mean(),
            ratios.new_full((), active[..., 0].numel()),  # new_tensor would wait on a GPU
            silent_sum(terms.output),
        )
    )
    sums = torch.stack(
        (
            terms.entropies,
            ((ratios - 1).abs() > config.clip_range).float(),
            ratios - 1 - terms.log_ratios,  # 0 where a head is inactive
            active.float(),
        )
    ).sum((1, 2))  # [4, H]
    lowest = torch.finfo(ratios.dtype).min
    extremes = torch.stack(
        (
            torch.where(active, ratios, -1.0).amax((0, 1)),
            torch.where(active, terms.log_probs, 1.0).amin((0, 1)),
            torch.where(active, terms.log_probs, lowest).amax((0, 1)),
        )
    )  # [3, H]
    return torch.cat((scalars, sums.flatten(), extremes.flatten()))


def silent_sum(output: PolicyOutput) -> Tensor:
    """Return the sum of what may break without any loss showing it.

    Those are the logits that count for nothing, and the recurrent state behind the last step.
    """
    hidden, cell = output.state
    return output.logits.sum() + (hidden + cell).sum()


@torch.no_grad()
def divergence(terms: MinibatchTerms) -> Tensor:
    """Return how far the policy moved: the mean of r - 1 - log r (Schulman, "Approximating KL
    divergence", 2020), never negative.
    """
    return (terms.joint_ratio - 1 - terms.log_ratio).mean()


def bring_to_host(
    rows: Tensor,
    explained_variance: Tensor,
    loss_scale: Tensor,
    state_norm: Tensor,
    *,
    heads: tuple[str, ...],
    has_loss_scale: bool,
    learning_rate: float,
    not_planted: tuple[Injection, ...],
) -> Figures:
    """Return the figures of a pass, brought to the host in one transfer.

    Args:
        rows: of each minibatch: `forward_figures`, the gradient norm, the heads' gradient norms,
            and whether it was bad, overflowed and stopped, `[M, …]`.
        explained_variance: of the critic, a scalar on the device.
        loss_scale: after the last minibatch, a scalar on the device.
        state_norm: after the last minibatch, a scalar on the device.
        heads: their names.
        has_loss_scale: whether the loss is scaled at all.
        learning_rate: of the update.
        not_planted: drills that found no place.
    """
    extra = torch.stack((explained_variance, loss_scale, state_norm))
    on_host = torch.cat((rows.flatten(), extra)).cpu()  # the one transfer
    table = on_host[: rows.numel()].view(rows.shape)
    variance, scale, state = on_host[rows.numel() :].tolist()
    width = len(heads)
    sizes = (len(_FORWARD), len(_HEAD_FORWARD) * width, 1, width, len(_VERDICTS))
    scalars, by_head, norm, head_norms, verdicts = table.split(sizes, dim=1)
    bad, overflow, stopped = verdicts.bool().unbind(1)
    return Figures(
        heads=heads,
        scalars={
            **dict(zip(_FORWARD, scalars.unbind(1), strict=True)),
            "gradient_norm": norm.squeeze(1),
        },
        by_head={
            **dict(
                zip(
                    _HEAD_FORWARD,
                    by_head.unflatten(1, (len(_HEAD_FORWARD), width)).unbind(1),
                    strict=True,
                )
            ),
            "gradient_norm": head_norms,
        },
        bad=bad & ~overflow,
        overflow=overflow,
        stopped=stopped & ~bad,
        explained_variance=variance,
        state_norm=state,
        loss_scale=scale if has_loss_scale else None,
        learning_rate=learning_rate,
        not_planted=not_planted,
    )


def summarise(figures: Figures, sightings: Sequence[NonfiniteSighting]) -> UpdateResult:
    """Return the outcome of an update: its figures summed up, and what was seen non-finite."""
    heads, scalars, by_head = figures.heads, figures.scalars, figures.by_head
    learnt = ~(figures.bad | figures.overflow | figures.stopped)
    if not learnt.any():
        learnt = torch.ones_like(learnt)
    head_inf, head_nan = detected(heads, sightings)
    ever_active = by_head["active"].sum(0) > 0  # [H]
    active_steps = by_head["active"][learnt].sum(0)  # [H]
    everywhere = torch.ones_like(ever_active)

    def mean(name: str) -> float:
        return scalars[name][learnt].mean().item()

    def keyed(values: Tensor, shown: Tensor) -> dict[str, float]:
        rows = zip(heads, values.tolist(), shown.tolist(), strict=True)
        return {head: value for head, value, is_shown in rows if is_shown}

    def per_active_step(name: str) -> dict[str, float]:
        return keyed(by_head[name][learnt].sum(0) / active_steps, active_steps > 0)

    return UpdateResult(
        minibatches=len(learnt),
        minibatches_skipped=int(figures.bad.sum()),
        minibatches_stopped=int(figures.stopped.sum()),
        minibatches_rescaled=int(figures.overflow.sum()),
        policy_loss=mean("policy_loss"),
        value_loss=mean("value_loss"),
        entropy=mean("entropy"),
        approximate_kl=mean("approximate_kl"),
        clip_fraction=mean("clip_fraction"),
        explained_variance=figures.explained_variance,
        gradient_norm=mean("gradient_norm"),
        learning_rate=figures.learning_rate,
        loss_scale=figures.loss_scale,
        head_inf_detected=head_inf,
        head_nan_detected=head_nan,
        head_nonfinite=list(sightings),
        head_entropy=per_active_step("entropy"),
        head_gradient_norm=keyed(by_head["gradient_norm"][learnt].mean(0), everywhere),
        head_ratio_max=keyed(by_head["ratio_max"].amax(0), ever_active),
        head_clip_fraction=per_active_step("clip_fraction"),
        head_kl=per_active_step("kl"),
        head_log_prob_min=keyed(by_head["log_prob_min"].amin(0), ever_active),
        head_log_prob_max=keyed(by_head["log_prob_max"].amax(0), ever_active),
        head_active_fraction=keyed(by_head["active"].sum(0) / scalars["steps"].sum(), everywhere),
        not_planted=figures.not_planted,
    )
