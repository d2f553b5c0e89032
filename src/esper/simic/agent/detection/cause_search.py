"""Where a minibatch broke, and the causes that are found in it."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from esper.leyline.telemetry import SHARED
from esper.simic.agent.detection.anatomy import Anatomy
from esper.simic.agent.detection.codes import KINDS, Codes
from esper.simic.agent.detection.findings import Finding
from esper.simic.agent.detection.readers import Axes, Reader


@dataclass(frozen=True)
class Surroundings:
    """What may explain a minibatch from outside of it.

    Attributes:
        hosts: indices of its hosts, `[n]`.
        active: active heads, `[T, n, H]`.
        parameters: codes of the parameters it was computed with, `[P]`.
        saturating: those of them that are known to leave the forward pass finite, bool `[P]`.
        prepared_trunk: where the trunk broke while old log-probabilities were computed, `[T, n]`.
        prepared_log_probs: where those were broken before the first minibatch, `[T, n, H]`.
        explained_advantages: where what broke while acting explains an advantage, `[T, n]`.
        heads_sent: whether the trunk received broken derivatives that the codes do not show.
    """

    hosts: Tensor
    active: Tensor
    parameters: Tensor
    prepared_trunk: Tensor
    prepared_log_probs: Tensor
    explained_advantages: Tensor
    saturating: Tensor
    heads_sent: bool = False


class CauseSearch:
    """Where a minibatch broke, the causes found in it, and the parameters that explained something.

    Attributes:
        findings: causes found so far.
        explaining: owners of parameters that explained something.
    """

    def __init__(self, codes: Codes, anatomy: Anatomy, around: Surroundings) -> None:
        self.codes = codes
        self.anatomy = anatomy
        self.around = around
        self.findings: list[Finding] = []
        self.explaining: set[int] = set()

    # Reporting

    def report(self, reader: Reader, explained: Tensor) -> None:
        """Report a quantity of the forward pass wherever nothing explains it.

        Args:
            reader: reader of the quantity.
            explained: where it is explained: `[T, n]`; `[T, n, H]` for a quantity of heads, `[n]`
                for a recurrent state, and a scalar for a scalar.
        """
        codes = self.codes[reader.code]
        if reader.axes is Axes.SCALAR:
            if not explained:
                self.report_whole(SHARED, reader.quantity, codes)
        elif reader.axes is Axes.HOSTS:
            self._report_hosts(reader, codes, explained)
        elif reader.axes is Axes.STEPS:
            self.report_steps(SHARED, reader.quantity, codes, explained)
        else:
            if reader.axes is Axes.CHOICES:
                self.explaining.update(self.own.flatten(0, 1).any(0).nonzero().flatten().tolist())
                codes = codes.masked_fill(self._bad_choices, 0)
            for number, head in enumerate(self.anatomy.heads):
                own = codes[..., number]
                if reader.axes is Axes.CHOICES:
                    own = codes[..., self.anatomy.head_of_choice == number]
                self.report_steps(head, reader.quantity, own, explained[..., number])

    def report_steps(self, head: str, quantity: str, codes: Tensor, explained: Tensor) -> None:
        """Report each kind where nothing explains it.

        Args:
            head: a head's name, or SHARED.
            quantity: name of the quantity.
            codes: `[T, n]` or `[T, n, …]`.
            explained: `[T, n]`.
        """
        by_place = codes.flatten(2) if codes.ndim > 2 else codes.unsqueeze(2)  # [T, n, …]
        unexplained = by_place.masked_fill(explained.unsqueeze(2), 0)
        for kind in range(1, len(KINDS)):
            places = (unexplained == kind).any(2).nonzero()
            if len(places):
                step, column = places[0].tolist()
                host = int(self.around.hosts[column])
                self.findings.append(Finding(head, quantity, KINDS[kind], host, step + 1))

    def report_whole(self, head: str, quantity: str, codes: Tensor | None) -> None:
        """Report each kind in codes that belong to no host."""
        for kind in range(1, len(KINDS)):
            if codes is not None and (codes == kind).any():
                self.findings.append(Finding(head, quantity, KINDS[kind]))

    def _report_hosts(self, reader: Reader, codes: Tensor, explained: Tensor) -> None:
        """Report a recurrent state; `explained` is `[n]`."""
        step = 1 if reader.is_input else self.around.active.shape[0]
        for kind in range(1, len(KINDS)):
            columns = ((codes == kind).any(2).any(0) & ~explained).nonzero()
            if len(columns):
                host = int(self.around.hosts[int(columns[0])])
                self.findings.append(Finding(SHARED, reader.quantity, KINDS[kind], host, step))

    # Where quantities broke

    def steps(self, code: str) -> Tensor:
        """Return where a shared quantity broke, `[T, n]`."""
        steps, hosts, _ = self.around.active.shape
        found = self.codes.get(code)
        if found is None:
            return self.around.active.new_zeros(steps, hosts)
        return (found > 0).reshape(steps, hosts, -1).any(2)

    def heads(self, code: str) -> Tensor:
        """Return where a quantity of each head broke, `[T, n, H]`."""
        found = self.codes.get(code)
        return torch.zeros_like(self.around.active) if found is None else found > 0

    def is_broken(self, code: str) -> bool:
        """Return whether a quantity broke anywhere."""
        return code in self.codes and bool(self.codes[code].any())

    @cached_property
    def observed(self) -> Tensor:
        """Where an observation is broken, and all later steps, `[T, n]`."""
        return from_then_on(self.steps("observations"))

    @cached_property
    def given(self) -> Tensor:
        """Hosts whose recurrent state was broken before the first step, `[n]`."""
        found = self.codes.get("state given")
        if found is None:
            return torch.zeros(self.around.active.shape[1], dtype=torch.bool)
        return (found > 0).any(2).any(0)

    @cached_property
    def trunk(self) -> Tensor:
        """Where the trunk broke, `[T, n]`."""
        return self.steps("trunk")

    @cached_property
    def logits(self) -> Tensor:
        """Where the logits of each head broke, `[T, n, H]`."""
        if "logits" not in self.codes:
            return torch.zeros_like(self.around.active)
        return self.by_head(self.codes["logits"] > 0)

    @cached_property
    def own(self) -> Tensor:
        """Where a head's own broken parameters explain its logits, `[T, n, H]`."""
        if "logits" not in self.codes:
            return torch.zeros_like(self.around.active)
        broken = (self.codes["logits"] > 0) & self._bad_choices & ~self.trunk.unsqueeze(2)
        own = self.by_head(broken)
        return own | (own.flatten(0, 1).any(0) & self.trunk.unsqueeze(2))

    @cached_property
    def forward(self) -> Tensor:
        """Where the trunk or a head's own parameters explain that head, `[T, n, H]`."""
        return self.trunk.unsqueeze(2).expand_as(self.own) | self.own

    @cached_property
    def preparation(self) -> Tensor:
        """Where the same explains what the preparation computed for a head, `[T, n, H]`."""
        if "log_prob" not in self.codes:  # these are the codes of the preparation
            return self.forward | self.around.prepared_trunk.unsqueeze(2)
        return self.around.prepared_trunk.unsqueeze(2) | self.own

    @cached_property
    def probabilities(self) -> Tensor:
        """Where what the joint ratio is computed from broke, `[T, n]`."""
        broken = self.heads("log_prob") | self.heads("old_log_prob") | self.logits
        return (self.around.active & broken).any(2) | self.trunk

    @cached_property
    def policy_broke(self) -> bool:
        """Whether anything broke that the policy loss is computed from."""
        broken = self.probabilities | self.steps("joint_ratio") | self.steps("advantages")
        return bool(broken.any())

    @cached_property
    def values_broke(self) -> bool:
        """Whether anything broke that the value loss is computed from."""
        return bool((self.steps("value") | self.steps("returns")).any())

    @cached_property
    def _bad_choices(self) -> Tensor:
        """Choices whose logits are computed with a broken parameter, bool `[total]`."""
        bad = torch.zeros_like(self.anatomy.head_of_choice, dtype=torch.bool)
        choices = self.anatomy.choice[self.around.parameters > 0]
        bad[choices[choices >= 0]] = True
        return bad

    def by_head(self, broken: Tensor) -> Tensor:
        """Return `[T, n, H]`, true where any choice of the head is true in `[T, n, total]`."""
        count = torch.zeros(self.around.active.shape, dtype=torch.int64)
        return count.index_add_(2, self.anatomy.head_of_choice, broken.long()) > 0

    # Parameters

    def has_bad_weights(self, owner: int) -> bool:
        """Return whether an owner has a broken weight that derivatives are multiplied by."""
        return bool((self._bad_weights & (self.anatomy.owner == owner)).any())

    def has_infinite_weights(self, owner: int) -> bool:
        """Return whether an owner has a weight of Inf that may have broken a forward pass.

        A NaN breaks every place. An Inf breaks those in which it meets a 0 or another Inf; in the
        others it may saturate a gate.
        """
        suspects = (self.anatomy.owner == owner) & ~self.around.saturating
        is_nan = self.around.parameters == KINDS.index("nan")
        return bool((self._bad_weights & suspects & ~is_nan).any())

    def has_bad_parameters(self, owner: int) -> bool:
        """Return whether an owner has a broken parameter that may have broken a forward pass."""
        suspects = (self.anatomy.owner == owner) & ~self.around.saturating
        return bool(self.around.parameters[suspects].any())

    @cached_property
    def _bad_weights(self) -> Tensor:
        return (self.around.parameters > 0) & ~self.anatomy.is_bias()


def from_then_on(broken: Tensor) -> Tensor:
    """Return `[T, n]`, true from the first step in which a host's column is true."""
    return broken.cummax(0).values if len(broken) else broken


def until_then(broken: Tensor) -> Tensor:
    """Return `[T, n]`, true up to the last step in which a host's column is true."""
    return broken.flip(0).cummax(0).values.flip(0) if len(broken) else broken
