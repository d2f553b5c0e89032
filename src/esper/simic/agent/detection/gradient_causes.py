"""Causes of non-finite gradients: where derivatives broke, from the loss backwards."""

from dataclasses import dataclass

import torch
from torch import Tensor

from esper.leyline.telemetry import SHARED
from esper.simic.agent.detection.anatomy import CRITIC, TRUNK
from esper.simic.agent.detection.cause_search import CauseSearch


@dataclass(frozen=True)
class _LossReasons:
    """What the forward pass explains of the derivatives of the loss.

    A loss that broke although everything it is computed from is finite may break all derivatives.
    One that broke through a host's values breaks those of that host.

    Attributes:
        ratio: where what leads to the joint ratio broke, `[T, n]`.
        all_ratio: whether something broke that all derivatives of the policy loss depend on.
        value: where values or their targets broke, `[T, n]`.
        all_value: as `all_ratio`, of the value loss.
        entropy: where the entropy of each head broke, `[T, n, H]`.
        all_entropy: as `all_ratio`, of the entropy loss.
    """

    ratio: Tensor
    all_ratio: bool
    value: Tensor
    all_value: bool
    entropy: Tensor
    all_entropy: bool


def report_gradients(search: CauseSearch, others: Tensor) -> None:
    """Report derivatives and gradients wherever nothing explains them.

    Args:
        search: where the minibatch broke; receives the findings.
        others: where anything else explains a derivative, `[T, n]`.
    """
    reasons = _reasons_of(search, others)
    joint, entropy, values = _report_loss_derivatives(search, reasons)
    active = search.around.active

    # Logits: what comes from the ratio, from entropies, or from the logits themselves is explained.
    sent = (joint.unsqueeze(2) & active) | entropy | (reasons.ratio.unsqueeze(2) & active)
    sent = sent | search.logits | reasons.entropy | search.trunk.unsqueeze(2)
    by_logits = torch.zeros_like(active)
    if "logits gradient" in search.codes:
        codes = search.codes["logits gradient"]
        for number, head in enumerate(search.anatomy.heads):
            own = codes[..., search.anatomy.head_of_choice == number]
            by_logits[..., number] = (own > 0).any(2)
            search.report_steps(head, "gradient", own, sent[..., number])

    is_broken = _report_head_and_critic(search, reasons, sent | by_logits, values)
    passed_on = is_broken or bool(by_logits.any() or values.any())
    _report_trunk(search, reasons, passed_on=passed_on)


def _reasons_of(search: CauseSearch, others: Tensor) -> _LossReasons:
    losses = [search.is_broken(name) for name in ("policy_loss", "value_loss", "entropy_loss")]
    whole_loss = search.is_broken("loss") and not any(losses)
    entropy = search.heads("entropy")
    advantages = bool(search.steps("advantages").any())
    by_policy = losses[0] and not search.policy_broke
    by_value = losses[1] and not search.values_broke
    by_entropy = losses[2] and not bool(entropy.any())
    return _LossReasons(
        ratio=search.probabilities | search.steps("joint_ratio") | others,
        all_ratio=advantages or by_policy or whole_loss,
        value=search.steps("value") | search.steps("returns") | others,
        all_value=by_value or whole_loss,
        entropy=entropy,
        all_entropy=by_entropy or whole_loss,
    )


def _report_loss_derivatives(
    search: CauseSearch, reasons: _LossReasons
) -> tuple[Tensor, Tensor, Tensor]:
    """Report derivatives of the loss by the joint log-ratio, entropies and values.

    Returns:
        Where those by the joint log-ratio broke, `[T, n]`; by entropies, `[T, n, H]`; by values,
        `[T, n]`.
    """
    codes, active = search.codes, search.around.active
    # The joint log-ratio: one derivative for all heads that were active in that step.
    joint = search.heads("log_ratios gradient").all(2)
    if joint.any():
        found = codes["log_ratios gradient"][..., 0].masked_fill(~joint, 0)
        search.report_steps(SHARED, "gradient", found, reasons.ratio | reasons.all_ratio)
    entropy = search.heads("entropy gradient") & active
    if entropy.any():
        found = codes["entropy gradient"].masked_fill(~active, 0).amax(2)
        explained = (reasons.entropy | reasons.all_entropy).any(2) | joint
        search.report_steps(SHARED, "gradient", found, explained)
    values = search.steps("value gradient")
    if values.any():
        explained = reasons.value | reasons.all_value | joint
        search.report_steps(SHARED, "gradient", codes["value gradient"], explained)
    return joint, entropy, values


def _report_head_and_critic(
    search: CauseSearch, reasons: _LossReasons, sent: Tensor, values: Tensor
) -> bool:
    """Report gradients of the heads and the critic, which multiply a derivative by the trunk.

    Args:
        search: the search.
        reasons: what the forward pass explains.
        sent: where a head received a broken derivative, or broke in the forward pass, `[T, n, H]`.
        values: where the derivative by the value broke, `[T, n]`.

    Returns:
        Whether any of these gradients is broken.
    """
    trunk_broke = bool(search.trunk.any())
    is_broken = False
    for number, head in enumerate(search.anatomy.heads):
        own = _of_layer(search, number)
        if own.any():
            is_broken = True
            is_sent = bool(sent[..., number].any())
            if not (is_sent or trunk_broke or reasons.all_ratio or reasons.all_entropy):
                search.report_whole(head, "gradient", own)
    critic = _of_layer(search, CRITIC)
    if critic.any():
        is_broken = True
        if not (values.any() or reasons.value.any() or reasons.all_value or trunk_broke):
            search.report_whole(SHARED, "gradient", critic)
    return is_broken


def _of_layer(search: CauseSearch, owner: int) -> Tensor:
    """Return the codes of the gradients of a head's or the critic's biases, or of all its weights.

    The gradient of a bias is a sum of derivatives, so that it has their kind. Those of the weights
    are products with the trunk, in which an Inf takes any sign. They count where no bias broke.
    """
    gradient, is_own = search.codes["gradient"], search.anatomy.owner == owner
    biases = gradient[is_own & search.anatomy.is_bias()]
    return biases if biases.any() else gradient[is_own]


def _report_trunk(search: CauseSearch, reasons: _LossReasons, *, passed_on: bool) -> None:
    """Report gradients of the trunk, which receives what heads and critic pass on."""
    codes, owner = search.codes, search.anatomy.owner
    received = search.steps("trunk gradient")
    trunk_broke = bool(search.trunk.any())
    passed_on = passed_on or trunk_broke or search.around.heads_sent
    owners = range(CRITIC, len(search.anatomy.heads))
    by_weights = any(search.has_bad_weights(number) for number in owners)
    if received.any() and not (passed_on or by_weights):
        nowhere = torch.zeros_like(search.trunk)
        search.report_steps(SHARED, "gradient", codes["trunk gradient"], nowhere)
    body = codes["gradient"][owner == TRUNK]
    is_sent = bool(received.any())
    if "trunk gradient" not in codes:  # what heads pass on breaks biases of all gates of the LSTM
        biases = codes["gradient"][(owner == TRUNK) & search.anatomy.is_bias()]
        is_sent = (passed_on or by_weights) and int((biases > 0).sum()) > 1
    if (body.any() or received.any()) and search.has_bad_weights(TRUNK):
        # An infinite weight that saturates: finite forward, not backward.
        search.explaining.add(TRUNK)
        is_sent = True
    by_loss = reasons.all_ratio or reasons.all_value or reasons.all_entropy
    by_inputs = bool((search.observed | search.given).any())
    if body.any() and not (is_sent or by_loss or trunk_broke or by_inputs):
        search.report_whole(SHARED, "gradient", body)
