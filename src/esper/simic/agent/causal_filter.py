"""Causes and consequences: of all that was not finite in a minibatch, what nothing else explains.

One NaN spreads to nearly everything computed after it, so that what is reported must be its cause.
Causes are matched by host, step and path of computation: a NaN observation explains what the trunk
does in the same host from that step on, and nothing in another host; a weight of one head explains
nothing in the trunk. Within a head every quantity is reported that no shared failure explains,
since an infinite logit is an Inf that becomes a NaN in its log-probability.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from esper.leyline.sighting_words import STEP_COUNTER
from esper.leyline.telemetry import SHARED
from esper.simic.agent.nonfinite_codes import KINDS, Codes, StateCodes

#: Owners of parameters that are no head's.
TRUNK, CRITIC = -1, -2


@dataclass(frozen=True)
class Finding:
    """One cause: what was not finite, and where first."""

    head: str  # a head's name, or SHARED
    quantity: str
    kind: str
    host: int | None = None  # counted from 0
    step: int | None = None  # counted from 1
    part: str = ""

    @property
    def source(self) -> tuple[str, str, str]:
        """Return what was not finite: group, quantity and kind."""
        return self.head, self.quantity, self.kind


@dataclass(frozen=True)
class Anatomy:
    """What the causal order needs to know of a policy.

    Attributes:
        heads: names.
        head_of_choice: the number of the head that each choice belongs to, `[total]`.
        owner: of each parameter, `[P]`: the number of a head, TRUNK or CRITIC.
        choice: the choice whose logit a parameter makes, `[P]`; -1 for trunk and critic.
        names: of the parameter tensors, in the order in which they lie.
        bounds: where each of them ends, in the same order.
    """

    heads: tuple[str, ...]
    head_of_choice: Tensor
    owner: Tensor
    choice: Tensor
    names: Sequence[str]
    bounds: Sequence[int]

    def part_at(self, place: int) -> str:
        """Return the name of the parameter tensor that holds a place of the flat one."""
        return next(name for name, end in zip(self.names, self.bounds, strict=True) if place < end)

    def head_name(self, owner: int) -> str:
        """Return the name under which what belongs to an owner is reported."""
        return self.heads[owner] if owner >= 0 else SHARED


@dataclass(frozen=True)
class Surroundings:
    """What may explain a minibatch from outside of it.

    Attributes:
        hosts: numbers of its hosts, `[n]`.
        active: which heads counted, `[T, n, H]`.
        parameters: codes of the parameters it was computed with, `[P]`.
        saturating: which of them are known to leave the forward pass finite, bool `[P]`.
        prepared_trunk: where the trunk broke while old log-probabilities were computed, `[T, n]`.
        prepared_log_probs: where those were broken before the first minibatch, `[T, n, H]`.
        explained_advantages: where what acting broke explains an advantage, `[T, n]`.
        heads_sent: whether the trunk was sent broken derivatives that the codes do not show.
    """

    hosts: Tensor
    active: Tensor
    parameters: Tensor
    prepared_trunk: Tensor
    prepared_log_probs: Tensor
    explained_advantages: Tensor
    saturating: Tensor
    heads_sent: bool = False


@dataclass
class _Search:
    """Findings of one minibatch, and the parameters that explained something."""

    anatomy: Anatomy
    around: Surroundings
    findings: list[Finding] = field(default_factory=list)
    guilty: set[int] = field(default_factory=set)  # owners of parameters

    def report(self, head: str, quantity: str, codes: Tensor, explained: Tensor) -> None:
        """Add a finding for each kind that stands where nothing explains it.

        Args:
            head: a head's name, or SHARED.
            quantity: its name.
            codes: `[T, n]` or `[T, n, …]`.
            explained: `[T, n]`.
        """
        by_place = codes.flatten(2) if codes.ndim > 2 else codes.unsqueeze(2)  # [T, n, …]
        open_codes = by_place.masked_fill(explained.unsqueeze(2), 0)
        for kind in range(1, len(KINDS)):
            places = (open_codes == kind).any(2).nonzero()
            if len(places):
                step, column = places[0].tolist()
                host = int(self.around.hosts[column])
                self.findings.append(Finding(head, quantity, KINDS[kind], host, step + 1))

    def report_heads(self, quantity: str, codes: Tensor, explained: Tensor) -> None:
        """Do so for each head; `codes` and `explained` are `[T, n, H]`."""
        for number, head in enumerate(self.anatomy.heads):
            if codes[..., number].any():
                self.report(head, quantity, codes[..., number], explained[..., number])

    def report_whole(self, head: str, quantity: str, codes: Tensor) -> None:
        """Add a finding for each kind in codes that belong to no host."""
        for kind in range(1, len(KINDS)):
            if (codes == kind).any():
                self.findings.append(Finding(head, quantity, KINDS[kind]))

    def has_bad_weights(self, owner: int) -> bool:
        """Return whether an owner has a broken weight that derivatives are multiplied by."""
        return bool((self._weights() & (self.anatomy.owner == owner)).any())

    def has_infinite_weights(self, owner: int) -> bool:
        """Return whether an owner has a weight of Inf that may have broken a forward pass.

        A NaN breaks every place. An Inf breaks those in which it meets a 0 or another Inf; in the
        others it may saturate a gate.
        """
        suspects = (self.anatomy.owner == owner) & ~self.around.saturating
        is_nan = self.around.parameters == KINDS.index("nan")
        return bool((self._weights() & suspects & ~is_nan).any())

    def _weights(self) -> Tensor:
        """Return which parameters are broken and no biases, bool `[P]`."""
        found = self.around.parameters > 0
        start = 0
        for name, end in zip(self.anatomy.names, self.anatomy.bounds, strict=True):
            if "bias" in name:
                found[start:end] = False
            start = end
        return found

    def has_bad_parameters(self, owner: int) -> bool:
        """Return whether an owner has a broken parameter that may have broken a forward pass."""
        suspects = (self.anatomy.owner == owner) & ~self.around.saturating
        return bool(self.around.parameters[suspects].any())

    def bad_choices(self) -> Tensor:
        """Return the choices whose logits are made with a broken parameter, bool `[total]`."""
        bad = torch.zeros_like(self.anatomy.head_of_choice, dtype=torch.bool)
        choices = self.anatomy.choice[self.around.parameters > 0]
        bad[choices[choices >= 0]] = True
        return bad


def causes_in(
    codes: Codes, anatomy: Anatomy, around: Surroundings, *, with_inputs: bool = True
) -> tuple[list[Finding], set[int]]:
    """Return the causes in one minibatch, or in one part of the preparation.

    Args:
        codes: of `nonfinite_codes`, on the CPU. What is missing is taken for finite.
        anatomy: of the policy.
        around: what may explain it from outside.
        with_inputs: whether to report observations and the given recurrent state, too.

    Returns:
        Findings, and the owners of parameters that explained something.
    """
    search = _Search(anatomy, around)
    steps, hosts, heads = around.active.shape
    whole = around.active.new_zeros(steps, hosts)

    def bad(name: str) -> Tensor:
        """Return where a quantity is not finite, `[T, n]`."""
        found = codes.get(name)
        return whole if found is None else (found > 0).reshape(steps, hosts, -1).any(2)

    def bad_heads(name: str) -> Tensor:
        """Return where a quantity of each head is not finite, `[T, n, H]`."""
        found = codes.get(name)
        return torch.zeros_like(around.active) if found is None else found > 0

    _report_scalar(search, codes, "loss_scale", explained=False)
    observed = _from_then_on(bad("observations"))
    given = _state_bad(codes, "state given", hosts)
    if with_inputs and "observations" in codes:
        search.report(SHARED, "observations", codes["observations"], whole)
    if with_inputs:
        _report_state(search, codes, "state given", torch.zeros_like(given))

    # Trunk. A NaN in any of its parameters breaks it in every host and step, an Inf in a weight
    # in some.
    trunk = bad("trunk")
    trunk_explained = observed | given
    if (
        (search.has_infinite_weights(TRUNK) or (search.has_bad_parameters(TRUNK) and trunk.all()))
        and trunk.any()
        and not trunk_explained.expand_as(trunk).all()
    ):
        search.guilty.add(TRUNK)
        trunk_explained = torch.ones_like(trunk)
    if "trunk" in codes:
        search.report(SHARED, "trunk", codes["trunk"], trunk_explained)
    left_explained = trunk.any(0) | given | observed.any(0)
    _report_state(search, codes, "state left", left_explained)

    logits = torch.zeros_like(around.active)
    own = torch.zeros_like(around.active)
    by_trunk = trunk.unsqueeze(2).expand_as(logits)
    if "logits" in codes:
        logits = _by_head(codes["logits"] > 0, anatomy.head_of_choice, heads)
        bad_choices = search.bad_choices()
        own = _heads_broken_by_parameters(search, codes["logits"], bad_choices, trunk)
        others = codes["logits"].masked_fill(bad_choices, 0)
        _report_logits(search, others, by_trunk)
    by_preparation = around.prepared_trunk.unsqueeze(2) | own
    if "log_prob" not in codes:
        by_preparation = by_preparation | by_trunk  # this is the preparation
    forward = by_trunk | own
    for name, explained in (
        ("old_log_prob", by_preparation.expand_as(logits) | around.prepared_log_probs),
        ("log_prob", forward),
        ("ratio", forward | by_preparation),
        ("entropy", forward),
    ):
        if name in codes:
            search.report_heads(name, codes[name], explained)
    counted = around.active & (bad_heads("log_prob") | bad_heads("old_log_prob") | logits)
    counted_any = counted.any(2) | trunk
    # Ratios of single heads are not learnt from. One that overflows does so with the joint ratio;
    # the exponential of a finite value is never NaN or -inf.
    overflown = codes.get("ratio", torch.zeros(())) == KINDS.index("+inf")
    ratios_any = (around.active & overflown).any(2)
    joint = bad("joint_ratio")
    if "joint_ratio" in codes:
        search.report(SHARED, "joint_ratio", codes["joint_ratio"], counted_any | ratios_any)

    value = bad("value")
    value_explained = trunk
    if search.has_bad_parameters(CRITIC) and (value | trunk).all() and (value & ~trunk).any():
        search.guilty.add(CRITIC)
        value_explained = torch.ones_like(value)
    if "value" in codes:
        search.report(SHARED, "value", codes["value"], value_explained)
    advantages, returns = bad("advantages"), bad("returns")
    if "advantages" in codes:
        search.report(SHARED, "advantages", codes["advantages"], around.explained_advantages)
        returns_explained = around.explained_advantages | advantages
        search.report(SHARED, "returns", codes["returns"], returns_explained)

    policy_broke = bool((counted_any | joint | advantages).any())
    value_broke = bool((value | returns).any())
    entropies = bad_heads("entropy")
    terms = (
        _report_scalar(search, codes, "policy_loss", explained=policy_broke),
        _report_scalar(search, codes, "value_loss", explained=value_broke),
        _report_scalar(search, codes, "entropy_loss", explained=bool(entropies.any())),
    )
    whole_loss = _report_scalar(search, codes, "loss", explained=any(terms)) and not any(terms)
    if "gradient" in codes:
        # A loss that broke by itself, finite values and targets notwithstanding, may break all
        # derivatives; one that broke through a host's values breaks those of that host.
        _report_gradients(
            search,
            codes,
            trunk=trunk,
            shared_inputs=observed | given,
            logits=logits,
            of_ratio=counted_any | joint,
            all_of_ratio=bool(advantages.any()) or (terms[0] and not policy_broke) or whole_loss,
            of_value=value | returns,
            all_of_value=(terms[1] and not value_broke) or whole_loss,
            of_entropy=entropies,
            all_of_entropy=(terms[2] and not bool(entropies.any())) or whole_loss,
        )
    return search.findings, search.guilty


def _report_gradients(
    search: _Search,
    codes: Codes,
    *,
    trunk: Tensor,
    shared_inputs: Tensor,
    logits: Tensor,
    of_ratio: Tensor,
    all_of_ratio: bool,
    of_value: Tensor,
    all_of_value: bool,
    of_entropy: Tensor,
    all_of_entropy: bool,
) -> None:
    """Report where derivatives broke, from the loss backwards.

    Args:
        search: what is reported.
        codes: of the backward pass.
        trunk: where the trunk broke in the forward pass, `[T, n]`.
        shared_inputs: where what it was given did, `[T, n]`.
        logits: where those of each head did, `[T, n, H]`.
        of_ratio: where what leads to the joint ratio did, `[T, n]`.
        all_of_ratio: whether something did that all derivatives of the policy loss depend on.
        of_value: where values or their targets did, `[T, n]`.
        all_of_value: as `all_of_ratio`, of the value loss.
        of_entropy: where the entropy of each head did, `[T, n, H]`.
        all_of_entropy: as `all_of_ratio`, of the entropy loss.
    """
    anatomy, active = search.anatomy, search.around.active
    nowhere = torch.zeros_like(trunk)

    def bad(name: str) -> Tensor:
        found = codes.get(name)
        return nowhere if found is None else found > 0

    def heads_bad(name: str) -> Tensor:
        found = codes.get(name)
        return torch.zeros_like(active) if found is None else found > 0

    # The joint log-ratio: one derivative for all heads that were active in that step.
    ratios = heads_bad("log_ratios gradient")
    joint = bad("log_ratio gradient")
    joint = joint | ratios.all(2)
    explained = of_ratio | all_of_ratio
    if joint.any():
        found = codes["log_ratio gradient"] if bad("log_ratio gradient").any() else None
        if found is None:
            found = codes["log_ratios gradient"][..., 0].masked_fill(~joint, 0)
        search.report(SHARED, "gradient", found, explained)
    entropy = heads_bad("entropy gradient") & active
    if entropy.any():
        found = codes["entropy gradient"].masked_fill(~active, 0).amax(2)
        entropy_explained = (of_entropy | all_of_entropy).any(2) | joint
        search.report(SHARED, "gradient", found, entropy_explained)
    values = bad("value gradient")
    if values.any():
        search.report(SHARED, "gradient", codes["value gradient"], of_value | all_of_value | joint)

    # Logits: what comes from the ratio, from entropies, or from the logits themselves is explained.
    sent = (joint.unsqueeze(2) & active) | entropy | (of_ratio.unsqueeze(2) & active)
    sent = sent | logits | of_entropy | trunk.unsqueeze(2)
    by_logits = torch.zeros_like(active)
    if "logits gradient" in codes:
        by_logits = _by_head(bad("logits gradient"), anatomy.head_of_choice, active.shape[2])
        for number, head in enumerate(anatomy.heads):
            own = codes["logits gradient"][..., anatomy.head_of_choice == number]
            search.report(head, "gradient", own, sent[..., number])

    # Weights of the heads and the critic, which multiply a derivative by the trunk.
    gradient, owner = codes["gradient"], anatomy.owner
    broken = False
    trunk_broke = bool(trunk.any())
    for number, head in enumerate(anatomy.heads):
        rows = gradient[owner == number]
        if rows.any():
            broken = True
            is_sent = bool(by_logits[..., number].any() or sent[..., number].any())
            if not (is_sent or trunk_broke or all_of_ratio or all_of_entropy):
                search.report_whole(head, "gradient", rows)
    critic = gradient[owner == CRITIC]
    if critic.any():
        broken = True
        if not (values.any() or of_value.any() or all_of_value or trunk_broke):
            search.report_whole(SHARED, "gradient", critic)

    # The trunk gets what all of them send.
    received = bad("trunk gradient")
    passed_on = broken or bool(by_logits.any() or values.any()) or trunk_broke
    passed_on |= search.around.heads_sent
    by_weights = any(search.has_bad_weights(number) for number in range(CRITIC, len(anatomy.heads)))
    if received.any() and not (passed_on or by_weights):
        search.report(SHARED, "gradient", codes["trunk gradient"], nowhere)
    body = gradient[owner == TRUNK]
    is_sent = bool(received.any()) or ("trunk gradient" not in codes and passed_on)
    if (body.any() or received.any()) and search.has_bad_weights(TRUNK):
        search.guilty.add(TRUNK)  # an infinite weight that saturates: forward finite, backward not
        is_sent = True
    by_loss = all_of_ratio or all_of_value or all_of_entropy
    if body.any() and not (is_sent or by_loss or trunk_broke or shared_inputs.any()):
        search.report_whole(SHARED, "gradient", body)


def _report_scalar(search: _Search, codes: Codes, quantity: str, *, explained: bool) -> bool:
    """Report a scalar that nothing explains; return whether it is not finite."""
    found = codes.get(quantity)
    if found is None or not found.any():
        return False
    if not explained:
        search.report_whole(SHARED, quantity, found)
    return True


def _report_logits(search: _Search, codes: Tensor, explained: Tensor) -> None:
    """Report logits `[T, n, total]` of each head; `explained` is `[T, n, H]`."""
    for number, head in enumerate(search.anatomy.heads):
        own = codes[..., search.anatomy.head_of_choice == number]
        if own.any():
            search.report(head, "logits", own, explained[..., number])


def _heads_broken_by_parameters(
    search: _Search, logits: Tensor, bad_choices: Tensor, trunk: Tensor
) -> Tensor:
    """Return where a head's own broken parameters explain its logits, `[T, n, H]`.

    Args:
        search: remembers whose parameters explained something.
        logits: codes, `[T, n, total]`.
        bad_choices: choices whose logits are made with a broken parameter, `[total]`.
        trunk: where the trunk broke, `[T, n]`.
    """
    broken = (logits > 0) & bad_choices & ~trunk.unsqueeze(2)
    own = _by_head(broken, search.anatomy.head_of_choice, search.around.active.shape[2])
    for number in own.any(0).any(0).nonzero().flatten().tolist():
        search.guilty.add(number)
        own[..., number] |= trunk
    return own


def _state_bad(codes: Codes, name: str, hosts: int) -> Tensor:
    """Return in which hosts a recurrent state is not finite, `[n]`."""
    found = codes.get(name)
    if found is None:
        return torch.zeros(hosts, dtype=torch.bool)
    return (found > 0).any(2).any(0)


def _report_state(search: _Search, codes: Codes, name: str, explained: Tensor) -> None:
    """Report a recurrent state, codes `[2, n, lstm_size]`; `explained` is `[n]`."""
    found = codes.get(name)
    if found is None or not found.any():
        return
    step = 1 if name == "state given" else search.around.active.shape[0]
    for kind in range(1, len(KINDS)):
        columns = ((found == kind).any(2).any(0) & ~explained).nonzero()
        if len(columns):
            host = int(search.around.hosts[int(columns[0])])
            search.findings.append(Finding(SHARED, "recurrent_state", KINDS[kind], host, step))


def _by_head(broken: Tensor, head_of_choice: Tensor, heads: int) -> Tensor:
    """Return `[T, n, H]`, true where any choice of the head is true in `[T, n, total]`."""
    count = torch.zeros(*broken.shape[:2], heads, dtype=torch.int64)
    return count.index_add_(2, head_of_choice, broken.long()) > 0


def _from_then_on(broken: Tensor) -> Tensor:
    """Return `[T, n]`, true from the first step in which a host's column is true."""
    return broken.cummax(0).values if len(broken) else broken


def until_then(broken: Tensor) -> Tensor:
    """Return `[T, n]`, true up to the last step in which a host's column is true."""
    return broken.flip(0).cummax(0).values.flip(0) if len(broken) else broken


def mask_biases(codes: Tensor, anatomy: Anatomy) -> Tensor:
    """Return which parameters are the -inf by which a head forbids a choice, bool `[P]`.

    Args:
        codes: of the parameters, `[P]`, of which the biases of the heads are the last.
        anatomy: of the policy.
    """
    is_mask = torch.zeros_like(codes, dtype=torch.bool)
    choices = len(anatomy.head_of_choice)
    is_mask[-choices:] = codes[-choices:] == KINDS.index("-inf")
    return is_mask


def parameter_findings(codes: Tensor, anatomy: Anatomy, quantity: str) -> Iterator[Finding]:
    """Yield a finding for each owner and kind in codes `[P]`; trunk and critic are shared."""
    seen = set()
    for place in codes.nonzero().flatten().tolist():
        head = anatomy.head_name(int(anatomy.owner[place]))
        kind = KINDS[int(codes[place])]
        if (head, kind) not in seen:
            seen.add((head, kind))
            yield Finding(head, quantity, kind, part=anatomy.part_at(place))


def moment_findings(state: StateCodes, anatomy: Anatomy) -> Iterator[Finding]:
    """Yield a finding for each owner and kind in the moments, and for Adam's step counter."""
    seen = set()
    for name, codes in (("exp_avg", state.first_moment), ("exp_avg_sq", state.second_moment)):
        for found in parameter_findings(codes, anatomy, "moments"):
            if (found.head, found.kind) not in seen:
                seen.add((found.head, found.kind))
                part = f"{name} of {found.part}"
                yield Finding(found.head, found.quantity, found.kind, part=part)
    if state.step:
        yield Finding(SHARED, "moments", KINDS[int(state.step)], part=STEP_COUNTER)
