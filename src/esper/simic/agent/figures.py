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

#: Of a minibatch: what is measured at once, since the update goes on from it.
_AT_ONCE = (
    "policy_loss", "value_loss", "entropy_loss", "approximate_kl", "gradient_norm",
    "bad", "overflow", "stopped",
)  # fmt: skip
#: Of a minibatch: what is measured for all of them together, after the last.
_AFTERWARDS = ("entropy", "clip_fraction", "steps", "silent_sum")
_SUMS = ("entropy", "clip_fraction", "kl", "active")  # over the steps in which a head was active
_EXTREMES = ("ratio_max", "log_prob_min", "log_prob_max")
_BY_HEAD = (*_SUMS, *_EXTREMES, "gradient_norm")


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


@dataclass(frozen=True)
class Trace:
    """What one minibatch leaves behind to be measured when all are over, without its graph."""

    at_once: Tensor  # [len(_AT_ONCE)]
    active: Tensor  # [T, n, H]
    most_entropy: Tensor  # [T, n, H]
    log_probs: Tensor  # [T, n, H]
    log_ratios: Tensor  # [T, n, H]
    ratios: Tensor  # [T, n, H]
    entropies: Tensor  # [T, n, H]
    joint_ratio: Tensor  # [T, n]
    logits: Tensor  # [T, n, total]
    state: Tensor  # [1, n, lstm_size]; hidden and cell state behind the last step, added up
    head_gradients: Tensor  # [total, lstm_size + 1]; before clipping


@torch.no_grad()
def trace_of(
    terms: MinibatchTerms, batch: Minibatch, at_once: Sequence[Tensor], head_gradients: Tensor
) -> Trace:
    """Return what is to be measured of a minibatch.

    Args:
        terms: of its loss.
        batch: its episodes.
        at_once: scalars, as `_AT_ONCE` names them.
        head_gradients: of the heads' parameters before clipping, a row for each choice.
    """
    hidden, cell = terms.output.state
    return Trace(
        at_once=torch.stack(list(at_once)),
        active=batch.active,
        most_entropy=batch.most_entropy,
        log_probs=terms.log_probs.detach(),
        log_ratios=terms.log_ratios.detach(),
        ratios=terms.ratios,
        entropies=terms.entropies.detach(),
        joint_ratio=terms.joint_ratio.detach(),
        logits=terms.output.logits.detach(),
        state=hidden + cell,
        head_gradients=head_gradients,
    )


def _measured(
    traces: Sequence[Trace], config: TrainingConfig, head_of_choice: Tensor, heads: int
) -> Tensor:
    """Return what is measured of minibatches of one size, a row for each, on the device.

    A row is `_AT_ONCE`, `_AFTERWARDS`, then `_BY_HEAD` by head. All of it is finite if and only if
    everything that it is made of is, but for sums that overflow; so whatever stands for "none" is
    finite. Done for all minibatches at once, since small operations cost their call.
    """

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(trace, name) for trace in traces])  # [m, …]

    active, ratios, log_probs = stacked("active"), stacked("ratios"), stacked("log_probs")
    entropies, joint_ratio = stacked("entropies"), stacked("joint_ratio")
    outside = ((ratios - 1).abs() > config.clip_range).float()
    sums = (
        entropies,
        outside,
        ratios - 1 - stacked("log_ratios"),  # 0 where a head is inactive
        active.float(),
    )
    lowest = torch.finfo(ratios.dtype).min
    squares = stacked("head_gradients").double().square().sum(2)  # [m, total]
    norms = squares.new_zeros(len(traces), heads).index_add_(1, head_of_choice, squares).sqrt()
    by_head = (
        *(values.sum((1, 2)) for values in sums),
        torch.where(active, ratios, -1.0).amax((1, 2)),
        torch.where(active, log_probs, 1.0).amin((1, 2)),
        torch.where(active, log_probs, lowest).amax((1, 2)),
        norms,
    )  # each [m, H]
    afterwards = (
        (entropies * stacked("most_entropy")).sum(3).mean((1, 2)),
        ((joint_ratio - 1).abs() > config.clip_range).float().mean((1, 2)),
        joint_ratio.new_full((len(traces),), joint_ratio[0].numel()),
        silent_sum(stacked("logits"), stacked("state")),
    )  # each [m]
    return torch.cat(
        (stacked("at_once"), torch.stack(afterwards, dim=1), torch.cat(by_head, dim=1)), dim=1
    )


def silent_sum(logits: Tensor, state: Tensor) -> Tensor:
    """Return the sum of what may break without any loss showing it, of each minibatch: `[m]`.

    Those are the logits that count for nothing, and the recurrent state behind the last step.
    """
    return logits.flatten(1).sum(1) + state.flatten(1).sum(1)


@torch.no_grad()
def divergence(terms: MinibatchTerms) -> Tensor:
    """Return how far the policy moved: the mean of r - 1 - log r (Schulman, "Approximating KL
    divergence", 2020), never negative.
    """
    return (terms.log_ratio.expm1() - terms.log_ratio).mean()


@torch.no_grad()
def bring_to_host(
    traces: Sequence[Trace],
    explained_variance: Tensor,
    loss_scale: Tensor,
    state_norm: Tensor,
    *,
    config: TrainingConfig,
    heads: tuple[str, ...],
    head_of_choice: Tensor,
    has_loss_scale: bool,
    learning_rate: float,
    not_planted: tuple[Injection, ...],
) -> Figures:
    """Return the figures of a pass, brought to the host in one transfer.

    Args:
        traces: of its minibatches.
        explained_variance: of the critic, a scalar on the device.
        loss_scale: after the last minibatch, a scalar on the device.
        state_norm: after the last minibatch, a scalar on the device.
        config: the clip range.
        heads: their names.
        head_of_choice: the number of the head that each choice belongs to, `[total]`.
        has_loss_scale: whether the loss is scaled at all.
        learning_rate: of the update.
        not_planted: drills that found no place.
    """
    sizes = [trace.joint_ratio.shape[1] for trace in traces]
    rows: dict[int, Tensor] = {}
    for size in dict.fromkeys(sizes):  # two sizes at the most: hosts divide nearly evenly
        places = [place for place, own in enumerate(sizes) if own == size]
        measured = _measured([traces[p] for p in places], config, head_of_choice, len(heads))
        rows |= dict(zip(places, measured.unbind(), strict=True))
    flat = torch.cat([rows[place] for place in range(len(traces))])
    extra = torch.stack((explained_variance, loss_scale, state_norm))
    on_host = torch.cat((flat, extra)).cpu()  # the one transfer
    table = on_host[: len(flat)].view(len(traces), -1)
    variance, scale, state = on_host[len(flat) :].tolist()
    named = (*_AT_ONCE, *_AFTERWARDS)
    scalars = dict(zip(named, table[:, : len(named)].unbind(1), strict=True))
    by_head = table[:, len(named) :].unflatten(1, (len(_BY_HEAD), len(heads))).unbind(1)
    bad, overflow, stopped = (scalars.pop(name).bool() for name in ("bad", "overflow", "stopped"))
    return Figures(
        heads=heads,
        scalars=scalars,
        by_head=dict(zip(_BY_HEAD, by_head, strict=True)),
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
