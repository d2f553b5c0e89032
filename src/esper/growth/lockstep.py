"""N hosts and their seeds trained as one computation, one slice of minibatches at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from esper.growth.adam import AdamSettings, adam_step_, step_coefficients
from esper.growth.forward import cut, run, weights
from esper.growth.host import input_columns
from esper.growth.plan import Plan, advance_clocks, clocks
from esper.growth.population import Population
from esper.growth.task import Split

#: Samples evaluated at a time, of at most so many numbers, by at most so many networks (samples
#: times networks): the features are to stay in the cache.
EVALUATION_CHUNK, EVALUATION_NUMBERS, EVALUATION_ROWS = 400, 400 * 256, 400 * 64


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
class Measurement:
    """What a whole split says about each host.

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
) -> Losses:
    """Train every host, and every seed the plan has a part for, on its own minibatches.

    Args:
        population: what learns; changed in place.
        plan: of this population.
        split: the training data, on the population's device.
        drawn: samples for each host, whole minibatches. `[N, batches * batch]`
        batch: samples in a minibatch.
        settings: of the optimizer.

    Returns:
        Means over the slice, each minibatch measured before the step it led to.
    """
    shape, hosts = population.shape, population.hosts
    index = torch.from_numpy(drawn[plan.order]).to(split.inputs.device)
    batches = index.shape[1] // batch
    inputs, labels = gather_minibatches(split, index, batches)
    if len(plan.shadow_rows):
        labels = torch.cat([labels, labels.index_select(1, plan.shadow_rows)], dim=1)

    state = population.state.index_select(1, plan.columns)  # [3, D]
    pieces = tuple(piece.requires_grad_() for piece in cut(plan, state[0].detach()))
    learning = weights(plan, pieces)
    lengths, epsilons = (
        torch.from_numpy(table).to(state).index_select(1, plan.owners)  # [batches, D]
        for table in step_coefficients(settings, clocks(population, plan), batches)
    )
    losses = state.new_zeros(hosts + len(plan.shadow_rows))
    for step in range(batches):
        columns = input_columns(split.ready(inputs[step]), shape)
        by_row = row_losses(run(plan, shape, learning, columns), labels[step])
        gradients = torch.autograd.grad(by_row.sum(), pieces)
        gradient = torch.cat([piece.view(-1) for piece in gradients])
        adam_step_(state, gradient, lengths[step], epsilons[step], settings)
        losses += by_row.detach()
    population.state.index_copy_(1, plan.columns, state)
    advance_clocks(population, plan, batches)
    return _by_host(population, plan, losses / batches)


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
    """Return what every host says of a whole split: its logits. `[N, n, classes]`"""
    logits = torch.cat(list(_logits(population, plan, split)), dim=2)[: population.hosts]
    by_host = torch.empty_like(logits)
    by_host[torch.from_numpy(plan.order).to(logits.device)] = logits
    return by_host.transpose(1, 2)


def _logits(population: Population, plan: Plan, split: Split) -> Iterator[torch.Tensor]:
    """Yield the logits of every row, chunk by chunk of the split. `[R, classes, B]`"""
    learnt = weights(plan, cut(plan, population.state[0].index_select(0, plan.columns)))
    for inputs in input_chunks(split, population.hosts + len(plan.shadow_rows)):
        columns = input_columns(inputs, population.shape)[0]
        with torch.no_grad():
            logits = run(plan, population.shape, learnt, columns)
        yield logits


def input_chunks(split: Split, rows: int) -> Iterator[torch.Tensor]:
    """Yield the inputs of a whole split, by and by, as one row that `rows` networks share.

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

    Inputs are as they are kept: `Split.ready` makes of each minibatch what hosts take.

    One gather for the whole slice: samples are short rows, and the batch must come last.
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

    Right is a sample whose own class alone has the highest logit, so a network that says the same
    for every class, or NaN, gets none right. (It is also several times as fast as `argmax` here.)
    """
    own = logits.gather(1, labels.unsqueeze(1))
    return ((logits >= own).sum(1) == 1).sum(1)


def _by_host(population: Population, plan: Plan, row_losses: torch.Tensor) -> Losses:
    hosts = population.hosts
    by_row = row_losses.double().cpu().numpy()
    loss = np.empty(hosts)
    loss[plan.order] = by_row[:hosts]
    gain = np.zeros((hosts, population.slots))
    gain[plan.shadow_hosts, plan.shadow_slots] = loss[plan.shadow_hosts] - by_row[hosts:]
    return Losses(loss, gain)
