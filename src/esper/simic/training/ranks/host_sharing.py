"""One step of the hosts of this process, joined with those of the other ranks of the run."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor

from esper.growth.hosts.seeds import SeedEvent, Transition
from esper.leyline.heads import HEAD_NAMES, SLOT_CHOICES, Stage
from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.detection.sighting_ledger import in_order
from esper.simic.ranks.collectives import Ranks, Share
from esper.simic.telemetry.emitters import DecisionFigures
from esper.tamiyo.acting import HostShare, Taken

#: Most transitions of one slot in a step: one by the action, at the start and at the end of the
#: slice.
_MOST_PER_SLOT: Final = 3
_EVENTS: Final = tuple(SeedEvent)
#: Numbers that encode a transition; a row of NaN means that there is none.
_NUMBERS: Final = 6


@dataclass(frozen=True)
class HostStep:
    """One step of some hosts: observations, decisions and results.

    Attributes:
        observations: observations before the step. `[N, F]`
        taken: the decision, on the device of the agent.
        figures: the decision, in the memory of the CPU.
        rewards, terminated, truncated: as the environment returned them. `[N]`
        final_values: the critic's value of the last observation of episodes that were cut off.
            `[N]`
        info: the environment's `info`, without `nonfinite`.
    """

    observations: Tensor
    taken: Taken
    figures: DecisionFigures
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_values: Tensor
    info: dict[str, Any]


class HostSharing:
    """All hosts of a batch; this process trains some of them.

    Args:
        hosts: number of hosts in the batch.
        ranks: the ranks of the run; None for a process that trains alone.
    """

    def __init__(self, hosts: int, ranks: Ranks | None = None) -> None:
        self._ranks = ranks
        self._share = Share((hosts,), 0) if ranks is None else ranks.share(hosts)

    @property
    def own(self) -> slice:
        """The hosts of this process."""
        return self._share.own

    @property
    def total(self) -> int:
        """Number of hosts in the batch."""
        return self._share.total

    @property
    def draws(self) -> HostShare | None:
        """Position of this process's hosts among those for which actions are drawn; None: all."""
        return None if self._ranks is None else HostShare(self.own.start, self.total)

    def step(self, own: HostStep) -> HostStep:
        """Return the step of all hosts."""
        if self._ranks is None:
            return own
        device = own.observations.device
        rows = self._ranks.gathered_hosts(_arrays_of(own), self._share)
        return _step_of(rows, own.info, device)

    def learnable(self, own: np.ndarray) -> np.ndarray:
        """Return the mask of all hosts whose episode an update may use.

        Args:
            own: this mask for the hosts of this process.
        """
        if self._ranks is None:
            return own
        return self._ranks.gathered_hosts({"learnable": own}, self._share)["learnable"]

    def joined(self, own: list[NonfiniteSighting]) -> list[NonfiniteSighting]:
        """Return the sightings of all ranks: hosts before acting, causes first."""
        if self._ranks is None:
            return own
        return in_order(self._ranks.joined(own), HEAD_NAMES)

    def placed(self, own: list[NonfiniteSighting]) -> list[NonfiniteSighting]:
        """Return sightings of this process's hosts, with each host's number in the batch."""
        if self._share.is_copy:
            return []
        return [
            msgspec.structs.replace(seen, host=seen.host + self.own.start)
            if seen.host is not None
            else seen
            for seen in own
        ]


def _arrays_of(step: HostStep) -> dict[str, np.ndarray]:
    info = {name: value for name, value in step.info.items() if isinstance(value, np.ndarray)}
    terms = {f"reward {name}": term for name, term in step.info["reward_terms"].items()}
    tensors = {
        "observations": step.observations,
        "final values": step.final_values,
        **{f"taken {name}": value for name, value in step.taken._asdict().items()},
    }
    figures = step.figures
    return {
        **{f"info {name}": value for name, value in info.items()},
        **terms,
        **{name: value.cpu().numpy() for name, value in tensors.items()},
        "actions": figures.actions,
        "probabilities": figures.probabilities,
        "values": figures.values,
        "distributions": figures.distributions,
        "rewards": step.rewards,
        "terminated": step.terminated,
        "truncated": step.truncated,
        "transitions": _coded(step.info["transitions"], len(step.rewards)),
    }


def _step_of(
    rows: dict[str, np.ndarray], own_info: dict[str, Any], device: torch.device
) -> HostStep:
    def tensor(name: str) -> Tensor:
        return torch.as_tensor(rows[name], device=device)

    def named(prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): rows[key] for key in rows if key.startswith(prefix)}

    hosts = len(rows["rewards"])
    samples = own_info["training_samples"] // len(own_info["accuracy"]) * hosts
    return HostStep(
        observations=tensor("observations"),
        taken=Taken(*(tensor(f"taken {name}") for name in Taken._fields)),
        figures=DecisionFigures(
            actions=rows["actions"],
            probabilities=rows["probabilities"],
            values=rows["values"],
            distributions=rows["distributions"],
            logits=np.empty((hosts, 0)),
            watched=np.empty((hosts, 0)),
        ),
        rewards=rows["rewards"],
        terminated=rows["terminated"],
        truncated=rows["truncated"],
        final_values=tensor("final values"),
        info={
            **named("info "),
            "reward_terms": named("reward "),
            "transitions": _decoded(rows["transitions"]),
            "training_samples": samples,
        },
    )


def _coded(transitions: list[Transition], hosts: int) -> np.ndarray:
    """Return transitions as numbers, in their order. `[N, slots * 3, 6]`"""
    coded = np.full((hosts, _MOST_PER_SLOT * len(SLOT_CHOICES), _NUMBERS), np.nan)
    counts = np.zeros(hosts, dtype=np.int64)
    for moved in transitions:
        coded[moved.host, counts[moved.host]] = (
            moved.slot,
            moved.blueprint,
            moved.from_stage,
            moved.to_stage,
            _EVENTS.index(moved.cause),
            moved.alpha,
        )
        counts[moved.host] += 1
    return coded


def _decoded(coded: np.ndarray) -> list[Transition]:
    """Return the transitions that `_coded` encoded, ordered by host."""
    found = []
    for host, place in np.argwhere(~np.isnan(coded[..., 0])).tolist():
        slot, blueprint, before, after, event = map(int, coded[host, place, :-1])
        alpha = float(coded[host, place, -1])
        found.append(
            Transition(host, slot, blueprint, Stage(before), Stage(after), _EVENTS[event], alpha)
        )
    return found
