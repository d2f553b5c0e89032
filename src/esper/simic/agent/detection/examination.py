"""Two passes over one update, side by side: what both kinds of search for faults start from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.detection.anatomy import Anatomy
from esper.simic.agent.detection.causal_filter import causes_in
from esper.simic.agent.detection.cause_search import Surroundings
from esper.simic.agent.detection.codes import Codes, is_any
from esper.simic.agent.detection.pass_codes import PassCodes, states_to_host, to_host
from esper.simic.agent.detection.sighting_ledger import SightingLedger
from esper.simic.agent.detection.update_watch import UpdateWatch
from esper.simic.agent.figures import Figures
from esper.simic.agent.rollout import Rollout


@dataclass(frozen=True)
class Plan:
    """The minibatches of an update, and what was seen before it.

    Attributes:
        rollout: the episodes.
        minibatches: indices of the hosts in each minibatch.
        per_epoch: number of minibatches in an epoch; those of the first are the parts of the
            preparation.
        before: sightings from acting and from hosts.
    """

    rollout: Rollout
    minibatches: Sequence[Tensor]
    per_epoch: int
    before: Sequence[NonfiniteSighting]


class Examination:
    """The codes of two passes over an update, on the CPU, and the sightings found in them.

    Args:
        plan: plan of the update.
        anatomy: anatomy of the policy.
        first: codes of the pass in which only figures were checked.
        second: codes of the pass in which everything was watched.
        watch: watch of the second pass.

    Attributes:
        start: codes of the state before the update.
        start_step: Adam's step counter before the update.
        states: codes of the state before each minibatch of the second pass, and at its end.
        unscaled: codes of gradients without the fp16 loss scale, by minibatch; may be empty.
        hosts: indices of the hosts in each minibatch.
        active: active heads, `[T, N, H]`.
        prepared_log_probs: where old log-probabilities broke in the preparation, `[T, N, H]`.
        saturating: parameters that were broken before the update and broke nothing in a forward
            pass, bool `[P]`.
        state_broke_once: whether state broke in the second pass, and not in the first.
        ledger: sightings found so far.
    """

    def __init__(
        self,
        plan: Plan,
        anatomy: Anatomy,
        first: PassCodes,
        second: PassCodes,
        watch: UpdateWatch,
    ) -> None:
        self.plan, self.anatomy = plan, anatomy
        self.first, self.second = first, second
        self.unscaled = to_host(watch.unscaled_codes)
        self.start, *during = states_to_host([watch.start, *watch.states])
        self.start_step = float(watch.start_step)
        self.states = [*during, second.end]
        sizes = [len(hosts) for hosts in plan.minibatches]
        self.hosts = torch.cat(list(plan.minibatches)).cpu().split(sizes)
        self.active = plan.rollout.active.cpu()
        self.prepared_log_probs = torch.zeros_like(self.active)
        self.saturating = torch.zeros_like(self.start.parameters, dtype=torch.bool)
        self.state_broke_once = False
        self.ledger = SightingLedger(plan.per_epoch)

    def nowhere(self) -> Tensor:
        """Return False for all steps and hosts, `[T, N]`."""
        return torch.zeros(self.active.shape[:2], dtype=torch.bool)

    def around(
        self,
        index: int,
        parameters: Tensor,
        prepared_trunk: Tensor,
        advantages: Tensor,
        phase: str = "update",
    ) -> Surroundings:
        """Return what may explain a minibatch from outside.

        Args:
            index: index of the minibatch, or of the part of the preparation.
            parameters: codes of the parameters it was computed with, `[P]`.
            prepared_trunk: where the trunk broke in the preparation, `[T, N]`.
            advantages: where a reported fault explains an advantage, `[T, N]`.
            phase: "update" or "preparation".
        """
        hosts = self.hosts[index]
        return Surroundings(
            hosts=hosts,
            active=self.active[:, hosts],
            parameters=parameters,
            prepared_trunk=prepared_trunk[:, hosts],
            prepared_log_probs=self.prepared_log_probs[:, hosts] & (phase == "update"),
            explained_advantages=advantages[:, hosts],
            saturating=self.saturating & (parameters == self.start.parameters),
        )

    def report_preparation(
        self,
        codes_by_part: Sequence[Codes],
        others_by_part: Sequence[Codes] | None,
        parameters: Tensor,
        explaining: set[int],
    ) -> tuple[Tensor, Tensor]:
        """Report what broke in the preparation; return where trunk and value did, `[T, N]`.

        Args:
            codes_by_part: codes of one pass.
            others_by_part: codes of the other pass, in which a part must have broken too to count
                as reproduced; None if it was not reproduced.
            parameters: codes of the parameters it was computed with, `[P]`.
            explaining: receives the owners of parameters that explain something.
        """
        trunk, value = self.broken_in_preparation(codes_by_part)
        for part, codes in enumerate(codes_by_part):
            hosts = self.hosts[part]
            found, owners = causes_in(
                codes,
                self.anatomy,
                self.around(part, parameters, self.nowhere(), self.nowhere(), "preparation"),
                with_inputs=False,
            )
            explaining |= owners
            reproduced = others_by_part is not None and is_any(others_by_part[part])
            for finding in found:
                self.ledger.add(finding, "preparation", reproduced=reproduced)
            self.prepared_log_probs[:, hosts] |= codes["old_log_prob"] > 0
        return trunk, value

    def broken_in_preparation(self, codes_by_part: Sequence[Codes]) -> tuple[Tensor, Tensor]:
        """Return where trunk and value broke in the preparation, each `[T, N]`."""
        trunk, value = self.nowhere(), self.nowhere()
        for hosts, codes in zip(self.hosts, codes_by_part, strict=False):
            trunk[:, hosts] = (codes["trunk"] > 0).any(2)
            value[:, hosts] = codes["value"] > 0
        return trunk, value

    def has_parted(self, index: int) -> bool:
        """Return whether the passes took different steps before a minibatch."""
        one, other = self.first.figures, self.second.figures

        def taken(figures: Figures) -> Tensor:
            return (figures.bad | figures.overflow | figures.stopped)[:index]

        return not torch.equal(taken(one), taken(other))
