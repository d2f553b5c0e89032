"""Which kind of non-finite value stands where: codes of whole tensors, element by element.

A code is 0 where a value is finite or legal, and else the place of its kind in `KINDS`. Codes of
two passes over the same minibatch can be compared; `causal_filter` finds which explain which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from esper.simic.agent.losses import Minibatch, MinibatchTerms
from esper.tamiyo.policy import HeadTable, PolicyOutput, RecurrentState

KINDS = ("", "nan", "+inf", "-inf")

#: Tensors between the parameters and the loss whose gradients are looked at, by the name of
#: their code. They say where a derivative broke.
DERIVATIVES = (
    "log_ratio gradient",
    "log_ratios gradient",
    "entropy gradient",
    "logits gradient",
    "value gradient",
    "trunk gradient",
)
#: Codes that say something of the backward pass.
BACKWARD = (*DERIVATIVES, "gradient")

Codes = dict[str, Tensor]


def code_of(values: Tensor) -> Tensor:
    """Return the codes of values, uint8, in their shape."""
    codes = values.isnan().to(torch.uint8)
    codes += 2 * (values == torch.inf)
    codes += 3 * (values == -torch.inf)
    return codes


def logit_codes(logits: Tensor, batch: Minibatch, table: HeadTable) -> Tensor:
    """Return the codes of raw logits `[T, n, total]`.

    -inf is how a policy may say "never" of a choice that the mask forbids, so there it is legal,
    unless that very choice was taken by a head that was active.
    """
    illegal = table.joint(batch.illegal)  # [T, n, total]
    columns = batch.actions + table.offsets
    taken = torch.zeros_like(illegal).scatter(-1, columns, batch.active)
    codes = code_of(logits)
    return codes.masked_fill((logits == -torch.inf) & illegal & ~taken, 0)


def forward_codes(
    batch: Minibatch, terms: MinibatchTerms, loss_scale: Tensor, table: HeadTable
) -> Codes:
    """Return the codes of everything that the loss of a minibatch is made of."""
    return {
        "loss_scale": scale_code(loss_scale),
        "observations": code_of(batch.observations),
        "advantages": code_of(batch.advantages),
        "returns": code_of(batch.returns),
        **output_codes(batch, terms.output, table),
        "old_log_prob": code_of(batch.old_log_probs) * batch.active,
        "log_prob": code_of(terms.log_probs) * batch.active,
        "ratio": code_of(terms.ratios),
        "entropy": code_of(terms.entropies),
        "joint_ratio": _first_code(code_of(terms.joint_ratio), code_of(terms.log_ratio)),
        "policy_loss": code_of(terms.policy_loss),
        "value_loss": code_of(terms.value_loss),
        "entropy_loss": code_of(terms.entropy_loss),
        "loss": code_of(terms.loss),
    }


def _first_code(codes: Tensor, others: Tensor) -> Tensor:
    """Return `codes`, and the others where those are 0.

    The joint log-ratio may be -inf although the log-ratio of each head is finite. The ratio is then
    0, and the divergence infinite.
    """
    return torch.where(codes > 0, codes, others)


def output_codes(batch: Minibatch, output: PolicyOutput, table: HeadTable) -> Codes:
    """Return the codes of what the policy was given and what it returned."""
    return {
        "state given": _state_codes(batch.initial_state),
        "trunk": code_of(output.trunk),
        "logits": logit_codes(output.logits, batch, table),
        "value": code_of(output.values),
        "state left": _state_codes(output.state),
    }


def backward_codes(gradient: Tensor, derivatives: Sequence[Tensor | None]) -> Codes:
    """Return the codes of a gradient `[P]` and of the derivatives that led to it."""
    codes = {
        name: code_of(values)
        for name, values in zip(DERIVATIVES, derivatives, strict=True)
        if values is not None
    }
    return codes | {"gradient": code_of(gradient)}


def _state_codes(state: RecurrentState) -> Tensor:
    """Return the codes of a hidden and a cell state, `[2, n, lstm_size]`."""
    return code_of(torch.cat([part.float() for part in state]))


@dataclass(frozen=True)
class StateCodes:
    """Codes of all that an update starts from or leaves behind."""

    parameters: Tensor  # [P]
    first_moment: Tensor  # [P]; exp_avg of Adam
    second_moment: Tensor  # [P]; exp_avg_sq of Adam; one below 0 counts as NaN, which its root is
    step: Tensor  # scalar; Adam's step counter; one below 0 counts as NaN
    loss_scale: Tensor  # scalar; one below 1 counts as NaN: it cannot grow out of 0

    @property
    def is_bad(self) -> bool:
        """Return whether anything has a code."""
        return any(bool(codes.any()) for codes in self.__dict__.values())

    def without(self, known: Tensor) -> "StateCodes":
        """Return the codes but those of parameters that are known, `[P]`, of the same kind."""
        return replace(self, parameters=excess(self.parameters, known.to(self.parameters.device)))

    @property
    def moments(self) -> Tensor:
        """Return the codes of both moments of each parameter, `[P]`; the first one's if both."""
        return torch.where(self.first_moment > 0, self.first_moment, self.second_moment)

    def excess(self, other: "StateCodes") -> "StateCodes":
        """Return the codes of what is finite in the other."""
        return StateCodes(
            *(
                mine.masked_fill(others > 0, 0)
                for mine, others in zip(
                    self.__dict__.values(), other.__dict__.values(), strict=True
                )
            )
        )


@torch.no_grad()
def state_codes(flat: Tensor, state: Mapping[str, Tensor], loss_scale: Tensor) -> StateCodes:
    """Return the codes of parameters `[P]`, of Adam's state of them, and of the loss scale.

    Args:
        flat: all parameters.
        state: as the optimizer keeps it; empty before its first step.
        loss_scale: a scalar.
    """
    nothing = torch.zeros_like(flat, dtype=torch.uint8)
    if not state:
        return StateCodes(code_of(flat), nothing, nothing, nothing[0], scale_code(loss_scale))
    return StateCodes(
        parameters=code_of(flat),
        first_moment=code_of(state["exp_avg"]),
        second_moment=_code_of_positive(state["exp_avg_sq"]),
        step=_code_of_positive(state["step"].to(flat.device)),
        loss_scale=scale_code(loss_scale),
    )


def scale_code(loss_scale: Tensor) -> Tensor:
    """Return the code of a loss scale, a scalar: one below 1 counts as NaN."""
    return code_of(loss_scale).masked_fill(
        (loss_scale < 1) & (loss_scale > -torch.inf), KINDS.index("nan")
    )


def _code_of_positive(values: Tensor) -> Tensor:
    """Return the codes of values that must not be negative: one that is counts as NaN."""
    return code_of(values).masked_fill((values < 0) & (values > -torch.inf), KINDS.index("nan"))


def excess(codes: Tensor, other: Tensor) -> Tensor:
    """Return `codes`, 0 where the other's are the same."""
    return codes.masked_fill(codes == other, 0)
