"""The figures of a PPO update: measured per minibatch on the device, aggregated on the host."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from typing import Any

import msgspec
import torch
from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting, UpdateFigures
from esper.simic.agent.detection.codes import code_of
from esper.simic.agent.flat_parameters import FlatParameters
from esper.simic.agent.minibatch import Minibatch, MinibatchTerms
from esper.simic.config import TrainingConfig
from esper.simic.drill import Injection
from esper.simic.telemetry.nonfinite import detected
from esper.tamiyo.policy import PolicyOutput

#: Scalars of a minibatch that its optimizer step needs, so that they are computed at once.
AT_ONCE = (
    "policy_loss", "value_loss", "entropy_loss", "loss", "approximate_kl", "gradient_norm",
)  # fmt: skip
#: Scalars of a minibatch that decide whether it makes a step. `total` is finite in a good one.
_DECIDED = ("total", "overflow", "stopped")
#: Scalars of a minibatch that are computed for all minibatches together, after the last step.
_AFTERWARDS = ("entropy", "clip_fraction", "steps", "silent_sum")


@dataclass(frozen=True)
class UpdateStart:
    """The state in which a non-finite update started, with which it can be repeated.

    Attributes:
        agent: `PPOAgent.state_dict()` at the start of the update.
        minibatches: host indices of each minibatch, in the order of training.
        minibatches_per_epoch: number of minibatches in an epoch.
        old_log_probs: log-probabilities of the choices taken, before the first step, `[T, N, H]`.
    """

    agent: dict[str, Any]
    minibatches: list[Tensor]
    minibatches_per_epoch: int
    old_log_probs: Tensor


@dataclass(frozen=True)
class UpdateResult:
    """The outcome of one update, on the host.

    Attributes:
        figures: figures of the update.
        not_planted: drills that no step had a place for.
        reproduced: False if nothing had to be left out when the update was repeated.
        start: starting state of an update in which something was non-finite; else None.
        own: what this process saw in the update itself, of all that its processes saw.
    """

    figures: UpdateFigures
    not_planted: tuple[Injection, ...] = ()
    reproduced: bool = True
    start: UpdateStart | None = None
    own: tuple[NonfiniteSighting, ...] = ()

    def of_one_process(self, seen: Sequence[NonfiniteSighting]) -> "UpdateResult":
        """Return the result with the sightings of one process, of all that made the update."""
        head_inf, head_nan = detected(list(self.figures.head_inf_detected), seen)
        figures = msgspec.structs.replace(
            self.figures,
            head_inf_detected=head_inf,
            head_nan_detected=head_nan,
            head_nonfinite=list(seen),
        )
        return replace(self, figures=figures)

    @property
    def head_inf_detected(self) -> dict[str, bool]:
        """Whether each head produced an Inf in this update (TELE-303)."""
        return self.figures.head_inf_detected

    @property
    def head_nan_detected(self) -> dict[str, bool]:
        """Whether each head produced a NaN in this update (TELE-302)."""
        return self.figures.head_nan_detected


@dataclass(frozen=True)
class Figures:
    """Measurements of one pass over the minibatches of an update, on the host.

    Attributes:
        heads: names of the heads.
        scalars: measurements of a whole minibatch by name, each `[M]`.
        by_head: measurements of each head by name, each `[M, H]`.
        bad: minibatches that made no step because something was non-finite, `[M]`.
        overflow: minibatches whose gradients overflowed by fp16 loss scaling, which is ordinary,
            `[M]`.
        stopped: minibatches that made no step because the policy had moved far enough, `[M]`.
        tripped: minibatches with a non-finite measurement, `[M]`.
        explained_variance: variance of the returns that the critic explains, at most 1.
        state: `state_figures` after the last step.
        preparation: sums of what the policy returned before the first step, by minibatch.
        loss_scale: fp16 loss scale after the update; None without fp16.
        learning_rate: learning rate of the update.
    """

    heads: tuple[str, ...]
    scalars: Mapping[str, Tensor]
    by_head: Mapping[str, Tensor]
    bad: Tensor
    overflow: Tensor
    stopped: Tensor
    tripped: Tensor
    explained_variance: float
    state: tuple[float, ...]
    preparation: tuple[float, ...]
    loss_scale: float | None
    learning_rate: float

    @property
    def steps(self) -> int:
        """Number of steps that the optimizer made."""
        return len(self.bad) - int((self.bad | self.overflow | self.stopped).sum())

    @property
    def is_suspicious(self) -> bool:
        """Whether any measurement is non-finite: of a minibatch, the state or the preparation."""
        return bool(self.tripped.any()) or not (
            _is_sound(self.state) and all(map(isfinite, self.preparation))
        )


@dataclass(frozen=True)
class Trace:
    """Tensors of one minibatch that are measured, or examined, after the last step.

    Its autograd graph is freed by then.
    """

    batch: Minibatch
    terms: MinibatchTerms
    at_once: Tensor  # [len(AT_ONCE)]
    decided: tuple[Tensor, ...]  # scalars, named by `_DECIDED`
    gradient: Tensor  # [P], before clipping; valid until the next pass
    derivatives: tuple[Tensor | None, ...]  # of `FiniteCheck.derivable`
    loss_scale: Tensor  # scalar factor of the loss


def _is_sound(state: tuple[float, ...]) -> bool:
    """Return whether an update can start from a state with these `state_figures`."""
    *_, min_second_moment, step, loss_scale = state
    return all(map(isfinite, state)) and min_second_moment >= 0 <= step and loss_scale >= 1


@torch.no_grad()
def state_figures(
    flat: Tensor, state: Mapping[str, Tensor], loss_scale: Tensor, known: Tensor | None
) -> Tensor:
    """Return figures that show whether parameters, moments and loss scale are sound.

    Args:
        flat: all parameters, `[P]`.
        state: Adam's state of them; empty before its first step.
        loss_scale: fp16 loss scale, a scalar.
        known: codes of the parameters that are known to be non-finite, `[P]`; None for none. A
            parameter whose value no longer matches its code makes a figure NaN.

    Returns:
        The product of parameters and first moments, and the sum of the second moments (neither is
        finite if a value is not: even 0 times Inf is NaN); the minimum of the second moments;
        Adam's step counter; and the loss scale: `[5]`. Before Adam's first step, the sum of the
        parameters, and 0 for moments and step. A product or sum may overflow although all values
        are finite; that only costs an examination of the values.
    """
    if known is not None:
        is_known = known > 0
        changed = is_known & (code_of(flat) != known)
        flat = flat.masked_fill(is_known, 0.0).masked_fill(changed, torch.nan)
    if not state:
        return torch.stack((flat.sum(), *flat.new_zeros(3), loss_scale))
    second = state["exp_avg_sq"]
    product = torch.dot(flat, state["exp_avg"])
    step = state["step"].to(flat.device)
    return torch.stack((product, second.sum(), second.amin(), step, loss_scale))


def _measured(
    traces: Sequence[Trace],
    prepared: Sequence[PolicyOutput],
    config: TrainingConfig,
    parameters: FlatParameters,
    owners: Tensor,
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Measure minibatches of one size on the device.

    All minibatches are measured at once, because the time of small operations is that of their
    calls. A measurement is finite only if everything it is computed from is; placeholders for "no
    active step" are finite.

    Args:
        traces: the minibatches.
        prepared: what the policy returned in the preparation for minibatches of this size.
        config: source of the clip range.
        parameters: parameters of the policy.
        owners: index of the head that each choice belongs to, `[total]`.

    Returns:
        A row for each minibatch, with the columns `AT_ONCE`, `_DECIDED`, `_AFTERWARDS`, then one
        column per head for each per-head measurement; the sums of `prepared`, `[p]`; and the names
        of the per-head measurements.
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
    by_head = {  # each [m, H]; sums are over the steps in which a head was active
        "entropy_sum": entropies.sum((1, 2)),
        "clipped_steps": outside.sum((1, 2)),
        # 0 where a head is inactive
        "kl_sum": (ratios - 1 - log_ratios).sum((1, 2), dtype=torch.float64),
        "active_steps": active.float().sum((1, 2)),
        "ratio_max": torch.where(active, ratios, -1.0).amax((1, 2)),
        "log_prob_min": torch.where(active, log_probs, 1.0).amin((1, 2)),
        "log_prob_max": torch.where(active, log_probs, lowest).amax((1, 2)),
        "gradient_norm": norms,
    }
    silent = silent_sums([*(t.output for t in terms), *prepared])
    max_entropy = stacked(trace.batch.max_entropy for trace in traces)
    of_all_heads = (
        (entropies * max_entropy).sum(3).mean((1, 2)),
        ((joint_ratio - 1).abs() > config.clip_range).float().mean((1, 2)),
        joint_ratio.new_full((len(traces),), joint_ratio[0].numel()),
        silent[: len(traces)],
    )  # each [m]
    at_once = stacked(trace.at_once for trace in traces)
    decided = stacked(each for trace in traces for each in trace.decided).view(len(traces), -1)
    afterwards = torch.stack(of_all_heads, dim=1)
    rows = torch.cat((at_once, decided, afterwards, *by_head.values()), dim=1)
    return rows, silent[len(traces) :], tuple(by_head)


def silent_sums(outputs: Sequence[PolicyOutput]) -> Tensor:
    """Return the sum of what the policy returned for each of m minibatches of one size: `[m]`.

    Some of it can be non-finite while all losses are finite: the logits that do not contribute to a
    loss, and the recurrent state after the last step. A float32 sum may overflow although all
    values are finite; that only costs an examination of the values, and float32 is faster.
    """
    logits = torch.stack([each.logits for each in outputs])
    values = torch.stack([each.values for each in outputs])
    states = torch.stack([state for each in outputs for state in each.state])  # [2 m, …]
    sums = logits.flatten(1).sum(1) + states.view(len(outputs), -1).sum(1)
    return sums + values.flatten(1).sum(1)


@torch.no_grad()
def approx_kl(terms: MinibatchTerms) -> Tensor:
    """Return the approximate KL divergence from the old to the new policy, a scalar, at least 0.

    It is the mean of r - 1 - log r (Schulman, "Approximating KL divergence", 2020).
    """
    return (terms.log_ratio.expm1() - terms.log_ratio).mean(dtype=torch.float64)


@torch.no_grad()
def bring_to_host(
    traces: Sequence[Trace],
    prepared: Sequence[PolicyOutput],
    explained_variance: Tensor,
    state: Tensor,
    *,
    config: TrainingConfig,
    parameters: FlatParameters,
    heads: tuple[str, ...],
    head_of_choice: Tensor,
    has_loss_scale: bool,
    learning_rate: float,
) -> Figures:
    """Return the measurements of a pass, copied to the host in one transfer.

    Args:
        traces: minibatches of the pass.
        prepared: what the policy returned in the preparation, for minibatches of the same sizes.
        explained_variance: that of the critic, on the device, a scalar.
        state: `state_figures` after the last step, on the device.
        config: source of the clip range.
        parameters: parameters of the policy.
        heads: names of the heads.
        head_of_choice: index of the head that each choice belongs to, `[total]`.
        has_loss_scale: whether fp16 loss scaling is on.
        learning_rate: learning rate of the update.
    """
    sizes = [trace.terms.joint_ratio.shape[1] for trace in traces]
    prepared_sizes = [output.values.shape[1] for output in prepared]
    rows: dict[int, Tensor] = {}
    head_names: tuple[str, ...] = ()
    sums: list[Tensor] = []
    for size in dict.fromkeys(sizes + prepared_sizes):  # at most two: hosts are divided evenly
        places = [place for place, own in enumerate(sizes) if own == size]
        measured, own_sums, head_names = _measured(
            [traces[place] for place in places],
            [each for each, own in zip(prepared, prepared_sizes, strict=True) if own == size],
            config,
            parameters,
            head_of_choice,
        )
        rows |= dict(zip(places, measured.unbind(), strict=True))
        sums.append(own_sums)
    flat = torch.cat([rows[place] for place in range(len(traces))])
    whole = torch.cat((flat, explained_variance.view(1), state, *sums)).cpu()  # the only transfer
    table = whole[: len(flat)].view(len(traces), -1)
    variance, *others = whole[len(flat) :].tolist()
    state_on_host, preparation = tuple(others[: len(state)]), tuple(others[len(state) :])
    named = (*AT_ONCE, *_DECIDED, *_AFTERWARDS)
    scalars = dict(zip(named, table[:, : len(named)].unbind(1), strict=True))
    by_head = table[:, len(named) :].unflatten(1, (len(head_names), len(heads))).unbind(1)
    total, overflow, stopped = (scalars.pop(name) for name in _DECIDED)
    bad, overflow, stopped = ~total.isfinite(), overflow.bool(), stopped.bool()
    return Figures(
        heads=heads,
        scalars=scalars,
        by_head=dict(zip(head_names, by_head, strict=True)),
        bad=bad & ~overflow,
        overflow=overflow,
        stopped=stopped & ~bad,
        tripped=table.isfinite().all(1).logical_not(),
        explained_variance=variance,
        state=state_on_host,
        preparation=preparation,
        loss_scale=state_on_host[-1] if has_loss_scale else None,
        learning_rate=learning_rate,
    )


def summarise(figures: Figures, sightings: Sequence[NonfiniteSighting]) -> UpdateResult:
    """Return the outcome of an update.

    Args:
        figures: measurements of its pass over the minibatches.
        sightings: non-finite values that were seen.
    """
    heads, scalars, by_head = figures.heads, figures.scalars, figures.by_head
    learned = ~(figures.bad | figures.overflow | figures.stopped)
    head_inf, head_nan = detected(heads, sightings)
    active_steps = by_head["active_steps"][learned].sum(0)  # [H]
    is_active = active_steps > 0
    all_heads = learned.any().expand_as(is_active)

    def mean(name: str) -> float:
        return scalars[name][learned].mean().item()  # NaN without any minibatch

    def keyed(values: Tensor, shown: Tensor) -> dict[str, float]:
        rows = zip(heads, values.tolist(), shown.tolist(), strict=True)
        return {head: value for head, value, is_shown in rows if is_shown}

    def per_active_step(name: str) -> dict[str, float]:
        return keyed(by_head[name][learned].sum(0) / active_steps, is_active)

    def extreme(name: str, *, is_max: bool) -> dict[str, float]:
        if not learned.any():
            return {}
        values = by_head[name][learned]
        return keyed(values.amax(0) if is_max else values.amin(0), is_active)

    measured = UpdateFigures(
        minibatches=len(learned),
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
        head_entropy=per_active_step("entropy_sum"),
        head_gradient_norm=keyed(by_head["gradient_norm"][learned].mean(0), all_heads),
        head_ratio_max=extreme("ratio_max", is_max=True),
        head_clip_fraction=per_active_step("clipped_steps"),
        head_kl=per_active_step("kl_sum"),
        head_log_prob_min=extreme("log_prob_min", is_max=False),
        head_log_prob_max=extreme("log_prob_max", is_max=True),
        head_active_fraction=keyed(active_steps / scalars["steps"][learned].sum(), all_heads),
    )
    return UpdateResult(measured)


def without_minibatches(
    heads: tuple[str, ...],
    sightings: Sequence[NonfiniteSighting],
    learning_rate: float,
    loss_scale: float | None,
) -> UpdateResult:
    """Return the outcome of an update that had no episode to learn from: its figures are NaN.

    Args:
        heads: names of the heads.
        sightings: non-finite values that were seen.
        learning_rate: learning rate of the update.
        loss_scale: fp16 loss scale; None without fp16.
    """
    head_inf, head_nan = detected(heads, sightings)
    return UpdateResult(
        UpdateFigures(
            minibatches=0,
            minibatches_skipped=0,
            minibatches_stopped=0,
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
        )
    )
