"""What a policy decided in one host, and why that differs from what it does most often.

What a policy does most often is its most frequent plan in a few hosts of the task that it was
trained on. Where a decision differs from that plan, the probabilities of both choices are compared,
and each observed figure is replaced in turn by its mean in those hosts, from the first step on: the
figure whose replacement moves the probabilities most towards the plan is reported, with what the
policy would then have preferred. That is a statement about the policy, not about what is good.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from esper.growth.environment.observation import FEATURES
from esper.growth.export.module_source import short_name
from esper.growth.from_scratch import architecture_of
from esper.growth.tasks.loading import load_task
from esper.growth.tasks.task import Task
from esper.leyline.errors import EsperError
from esper.leyline.heads import ACTIVE_HEADS, HEAD_CHOICES, HEAD_NAMES, HEAD_SIZES, Op
from esper.simic.environment import make_environment
from esper.simic.evaluation.arena import agent_player, evaluation_seeds
from esper.simic.evaluation.plans import Plan, PlannedSeed, PlanRecorder, plan_words
from esper.simic.growing.records import Episode, Recorded
from esper.simic.training.trained_policy import TrainedPolicy
from esper.tamiyo.acting import mask_for_op

#: Hosts in which the most frequent plan is looked for, and their random seed.
_HOSTS, _RNG_SEED = 8, 2**20
#: Parts of a slot's observation that follow from the policy's own actions. They are not replaced.
_OWN = frozenset({"stage", "alpha", "target", "stage_steps", "blueprint", "style"})
_COLUMN = {name: column for column, name in enumerate(HEAD_NAMES)}
_FIRST = {name: sum(HEAD_SIZES[:column]) for name, column in _COLUMN.items()}
#: Heads that make a seed what it is.
_OF_A_SEED = ("blueprint", "style", "alpha_target")


@dataclass(frozen=True)
class Habit:
    """What a policy does most often.

    Attributes:
        plan: its most frequent plan.
        count, hosts: hosts that followed it, and all.
        task: name of their task.
        observations: mean observation in each step. `[T, F]`
    """

    plan: Plan
    count: int
    hosts: int
    task: str
    observations: np.ndarray


@dataclass(frozen=True)
class _Reading:
    """What a policy would do along one recorded episode, with the figures as they were or replaced.

    Attributes:
        names: what is replaced in each column: nothing, one figure after the other, all of them.
        log_probs: of every choice in each step. `[T, columns, total]`
    """

    names: tuple[str, ...]
    log_probs: np.ndarray

    def probability(self, step: int, head: str, choice: int, column: int = 0) -> float:
        """Return the probability of a choice."""
        return float(np.exp(self.log_probs[step, column, _FIRST[head] + choice]))


def habit_of(policy: TrainedPolicy, device: torch.device, task: Task) -> Habit:
    """Return what a policy does most often on its training task.

    Args:
        policy: the policy.
        device: device of the hosts.
        task: a task that is already loaded. It is used if it is the one of the training, or if that
            cannot be loaded here.
    """
    own, config = task, policy.config
    if config.task != task.name:
        try:
            own = load_task(config.task)
        except (EsperError, OSError):
            own = task
    env = make_environment(config, _HOSTS, device, own)
    recorder = PlanRecorder(agent_player(policy.policy.to(device), _RNG_SEED, 1))
    decide = recorder(_HOSTS, 0)
    observations, info = env.reset(seed=evaluation_seeds(_RNG_SEED, _HOSTS))
    seen = []
    for _ in range(env.steps):
        seen.append(observations)
        observations, *_, info = env.step(decide(observations, info))
    kept = architecture_of(*(info[name] for name in ("stage", "blueprint", "style", "alpha")))
    plan, count = recorder.most_frequent(kept)
    with np.errstate(invalid="ignore"):
        means = np.nan_to_num(np.stack(seen)).mean(axis=1)
    return Habit(plan, count, _HOSTS, short_name(own), means)


def decision_lines(
    policy: TrainedPolicy, episode: Episode, device: torch.device, task: Task
) -> list[str]:
    """Return the decisions of a policy in a grown network as lines of Markdown.

    Args:
        policy: the policy.
        episode: the network.
        device: device of policy and hosts.
        task: the task of the network.
    """
    habit = habit_of(policy, device, task)
    recorded = episode.recorded
    reading = _read(policy, recorded, habit.observations, device)
    decisions = list(_decisions(recorded))
    lines = [
        f"What the policy does most often, in {habit.count} of {habit.hosts} other hosts on "
        f"{habit.task}: {plan_words(habit.plan)}.",
        "",
    ]
    if decisions:
        lines += ["| step | decision | probability |", "|--:|---|--:|"]
        lines += [
            f"| {step + 1} | {_words(recorded.actions[step])} | "
            f"{_joint(reading, step, recorded.actions[step]):.2f} |"
            for step in decisions
        ]
        lines.append("")
    differences = list(_differences(recorded, reading, habit))
    if not differences:
        return [*lines, "The decisions are those of this plan."]
    return [*lines, *(f"- {sentence}" for sentence in differences)]


def _read(
    policy: TrainedPolicy, recorded: Recorded, usual: np.ndarray, device: torch.device
) -> _Reading:
    """Run the policy along a recorded episode, with figures as they were and replaced."""
    groups: dict[str, list[int]] = {}
    for number, feature in enumerate(FEATURES):
        name, _, part = feature.name.partition(".")
        if part.partition(".")[0] in _OWN or feature.name == "progress":
            continue
        groups.setdefault(f"{name}.{part}" if part else name, []).append(number)
    steps = len(recorded.observations)
    at = np.minimum(np.arange(steps), len(usual) - 1)
    observed = np.repeat(recorded.observations[:, None], len(groups) + 2, axis=1)
    everything = [number for numbers in groups.values() for number in numbers]
    for column, numbers in enumerate([*groups.values(), everything], start=1):
        observed[:, column, numbers] = usual[at][:, numbers]
    network = policy.policy
    with torch.no_grad():
        output = network(
            torch.as_tensor(observed, device=device),
            network.initial_state(observed.shape[1]),
        )
        masks = torch.as_tensor(recorded.masks, device=device)
        op = torch.as_tensor(recorded.actions[:, _COLUMN["op"]], device=device)
        slot_masks = torch.as_tensor(recorded.slot_masks, device=device)
        for_op = mask_for_op(masks, slot_masks, op)
        # The op is drawn before it limits the slots, and does not depend on them.
        log_probs = network.head_log_probs(output.logits, for_op[:, None].expand_as(output.logits))
        joint = network.table.joint(log_probs)
    return _Reading(("", *groups, "all of them"), joint.cpu().numpy())


def _decisions(recorded: Recorded) -> Sequence[int]:
    """Return the steps with a legal op other than WAIT."""
    op, slot = (recorded.actions[:, _COLUMN[name]] for name in ("op", "slot"))
    legal = recorded.slot_masks[np.arange(len(op)), op, slot]
    steps: list[int] = np.flatnonzero((op != Op.WAIT) & legal).tolist()
    return steps


def _words(action: np.ndarray) -> str:
    """Return a decision in words: the op, and the choices of the heads that it uses."""
    op = Op(int(action[_COLUMN["op"]]))
    choices = ", ".join(
        f"{name} {HEAD_CHOICES[name][int(action[_COLUMN[name]])]}"
        for name in HEAD_NAMES
        if name in ACTIVE_HEADS[op] and name != "op"
    )
    return f"{op.name} {choices}"


def _joint(reading: _Reading, step: int, action: np.ndarray) -> float:
    """Return the probability of a whole decision."""
    op = Op(int(action[_COLUMN["op"]]))
    return float(
        np.prod(
            [
                reading.probability(step, name, int(action[_COLUMN[name]]))
                for name in ACTIVE_HEADS[op]
            ]
        )
    )


def _differences(recorded: Recorded, reading: _Reading, habit: Habit) -> list[str]:
    """Return a sentence for each decision that differs from the plan."""
    planned = {seed.slot: seed for seed in habit.plan}
    sentences, germinated = [], set()
    for step in _decisions(recorded):
        choice = dict(zip(HEAD_NAMES, recorded.actions[step].tolist(), strict=True))
        if choice["op"] == Op.PRUNE:
            sentences.append(
                _why(recorded, reading, habit, step, "op", Op.WAIT, "the plan removes nothing")
            )
        if choice["op"] != Op.GERMINATE:
            continue
        germinated.add(choice["slot"])
        seed = planned.get(choice["slot"])
        if seed is None:
            instead = "the plan has no seed there"
            sentences.append(_why(recorded, reading, habit, step, "op", Op.WAIT, instead))
            continue
        for head in _OF_A_SEED:
            wanted = int(getattr(seed, head))
            if choice[head] != wanted:
                instead = f"the plan has {HEAD_CHOICES[head][wanted]}"
                sentences.append(_why(recorded, reading, habit, step, head, wanted, instead))
    sentences += [
        _missing(recorded, reading, habit, seed)
        for slot, seed in planned.items()
        if slot not in germinated
    ]
    return sentences


def _missing(recorded: Recorded, reading: _Reading, habit: Habit, seed: PlannedSeed) -> str:
    """Return why a seed of the plan was not germinated, at the step in which the plan does it."""
    step = min(seed.germinate_at, len(recorded.actions) - 1)
    instead = (
        f"the plan germinates {HEAD_CHOICES['blueprint'][seed.blueprint]} in slot "
        + (HEAD_CHOICES["slot"][seed.slot])
    )
    return _why(recorded, reading, habit, step, "op", Op.GERMINATE, instead)


def _why(
    recorded: Recorded,
    reading: _Reading,
    habit: Habit,
    step: int,
    head: str,
    wanted: int,
    instead: str,
) -> str:
    """Return how likely a choice and that of the plan were, and which figure made the difference.

    Args:
        recorded: what the policy saw and did.
        reading: what it would have done.
        habit: what it does most often.
        step: step of the decision, counted from 0.
        head, wanted: the head that differs, and its choice in the plan.
        instead: what the plan does, in words.
    """
    own = int(recorded.actions[step, _COLUMN[head]])
    named = f"{head} {HEAD_CHOICES[head][own]}"
    chosen, planned = (reading.probability(step, head, choice) for choice in (own, wanted))
    begin = (
        f"Step {step + 1}, {_words(recorded.actions[step])}: {instead}. Probability of {named} "
        f"{chosen:.2f}, of {HEAD_CHOICES[head][wanted]} {planned:.2f}"
    )
    if own == wanted:
        return f"{begin.partition(' Probability')[0]} Only the slot or the step differs."
    if planned == 0:
        return f"{begin}: it was not possible here (a limit, or the state of the slots)."
    if head == "op" and planned >= chosen:
        return f"{begin}: the op is drawn, and the less likely one was drawn."
    best = max(
        range(1, len(reading.names)),
        key=lambda column: (
            _lean(reading, step, head, own, wanted, column)
            - (column == len(reading.names) - 1) * np.inf
        ),
    )
    name, flips = reading.names[best], _lean(reading, step, head, own, wanted, best) > 0
    seen, usual = (
        _figure(recorded.observations, step, name),
        _figure(habit.observations, step, name),
    )
    with_usual = tuple(reading.probability(step, head, c, best) for c in (own, wanted))
    sentence = (
        f"{begin}. The figure with the largest influence is `{name}`: {seen:.2f} here, {usual:.2f} "
        f"usually in this step. With its usual values the probabilities would have been "
        f"{with_usual[0]:.2f} and {with_usual[1]:.2f}"
    )
    if flips:
        return f"{sentence}, so this figure decided."
    last = len(reading.names) - 1
    everything = tuple(reading.probability(step, head, c, last) for c in (own, wanted))
    more = "so they decided together" if everything[1] > everything[0] else "so none decided"
    return (
        f"{sentence}; with the usual values of all figures, {everything[0]:.2f} and "
        f"{everything[1]:.2f}, {more}."
    )


def _lean(reading: _Reading, step: int, head: str, own: int, wanted: int, column: int) -> float:
    """Return how much more likely the plan's choice would have been than the own one, as a log."""
    first = _FIRST[head]
    values = reading.log_probs[step, column]
    return float(values[first + wanted] - values[first + own])


def _figure(observations: np.ndarray, step: int, name: str) -> float:
    numbers = [number for number, feature in enumerate(FEATURES) if feature.name == name]
    return float(observations[min(step, len(observations) - 1), numbers[0]])
