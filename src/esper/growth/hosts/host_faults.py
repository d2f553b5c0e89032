"""NaN and Inf in the training of a host: found after each slice, traced back to their cause.

A slice ends with two reductions over everything that learns, and no more while all of it is
finite. If they show a NaN, an Inf or a negative second moment, the state before and after the slice
is searched, and the slice is repeated for hosts that were finite before it, to see which minibatch
and which quantity broke first (`esper.growth.hosts.lockstep`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from esper.growth.hosts.plan import Plan
from esper.growth.hosts.population import Population
from esper.leyline.heads import SLOT_CHOICES
from esper.leyline.text.sighting_words import STEP_COUNTER

LOSS, PARAMETERS, MOMENTS = "loss", "parameters", "moments"
KINDS = ("nan", "+inf", "-inf")

#: What the rows of a host's state hold, with the prefix of the tensor's name.
_ROWS = ((PARAMETERS, ""), (MOMENTS, "exp_avg of "), (MOMENTS, "exp_avg_sq of "))
_SECOND_MOMENTS = 2


class Broken(NamedTuple):
    """A non-finite loss or tensor of one host."""

    host: int
    quantity: str  # LOSS, PARAMETERS or MOMENTS
    kind: str  # one of KINDS; "nan" for a negative second moment or clock, whose root is NaN
    part: str  # the tensor; STEP_COUNTER for the optimizer's clock


@dataclass(frozen=True)
class HostFault:
    """The cause of a host that is not finite.

    Attributes:
        host: its number.
        quantity: "loss", "parameters" or "moments" (of Adam, with its step count).
        kind: "nan", "+inf" or "-inf". A negative second moment or step count is "nan": the
            optimizer takes its square root.
        part: the tensor, such as "block0.weight" or "exp_avg_sq of early.conv.bias";
            `STEP_COUNTER` for the step count; of a loss, what it was measured on.
        reproduced: False if it was not seen again when the slice was repeated.
    """

    host: int
    quantity: str
    kind: str
    part: str
    reproduced: bool = True


@dataclass(frozen=True)
class SliceFaults:
    """Non-finite values in one slice of training.

    Attributes:
        given: those before the slice.
        new: causes in hosts that were finite before it.
        left: those after it.
    """

    given: frozenset[Broken] = frozenset()
    new: tuple[HostFault, ...] = ()
    left: frozenset[Broken] = frozenset()


def is_clean(state: torch.Tensor, losses: torch.Tensor, clocks: np.ndarray) -> bool:
    """Return whether a slice is certainly free of faults; if False, `broken_state` decides.

    Args:
        state: of a plan, after the slice. `[3, D]`
        losses: of its rows. `[R]`
        clocks: of its owners, before the slice.
    """
    # A sum is not finite if any term is not. (Large finite terms may overflow it, too.)
    sums = torch.stack((*state.sum(1), losses.sum(), state[_SECOND_MOMENTS].amin())).cpu().numpy()
    return bool(np.isfinite(sums).all() and sums[-1] >= 0 and (clocks >= 0).all())


def broken_state(
    plan: Plan, population: Population, state: torch.Tensor, clocks: np.ndarray
) -> frozenset[Broken]:
    """Return every tensor of a plan that is not finite, by host.

    Args:
        plan: the layout of `state`.
        population: of the plan.
        state: parameters and moments. `[3, D]`
        clocks: optimizer steps of each owner, in packing order.
    """
    hosts, names, sizes = _tensors(plan, population)
    tensor_of = np.repeat(np.arange(len(sizes)), sizes)
    values = state.detach().cpu().numpy()
    found = set()
    for row, (quantity, prefix) in enumerate(_ROWS):
        for kind, where in _kinds(values[row], negative_is_nan=row == _SECOND_MOMENTS):
            for tensor in np.unique(tensor_of[where]).tolist():
                found.add(Broken(hosts[tensor], quantity, kind, prefix + names[tensor]))
    owners = np.concatenate([plan.order, *(group.hosts for group in plan.groups)])
    for host in owners[clocks < 0].tolist():
        found.add(Broken(host, MOMENTS, "nan", STEP_COUNTER))
    return frozenset(found)


def broken_losses(plan: Plan, losses: torch.Tensor, part: str) -> frozenset[Broken]:
    """Return the losses that are not finite, of hosts and of their seeds' shadows.

    Args:
        plan: the rows.
        losses: of each row. `[R]`
        part: name of the data that they were measured on.
    """
    values = losses.detach().double().cpu().numpy()
    hosts = len(plan.order)
    found = set()
    for kind, where in _kinds(values):
        for row in where.tolist():
            if row < hosts:
                found.add(Broken(int(plan.order[row]), LOSS, kind, part))
            else:
                slot = SLOT_CHOICES[plan.shadow_slots[row - hosts]]
                host = int(plan.shadow_hosts[row - hosts])
                found.add(Broken(host, LOSS, kind, f"{part}, shadow of {slot}"))
    return frozenset(found)


def loss_faults(loss: np.ndarray, gain: np.ndarray, part: str) -> list[HostFault]:
    """Return a fault for each host whose loss, or that of a seed's shadow, is not finite.

    Args:
        loss: of each host. `[N]`
        gain: how much lower the loss of each seed's shadow is. `[N, S]`
        part: name of the data that they were measured on.
    """
    faults = _faults_of(loss, part)
    known = {fault.host for fault in faults}
    if np.isfinite(gain).all():
        return faults
    with np.errstate(invalid="ignore"):  # inf - inf, in hosts that are known
        shadows = loss[:, None] - gain
    for slot, name in enumerate(SLOT_CHOICES):
        found = _faults_of(shadows[:, slot], f"{part}, shadow of {name}")
        faults += [fault for fault in found if fault.host not in known]
    return faults


def _faults_of(loss: np.ndarray, part: str) -> list[HostFault]:
    places = ((kind, where.tolist()) for kind, where in _kinds(loss))
    return [HostFault(host, LOSS, kind, part) for kind, hosts in places for host in hosts]


def causes_of(
    broken: Iterable[Broken], *, are_given: bool = False, reproduced: bool = True
) -> list[HostFault]:
    """Return the causes among all that is not finite at one time.

    Args:
        broken: everything that is not finite.
        are_given: whether it broke between two slices, where every one is a cause. Within a slice,
            broken parameters follow from broken moments.
        reproduced: see `HostFault`.
    """
    by_host: dict[int, list[Broken]] = {}
    for one in sorted(broken):
        by_host.setdefault(one.host, []).append(one)
    faults = []
    for host, found in by_host.items():
        quantities = {one.quantity for one in found}
        explained = {PARAMETERS} if MOMENTS in quantities and not are_given else set()
        seen = set()
        for one in found:
            if one.quantity not in explained and (one.quantity, one.kind) not in seen:
                seen.add((one.quantity, one.kind))
                faults.append(HostFault(host, one.quantity, one.kind, one.part, reproduced))
    return faults


def follow_up(
    before: Sequence[HostFault],
    known: frozenset[Broken],
    found: SliceFaults,
    measured: Sequence[HostFault],
) -> list[HostFault]:
    """Return the causes in all hosts that are not finite after a slice, by host.

    Args:
        before: the causes after the slice before.
        known: what was broken after that slice.
        found: faults of this slice.
        measured: faults of measurements after this slice.
    """
    given = causes_of(found.given - known, are_given=True)
    broken = {one.host for one in (*found.given, *found.left)}
    broken |= {fault.host for fault in (*found.new, *measured)}
    causes = [fault for fault in before if fault.host in broken]
    seen = {(fault.host, fault.quantity, fault.kind) for fault in causes}
    causes += [one for one in given if (one.host, one.quantity, one.kind) not in seen]
    for later in (list(found.new), list(measured)):  # only where nothing before explains it
        explained = {fault.host for fault in causes}
        causes += [fault for fault in later if fault.host not in explained]
    return sorted(causes, key=lambda fault: fault.host)


def _kinds(values: np.ndarray, *, negative_is_nan: bool = False) -> list[tuple[str, np.ndarray]]:
    """Return the kinds of non-finite value in `values` `[n]`, each with its places."""
    bad = ~np.isfinite(values)
    if negative_is_nan:
        bad |= values < 0
    places = np.flatnonzero(bad)
    if not len(places):
        return []
    at = values[places]
    is_of = (np.isnan(at), at == np.inf, at == -np.inf)
    if negative_is_nan:
        is_of = (np.isnan(at) | (at < 0), at == np.inf, np.zeros_like(is_of[0]))
    return [(kind, places[mask]) for kind, mask in zip(KINDS, is_of, strict=True) if mask.any()]


def _tensors(plan: Plan, population: Population) -> tuple[list[int], list[str], list[int]]:
    """Return the host, name and size of every tensor of a plan, in packing order."""
    hosts, names, sizes = [], [], []
    for host in plan.order.tolist():
        for tensor in population.shape.layout.tensors:
            hosts.append(host)
            names.append(tensor.name)
            sizes.append(tensor.size)
    for group in plan.groups:
        for host in group.hosts.tolist():
            for tensor in group.layout.tensors:
                hosts.append(host)
                names.append(f"{SLOT_CHOICES[group.slot]}.{tensor.name}")
                sizes.append(tensor.size)
    return hosts, names, sizes
