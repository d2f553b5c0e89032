"""How each watched quantity is read from an update: one table per place in which it is computed.

`FORWARD` lists what the loss of a minibatch is computed from, `DERIVATIVES` what the backward pass
computes between the loss and the parameters, and `STATE` what an update starts from and leaves
behind. Names, scopes and explanations are those of `esper.leyline.quantities`. Detection, causal
filter and replay iterate over these tables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import torch
from torch import Tensor

from esper.leyline.quantities import CAUSAL_ORDER
from esper.simic.agent.detection.codes import (
    Codes,
    StateCodes,
    code_of,
    code_of_nonnegative,
    code_of_scale,
)
from esper.simic.agent.minibatch import Minibatch, MinibatchTerms, Preparation
from esper.tamiyo.policy import HeadTable, PolicyOutput

Tensors = Tensor | tuple[Tensor, ...]
AdamState = Mapping[str, Tensor]  # empty before the first step


class Axes(Enum):
    """What the axes of a quantity's codes are."""

    SCALAR = auto()  # no axes
    STEPS = auto()  # [T, n] or [T, n, …]: steps and hosts
    HEADS = auto()  # [T, n, H]
    CHOICES = auto()  # [T, n, total]: the choices of all heads side by side
    HOSTS = auto()  # [2, n, lstm_size]: recurrent state of each host


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How a quantity is read from a minibatch. Exactly one `from_…` is given.

    Attributes:
        quantity: name in `QUANTITIES`.
        axes: axes of its codes.
        from_batch: reads it from what the minibatch was given.
        from_output: reads it from the policy's output.
        from_terms: reads it from the terms of the loss.
        part: name of this part of the quantity, where several readers read one; used for its codes.
        is_input: existed before the update; not reported from the preparation.
        only_active: counts only where its head is active.
        otherwise: reads another tensor of the same shape. Its codes count where the quantity's own
            are 0.
    """

    quantity: str
    axes: Axes
    from_batch: Callable[[Minibatch], Tensors] | None = None
    from_output: Callable[[PolicyOutput], Tensors] | None = None
    from_terms: Callable[[MinibatchTerms], Tensors] | None = None
    part: str = ""
    is_input: bool = False
    only_active: bool = False
    otherwise: Callable[[MinibatchTerms], Tensor] | None = None

    @property
    def code(self) -> str:
        """Return the name of its codes."""
        return self.part or self.quantity

    def tensors(
        self, batch: Minibatch, output: PolicyOutput, terms: MinibatchTerms | None
    ) -> tuple[Tensor, ...]:
        """Return the tensors of the quantity; none if they are of terms that are not given."""
        found: Tensors = ()
        if self.from_batch:
            found = self.from_batch(batch)
        elif self.from_output:
            found = self.from_output(output)
        elif self.from_terms and terms is not None:
            found = self.from_terms(terms)
        return (found,) if isinstance(found, Tensor) else found

    def codes(
        self,
        batch: Minibatch,
        output: PolicyOutput,
        terms: MinibatchTerms | None,
        table: HeadTable,
    ) -> Tensor:
        """Return the codes of the quantity, with the axes that `axes` says."""
        tensors = self.tensors(batch, output, terms)
        if self.axes is Axes.CHOICES:
            return logit_codes(tensors[0], batch, table)
        if self.axes is Axes.HOSTS:
            return code_of(torch.cat([part.float() for part in tensors]))
        codes = code_of(tensors[0])
        if self.otherwise is not None and terms is not None:
            codes = torch.where(codes > 0, codes, code_of(self.otherwise(terms)))
        return codes * batch.active if self.only_active else codes


#: What the loss of a minibatch is computed from, in causal order.
FORWARD: Final = (
    Reader(
        quantity="observations",
        axes=Axes.STEPS,
        from_batch=lambda batch: batch.observations,
        is_input=True,
    ),
    Reader(
        quantity="recurrent_state",
        part="state given",
        axes=Axes.HOSTS,
        from_batch=lambda batch: batch.initial_state,
        is_input=True,
    ),
    Reader(quantity="advantages", axes=Axes.STEPS, from_batch=lambda batch: batch.advantages),
    Reader(quantity="returns", axes=Axes.STEPS, from_batch=lambda batch: batch.returns),
    Reader(quantity="trunk", axes=Axes.STEPS, from_output=lambda output: output.trunk),
    Reader(
        quantity="recurrent_state",
        part="state left",
        axes=Axes.HOSTS,
        from_output=lambda output: output.state,
    ),
    Reader(quantity="logits", axes=Axes.CHOICES, from_output=lambda output: output.logits),
    Reader(
        quantity="old_log_prob",
        axes=Axes.HEADS,
        from_batch=lambda batch: batch.old_log_probs,
        only_active=True,
    ),
    Reader(
        quantity="log_prob",
        axes=Axes.HEADS,
        from_terms=lambda terms: terms.log_probs,
        only_active=True,
    ),
    Reader(quantity="ratio", axes=Axes.HEADS, from_terms=lambda terms: terms.ratios),
    # The joint log-ratio may be -inf although the log-ratio of each head is finite. The ratio is
    # then 0, and the approximate KL divergence infinite.
    Reader(
        quantity="joint_ratio",
        axes=Axes.STEPS,
        from_terms=lambda terms: terms.joint_ratio,
        otherwise=lambda terms: terms.log_ratio,
    ),
    Reader(quantity="entropy", axes=Axes.HEADS, from_terms=lambda terms: terms.entropies),
    Reader(quantity="value", axes=Axes.STEPS, from_output=lambda output: output.values),
    Reader(quantity="policy_loss", axes=Axes.SCALAR, from_terms=lambda terms: terms.policy_loss),
    Reader(quantity="value_loss", axes=Axes.SCALAR, from_terms=lambda terms: terms.value_loss),
    Reader(quantity="entropy_loss", axes=Axes.SCALAR, from_terms=lambda terms: terms.entropy_loss),
    Reader(quantity="loss", axes=Axes.SCALAR, from_terms=lambda terms: terms.loss),
)

#: Tensors between the loss and the parameters whose gradients are watched, by the names of the
#: gradients' codes. All of them are the quantity "gradient". The second pass examines all of them,
#: the first pass only those of `FiniteCheck.derivable`, which come first.
DERIVATIVES: Final[Mapping[str, Callable[[MinibatchTerms], Tensor]]] = {
    "log_ratios gradient": lambda terms: terms.log_ratios,
    "entropy gradient": lambda terms: terms.entropies,
    "trunk gradient": lambda terms: terms.output.trunk,
    "logits gradient": lambda terms: terms.output.logits,
    "value gradient": lambda terms: terms.output.values,
}
#: Codes of the backward pass.
BACKWARD: Final = (*DERIVATIVES, "gradient")

#: State that an update starts from and leaves behind: by field of `StateCodes` the quantity, and
#: what reads its codes from parameters `[P]`, Adam's state of them, and the loss scale.
STATE: Final[Mapping[str, tuple[str, Callable[[Tensor, AdamState, Tensor], Tensor]]]] = {
    "parameters": ("parameters", lambda flat, _, __: code_of(flat)),
    "first_moment": ("moments", lambda _, adam, __: code_of(adam["exp_avg"])),
    "second_moment": ("moments", lambda _, adam, __: code_of_nonnegative(adam["exp_avg_sq"])),
    "step": ("moments", lambda _, adam, __: code_of_nonnegative(adam["step"])),
    "loss_scale": ("loss_scale", lambda _, __, loss_scale: code_of_scale(loss_scale)),
}


def check_tables() -> None:
    """Check that every quantity has a reader, and every reader a quantity."""
    read = {reader.quantity for reader in FORWARD} | {name for name, _ in STATE.values()}
    read.add("gradient")
    if wrong := read ^ set(CAUSAL_ORDER):
        raise ImportError(
            f"{', '.join(sorted(wrong))}: a watched quantity needs an entry in QUANTITIES "
            "(esper/leyline/quantities.py) and a reader (esper/simic/agent/detection/readers.py)"
        )


check_tables()


def forward_codes(
    batch: Minibatch, terms: MinibatchTerms, loss_scale: Tensor, table: HeadTable
) -> Codes:
    """Return the codes of everything that the loss of a minibatch is computed from."""
    return {"loss_scale": code_of_scale(loss_scale)} | {
        reader.code: reader.codes(batch, terms.output, terms, table) for reader in FORWARD
    }


def preparation_codes(preparation: Preparation, table: HeadTable) -> list[Codes]:
    """Return the codes of what each part of the preparation was given and computed."""
    found = []
    old = preparation.whole.old_log_probs
    for (batch, output), hosts in zip(preparation.parts, preparation.hosts, strict=True):
        codes = {
            reader.code: reader.codes(batch, output, None, table)
            for reader in FORWARD
            if reader.from_output or reader.is_input
        }
        codes["old_log_prob"] = code_of(old.index_select(1, hosts)) * batch.active
        found.append(codes)
    return found


def backward_codes(gradient: Tensor, derivatives: Sequence[Tensor | None]) -> Codes:
    """Return the codes of a gradient `[P]` and of the first or all of `DERIVATIVES`."""
    codes = {
        name: code_of(values)
        for name, values in zip(DERIVATIVES, derivatives, strict=False)
        if values is not None
    }
    return codes | {"gradient": code_of(gradient)}


@torch.no_grad()
def state_codes(flat: Tensor, adam: AdamState, loss_scale: Tensor) -> StateCodes:
    """Return the codes of the parameters `[P]`, of Adam's state of them, and of the loss scale."""
    if not adam:
        zeros = torch.zeros_like(flat)
        adam = {"exp_avg": zeros, "exp_avg_sq": zeros, "step": zeros[0]}
    codes = {name: read(flat, adam, loss_scale) for name, (_, read) in STATE.items()}
    return StateCodes(**{name: values.to(flat.device) for name, values in codes.items()})


def logit_codes(logits: Tensor, batch: Minibatch, table: HeadTable) -> Tensor:
    """Return the codes of raw logits `[T, n, total]`.

    A policy may use -inf to forbid a choice that the mask forbids anyway. It is legal there, unless
    that very choice was taken by an active head.
    """
    illegal = table.joint(batch.illegal)  # [T, n, total]
    columns = batch.actions + table.offsets
    taken = torch.zeros_like(illegal).scatter(-1, columns, batch.active)
    codes = code_of(logits)
    return codes.masked_fill((logits == -torch.inf) & illegal & ~taken, 0)


def without_backward(codes: Codes) -> Codes:
    """Return the codes of the forward pass."""
    return {name: values for name, values in codes.items() if name not in BACKWARD}
