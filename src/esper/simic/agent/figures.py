"""The figures of an update: measured per minibatch on the device, summed up once on the host."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.detection.codes import code_of
from esper.simic.agent.flat_parameters import FlatParameters
from esper.simic.agent.minibatch import Minibatch, MinibatchTerms
from esper.simic.config import TrainingConfig
from esper.simic.drill import Injection
from esper.simic.telemetry.nonfinite import detected

#: Of a minibatch: what is measured at once, since the update goes on from it.
AT_ONCE = (
    "policy_loss", "value_loss", "entropy_loss", "loss", "approximate_kl", "gradient_norm",
)  # fmt: skip
#: Of a minibatch: what decides about its step. `total` is finite unless the minibatch broke.
_DECIDED = ("total", "overflow", "stopped")
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

    All figures are over the minibatches that were learnt from: one that was left out, for whatever
    reason, is in no figure. Where none was learnt from, scalars are NaN and dictionaries are empty.
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
    reproduced: bool = True  # False: when the update was repeated, nothing had to be left out
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
        tripped: those in which something that was measured is not finite, `[M]`.
        state_before: `state_figures` before the first step.
        state_after: `state_figures` after the last step.
        preparation: the sum of all that was computed before the first minibatch.
    """

    heads: tuple[str, ...]
    scalars: Mapping[str, Tensor]
    by_head: Mapping[str, Tensor]
    bad: Tensor
    overflow: Tensor
    stopped: Tensor
    tripped: Tensor
    explained_variance: float
    state_before: tuple[float, ...]
    state_after: tuple[float, ...]
    preparation: float
    loss_scale: float | None
    learning_rate: float

    @property
    def is_clock_right(self) -> bool:
        """Return whether Adam counted as many steps as were taken."""
        taken = len(self.bad) - int((self.bad | self.overflow | self.stopped).sum())
        return self.state_after[-2] == self.state_before[-2] + taken

    @property
    def is_suspicious(self) -> bool:
        """Return whether anything that was measured is not finite, in a minibatch or after all."""
        return bool(self.tripped.any()) or not (
            is_sound(self.state_before)
            and is_sound(self.state_after)
            and isfinite(self.preparation)
        )


@dataclass(frozen=True)
class Trace:
    """What one minibatch leaves behind to be measured, or looked at, when all are over.

    Its graph is freed by then: what is left of it are values.
    """

    batch: Minibatch
    terms: MinibatchTerms
    at_once: Tensor  # [len(AT_ONCE)]
    decided: tuple[Tensor, ...]  # scalars, as `_DECIDED` names them
    gradient: Tensor  # [P], before clipping; valid until the next pass
    derivatives: tuple[Tensor | None, ...]  # as `detection.readers.DERIVATIVES` names them
    loss_scale: Tensor  # scalar, that its loss was multiplied by


def is_sound(state: tuple[float, ...]) -> bool:
    """Return whether an optimizer can go on from a state with these `state_figures`."""
    *_, least_second_moment, _, step, loss_scale = state
    return all(map(isfinite, state)) and least_second_moment >= 0 <= step and loss_scale >= 1


@torch.no_grad()
def state_figures(
    flat: Tensor, state: Mapping[str, Tensor], loss_scale: Tensor, known: Tensor | None
) -> Tensor:
    """Return figures that show whether parameters, moments and loss scale are sound.

    Args:
        flat: all parameters, `[P]`.
        state: what Adam keeps of them; empty before its first step.
        loss_scale: a scalar.
        known: codes of the parameters that are known not to be finite, `[P]`; None for none. One
            that is of another kind now, or finite, makes a figure NaN.

    Returns:
        The least and the largest of the parameters, of the first and of the second moments (both
        finite if and only if all are; 0 before Adam's first step), Adam's step counter, and the
        loss scale: `[8]`.
    """
    if known is not None:
        is_known = known > 0
        changed = is_known & (code_of(flat) != known)
        flat = flat.masked_fill(is_known, 0.0).masked_fill(changed, torch.nan)
    extremes = torch.aminmax(flat)
    if not state:
        return torch.stack((*extremes, *flat.new_zeros(5), loss_scale))
    first, second = torch.aminmax(state["exp_avg"]), torch.aminmax(state["exp_avg_sq"])
    return torch.stack((*extremes, *first, *second, state["step"].to(flat.device), loss_scale))


def _measured(
    traces: Sequence[Trace], config: TrainingConfig, parameters: FlatParameters, owners: Tensor
) -> Tensor:
    """Return what is measured of minibatches of one size, a row for each, on the device.

    A row is `AT_ONCE`, `_DECIDED`, `_AFTERWARDS`, then `_BY_HEAD` by head. All of it is finite only
    if everything that it is made of is; what stands for "none" is finite. Done for all minibatches
    at once, since small operations cost their call.

    Args:
        traces: of the minibatches.
        config: the clip range.
        parameters: of the policy.
        owners: the number of the head that each choice belongs to, `[total]`.
    """

    def stacked(values: Iterable[Tensor]) -> Tensor:
        return torch.stack(list(values))  # [m, …]

    terms = [trace.terms for trace in traces]
    active = stacked(trace.batch.active for trace in traces)
    ratios, log_probs = stacked(t.ratios for t in terms), stacked(t.log_probs for t in terms)
    log_ratios = stacked(t.log_ratios for t in terms)
    entropies = stacked(t.entropies for t in terms)
    joint_ratio = stacked(t.joint_ratio for t in terms)
    outside = ((ratios - 1).abs() > config.clip_range).float()
    lowest = torch.finfo(ratios.dtype).min
    lasts = stacked(parameters.last_of(trace.gradient) for trace in traces)
    squares = parameters.last_squares(lasts)  # [m, total]
    norms = squares.new_zeros(len(traces), active.shape[3]).index_add_(1, owners, squares).sqrt()
    by_head = (
        entropies.sum((1, 2)),
        outside.sum((1, 2)),
        (ratios - 1 - log_ratios).sum((1, 2), dtype=torch.float64),  # 0 where a head is inactive
        active.float().sum((1, 2)),
        torch.where(active, ratios, -1.0).amax((1, 2)),
        torch.where(active, log_probs, 1.0).amin((1, 2)),
        torch.where(active, log_probs, lowest).amax((1, 2)),
        norms,
    )  # each [m, H]
    max_entropy = stacked(trace.batch.max_entropy for trace in traces)
    of_all_heads = (
        (entropies * max_entropy).sum(3).mean((1, 2)),
        ((joint_ratio - 1).abs() > config.clip_range).float().mean((1, 2)),
        joint_ratio.new_full((len(traces),), joint_ratio[0].numel()),
        silent_sum(terms),
    )  # each [m]
    at_once = stacked(trace.at_once for trace in traces)
    decided = stacked(each for trace in traces for each in trace.decided).view(len(traces), -1)
    afterwards = torch.stack(of_all_heads, dim=1)
    return torch.cat((at_once, decided, afterwards, torch.cat(by_head, dim=1)), dim=1)


def silent_sum(terms: Sequence[MinibatchTerms]) -> Tensor:
    """Return the sum of what may break without any loss showing it, of each minibatch: `[m]`.

    Those are the logits that count for nothing, and the recurrent state behind the last step. A
    sum of finite values that overflows costs a look at them, so the faster float32 does.
    """
    logits = torch.stack([each.output.logits for each in terms])
    states = torch.stack([state for each in terms for state in each.output.state])  # [2 m, …]
    return logits.flatten(1).sum(1) + states.view(len(terms), -1).sum(1)


@torch.no_grad()
def approx_kl(terms: MinibatchTerms) -> Tensor:
    """Return how far the policy moved: the mean of r - 1 - log r (Schulman, "Approximating KL
    divergence", 2020), never negative.
    """
    return (terms.log_ratio.expm1() - terms.log_ratio).mean(dtype=torch.float64)


@torch.no_grad()
def bring_to_host(
    traces: Sequence[Trace],
    extra: Sequence[Tensor],
    *,
    config: TrainingConfig,
    parameters: FlatParameters,
    heads: tuple[str, ...],
    head_of_choice: Tensor,
    has_loss_scale: bool,
    learning_rate: float,
) -> Figures:
    """Return the figures of a pass, brought to the host in one transfer.

    Args:
        traces: of its minibatches.
        extra: of the whole update, on the device: the critic's explained variance and the sum of
            what the preparation computed, both scalars; `state_figures` before and after, `[8]`.
        config: the clip range.
        parameters: of the policy.
        heads: their names.
        head_of_choice: the number of the head that each choice belongs to, `[total]`.
        has_loss_scale: whether the loss is scaled at all.
        learning_rate: of the update.
    """
    sizes = [trace.terms.joint_ratio.shape[1] for trace in traces]
    rows: dict[int, Tensor] = {}
    for size in dict.fromkeys(sizes):  # two sizes at the most: hosts divide nearly evenly
        places = [place for place, own in enumerate(sizes) if own == size]
        measured = _measured([traces[p] for p in places], config, parameters, head_of_choice)
        rows |= dict(zip(places, measured.unbind(), strict=True))
    flat = torch.cat([rows[place] for place in range(len(traces))])
    on_host = torch.cat((flat, *(part.reshape(-1) for part in extra))).cpu()  # the one transfer
    table = on_host[: len(flat)].view(len(traces), -1)
    variance, preparation, *states = on_host[len(flat) :].tolist()
    named = (*AT_ONCE, *_DECIDED, *_AFTERWARDS)
    scalars = dict(zip(named, table[:, : len(named)].unbind(1), strict=True))
    by_head = table[:, len(named) :].unflatten(1, (len(_BY_HEAD), len(heads))).unbind(1)
    total, overflow, stopped = (scalars.pop(name) for name in _DECIDED)
    bad, overflow, stopped = ~total.isfinite(), overflow.bool(), stopped.bool()
    before, after = tuple(states[: len(states) // 2]), tuple(states[len(states) // 2 :])
    return Figures(
        heads=heads,
        scalars=scalars,
        by_head=dict(zip(_BY_HEAD, by_head, strict=True)),
        bad=bad & ~overflow,
        overflow=overflow,
        stopped=stopped & ~bad,
        tripped=table.isfinite().all(1).logical_not(),
        explained_variance=variance,
        state_before=before,
        state_after=after,
        preparation=preparation,
        loss_scale=after[-1] if has_loss_scale else None,
        learning_rate=learning_rate,
    )


def summarise(figures: Figures, sightings: Sequence[NonfiniteSighting]) -> UpdateResult:
    """Return the outcome of an update: its figures summed up, and what was seen non-finite."""
    heads, scalars, by_head = figures.heads, figures.scalars, figures.by_head
    learnt = ~(figures.bad | figures.overflow | figures.stopped)
    head_inf, head_nan = detected(heads, sightings)
    active_steps = by_head["active"][learnt].sum(0)  # [H]
    is_active = active_steps > 0
    everywhere = learnt.any().expand_as(is_active)

    def mean(name: str) -> float:
        return scalars[name][learnt].mean().item()  # NaN of none

    def keyed(values: Tensor, shown: Tensor) -> dict[str, float]:
        rows = zip(heads, values.tolist(), shown.tolist(), strict=True)
        return {head: value for head, value, is_shown in rows if is_shown}

    def per_active_step(name: str) -> dict[str, float]:
        return keyed(by_head[name][learnt].sum(0) / active_steps, is_active)

    def extreme(name: str, *, is_max: bool) -> dict[str, float]:
        if not learnt.any():
            return {}
        values = by_head[name][learnt]
        return keyed(values.amax(0) if is_max else values.amin(0), is_active)

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
        head_ratio_max=extreme("ratio_max", is_max=True),
        head_clip_fraction=per_active_step("clip_fraction"),
        head_kl=per_active_step("kl"),
        head_log_prob_min=extreme("log_prob_min", is_max=False),
        head_log_prob_max=extreme("log_prob_max", is_max=True),
        head_active_fraction=keyed(active_steps / scalars["steps"][learnt].sum(), everywhere),
    )


def without_minibatches(
    heads: tuple[str, ...],
    sightings: Sequence[NonfiniteSighting],
    learning_rate: float,
    loss_scale: float | None,
) -> UpdateResult:
    """Return the outcome of an update that had no episode to learn from: its figures are NaN."""
    head_inf, head_nan = detected(heads, sightings)
    return UpdateResult(
        minibatches=0,
        minibatches_skipped=0,
        minibatches_stopped=0,
        minibatches_rescaled=0,
        policy_loss=nan,
        value_loss=nan,
        entropy=nan,
        approximate_kl=nan,
        clip_fraction=nan,
        explained_variance=nan,
        gradient_norm=nan,
        learning_rate=learning_rate,
        loss_scale=loss_scale,
        head_inf_detected=head_inf,
        head_nan_detected=head_nan,
        head_nonfinite=list(sightings),
        head_entropy={},
        head_gradient_norm={},
        head_ratio_max={},
        head_clip_fraction={},
        head_kl={},
        head_log_prob_min={},
        head_log_prob_max={},
        head_active_fraction={},
    )
