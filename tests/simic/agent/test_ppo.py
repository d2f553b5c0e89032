"""PPO: the loss against plain loops, and what an update must and must not do."""

import math
from collections.abc import Callable

import pytest
import torch

from esper.simic.agent.ppo import (
    PPOAgent,
    explained_variance,
    generalized_advantages,
    ppo_loss,
)
from esper.simic.agent.rollout import Rollout
from esper.tamiyo.categorical import likelihoods

AgentMaker = Callable[..., PPOAgent]
RolloutMaker = Callable[..., Rollout]


def parameters_of(agent: PPOAgent) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("minibatches", [1, 3, 8])
def test_before_the_first_step_every_ratio_is_exactly_one(
    make_agent: AgentMaker, make_rollout: RolloutMaker, minibatches: int, amp: str
) -> None:
    # With a step too small to change any float32, all minibatches of the first epoch are "first".
    agent = make_agent(ppo_epochs=1, minibatches=minibatches, learning_rate=1e-30, amp=amp)
    result = agent.update(make_rollout(agent))
    assert set(result.figures.head_ratio_max.values()) == {1.0}
    assert set(result.figures.head_kl.values()) == {0.0}
    assert result.figures.approximate_kl == 0.0
    assert result.figures.clip_fraction == 0.0


def test_the_loss_equals_one_written_as_loops(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(siblings=1)
    config, policy = agent.config, agent.policy
    rollout = make_rollout(agent)
    advantages, returns = generalized_advantages(rollout, config.gamma, config.gae_lambda)
    batch = agent.prepare(rollout, [torch.arange(rollout.hosts)]).whole
    old = batch.old_log_probs
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    output = policy(rollout.observations, rollout.initial_state)
    taken = likelihoods(policy.table.unpadded(output.logits), batch.illegal, batch.actions)
    terms = ppo_loss(batch, output, taken, config, agent.entropy_coefficient)

    mean = sum(a.item() for a in advantages.flatten()) / advantages.numel()
    spread = math.sqrt(
        sum((a.item() - mean) ** 2 for a in advantages.flatten()) / advantages.numel()
    )
    policy_loss, value_loss, entropies = 0.0, 0.0, []
    for step in range(rollout.steps):
        for host in range(rollout.hosts):
            new_probability, old_probability = 1.0, 1.0
            start = 0
            for head, size in enumerate(policy.layout.sizes):
                columns = slice(start, start + size)
                start += size
                if not rollout.active[step, host, head]:
                    continue
                legal = rollout.masks[step, host, columns]
                logits = output.logits[step, host, columns].double()
                probabilities = torch.zeros(size, dtype=torch.float64)
                probabilities[legal] = logits[legal].softmax(-1)
                choice = rollout.actions[step, host, head]
                new_probability *= probabilities[choice].item()
                old_probability *= math.exp(old[step, host, head].item())
                nats = -sum(p * math.log(p) for p in probabilities[legal].tolist())
                entropies.append(nats / math.log(max(int(legal.sum()), 2)))
            ratio = new_probability / old_probability
            advantage = (advantages[step, host].item() - mean) / (spread + 1e-8)
            limited = min(max(ratio, 1 - config.clip_range), 1 + config.clip_range)
            policy_loss -= min(ratio * advantage, limited * advantage)
            value_loss += 0.5 * (output.values[step, host] - returns[step, host]).item() ** 2
    count = rollout.steps * rollout.hosts
    assert terms.policy_loss.item() == pytest.approx(policy_loss / count, rel=1e-4, abs=1e-6)
    assert terms.value_loss.item() == pytest.approx(value_loss / count, rel=1e-5)
    assert terms.entropy_loss.item() == pytest.approx(-sum(entropies) / len(entropies), rel=1e-5)
    expected = (
        policy_loss / count
        + config.value_coefficient * value_loss / count
        - config.entropy_coefficient * sum(entropies) / len(entropies)
    )
    assert terms.loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_entropy_bonus_falls_with_the_learning_rate(make_agent: AgentMaker) -> None:
    agent = make_agent(learning_rate=4e-3, entropy_coefficient=0.02)
    assert agent.entropy_coefficient == pytest.approx(0.02)
    agent.set_learning_rate(1e-3)
    assert agent.entropy_coefficient == pytest.approx(0.005)


def test_a_choice_that_pays_becomes_more_likely(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(learning_rate=1e-2, gamma=0.0, entropy_coefficient=0.0, minibatches=2)

    def share_of_waiting() -> tuple[float, Rollout]:
        rollout = make_rollout(agent, hosts=32)
        waits = rollout.actions[..., -1] == 0
        paid = Rollout(**{**rollout.__dict__, "rewards": waits.float()})
        return waits.float().mean().item(), paid

    before, rollout = share_of_waiting()
    for _ in range(15):
        agent.update(rollout)
        after, rollout = share_of_waiting()
    assert before < 0.6
    assert after > 0.9


def test_an_update_stops_learning_once_the_policy_moved_far_enough(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(learning_rate=0.05, target_kl=1e-4, ppo_epochs=5, minibatches=2)
    free = make_agent(learning_rate=0.05, target_kl=0.0, ppo_epochs=5, minibatches=2)
    rollout = make_rollout(agent)
    make_rollout(free)  # so that both have drawn as many random numbers

    result, unlimited = agent.update(rollout), free.update(rollout)

    assert result.figures.minibatches == 10
    assert result.figures.minibatches_stopped >= 7
    assert unlimited.figures.minibatches_stopped == 0
    clock = next(iter(agent.optimizer.state.values()))["step"].item()
    assert clock == 10 - result.figures.minibatches_stopped


def test_gradients_are_clipped_to_their_joint_norm(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(max_gradient_norm=0.01, ppo_epochs=1, minibatches=1)
    result = agent.update(make_rollout(agent))
    assert result.figures.gradient_norm > 0.01
    assert agent.parameters.gradient.norm().item() == pytest.approx(0.01, rel=1e-3)
    for parameter in agent.policy.parameters():
        assert parameter.grad is not None
        assert parameter.grad.untyped_storage().data_ptr() == (
            agent.parameters.gradient.untyped_storage().data_ptr()
        )


def test_figures_of_a_head_are_over_the_steps_in_which_it_was_active(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=1)
    rollout = make_rollout(agent)
    result = agent.update(rollout)
    shares = rollout.active.float().mean((0, 1))
    for head, name in enumerate(agent.policy.layout.names):
        assert result.figures.head_active_fraction[name] == pytest.approx(shares[head].item())
    # A fresh policy is nearly uniform in all heads but op, however rarely they are active.
    for name in ("blueprint", "style", "tempo", "alpha_target"):
        assert result.figures.head_entropy[name] == pytest.approx(1.0, abs=1e-3)


def test_a_head_that_was_never_active_has_no_figures(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent()
    rollout = make_rollout(agent)
    rollout.active[..., :-1] = False
    result = agent.update(rollout)
    assert set(result.figures.head_entropy) == {"op"}
    assert set(result.figures.head_ratio_max) == {"op"}
    assert result.figures.head_active_fraction["slot"] == 0.0
    assert result.figures.head_gradient_norm["slot"] == 0.0


def test_a_resumed_agent_continues_bit_for_bit(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    straight, first = make_agent(), make_agent()
    for seed in range(4):
        straight.update(make_rollout(straight, seed=seed))
    for seed in range(2):
        first.update(make_rollout(first, seed=seed))
    second = make_agent()
    second.load_state_dict(first.state_dict())
    for seed in range(2, 4):
        second.update(make_rollout(second, seed=seed))
    assert torch.equal(parameters_of(straight), parameters_of(second))


def test_more_minibatches_than_hosts_are_one_host_each(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(ppo_epochs=2, minibatches=50)
    assert agent.update(make_rollout(agent, hosts=3)).figures.minibatches == 6


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, 4.0])
    assert explained_variance(returns, returns).item() == 1.0
    assert explained_variance(torch.full((3,), 2.0), returns).item() == pytest.approx(0.0)


def test_taking_hosts_takes_everything_of_them(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent()
    rollout = make_rollout(agent)
    whole = agent.prepare(rollout, [torch.arange(rollout.hosts)]).whole
    part = whole.take(torch.tensor([2, 0]))
    assert part.illegal.equal(whole.illegal[:, :, [2, 0]])
    for kept, state in zip(part.initial_state, whole.initial_state, strict=True):
        assert kept.equal(state[:, [2, 0]])
    for name in (
        "observations", "actions", "active", "max_entropy", "advantages", "returns",
        "old_log_probs",
    ):  # fmt: skip
        assert getattr(part, name).equal(getattr(whole, name)[:, [2, 0]]), name
