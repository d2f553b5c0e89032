"""Which part of a policy each parameter belongs to: a head, the trunk or the critic."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from esper.leyline.telemetry import SHARED
from esper.simic.agent.detection.codes import KINDS
from esper.simic.agent.flat_parameters import FlatParameters
from esper.tamiyo.policy import RecurrentPolicy

#: Owners of parameters that belong to no head.
TRUNK, CRITIC = -1, -2


@dataclass(frozen=True)
class Anatomy:
    """Owners and places of all parameters.

    Attributes:
        heads: names of the heads.
        head_of_choice: index of the head that each choice belongs to, `[total]`.
        owner: owner of each parameter, `[P]`: index of a head, TRUNK or CRITIC.
        choice: the choice whose logit a parameter computes, `[P]`; -1 for trunk and critic.
        names: names of the parameter tensors, in the order of the flat tensor.
        bounds: end of each of them in the flat tensor.
    """

    heads: tuple[str, ...]
    head_of_choice: Tensor
    owner: Tensor
    choice: Tensor
    names: Sequence[str]
    bounds: Sequence[int]

    def part_at(self, place: int) -> str:
        """Return the name of the parameter tensor at an index of the flat one."""
        return next(name for name, end in zip(self.names, self.bounds, strict=True) if place < end)

    def head_name(self, owner: int) -> str:
        """Return the head or SHARED, under which the parameters of an owner are reported."""
        return self.heads[owner] if owner >= 0 else SHARED

    def is_bias(self) -> Tensor:
        """Return which parameters are biases, bool `[P]`."""
        found = torch.zeros_like(self.owner, dtype=torch.bool)
        start = 0
        for name, end in zip(self.names, self.bounds, strict=True):
            found[start:end] = "bias" in name
            start = end
        return found

    def forbidding_biases(self, codes: Tensor) -> Tensor:
        """Return which parameters are the -inf by which a head forbids a choice, bool `[P]`.

        Args:
            codes: codes of the parameters, `[P]`; the biases of the heads are the last of them.
        """
        found = torch.zeros_like(codes, dtype=torch.bool)
        choices = len(self.head_of_choice)
        found[-choices:] = codes[-choices:] == KINDS.index("-inf")
        return found


def anatomy_of(policy: RecurrentPolicy, parameters: FlatParameters) -> Anatomy:
    """Return the anatomy of a policy, on the CPU."""
    heads = {id(parameter) for parameter in policy.heads.parameters()}
    critic = {id(parameter) for parameter in policy.critic.parameters()}
    choices = policy.table.head_of_choice.cpu()
    owners, choices_of = [], []
    for parameter in parameters.parameters:
        if id(parameter) in heads:
            width = parameter.reshape(len(choices), -1).shape[1]
            owners.append(choices.repeat_interleave(width))
            choices_of.append(torch.arange(len(choices)).repeat_interleave(width))
        else:
            owner = CRITIC if id(parameter) in critic else TRUNK
            owners.append(torch.full((parameter.numel(),), owner))
            choices_of.append(torch.full((parameter.numel(),), -1))
    return Anatomy(
        heads=policy.layout.names,
        head_of_choice=choices,
        owner=torch.cat(owners),
        choice=torch.cat(choices_of),
        names=parameters.names,
        bounds=list(accumulate(parameter.numel() for parameter in parameters.parameters)),
    )
