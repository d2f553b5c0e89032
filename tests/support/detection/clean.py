"""Cases of the detection campaign in which nothing breaks, and those over several updates."""

from contextlib import nullcontext

import torch

from detection.backgrounds import (
    HOSTILE,
    LEGAL_INFINITIES,
    fits,
    forbidden_logits_are_minus_infinity,
    huge_returns,
    known_saturated_bias,
    ordinary,
    overflowing_loss_scale,
    reward_of_the_largest_float,
)
from detection.reference import scanning
from detection.stage import Stage, is_finite, with_parts
from detection.state_faults import GIVEN_FAULTS
from detection.verdict import (
    FALSE_ALARM,
    MISSED,
    UNSOUND,
    Complaint,
    complaint_of_clean,
    complaint_of_faults,
)
from esper.leyline.telemetry import SHARED
from esper.simic.agent.figures import UpdateResult

Verdict = tuple[str, Complaint | None]

#: Minibatches in a row whose overflow the fp16 loss scale excuses.
EXCUSED_IN_A_ROW = 16


def run_hostile(stage: Stage, turn: int, *, is_scanned: bool) -> Verdict | None:
    """Run one clean update on one hostile background, or on two or three at once."""
    backgrounds = [HOSTILE[turn % len(HOSTILE)]]
    if (turn // len(HOSTILE)) % 2:
        backgrounds += stage.random.sample(HOSTILE, stage.random.choice((1, 2)))
    backgrounds = list(dict.fromkeys(backgrounds))
    if {huge_returns, reward_of_the_largest_float} <= set(backgrounds):
        return None  # together they overflow
    # This background makes an update, which must use the rollout of the others: it comes last.
    backgrounds.sort(key=lambda background: background is known_saturated_bias)
    if not all(background(stage) for background in backgrounds):
        return None
    name = backgrounds[0].__name__ if len(backgrounds) == 1 else "several at once"
    finite = is_finite(stage)
    with scanning(stage) if is_scanned else nullcontext() as scan:
        result = stage.update()
    complaint = complaint_of_clean(result)
    if complaint is None and finite and not is_finite(stage):
        complaint = FALSE_ALARM, "the state is not finite afterwards"
    if scan is not None and stage.config.amp != "fp16" and scan.created:
        complaint = UNSOUND, f"something broke: {scan.created[:5]}"
    return name, _named(complaint, backgrounds)


def _named(complaint: Complaint | None, backgrounds: list) -> Complaint | None:
    names = ", ".join(background.__name__ for background in backgrounds)
    return complaint and (complaint[0], f"{complaint[1]} on {names}")


def run_sequence(stage: Stage, turn: int) -> Verdict | None:
    """Run several clean updates in a row: a legal infinity costs a second pass only once.

    An overflow of the fp16 scale is not a lasting infinity: each one is checked.
    """
    choices = (ordinary, *LEGAL_INFINITIES)
    background = choices[turn % len(choices)]
    updates = min(4, EXCUSED_IN_A_ROW // len(stage.plan))
    if updates < 2 or not background(stage):
        return None
    complaint = None
    for number in range(updates):
        stage.plan_again()
        result = stage.update()
        complaint = complaint_of_clean(result)
        free = background in (ordinary, forbidden_logits_are_minus_infinity, known_saturated_bias)
        is_due = background is not overflowing_loss_scale and (
            (free and stage.config.amp != "fp16") or number > 0
        )
        is_due = is_due and not result.figures.minibatches_rescaled
        if complaint is None and is_due and stage.passes > 1:
            complaint = FALSE_ALARM, f"update {number + 1} made {stage.passes} passes"
        if complaint:
            break
    return f"several on {background.__name__}", complaint


def run_settling(stage: Stage) -> Verdict | None:
    """Run twelve updates of one minibatch each while the fp16 loss scale finds its place."""
    stage.rollout = with_parts(stage.rollout, rewards=stage.rollout.rewards * 1e4)
    for number in range(12):
        complaint = complaint_of_clean(stage.update())
        if complaint:
            return "settling scale", (complaint[0], f"update {number + 1}: {complaint[1]}")
    return "settling scale", None


def run_endless_overflow(stage: Stage) -> Verdict | None:
    """Run updates that overflow until the loss scale's rule no longer excuses it."""
    stage.agent.loss_scale.scale = torch.full_like(stage.agent.loss_scale.scale, 2.0**126)
    for number in range(EXCUSED_IN_A_ROW):
        complaint = complaint_of_clean(stage.update())
        if complaint:
            return "endless overflow", (complaint[0], f"minibatch {number + 1}: {complaint[1]}")
    return "endless overflow", _complaint_of_overflow(stage.update())


def _complaint_of_overflow(result: UpdateResult) -> Complaint | None:
    groups = {(seen.head, seen.quantity) for seen in result.figures.head_nonfinite}
    if groups != {(SHARED, "gradient")}:
        return MISSED, f"the overflow of minibatch {EXCUSED_IN_A_ROW + 1} is reported as {groups}"
    return None


def run_given(stage: Stage, turn: int) -> Verdict | None:
    """Run an update whose state was broken before it; if that is harmless, two more."""
    fault = GIVEN_FAULTS[turn % len(GIVEN_FAULTS)]
    backgrounds = (ordinary, *LEGAL_INFINITIES)
    background = backgrounds[turn // len(GIVEN_FAULTS) % len(backgrounds)]
    if not fits(background, fault.name, lasting=True, is_gradient=False):
        background = ordinary
    if (fault.needs_moments and not stage.is_warm) or not background(stage):
        return None
    sight = fault.plant(stage, stage.where())
    if sight is None:
        return None
    is_harmless = fault.reach == "shown" and _is_harmless(stage)
    complaint = complaint_of_faults(stage.update(), [sight])
    if complaint or not is_harmless or background is overflowing_loss_scale:
        return fault.name, _named(complaint, [background])
    for number in (2, 3):
        stage.plan_again()
        complaint = complaint_of_clean(stage.update())
        if complaint is None and stage.passes > 1 and stage.config.amp != "fp16":
            complaint = FALSE_ALARM, f"{stage.passes} passes"
        if complaint:
            return fault.name, (complaint[0], f"update {number}: {complaint[1]}")
    return fault.name, None


def _is_harmless(stage: Stage) -> bool:
    """Return whether forward and backward pass are finite, even if the state is broken."""
    types = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = types[stage.config.amp]
    with torch.autocast("cpu", dtype) if dtype else nullcontext():
        output = stage.policy(stage.rollout.observations, stage.rollout.initial_state)
    total = output.logits.sum() + output.values.sum()
    gradients = torch.autograd.grad(total, list(stage.policy.parameters()))
    return all(bool(part.isfinite().all()) for part in (output.trunk, total, *gradients))
