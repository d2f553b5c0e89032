"""Causes and consequences: of everything non-finite in a minibatch, what nothing else explains.

One NaN spreads to nearly everything computed after it, so that only causes are reported. Causes are
matched by host, step and path of computation: a NaN observation explains what the trunk does in the
same host from that step on, and nothing in another host; a weight of one head explains nothing in
the trunk. Within a head, every quantity is reported that no shared failure explains, since an
infinite logit is an Inf that becomes a NaN in its log-probability.

`RULES` says where a quantity is explained. A quantity without a rule is explained wherever one
broke that its `explained_by` in `esper.leyline.quantities` names.
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from esper.leyline.quantities import EXPLAINED_BY
from esper.leyline.telemetry import SHARED
from esper.simic.agent.detection.anatomy import CRITIC, TRUNK, Anatomy
from esper.simic.agent.detection.cause_search import CauseSearch, Surroundings
from esper.simic.agent.detection.codes import KINDS, Codes
from esper.simic.agent.detection.findings import Finding
from esper.simic.agent.detection.gradient_causes import report_gradients
from esper.simic.agent.detection.readers import FORWARD, Axes, Reader


def causes_in(
    codes: Codes, anatomy: Anatomy, around: Surroundings, *, with_inputs: bool = True
) -> tuple[list[Finding], set[int]]:
    """Return the causes in one minibatch, or in one part of the preparation.

    Args:
        codes: codes of `readers`, on the CPU. What is missing is taken for finite.
        anatomy: anatomy of the policy.
        around: what may explain it from outside.
        with_inputs: whether to report observations and the given recurrent state, too.

    Returns:
        Findings, and the owners of parameters that explained something.
    """
    search = CauseSearch(codes, anatomy, around)
    search.report_whole(SHARED, "loss_scale", codes.get("loss_scale"))
    for reader in FORWARD:
        if search.is_broken(reader.code) and (with_inputs or not reader.is_input):
            search.report(reader, _explained(search, reader))
    if "gradient" in codes:
        report_gradients(search, _by_table(search, "gradient", with_rules=False).any(2))
    return search.findings, search.explaining


def _nothing_explains_hosts(search: CauseSearch) -> Tensor:
    return torch.zeros_like(search.given)


def _nothing_explains_steps(search: CauseSearch) -> Tensor:
    return torch.zeros_like(search.trunk)


def _trunk_explained(search: CauseSearch) -> Tensor:
    """A NaN parameter of the trunk breaks every host and step, an Inf in a weight some of them."""
    trunk, explained = search.trunk, search.observed | search.given
    by_weights = search.has_infinite_weights(TRUNK)
    by_parameters = by_weights or (search.has_bad_parameters(TRUNK) and bool(trunk.all()))
    if by_parameters and trunk.any() and not explained.expand_as(trunk).all():
        search.explaining.add(TRUNK)
        return torch.ones_like(trunk)
    return explained


def _value_explained(search: CauseSearch) -> Tensor:
    value, trunk = search.steps("value"), search.trunk
    is_everywhere = bool((value | trunk).all() and (value & ~trunk).any())
    if search.has_bad_parameters(CRITIC) and is_everywhere:
        search.explaining.add(CRITIC)
        return torch.ones_like(value)
    return trunk


def _joint_ratio_explained(search: CauseSearch) -> Tensor:
    """Ratios of single heads are not in the loss. One that overflows does so with the joint ratio;
    the exponential of a finite value is never NaN or -inf.
    """
    overflown = search.codes.get("ratio", torch.zeros(())) == KINDS.index("+inf")
    return search.probabilities | (search.around.active & overflown).any(2)


#: Where each quantity is explained, by the name of its codes.
RULES: Final[Mapping[str, Callable[[CauseSearch], Tensor]]] = {
    "observations": _nothing_explains_steps,
    "state given": _nothing_explains_hosts,
    "advantages": lambda search: search.around.explained_advantages,
    "returns": lambda search: search.around.explained_advantages | search.steps("advantages"),
    "trunk": _trunk_explained,
    "state left": lambda search: search.trunk.any(0) | search.given | search.observed.any(0),
    "logits": lambda search: search.trunk.unsqueeze(2).expand_as(search.around.active),
    "old_log_prob": lambda search: search.preparation | search.around.prepared_log_probs,
    "log_prob": lambda search: search.forward,
    "ratio": lambda search: search.forward | search.preparation,
    "entropy": lambda search: search.forward,
    "joint_ratio": _joint_ratio_explained,
    "value": _value_explained,
    "policy_loss": lambda search: torch.tensor(search.policy_broke),
    "value_loss": lambda search: torch.tensor(search.values_broke),
    "entropy_loss": lambda search: search.heads("entropy").any(),
    "loss": lambda search: torch.tensor(
        any(map(search.is_broken, ("policy_loss", "value_loss", "entropy_loss")))
    ),
}


def _explained(search: CauseSearch, reader: Reader) -> Tensor:
    """Return where a quantity is explained: `[T, n]`, `[T, n, H]`, `[n]` or a scalar."""
    rule = RULES.get(reader.code)
    explained = _by_table(search, reader.quantity, with_rules=rule is None)
    if reader.axes not in (Axes.HEADS, Axes.CHOICES):
        explained = explained.any(2)
    if reader.axes is Axes.HOSTS:
        explained = explained.any(0)
    if reader.axes is Axes.SCALAR:
        explained = explained.any()
    return explained if rule is None else explained | rule(search)


def _by_table(search: CauseSearch, quantity: str, *, with_rules: bool) -> Tensor:
    """Return where a quantity broke that `EXPLAINED_BY` names, `[T, n, H]`.

    Args:
        search: the search.
        quantity: the quantity to be explained.
        with_rules: whether quantities with a rule count, too. What those explain in one another is
            part of their rules.
    """
    explained = torch.zeros_like(search.around.active)
    for reader in FORWARD:
        is_reason = reader.quantity in EXPLAINED_BY[quantity]
        if is_reason and (with_rules or reader.code not in RULES) and reader.code in search.codes:
            explained = explained | _spread(search, reader)
    if with_rules and "parameters" in EXPLAINED_BY[quantity]:
        explained = explained | search.own
    return explained


def _spread(search: CauseSearch, reader: Reader) -> Tensor:
    """Return where a quantity broke, in the shape `[T, n, H]`."""
    broken = search.codes[reader.code] > 0
    if reader.axes is Axes.CHOICES:
        broken = search.by_head(broken)
    elif reader.axes is Axes.HOSTS:
        broken = broken.any(2).any(0).unsqueeze(1)
    elif reader.axes is Axes.STEPS:
        broken = search.steps(reader.code).unsqueeze(2)
    return broken.expand_as(search.around.active)
