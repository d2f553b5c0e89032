"""What happens after an update whose figures are not finite: it is repeated with a watch.

1. The tensors that the figures were computed from are examined.
2. The state from before the update is restored, and the update repeated from there. In this pass an
   `UpdateWatch` examines every tensor and skips every step that is not finite.
3. Both passes are compared. What the second one shows is reported with its causes
   (`lasting_faults`). What only the first one shows is reported as not reproduced
   (`transient_faults`).
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.detection.anatomy import Anatomy
from esper.simic.agent.detection.codes import StateCodes
from esper.simic.agent.detection.examination import Examination, Plan
from esper.simic.agent.detection.findings import state_findings
from esper.simic.agent.detection.lasting_faults import report_lasting
from esper.simic.agent.detection.pass_codes import (
    PassCodes,
    codes_of_figures,
    codes_of_watch,
    states_to_host,
)
from esper.simic.agent.detection.readers import preparation_codes
from esper.simic.agent.detection.sighting_ledger import SightingLedger, in_order
from esper.simic.agent.detection.transient_faults import report_figures, report_transient
from esper.simic.agent.detection.update_watch import UpdateWatch
from esper.simic.agent.figures import (
    Figures,
    Trace,
    UpdateResult,
    UpdateStart,
    summarise,
    without_minibatches,
)
from esper.simic.agent.minibatch import ForwardHook, Preparation

if TYPE_CHECKING:
    from esper.simic.agent.ppo import PPOAgent


def repeat_and_examine(
    agent: "PPOAgent",
    plan: Plan,
    preparation: Preparation,
    first_pass: tuple[Figures, list[Trace]],
    hook: ForwardHook | None,
    order_generator: Tensor,
) -> tuple[UpdateResult, bool]:
    """Return the result of an update with a figure that is not finite, and whether it began sound.

    Args:
        agent: the agent, after its first pass.
        plan: minibatches of the update.
        preparation: what the first pass computed before its first minibatch.
        first_pass: what the first pass left behind, as `PPOAgent.learn` returns it.
        hook: hook of the update.
        order_generator: state of that generator before the update.
    """
    state, table, heads = agent.state, agent.policy.table, agent.policy.layout.names
    figures, traces = first_pass
    first = codes_of_figures(
        traces, preparation_codes(preparation, table), state.codes(), figures, table
    )
    agreement = agent.agreement
    if not agreement.is_any(first.is_bad(state.known_codes)):
        return summarise(figures, plan.before), True  # only a sum overflowed
    state.restore()
    start = deepcopy(agent.state_dict()) | {"order_generator": order_generator}
    watch = UpdateWatch(
        agent.policy, agent.parameters, agent.optimizer, agent.loss_scale, agreement
    )
    preparation = agent.prepare(plan.rollout, plan.minibatches[: plan.per_epoch])
    figures, traces = agent.learn(preparation, plan.minibatches, watch, hook)
    second = codes_of_watch(traces, preparation_codes(preparation, table), watch, figures)
    is_start_bad = watch.start.without(state.known_codes).is_bad
    start_was_sound = not agreement.is_any(is_start_bad)
    own, harmless = examine(plan, state.anatomy, first, second, watch, state.known_codes)
    state.remember_known(agreement.any_of(harmless))
    found = agreement.joined(own)
    result = summarise(figures, in_order([*plan.before, *found], heads))
    result = replace(result, own=tuple(in_order(own, heads)))
    if not found:
        return result, start_was_sound
    # What only the second pass showed did not repeat either, but its minibatch was skipped.
    reproduced = agreement.is_any(bool(figures.bad.any())) or any(seen.reproduced for seen in found)
    update_start = UpdateStart(
        agent=start,
        minibatches=list(plan.minibatches),
        minibatches_per_epoch=plan.per_epoch,
        old_log_probs=preparation.whole.old_log_probs,
    )
    return replace(result, reproduced=reproduced, start=update_start), start_was_sound


def result_without_episodes(
    agent: "PPOAgent", before: Sequence[NonfiniteSighting]
) -> tuple[UpdateResult, bool]:
    """Return the result of an update without episodes, and whether the agent's state is sound.

    The agent's own state may be what broke every episode, so it is examined.
    """
    state, heads = agent.state, agent.policy.layout.names
    agreement = agent.agreement
    own, known, is_bad = seen_in_state(state.codes(), state.anatomy, state.known_codes)
    state.remember_known(agreement.any_of(known))
    result = without_minibatches(
        heads,
        in_order([*before, *agreement.joined(own)], heads),
        agent.optimizer.param_groups[0]["lr"],
        agent.loss_scale.scale.item() if agent.loss_scale.enabled else None,
    )
    result = replace(result, own=tuple(in_order(own, heads)))
    return result, not agreement.is_any(is_bad)


def examine(
    plan: Plan,
    anatomy: Anatomy,
    first: PassCodes,
    second: PassCodes,
    watch: UpdateWatch,
    known: Tensor,
) -> tuple[list[NonfiniteSighting], Tensor]:
    """Return what two passes over an update saw, causes only, and which parameters did no harm.

    Args:
        plan: plan of the update.
        anatomy: anatomy of the policy.
        first: codes of the pass in which only figures were checked.
        second: codes of the pass in which everything was watched.
        watch: watch of the second pass.
        known: codes of parameters that were reported in an earlier update and do no harm, `[P]`.

    Returns:
        Sightings in causal order, without those of `plan.before`; and the codes of the parameters
        that were broken when the update began and did no harm, `[P]`.
    """
    exam = Examination(plan, anatomy, first, second, watch)
    harmless = report_lasting(exam, known)
    report_transient(exam)
    report_figures(exam)
    return in_order(exam.ledger.sightings(), anatomy.heads), harmless


def seen_in_one_pass(
    plan: Plan, anatomy: Anatomy, codes: PassCodes, watch: UpdateWatch
) -> tuple[NonfiniteSighting, ...]:
    """Return what a single watched pass saw, in causal order."""
    exam = Examination(plan, anatomy, codes, codes, watch)
    report_lasting(exam, torch.zeros_like(codes.end.parameters))
    return tuple(in_order(exam.ledger.sightings(), anatomy.heads))


def seen_in_state(
    state: StateCodes, anatomy: Anatomy, known: Tensor
) -> tuple[list[NonfiniteSighting], Tensor, bool]:
    """Return what is broken in a state from which no update was made.

    Args:
        state: codes of the state.
        anatomy: anatomy of the policy.
        known: codes of parameters that were reported before, `[P]`.

    Returns:
        Sightings; the codes of all parameters, `[P]`, which are known from now on; and whether
        anything is broken that is not legal.
    """
    ledger = SightingLedger(per_epoch=1)
    state = states_to_host([state])[0]
    is_legal = anatomy.forbidding_biases(state.parameters)
    illegal = replace(state, parameters=state.parameters.masked_fill(is_legal, 0))
    for finding in state_findings(illegal.without(known), anatomy):
        ledger.add(finding, "given", reproduced=True)
    return ledger.sightings(), state.parameters, illegal.is_bad
