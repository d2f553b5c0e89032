"""What makes an update hostile and leaves it legal, for the detection campaign.

Each function changes a stage and returns whether it fits that stage. Those in `LEGAL_INFINITIES`
make something infinite that is no fault: on them, a real fault must still be found.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from detection.stage import Stage, planted, with_parts
from detection.state_faults import SATURATING

Background = Callable[[Stage], bool]


def ordinary(_stage: Stage) -> bool:
    """Nothing special."""
    return True


def forbidden_logits_are_minus_infinity(stage: Stage) -> bool:
    """The policy itself gives -inf to what the mask forbids."""

    def masked(_module: object, _inputs: object, output: Tensor) -> Tensor:
        legal = stage.rollout.masks
        if stage.is_preparing or stage.index >= 0:  # else a forward pass of all hosts
            legal = legal[:, stage.hosts_now]
        return output.masked_fill(~legal, -torch.inf)

    stage.policy.heads.register_forward_hook(masked)
    return True


def extreme_logits(stage: Stage) -> bool:
    """Logits so large that every sum of them overflows, and still finite."""
    size = stage.random.choice((1e30, 3e38))
    signs = torch.ones(stage.layout.total)
    if size == 1e30:
        signs = torch.randint(2, (stage.layout.total,)) * 2.0 - 1
    if stage.random.random() < 0.5:
        signs = -signs
    stage.policy.heads.register_forward_hook(lambda _m, _i, output: output * 1e-9 + signs * size)
    return True


def huge_gradients(stage: Stage) -> bool:
    """Gradients whose squares overflow, and still finite."""
    if stage.config.amp == "fp16":
        return False
    for parameter in stage.policy.parameters():
        parameter.register_hook(lambda gradient: gradient.clamp(-1, 1) * 1e30)
    return True


def huge_returns(stage: Stage) -> bool:
    """Rewards far out of all proportion."""
    size = 1e3 if stage.config.amp == "fp16" else 10 ** stage.random.uniform(3, 16)
    stage.rollout = with_parts(stage.rollout, rewards=stage.rollout.rewards * size)
    return True


def no_variance(stage: Stage) -> bool:
    """Advantages and returns that are all equal."""
    flat = torch.zeros_like(stage.rollout.rewards)
    stage.rollout = with_parts(stage.rollout, rewards=flat, values=flat, next_values=flat)
    return True


def single_choices(stage: Stage) -> bool:
    """Nothing to decide: one legal choice in every head."""
    columns = stage.rollout.actions + torch.tensor(stage.layout.offsets)
    masks = torch.zeros_like(stage.rollout.masks).scatter(-1, columns, True)
    stage.rollout = with_parts(stage.rollout, masks=masks)
    return True


def inactive_heads(stage: Stage) -> bool:
    """Only one head ever counts."""
    active = torch.zeros_like(stage.rollout.active)
    active[..., -1] = True
    stage.rollout = with_parts(stage.rollout, active=active)
    return True


def uncounted_choices_are_illegal(stage: Stage) -> bool:
    """Where a head is inactive, its action need not be a legal one."""
    rollout = stage.rollout
    taken = torch.zeros_like(rollout.masks)
    taken.scatter_(-1, rollout.actions + torch.tensor(stage.layout.offsets), True)
    owners = stage.policy.table.head_of_choice
    uncounted = taken & ~rollout.active[..., owners]
    masks = rollout.masks & ~uncounted
    by_head = torch.stack(
        [masks[..., owners == head].any(-1) for head in range(len(stage.layout.names))], -1
    )
    masks = torch.where(by_head[..., owners], masks, rollout.masks)  # each head keeps a choice
    stage.rollout = with_parts(rollout, masks=masks)
    return True


def overflowing_loss_scale(stage: Stage) -> bool:
    """A loss scale that is far too high at first, which is ordinary."""
    if stage.config.amp != "fp16":
        return False
    scaler = stage.agent.loss_scale
    scaler.scale = torch.full_like(scaler.scale, 2.0 ** stage.random.randint(60, 126))
    return True


def huge_moments(stage: Stage) -> bool:
    """Second moments whose sum overflows, and still finite."""
    if not stage.is_warm:
        return False
    for parameter in stage.policy.parameters():
        stage.agent.state.moments_of(parameter)["exp_avg_sq"].fill_(3e38)
    return True


def known_saturated_bias(stage: Stage) -> bool:
    """An infinite bias that an earlier update reported, and that nothing depends on."""
    if stage.config.amp != "off":
        return False  # kernels of lower precision need not saturate
    parameter = dict(stage.policy.named_parameters())[stage.random.choice(SATURATING)]
    value = stage.random.choice((torch.inf, -torch.inf))
    parameter.data[stage.random.randrange(len(parameter))] = value
    stage.update()
    stage.plan_again()
    return True


def single_choices_and_minus_infinity(stage: Stage) -> bool:
    """One legal choice in every head, and -inf for all the others."""
    return single_choices(stage) and forbidden_logits_are_minus_infinity(stage)


def reward_of_the_largest_float(stage: Stage) -> bool:
    """A reward so large that the variance of the returns overflows, and the loss does not."""
    if stage.config.amp == "fp16":
        return False
    place = (stage.rollout.steps - 1, stage.random.randrange(stage.rollout.hosts))
    rewards = planted(stage.rollout.rewards, place, 1e18)
    stage.rollout = with_parts(stage.rollout, rewards=rewards)
    return True


HOSTILE: tuple[Background, ...] = (
    ordinary,
    forbidden_logits_are_minus_infinity,
    extreme_logits,
    huge_gradients,
    huge_returns,
    no_variance,
    single_choices,
    inactive_heads,
    uncounted_choices_are_illegal,
    overflowing_loss_scale,
    huge_moments,
    known_saturated_bias,
    single_choices_and_minus_infinity,
    reward_of_the_largest_float,
)

LEGAL_INFINITIES: tuple[Background, ...] = (
    forbidden_logits_are_minus_infinity,
    extreme_logits,
    overflowing_loss_scale,
    huge_moments,
    known_saturated_bias,
)

#: Faults that are no faults on a background, or cannot be distinguished from its effects.
NOT_ON = {
    "extreme_logits": {"exploding_ratio", "exploding_joint_ratio", "huge_weight"},
    "forbidden_logits_are_minus_infinity": {"forbidden_choice_taken"},
    "overflowing_loss_scale": {"exploding_loss"},  # has no place under fp16
    "known_saturated_bias": {"loss_scale", "given_loss_scale"},  # one needs fp16, the other not
}


def fits(background: Background, fault_name: str, *, lasting: bool, is_gradient: bool) -> bool:
    """Return whether a fault makes sense on a background."""
    if fault_name in NOT_ON.get(background.__name__, ()):
        return False
    # Every gradient overflows there; once, a broken one is what the scale explains.
    return not (background is overflowing_loss_scale and is_gradient and not lasting)
