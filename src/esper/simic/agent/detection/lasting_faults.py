"""Faults that the watched pass over an update shows, with their causes."""

from dataclasses import replace

import torch
from torch import Tensor

from esper.leyline.telemetry import SHARED
from esper.simic.agent.detection.anatomy import CRITIC, TRUNK
from esper.simic.agent.detection.causal_filter import causes_in
from esper.simic.agent.detection.cause_search import until_then
from esper.simic.agent.detection.codes import Codes, code_of, is_any
from esper.simic.agent.detection.examination import Examination
from esper.simic.agent.detection.findings import (
    moment_findings,
    parameter_findings,
    state_findings,
)
from esper.simic.agent.detection.readers import without_backward


def report_lasting(exam: Examination, known: Tensor) -> Tensor:
    """Report what the second pass saw.

    Args:
        exam: both passes; receives the sightings.
        known: codes of parameters that were reported in an earlier update, `[P]`.

    Returns:
        The codes of the parameters that were broken before the update and did no harm, `[P]`.
    """
    start = exam.start
    explaining: set[int] = set()
    trunk, value = exam.broken_in_preparation(exam.second.prepared)
    saturating = _saturating(exam, trunk, value)
    # An infinite weight breaks some places and saturates in others; a bias does one of both.
    exam.saturating = saturating & exam.anatomy.is_bias()
    exam.report_preparation(exam.second.prepared, exam.first.prepared, start.parameters, explaining)
    exam.saturating = saturating
    advantages = _explained_advantages(exam, trunk, value)
    observed = {
        (seen.quantity, seen.kind, seen.host)
        for seen in exam.plan.before
        if seen.phase == "acting" and seen.quantity == "observations"
    }
    for index in range(len(exam.hosts)):
        found, owners = causes_in(
            _without_ordinary_overflow(exam, index),
            exam.anatomy,
            exam.around(index, exam.states[index].parameters, trunk, advantages),
        )
        explaining |= owners
        # What only the second pass shows did not repeat either, unless the passes parted.
        reproduced = index in exam.first.minibatches or exam.has_parted(index)
        for finding in found:
            if finding.quantity == "loss_scale" and start.loss_scale:
                continue
            if (finding.quantity, finding.kind, finding.host) not in observed:
                exam.ledger.add(finding, "update", index, reproduced=reproduced)
        _report_state_changes(exam, index)
    return _report_start(exam, explaining, known)


def _saturating(exam: Examination, trunk: Tensor, value: Tensor) -> Tensor:
    """Return which parameters were broken before the update and broke nothing in a forward pass.

    A broken parameter of trunk or critic that matters shows in every host and step; an infinite
    weight of the trunk in most hosts.

    Args:
        exam: both passes.
        trunk: where the trunk broke in the preparation, `[T, N]`.
        value: where the value broke there, `[T, N]`.

    Returns:
        bool `[P]`.
    """
    owner, broken = exam.anatomy.owner, exam.start.parameters > 0
    hosts = torch.cat(exam.hosts[: exam.plan.per_epoch])
    saturating = torch.zeros_like(broken)
    if not trunk[:, hosts].all():
        # An infinite recurrent weight may saturate in some steps and hosts, and break the others.
        is_widespread = trunk[:, hosts].any(0).float().mean() >= 0.5
        is_weight = ~exam.anatomy.is_bias() & is_widespread
        saturating |= broken & (owner == TRUNK) & ~is_weight
    if not (trunk | value)[:, hosts].all():
        saturating |= broken & (owner == CRITIC)
    return saturating


def _explained_advantages(exam: Examination, trunk: Tensor, value: Tensor) -> Tensor:
    """Return where a reported fault explains why an advantage broke, `[T, N]`.

    An advantage is computed from the rewards and values of its step and of all later ones. Values
    were computed while acting, from the same observations and with the same weights.

    Args:
        exam: both passes.
        trunk: where the trunk broke in the preparation, `[T, N]`.
        value: where the value broke there, `[T, N]`.
    """
    rollout = exam.plan.rollout

    def bad(values: Tensor) -> Tensor:
        return (code_of(values.cpu()) > 0).reshape(*values.shape[:2], -1).any(2)

    given = torch.stack([bad(part)[0] for part in rollout.initial_state]).any(0)  # [N]
    explained = bad(rollout.observations).cummax(0).values | given | trunk | value
    for seen in exam.plan.before:  # values do not depend on the logits of heads
        if seen.phase == "acting" and seen.head == SHARED and seen.host is not None:
            explained[:, seen.host] = True
    next_explained = torch.cat((explained[1:], explained[-1:]))
    values, next_values = bad(rollout.values), bad(rollout.next_values)
    next_values &= ~rollout.terminated.cpu()
    by_reported = (values & explained) | (next_values & next_explained)
    by_others = (values & ~explained) | (next_values & ~next_explained) | bad(rollout.rewards)
    return until_then(by_reported) & ~until_then(by_others)


def _without_ordinary_overflow(exam: Examination, index: int) -> Codes:
    """Return the codes of a minibatch of the second pass, without ordinary fp16 overflows."""
    codes = exam.second.minibatches[index]
    if not exam.unscaled:
        return codes
    unscaled, forward = exam.unscaled[index], without_backward(codes)
    if is_any(unscaled):
        return forward | unscaled
    # Where the forward pass broke already, the scale adds only noise.
    by_scale = is_any(forward) or bool(exam.second.figures.overflow[index])
    return forward if by_scale else codes


def _report_state_changes(exam: Examination, index: int) -> None:
    """Report the state that broke in a minibatch of the second pass.

    It counts as reproduced if the first pass broke its state, too, or had reached other weights.
    """
    start, before, after = exam.start, exam.states[index], exam.states[index + 1]
    is_last = index == len(exam.hosts) - 1
    moments = (after if is_last else before).where_finite_in(start)
    reproduced = _is_state_reproduced(exam, index + is_last)
    for finding in moment_findings(moments, exam.anatomy):
        exam.state_broke_once |= not reproduced
        exam.ledger.add(finding, "update", index, reproduced=reproduced)
    if before.step or after.step:
        return  # Adam's step counter explains whatever its step did
    known = before.parameters if index else start.parameters
    new = after.parameters.masked_fill(known > 0, 0)
    new = new.masked_fill((before.moments > 0) | (after.moments > 0), 0)
    reproduced = _is_state_reproduced(exam, index + 1)
    for finding in parameter_findings(new, exam.anatomy, "parameters"):
        exam.ledger.add(finding, "update", index, reproduced=reproduced)


def _is_state_reproduced(exam: Examination, index: int) -> bool:
    """Return whether state that the second pass broke before a minibatch is reproduced."""
    return exam.first.end.is_bad or (exam.has_parted(index) and not exam.state_broke_once)


def _report_start(exam: Examination, explaining: set[int], known: Tensor) -> Tensor:
    """Report state that was broken before the update; return the codes that did no harm, `[P]`.

    Args:
        exam: both passes; receives the sightings.
        explaining: owners of parameters that explained something.
        known: codes of parameters that were reported in an earlier update, `[P]`.
    """
    start, owners = exam.start, exam.anatomy.owner
    harmful = torch.isin(owners, torch.tensor(sorted(explaining), dtype=torch.int64))
    harmful &= ~exam.saturating
    new = (start.parameters > 0) & (start.parameters != known)
    harmful &= ~torch.isin(owners, owners[new]) | new  # what is new is the cause, if anything
    is_known = ~harmful & ~new
    # A bias of -inf by which a head forbids a choice is legal as long as it does no harm.
    is_legal = exam.anatomy.forbidding_biases(start.parameters) & ~harmful
    reported = start.parameters.masked_fill(is_known | is_legal, 0)
    for finding in state_findings(replace(start, parameters=reported), exam.anatomy):
        exam.ledger.add(finding, "given", reproduced=True)
    return start.parameters.masked_fill(harmful, 0)
