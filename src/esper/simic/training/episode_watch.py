"""NaN and Inf in a batch of episodes: in the training of the hosts, and in acting.

Only causes are reported, by host and step. A non-finite host explains its observations. Within one
host, a non-finite observation or recurrent state explains everything that the policy computes from
it, in later steps, too; a non-finite trunk explains value and heads. Nothing explains a value in
another host, and a non-finite head or value explains nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from torch import Tensor

from esper.growth.hosts.host_faults import KINDS, HostFault
from esper.leyline.quantities import causal_rank
from esper.leyline.telemetry import HOSTS, SHARED, NonfiniteSighting
from esper.simic.telemetry.emitters import DecisionFigures
from esper.tamiyo.acting import Decision
from esper.tamiyo.policy import HeadLayout

#: Maximum number of hosts that are reported for each quantity and kind, the first ones.
HOSTS_NAMED: Final = 64


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
        trunk = _on_host(decision.trunk)
        state = np.concatenate([_on_host(part)[0] for part in decision.state], axis=-1)
        logits = self._suspect_logits(decision, figures.logits)
        everything = (
            observations, trunk, state, logits, figures.values[:, None], figures.distributions
        )  # fmt: skip
        finite = np.logical_and.reduce([np.isfinite(part).all(axis=1) for part in everything])
        self._broken_states[finite] = False
        for host in np.flatnonzero(~finite).tolist():
            found = _Found(
                observations=_kinds(observations[host]),
                trunk=_kinds(trunk[host]),
                value=_kinds(figures.values[host]),
                logits=self._kinds_by_head(logits[host]),
                log_probs=self._kinds_by_head(figures.distributions[host]),
                state=_kinds(state[host]),
            )
            for head, quantity, kinds in self._causes(host, found):
                for kind in kinds:
                    self._see(head, quantity, kind, host, step)
            if found.observations or found.value:
                self.learnable[host] = False
            self._broken_states[host] = bool(found.state)

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

    def _kinds_by_head(self, values: np.ndarray) -> dict[str, Sequence[str]]:
        """Return the kinds in the choices `[total]` of each head."""
        layout = self._layout
        places = zip(layout.names, layout.offsets, layout.sizes, strict=True)
        return {name: _kinds(values[offset : offset + size]) for name, offset, size in places}

    def _causes(self, host: int, found: "_Found") -> list[tuple[str, str, Sequence[str]]]:
        """Return (head, quantity, kinds) of the values that nothing explains."""
        if found.observations:
            is_explained = self._broken_hosts[host]
            return [] if is_explained else [(SHARED, "observations", found.observations)]
        had_broken_state = self._broken_states[host]
        if found.trunk:
            return [] if had_broken_state else [(SHARED, "trunk", found.trunk)]
        causes = [(head, "logits", kinds) for head, kinds in found.logits.items()]
        causes += [
            (head, "log_prob", kinds)
            for head, kinds in found.log_probs.items()
            if not found.logits[head]
        ]
        causes.append((SHARED, "value", found.value))
        if not had_broken_state:
            causes.append((SHARED, "recurrent_state", found.state))
        return causes

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


@dataclass(frozen=True)
class _Found:
    """The kinds of non-finite value in one decision for one host, by quantity."""

    observations: Sequence[str]
    trunk: Sequence[str]
    value: Sequence[str]
    logits: dict[str, Sequence[str]]  # by head
    log_probs: dict[str, Sequence[str]]  # by head
    state: Sequence[str]  # recurrent state after the step


def _kinds(values: np.ndarray) -> Sequence[str]:
    is_of = (np.isnan(values), np.isposinf(values), np.isneginf(values))
    return [kind for kind, where in zip(KINDS, is_of, strict=True) if where.any()]


def _on_host(tensor: Tensor) -> np.ndarray:
    values: np.ndarray = tensor.cpu().numpy()
    return values
