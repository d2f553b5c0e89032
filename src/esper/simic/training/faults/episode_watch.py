"""NaN and Inf in a batch of episodes: in the training of the hosts, and in acting.

Only causes are reported, by host and step. A non-finite host explains its observations. Within one
host, a non-finite observation or recurrent state explains everything that the policy computes from
it, in later steps, too; a non-finite trunk explains value and heads. Nothing explains a value in
another host, and a non-finite head or value explains nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from torch import Tensor

from esper.growth.hosts.host_faults import KINDS, HostFault
from esper.leyline.quantities import QUANTITIES, Scope, causal_rank
from esper.leyline.telemetry import HOSTS, SHARED, NonfiniteSighting
from esper.simic.telemetry.emitters import DecisionFigures
from esper.tamiyo.acting import Decision
from esper.tamiyo.policy import HeadLayout

#: Maximum number of hosts that are reported for each quantity and kind, the first ones.
HOSTS_NAMED: Final = 64


@dataclass(frozen=True)
class Acting:
    """Everything that one decision for each host computes, in the memory of the CPU."""

    observations: np.ndarray  # [N, F]
    trunk: np.ndarray  # [N, features]
    logits: np.ndarray  # [N, total], with 0 for a legal -Inf
    figures: DecisionFigures
    state: np.ndarray  # recurrent state after the decision, [N, 2 * lstm_size]


#: The recurrent state that a decision starts from.
_STATE_BEFORE: Final = "state before"
_BY_NAME: Final = {quantity.name: quantity for quantity in QUANTITIES}


@dataclass(frozen=True)
class ActingReader:
    """How acting reads a quantity of `QUANTITIES`, which has its scope and what explains it.

    Attributes:
        quantity: name in `QUANTITIES`.
        read: returns its values, `[N, …]`; `[N, total]` for a quantity of heads.
        also_explained_by: what else explains it while acting: other quantities, `HOSTS` or
            `_STATE_BEFORE`.
    """

    quantity: str
    read: Callable[[Acting], np.ndarray]
    also_explained_by: tuple[str, ...] = ()

    @property
    def is_of_heads(self) -> bool:
        """Whether each head has it."""
        return _BY_NAME[self.quantity].scope is Scope.HEADS

    @property
    def reasons(self) -> frozenset[str]:
        """Everything that explains it."""
        return frozenset((*_BY_NAME[self.quantity].explained_by, *self.also_explained_by))


#: The quantities that acting computes, in the order in which it computes them. A broken state of
#: the step before spreads through the trunk only: with a finite trunk, it explains no head.
ACTING_READERS: Final = (
    ActingReader("observations", lambda acting: acting.observations, (HOSTS,)),
    ActingReader("trunk", lambda acting: acting.trunk, (_STATE_BEFORE,)),
    ActingReader("logits", lambda acting: acting.logits),
    ActingReader("log_prob", lambda acting: acting.figures.distributions, ("logits",)),
    ActingReader("value", lambda acting: acting.figures.values[:, None]),
    ActingReader("recurrent_state", lambda acting: acting.state, ("trunk", _STATE_BEFORE)),
)
#: Quantities from which an update computes advantages. If one is broken, the episode is left out.
_LEARNT_FROM: Final = ("observations", "value")


@dataclass
class _Seen:
    """A kind of value, in the training of one host or in acting in all hosts of the batch."""

    host: int
    step: int
    part: str
    reproduced: bool
    steps: int = 1
    last_step: int = 0


class EpisodeWatch:
    """Watches one batch of episodes, step by step.

    While everything is finite, it only reads figures that are in the memory of the CPU anyway.

    Args:
        num_hosts: number of hosts N.
        layout: layout of the policy's heads.

    Attributes:
        learnable: mask of the hosts whose episode an update may use. `[N]`
    """

    def __init__(self, num_hosts: int, layout: HeadLayout) -> None:
        self.learnable = np.ones(num_hosts, dtype=bool)
        self._layout = layout
        self._broken_hosts = np.zeros(num_hosts, dtype=bool)
        self._broken_states = np.zeros(num_hosts, dtype=bool)  # recurrent states before a step
        # By head, quantity, kind, and for values in training, host.
        self._seen: dict[tuple[str, str, str, int | None], _Seen] = {}

    def hosts(self, step: int, faults: Sequence[HostFault]) -> None:
        """Add the faults that the environment reports after a step."""
        for fault in faults:
            self._broken_hosts[fault.host] = True
            self.learnable[fault.host] = False
            self._see(
                HOSTS, fault.quantity, fault.kind, fault.host, step, fault.part, fault.reproduced
            )

    def acting(
        self, step: int, observations: np.ndarray, decision: Decision, figures: DecisionFigures
    ) -> None:
        """Check one decision for each host.

        Args:
            step: number of the step in its episode, counted from 1.
            observations: observations of the decision. `[N, F]`
            decision: the decision, on the device; only read if something is not finite.
            figures: figures of the decision, in the memory of the CPU.
        """
        if np.isfinite(observations).all() and np.isfinite(figures.watched).all():
            self._broken_states[:] = False
            return
        acting = Acting(
            observations=observations,
            trunk=_on_host(decision.trunk),
            logits=self._suspect_logits(decision, figures.logits),
            figures=figures,
            state=np.concatenate([_on_host(part)[0] for part in decision.state], axis=-1),
        )
        values = {reader.quantity: reader.read(acting) for reader in ACTING_READERS}
        finite = np.logical_and.reduce([np.isfinite(each).all(axis=1) for each in values.values()])
        self._broken_states[finite] = False
        for host in np.flatnonzero(~finite).tolist():
            of_host = {quantity: each[host] for quantity, each in values.items()}
            for head, quantity, kinds in self._causes(host, of_host):
                for kind in kinds:
                    self._see(head, quantity, kind, host, step)
            if not all(np.isfinite(of_host[quantity]).all() for quantity in _LEARNT_FROM):
                self.learnable[host] = False
            self._broken_states[host] = not np.isfinite(of_host["recurrent_state"]).all()

    def sightings(self) -> list[NonfiniteSighting]:
        """Return all sightings, hosts before acting, causes first.

        Each non-finite host has a sighting, up to `HOSTS_NAMED` for a quantity and kind.
        """
        found = [
            NonfiniteSighting(
                head=head,
                quantity=quantity,
                kind=kind,
                count=seen.steps,
                epoch=0,
                minibatch=0,
                phase="hosts" if head == HOSTS else "acting",
                host=seen.host,
                step=seen.step,
                part=seen.part,
                reproduced=seen.reproduced,
            )
            for (head, quantity, kind, _), seen in self._seen.items()
        ]
        place = {head: number for number, head in enumerate((HOSTS, SHARED, *self._layout.names))}
        return sorted(
            found,
            key=lambda s: (
                s.head != HOSTS,
                s.step,
                causal_rank(s.quantity),
                place[s.head],
                s.kind,
                s.host,
            ),
        )

    def _suspect_logits(self, decision: Decision, logits: np.ndarray) -> np.ndarray:
        """Return raw logits `[N, total]` with 0 for -Inf where the mask forbids the choice."""
        minus_inf = np.isneginf(logits)
        if not minus_inf.any():
            return logits
        return np.where(minus_inf & ~_on_host(decision.mask), 0.0, logits)

    def _causes(
        self, host: int, values: dict[str, np.ndarray]
    ) -> Iterator[tuple[str, str, Sequence[str]]]:
        """Yield (head, quantity, kinds) of the values of a host that nothing explains."""
        broken: dict[str, set[str]] = {head: set() for head in (SHARED, *self._layout.names)}
        if self._broken_hosts[host]:
            broken[SHARED].add(HOSTS)
        if self._broken_states[host]:
            broken[SHARED].add(_STATE_BEFORE)
        for reader in ACTING_READERS:
            for head, of_head in self._by_head(reader, values[reader.quantity]):
                kinds = _kinds(of_head)
                if kinds and reader.reasons.isdisjoint(broken[SHARED] | broken[head]):
                    yield head, reader.quantity, kinds
                if kinds:
                    broken[head].add(reader.quantity)

    def _by_head(
        self, reader: ActingReader, values: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the values of each head, or those that all heads share."""
        if not reader.is_of_heads:
            yield SHARED, values
            return
        layout = self._layout
        for name, offset, size in zip(layout.names, layout.offsets, layout.sizes, strict=True):
            yield name, values[offset : offset + size]

    def _see(
        self,
        head: str,
        quantity: str,
        kind: str,
        host: int,
        step: int,
        part: str = "",
        reproduced: bool = True,
    ) -> None:
        key = head, quantity, kind, host if head == HOSTS else None
        if key not in self._seen:
            named = sum(other[:3] == key[:3] for other in self._seen)
            if head == HOSTS and named >= HOSTS_NAMED:
                return
            self._seen[key] = _Seen(host, step, part, reproduced, last_step=step)
        seen = self._seen[key]
        seen.steps += seen.last_step != step
        seen.last_step = step
        seen.reproduced |= reproduced


def _kinds(values: np.ndarray) -> Sequence[str]:
    is_of = (np.isnan(values), np.isposinf(values), np.isneginf(values))
    return [kind for kind, where in zip(KINDS, is_of, strict=True) if where.any()]


def _on_host(tensor: Tensor) -> np.ndarray:
    values: np.ndarray = tensor.cpu().numpy()
    return values
