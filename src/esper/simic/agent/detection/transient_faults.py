"""Faults that happened once: the first pass over an update shows them, the second does not.

Of each tensor, the elements that differ between the passes are examined by themselves, so that a
fault that happened once is found even if other values are non-finite, and distinguished from them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from esper.leyline.telemetry import SHARED
from esper.leyline.text.sighting_words import STEP_COUNTER
from esper.simic.agent.detection.anatomy import CRITIC, TRUNK
from esper.simic.agent.detection.causal_filter import causes_in
from esper.simic.agent.detection.codes import KINDS, Codes, StateCodes, code_of, difference, is_any
from esper.simic.agent.detection.examination import Examination
from esper.simic.agent.detection.findings import Finding, moment_findings, parameter_findings
from esper.simic.agent.detection.readers import BACKWARD, without_backward
from esper.simic.agent.figures import AT_ONCE

#: Codes of heads, `[T, n, …]`, that follow from a trunk that broke in both passes.
_PER_HEAD: Final = ("logits", "log_prob", "ratio", "entropy")
#: Quantity and part under which a figure is reported that broke alone; others are quantities.
_FIGURE_OF: Final = {
    "gradient_norm": ("gradient", "norm"),
    "approximate_kl": ("joint_ratio", "divergence"),
}


def report_transient(exam: Examination) -> None:
    """Report what only the first pass saw, as not reproduced."""
    first, second = exam.first, exam.second
    lasting = {(seen.head, seen.quantity, seen.kind) for seen in exam.ledger.sightings()}
    prepared = [
        _differences(mine, others)
        for mine, others in zip(first.prepared, second.prepared, strict=True)
    ]
    exam.prepared_log_probs = torch.zeros_like(exam.active)
    no_parameters = torch.zeros_like(exam.start.parameters)
    trunk, _ = exam.report_preparation(prepared, None, no_parameters, set())
    examined = {index: _only_first(exam, index) for index in first.minibatches}
    state = first.end.where_finite_in(second.end)
    first_broken = _first_broken(exam, examined, state.parameters)  # [P]
    for index, codes in examined.items():
        parameters = state.parameters.masked_fill(first_broken > index, 0)
        around = replace(
            exam.around(index, parameters, trunk, exam.nowhere()),
            heads_sent=_heads_sent(exam, index, codes),
        )
        for finding in causes_in(codes, exam.anatomy, around)[0]:
            # Once the passes have parted, a lasting fault continues differently in each.
            if not (exam.has_parted(index) and finding.source in lasting):
                exam.ledger.add(finding, "update", index, reproduced=False)
    _report_state(exam, state, first_broken)


def report_figures(exam: Examination) -> None:
    """Report figures of the first pass that broke although all they are computed from is finite."""
    first, second = exam.first.figures.scalars, exam.second.figures.scalars
    for index, codes in exam.first.minibatches.items():
        if is_any(codes):
            continue
        for name in AT_ONCE:
            if code := int(code_of(first[name][index])):
                quantity, part = _FIGURE_OF.get(name, (name, ""))
                again = not bool(second[name][index].isfinite())
                finding = Finding(SHARED, quantity, KINDS[code], part=part)
                exam.ledger.add(finding, "update", index, reproduced=again)


def _report_state(exam: Examination, state: StateCodes, first_broken: Tensor) -> None:
    """Report state that broke in the first pass only.

    Args:
        exam: both passes; receives the sightings.
        state: codes at the end of the first pass that the second does not have.
        first_broken: first minibatch that each broken parameter can have reached, `[P]`.
    """
    first, start = exam.first, exam.start
    index = max(int(first_broken.min()) - 1, 0) if state.parameters.any() else 0
    for finding in moment_findings(state, exam.anatomy):
        exam.ledger.add(finding, "update", index, reproduced=False)
    if first.end.step or start.step:
        return  # Adam's step counter explains whatever its step did
    is_clock_right = first.figures.state[-2] == exam.start_step + first.figures.steps
    if state.parameters.any() and not is_clock_right:
        finding = Finding(SHARED, "moments", "nan", part=STEP_COUNTER)
        exam.ledger.add(finding, "update", index, reproduced=False)
        return
    by_moments = (first.end.moments > 0) | (start.moments > 0)
    by_step = state.parameters.masked_fill(by_moments, 0)
    for at in first_broken.unique().tolist():
        broken = by_step.masked_fill(first_broken != at, 0)
        for finding in parameter_findings(broken, exam.anatomy, "parameters"):
            exam.ledger.add(finding, "update", max(at - 1, 0), reproduced=False)


def _heads_sent(exam: Examination, index: int, codes: Codes) -> bool:
    """Return whether heads or critic may have broken the derivatives that the trunk received.

    The first pass keeps no derivatives of the trunk's output.

    Args:
        exam: both passes.
        index: index of the minibatch.
        codes: codes in which the first pass differs from the second.
    """
    outside = exam.anatomy.owner != TRUNK
    is_same = not exam.has_parted(index) and not is_any(without_backward(codes))
    again = exam.second.minibatches[index]["gradient"]
    if is_same and "gradient" in codes and not again[~outside].any():
        # What breaks in both passes alike sends on the same in both, and there it broke no trunk.
        return bool(codes["gradient"][outside].any())
    weights = exam.states[index].parameters.masked_fill(exam.anatomy.is_bias(), 0)
    gradient = exam.first.minibatches[index]["gradient"]
    return bool((gradient[outside] | weights[outside]).any())


def _first_broken(exam: Examination, examined: Mapping[int, Codes], parameters: Tensor) -> Tensor:
    """Return the first minibatch that each parameter can have reached broken, `[P]`.

    A broken parameter shows in every minibatch from then on: one of the trunk or the critic in
    every host and step, one of a head in the logit of its choice. One that saturates a gate may
    show in gradients alone.

    Args:
        exam: both passes.
        examined: codes of the minibatches in which the first pass differs, by index.
        parameters: codes of those that are broken at the end of the first pass only, `[P]`.
    """
    first_broken = torch.full_like(parameters, len(exam.hosts), dtype=torch.int64)
    anatomy = exam.anatomy
    for owner in anatomy.owner[parameters > 0].unique().tolist():
        mine = (anatomy.owner == owner) & (parameters > 0)
        choices = anatomy.choice[mine].unique()
        for index in reversed(range(len(exam.hosts))):
            if index not in examined:
                break
            # Gradients that the loss scale explains are not reported, but may show it.
            first, second = exam.first.minibatches[index], exam.second.minibatches[index]
            broke_backward = bool(difference(first["gradient"], second["gradient"]).any())
            if not (broke_backward or _shows(examined[index], owner, choices)):
                break
            first_broken[mine] = index
    # A broken moment breaks its parameter in the first step that is taken.
    figures = exam.first.figures
    stepped = (~(figures.bad | figures.overflow | figures.stopped)).nonzero()
    if len(stepped):
        by_moments = (exam.start.moments > 0) & (parameters > 0)
        first_broken[by_moments] = first_broken[by_moments].clamp(max=int(stepped[0]) + 1)
    return first_broken


def _only_first(exam: Examination, index: int) -> Codes:
    """Return the codes of a minibatch in which the first pass differs from the second."""
    first, second = exam.first.minibatches[index], exam.second.minibatches[index]
    codes = _differences(first, second)
    if exam.has_parted(index):  # by then, what broke in both may have broken in other ways
        codes = {name: values.masked_fill(second[name] > 0, 0) for name, values in codes.items()}
        trunk = ((first["trunk"] > 0) & (second["trunk"] > 0)).any(2, keepdim=True)  # [T, n, 1]
        codes |= {name: codes[name].masked_fill(trunk, 0) for name in _PER_HEAD if name in codes}
    elif is_any(without_backward(codes)):
        # A forward pass that differs gives other kinds to gradients that broke in both.
        codes |= {
            name: codes[name].masked_fill(second[name] > 0, 0) for name in BACKWARD if name in codes
        }
    is_ordinary = bool(exam.first.figures.overflow[index]) and (
        exam.has_parted(index) or exam.first.loss_scales[index] != exam.second.loss_scales[index]
    )
    # The scale explains it: it is broken, or the passes had reached different weights by then.
    by_scale = is_ordinary or bool(first["loss_scale"])
    return without_backward(codes) if by_scale else codes


def _shows(codes: Codes, owner: int, choices: Tensor) -> bool:
    """Return whether the forward pass of a minibatch may have used a broken parameter.

    Args:
        codes: codes of the minibatch.
        owner: owner of the parameter.
        choices: choices whose logits it computes, if it belongs to a head.
    """
    trunk = (codes["trunk"] > 0).any(2)  # [T, n]
    if owner == TRUNK:
        return bool(trunk.all())
    if owner == CRITIC:
        return bool(((codes["value"] > 0) | trunk).all())
    return bool(trunk.all() or (codes["logits"][..., choices] > 0).flatten(0, 1).any(0).all())


def _differences(codes: Codes, others: Codes) -> Codes:
    return {
        name: difference(values, others[name]) for name, values in codes.items() if name in others
    }
