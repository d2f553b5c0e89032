"""N hosts and their seeds trained as one computation, one slice of minibatches at a time."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from esper.growth.adam import AdamSettings, adam_step_, step_coefficients
from esper.growth.forward import run
from esper.growth.host import input_columns
from esper.growth.plan import Plan, advance_clocks, clocks
from esper.growth.population import Population
from esper.growth.tasks import Split

#: Samples evaluated at a time: small enough for the features to stay in the cache.
EVALUATION_CHUNK = 200


@dataclass(frozen=True)
class SliceResult:
    """What training or evaluating measured; hosts in their own order, not the plan's.

    Attributes:
        loss: mean cross-entropy of each host, in nats. `[N]`
        accuracy: fraction each host gets right. `[N]`
        gain: how much lower the loss is in the shadow of each TRAINING seed than in its host, in
            nats; 0 where there is no such seed. `[N, S]`
    """

    loss: np.ndarray
    accuracy: np.ndarray
    gain: np.ndarray


def train_slice(
    population: Population,
    plan: Plan,
    split: Split,
    drawn: np.ndarray,
    batch: int,
    settings: AdamSettings,
) -> SliceResult:
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
    inputs, labels = _gather_minibatches(split, index, batches)
    if len(plan.shadow_rows):
        labels = torch.cat([labels, labels.index_select(1, plan.shadow_rows)], dim=1)

    state = population.state.index_select(1, plan.columns)  # [3, D]
    flat = state[0].detach().requires_grad_()
    lengths, epsilons = (
        torch.from_numpy(table).to(state).index_select(1, plan.owners)  # [batches, D]
        for table in step_coefficients(settings, clocks(population, plan), batches)
    )
    losses = state.new_zeros(hosts + len(plan.shadow_rows))
    right = torch.zeros_like(losses, dtype=torch.int64)
    for step in range(batches):
        columns = input_columns(inputs[step], shape)
        logits = run(plan, shape, flat, columns)
        row_losses = _row_losses(logits, labels[step])
        (gradient,) = torch.autograd.grad(row_losses.sum(), flat)
        adam_step_(state, gradient, lengths[step], epsilons[step], settings)
        losses += row_losses.detach()
        right += _row_hits(logits, labels[step])
    population.state.index_copy_(1, plan.columns, state)
    advance_clocks(population, plan, batches)
    return _in_host_order(population, plan, losses / batches, right, batches * batch)


def evaluate(population: Population, plan: Plan, split: Split) -> SliceResult:
    """Measure every host, and every shadow of the plan, on a whole split."""
    flat = population.state[0].index_select(0, plan.columns)
    rows = population.hosts + len(plan.shadow_rows)
    losses = flat.new_zeros(rows)
    right = torch.zeros_like(losses, dtype=torch.int64)
    with torch.no_grad():
        for start in range(0, len(split), EVALUATION_CHUNK):
            inputs = split.inputs[start : start + EVALUATION_CHUNK]
            labels = split.labels[start : start + EVALUATION_CHUNK].expand(rows, -1)
            columns = input_columns(inputs.movedim(0, -1).unsqueeze(0), population.shape)[0]
            logits = run(plan, population.shape, flat, columns)
            losses += _row_losses(logits, labels) * labels.shape[1]
            right += _row_hits(logits, labels)
    return _in_host_order(population, plan, losses / len(split), right, len(split))


def _gather_minibatches(
    split: Split, index: torch.Tensor, batches: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the samples `index` `[N, b*B]` as inputs `[b, N, C, *P, B]` and labels `[b, N, B]`.

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


def _row_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of each row: `[R, classes, B]`, `[R, B]` -> `[R]`."""
    return F.cross_entropy(logits, labels, reduction="none").mean(1)


def _row_hits(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return how many samples each row gets right: `[R, classes, B]`, `[R, B]` -> `[R]`."""
    return (logits.argmax(1) == labels).sum(1)


def _in_host_order(
    population: Population, plan: Plan, losses: torch.Tensor, right: torch.Tensor, samples: int
) -> SliceResult:
    hosts = population.hosts
    loss, accuracy = np.empty(hosts), np.empty(hosts)
    by_row = losses.double().cpu().numpy()
    loss[plan.order] = by_row[:hosts]
    accuracy[plan.order] = right[:hosts].cpu().numpy() / samples
    gain = np.zeros((hosts, population.slots))
    gain[plan.shadow_hosts, plan.shadow_slots] = loss[plan.shadow_hosts] - by_row[hosts:]
    return SliceResult(loss, accuracy, gain)
