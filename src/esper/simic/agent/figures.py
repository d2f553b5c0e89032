"""The figures of an update: measured per minibatch on the device, summed up once on the host."""

from dataclasses import dataclass

import torch
from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.losses import Minibatch, MinibatchTerms
from esper.simic.config import TrainingConfig
from esper.simic.drill import Injection
from esper.simic.telemetry.nonfinite import NonfiniteMonitor, detected

_SCALARS = (
    "policy_loss", "value_loss", "entropy", "approximate_kl", "clip_fraction", "gradient_norm",
    "steps", "bad", "overflow", "stopped",
)  # fmt: skip
_SUMS = ("entropy", "clip_fraction", "kl")  # over the steps in which a head was active
_HEAD_ROWS = (*_SUMS, "active", "gradient_norm", "ratio_max", "log_prob_min", "log_prob_max")


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


@torch.no_grad()
def measure(
    terms: MinibatchTerms,
    batch: Minibatch,
    config: TrainingConfig,
    gradient_norm: Tensor,
    head_gradient_norms: Tensor,
    bad: Tensor,
    overflow: Tensor,
    stopped: Tensor,
) -> Tensor:
    """Return the figures of one minibatch as one vector on the device.

    Its layout is `_SCALARS`, then `_HEAD_ROWS` by head. `kl` is the estimator r - 1 - log r
    (Schulman, "Approximating KL divergence", 2020), never negative.
    """
    active = batch.rollout.active
    ratios = terms.ratios
    outside = (terms.joint_ratio - 1).abs() > config.clip_range
    scalars = torch.stack(
        (
            terms.policy_loss,
            terms.value_loss,
            terms.entropy.mean(),
            (terms.joint_ratio - 1 - terms.log_ratio).mean(),
            outside.float().mean(),
            gradient_norm,
            gradient_norm.new_tensor(active[..., 0].numel()),
            bad.float(),
            overflow.float(),
            stopped.float(),
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
    extremes = torch.stack(
        (
            head_gradient_norms,
            torch.where(active, ratios, -torch.inf).amax((0, 1)),
            torch.where(active, terms.log_probs, torch.inf).amin((0, 1)),
            torch.where(active, terms.log_probs, -torch.inf).amax((0, 1)),
        )
    )
    return torch.cat((scalars, sums.flatten(), extremes.flatten()))


def summarise(
    figures: Tensor,
    monitor: NonfiniteMonitor,
    *,
    explained_variance: Tensor,
    minibatches_per_epoch: int,
    loss_scale: Tensor | None,
    learning_rate: float,
    not_planted: tuple[Injection, ...],
) -> UpdateResult:
    """Bring everything to the host in one transfer, and sum it up.

    Args:
        figures: what `measure` returned for each minibatch, `[M, …]`.
        monitor: with the flags of the update.
        explained_variance: a scalar on the device.
        minibatches_per_epoch: how the M minibatches divide into epochs.
        loss_scale: the scale after the update, under fp16.
        learning_rate: of the update.
        not_planted: drills that found no place.
    """
    scale = figures.new_ones(1) if loss_scale is None else loss_scale.reshape(1)
    parts = (figures, monitor.flags.float(), explained_variance.reshape(1), scale)
    on_host = torch.cat([part.flatten() for part in parts]).cpu()  # the one transfer
    figures, flags, variance, scale = (
        piece.view(part.shape)
        for piece, part in zip(on_host.split([part.numel() for part in parts]), parts, strict=True)
    )
    heads = tuple(monitor.heads)
    scalars = dict(zip(_SCALARS, figures[:, : len(_SCALARS)].unbind(1), strict=True))
    table = figures[:, len(_SCALARS) :].unflatten(1, (len(_HEAD_ROWS), len(heads)))
    by_head = dict(zip(_HEAD_ROWS, table.unbind(1), strict=True))  # each [M, H]

    overflow, stopped = scalars["overflow"].bool(), scalars["stopped"].bool()
    bad = scalars["bad"].bool() & ~overflow
    learnt = ~(bad | overflow | stopped)
    if not learnt.any():
        learnt = torch.ones_like(learnt)
    sightings = monitor.sightings(
        flags.bool(), minibatches_per_epoch, overflow.nonzero().flatten().tolist()
    )
    head_inf, head_nan = detected(heads, sightings)
    ever_active = by_head["active"].sum(0) > 0  # [H]
    active_steps = by_head["active"][learnt].sum(0)  # [H]

    def mean(name: str) -> float:
        return scalars[name][learnt].mean().item()

    def keyed(values: Tensor, shown: Tensor = ever_active) -> dict[str, float]:
        rows = zip(heads, values.tolist(), shown.tolist(), strict=True)
        return {head: value for head, value, is_shown in rows if is_shown}

    def per_active_step(name: str) -> dict[str, float]:
        return keyed(by_head[name][learnt].sum(0) / active_steps, active_steps > 0)

    return UpdateResult(
        minibatches=len(bad),
        minibatches_skipped=int(bad.sum()),
        minibatches_stopped=int((stopped & ~bad & ~overflow).sum()),
        minibatches_rescaled=int(overflow.sum()),
        policy_loss=mean("policy_loss"),
        value_loss=mean("value_loss"),
        entropy=mean("entropy"),
        approximate_kl=mean("approximate_kl"),
        clip_fraction=mean("clip_fraction"),
        explained_variance=variance.item(),
        gradient_norm=mean("gradient_norm"),
        learning_rate=learning_rate,
        loss_scale=None if loss_scale is None else scale.item(),
        head_inf_detected=head_inf,
        head_nan_detected=head_nan,
        head_nonfinite=sightings,
        head_entropy=per_active_step("entropy"),
        head_gradient_norm=keyed(
            by_head["gradient_norm"][learnt].mean(0), torch.ones_like(ever_active)
        ),
        head_ratio_max=keyed(by_head["ratio_max"].amax(0)),
        head_clip_fraction=per_active_step("clip_fraction"),
        head_kl=per_active_step("kl"),
        head_log_prob_min=keyed(by_head["log_prob_min"].amin(0)),
        head_log_prob_max=keyed(by_head["log_prob_max"].amax(0)),
        head_active_fraction=keyed(
            by_head["active"].sum(0) / scalars["steps"].sum(), torch.ones_like(ever_active)
        ),
        not_planted=not_planted,
    )
