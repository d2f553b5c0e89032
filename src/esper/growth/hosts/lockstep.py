"""N hosts and their seeds trained as one computation, one slice of minibatches at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from esper.growth.hosts.forward import cut, run
from esper.growth.hosts.host import HostShape, input_columns
from esper.growth.hosts.host_faults import (
    LOSS,
    Broken,
    HostFault,
    SliceFaults,
    broken_losses,
    broken_state,
    causes_of,
    is_clean,
)
from esper.growth.hosts.plan import Plan, advance_clocks, clocks
from esper.growth.hosts.population import Population
from esper.growth.kernel.adam import AdamSettings, adam_step_, step_coefficients
from esper.growth.tasks.task import Split

#: Limits of samples evaluated at a time, of their numbers, and of samples times networks: the
#: features should stay in the cache.
EVALUATION_CHUNK, EVALUATION_NUMBERS, EVALUATION_ROWS = 400, 400 * 256, 400 * 64


_TRAINING = "training minibatch"


@dataclass(frozen=True)
class Losses:
    """Losses of hosts and shadows; hosts in their own order, not the plan's.

    Attributes:
        loss: mean cross-entropy of each host, in nats. `[N]`
        gain: how much lower the loss is in the shadow of each TRAINING seed than in its host, in
            nats; 0 where there is no such seed. `[N, S]`
    """

    loss: np.ndarray
    gain: np.ndarray


@dataclass(frozen=True)
class SliceResult:
    """One slice of training.

    Attributes:
        losses: means over the slice, each minibatch measured before its step.
        faults: causes of non-finite values.
    """

    losses: Losses
    faults: SliceFaults


@dataclass(frozen=True)
class Measurement:
    """Measurements of each host on a whole split.

    Attributes:
        losses: of hosts and shadows.
        accuracy: fraction each host gets right. `[N]`
    """

    losses: Losses
    accuracy: np.ndarray


def train_slice(
    population: Population,
    plan: Plan,
    split: Split,
    drawn: np.ndarray,
    batch: int,
    settings: AdamSettings,
) -> SliceResult:
    """Train every host and every seed of the plan on its own minibatches.

    Args:
        population: changed in place.
        plan: of this population.
        split: the training data, on the population's device.
        drawn: samples for each host, whole minibatches. `[N, batches * batch]`
        batch: samples in a minibatch.
        settings: of the optimizer.
    """
    index = torch.from_numpy(drawn[plan.order]).to(split.inputs.device)
    batches = index.shape[1] // batch
    inputs, labels = gather_minibatches(split, index, batches)
    if len(plan.shadow_rows):
        labels = torch.cat([labels, labels.index_select(1, plan.shadow_rows)], dim=1)

    state = population.state.index_select(1, plan.columns)  # [3, D]
    steps_taken = clocks(population, plan)
    lengths, epsilons = (
        torch.from_numpy(table).to(state).index_select(1, plan.owners)  # [batches, D]
        for table in step_coefficients(settings, steps_taken, batches)
    )
    training_slice = _Slice(
        plan, population.shape, split, inputs, labels, lengths, epsilons, settings
    )
    losses = state.new_zeros(population.hosts + len(plan.shadow_rows))
    for by_row in training_slice.train_(state):
        losses += by_row
    faults = SliceFaults()
    if not is_clean(state, losses, steps_taken):
        faults = _find_faults(population, training_slice, state, losses, steps_taken)
    population.state.index_copy_(1, plan.columns, state)
    advance_clocks(population, plan, batches)
    return SliceResult(_by_host(population, plan, losses / batches), faults)


@dataclass(frozen=True)
class _Slice:
    """Everything about a slice of training except for the state that it changes."""

    plan: Plan
    shape: HostShape
    split: Split
    inputs: torch.Tensor  # [batches, N, C, *P, B]
    labels: torch.Tensor  # [batches, R, B]
    lengths: torch.Tensor  # [batches, D]
    epsilons: torch.Tensor  # [batches, D]
    settings: AdamSettings

    def train_(self, state: torch.Tensor) -> Iterator[torch.Tensor]:
        """Change `state` `[3, D]` by one step after the other.

        Yields:
            After each step, the losses of its minibatch, which were measured before it. `[R]`
        """
        pieces = tuple(piece.requires_grad_() for piece in cut(self.plan, state[0].detach()))
        for step, labels in enumerate(self.labels):
            columns = input_columns(self.split.ready(self.inputs[step]), self.shape)
            by_row = row_losses(run(self.plan, self.shape, pieces, columns), labels)
            gradients = torch.autograd.grad(by_row.sum(), pieces)
            gradient = torch.cat([piece.view(-1) for piece in gradients])
            adam_step_(state, gradient, self.lengths[step], self.epsilons[step], self.settings)
            yield by_row.detach()


def _find_faults(
    population: Population,
    training_slice: _Slice,
    state: torch.Tensor,
    losses: torch.Tensor,
    steps_taken: np.ndarray,
) -> SliceFaults:
    """Return what was not finite in a slice, repeating it to see what broke first.

    Args:
        population: the population before the slice.
        training_slice: the slice.
        state: after it. `[3, D]`
        losses: of each row, over all of its minibatches. `[R]`
        steps_taken: optimizer steps of each owner before the slice.
    """
    plan, batches = training_slice.plan, len(training_slice.inputs)
    given = population.state.index_select(1, plan.columns)
    before = broken_state(plan, population, given, steps_taken)
    left = broken_state(plan, population, state, steps_taken + batches)
    seen = left | broken_losses(plan, losses, _TRAINING)
    new = {one.host for one in seen} - {one.host for one in before}
    causes: list[HostFault] = []
    if new:
        for by_row in training_slice.train_(given):
            found = broken_losses(plan, by_row, _TRAINING)
            after = broken_state(plan, population, given, steps_taken)
            for host in sorted(new):
                # The loss was measured before the step that broke the state.
                first = _of(host, found) or _of(host, after)
                if first:
                    causes += causes_of(first)
                    new.remove(host)
            if not new:
                break
    for host in sorted(new):  # it did not happen again
        once = _of(host, seen)
        state_once = [one for one in once if one.quantity != LOSS]
        causes += causes_of(state_once or once, reproduced=False)
    return SliceFaults(before, tuple(causes), left)


def _of(host: int, broken: Iterable[Broken]) -> list[Broken]:
    return [one for one in broken if one.host == host]


def evaluate(population: Population, plan: Plan, split: Split) -> Measurement:
    """Measure every host, and every shadow of the plan, on a whole split."""
    rows = population.hosts + len(plan.shadow_rows)
    losses = population.state.new_zeros(rows)
    right = torch.zeros(population.hosts, dtype=torch.int64, device=losses.device)
    done = 0
    for logits in _logits(population, plan, split):
        size = logits.shape[-1]
        labels = split.labels[done : done + size].expand(rows, -1)
        losses += row_losses(logits, labels) * size
        right += row_hits(logits[: population.hosts], labels[: population.hosts])
        done += size
    accuracy = np.empty(population.hosts)
    accuracy[plan.order] = right.cpu().numpy() / len(split)
    return Measurement(_by_host(population, plan, losses / len(split)), accuracy)


def predict(population: Population, plan: Plan, split: Split) -> torch.Tensor:
    """Return the logits of every host on a whole split. `[N, n, classes]`"""
    logits = torch.cat(list(_logits(population, plan, split)), dim=2)[: population.hosts]
    by_host = torch.empty_like(logits)
    by_host[torch.from_numpy(plan.order).to(logits.device)] = logits
    return by_host.transpose(1, 2)


def _logits(population: Population, plan: Plan, split: Split) -> Iterator[torch.Tensor]:
    """Yield the logits of every row, chunk by chunk of the split. `[R, classes, B]`"""
    pieces = cut(plan, population.state[0].index_select(0, plan.columns))
    for inputs in input_chunks(split, population.hosts + len(plan.shadow_rows)):
        columns = input_columns(inputs, population.shape)[0]
        with torch.no_grad():
            logits = run(plan, population.shape, pieces, columns)
        yield logits


def input_chunks(split: Split, rows: int) -> Iterator[torch.Tensor]:
    """Yield the inputs of a split in chunks, each as one row that `rows` networks share.

    Each is `[1, C, *P, B]`.
    """
    numbers = split.inputs[0].numel()
    limits = (EVALUATION_CHUNK, EVALUATION_NUMBERS // numbers, EVALUATION_ROWS // rows)
    chunk = max(1, min(limits))
    for start in range(0, len(split), chunk):
        inputs = split.ready(split.inputs[start : start + chunk])
        yield inputs.movedim(0, -1).unsqueeze(0)


def gather_minibatches(
    split: Split, index: torch.Tensor, batches: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the samples `index` `[N, b*B]` as inputs `[b, N, C, *P, B]` and labels `[b, N, B]`.

    Inputs are raw; `Split.ready` makes each minibatch ready for hosts. One gather serves the whole
    slice, because samples are short rows and the batch must come last.
    """
    rows, batch = index.shape[0], index.shape[1] // batches
    flat = split.inputs.flatten(1).index_select(0, index.flatten())
    inputs = flat.view(rows, batches, batch, -1).permute(1, 0, 3, 2).contiguous()
    labels = split.labels.index_select(0, index.flatten()).view(rows, batches, batch)
    return (
        inputs.view(batches, rows, *split.inputs.shape[1:], batch),
        labels.transpose(0, 1).contiguous(),
    )


def row_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of each row: `[R, classes, B]`, `[R, B]` -> `[R]`."""
    return F.cross_entropy(logits, labels, reduction="none").mean(1)


def row_hits(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return how many samples each row gets right: `[R, classes, B]`, `[R, B]` -> `[R]`.

    A sample is right if its class alone has the highest logit, so equal logits and NaN count as
    wrong. (This is also several times as fast as `argmax` here.)
    """
    own = logits.gather(1, labels.unsqueeze(1))
    return ((logits >= own).sum(1) == 1).sum(1)


def _by_host(population: Population, plan: Plan, row_losses: torch.Tensor) -> Losses:
    hosts = population.hosts
    by_row = row_losses.double().cpu().numpy()
    loss = np.empty(hosts)
    loss[plan.order] = by_row[:hosts]
    gain = np.zeros((hosts, population.slots))
    with np.errstate(invalid="ignore"):  # inf - inf, in a host that is reported as broken
        gain[plan.shadow_hosts, plan.shadow_slots] = loss[plan.shadow_hosts] - by_row[hosts:]
    return Losses(loss, gain)
