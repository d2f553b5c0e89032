"""A small training setup for the replay benchmark, and the means to break it as users do.

A case follows from its number alone. The truth about its origin is written where the fault is made:
operation, line of source, module, phase of the update, and the words that the cause must contain.
"""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout, RolloutBuffer
from esper.simic.config import TrainingConfig, settings_of
from esper.simic.replay.incidents import Capsule, sighting_fields
from esper.tamiyo.policy import RecurrentPolicy

FORWARD = ("preparation", "forward")  # old log-probabilities are computed by the same lines
BACKWARD = ("backward",)
STEP = ("step",)


@dataclass(frozen=True)
class Line:
    """A line of source, found by how it begins."""

    module: ModuleType
    code: str

    @cached_property
    def places(self) -> frozenset[tuple[str, int]]:
        """File and number of every line that begins like this.

        Raises:
            LookupError: the module has no such line.
        """
        lines = inspect.getsource(self.module).splitlines()
        found = [n for n, line in enumerate(lines, start=1) if line.strip().startswith(self.code)]
        if not found:
            raise LookupError(f"no line of {self.module.__name__} begins with {self.code!r}")
        return frozenset((str(self.module.__file__), number) for number in found)


@dataclass(frozen=True)
class Truth:
    """What a replay must name.

    Attributes:
        operations: acceptable operations, without namespace and overload.
        lines: acceptable lines of source.
        module: the module of the policy in which it happens; empty outside any.
        phases: acceptable phases of the update.
        words: what the cause must contain: the operand, and where it helps, its value.
    """

    operations: tuple[str, ...]
    lines: tuple[Line, ...]
    module: str = ""
    phases: tuple[str, ...] = FORWARD
    words: tuple[str, ...] = ()


@dataclass
class Setup:
    """An agent and a rollout that it collected, made at random."""

    random: Random
    exits: ExitStack
    agent: PPOAgent
    rollout: Rollout

    @property
    def policy(self) -> RecurrentPolicy:
        """The agent's policy."""
        return self.agent.policy

    def any_head(self) -> str:
        """Return the name of a head, drawn at random."""
        return self.random.choice(HEAD_NAMES)

    def rows(self, head: str) -> range:
        """Return the rows of the heads' layer that belong to a head."""
        layout = self.policy.layout
        number = layout.names.index(head)
        start = layout.offsets[number]
        return range(start, start + layout.sizes[number])

    def any_row(self, head: str) -> int:
        """Return one of a head's rows, drawn at random."""
        return self.random.choice(self.rows(head))

    def active_place(self, head: str) -> tuple[int, int] | None:
        """Return a step and a host in which a head was active; None if there are none."""
        places = self.rollout.active[..., HEAD_NAMES.index(head)].nonzero().tolist()
        return tuple(self.random.choice(places)) if places else None

    def any_place(self) -> tuple[int, int]:
        """Return a step and a host, drawn at random."""
        steps, hosts = self.rollout.rewards.shape
        return self.random.randrange(steps), self.random.randrange(hosts)

    def change(self, **parts: Any) -> None:
        """Replace tensors of the rollout."""
        self.rollout = replace(self.rollout, **parts)

    @torch.no_grad()
    def put(self, tensor: Tensor, value: float) -> tuple[int, ...]:
        """Write a value into a random element of a tensor; return its index."""
        index = tuple(self.random.randrange(size) for size in tensor.shape)
        tensor[index] = value
        return index

    def put_in_rollout(self, name: str, value: float) -> tuple[int, ...]:
        """Write a value into a random element of a tensor of the rollout; return its index."""
        tensor = getattr(self.rollout, name).clone()
        index = self.put(tensor, value)
        self.change(**{name: tensor})
        return index

    def train(self) -> None:
        """Make one healthy update, so that the optimizer has moments."""
        if self.agent.update(self.rollout).figures.head_nonfinite:
            raise RuntimeError("the update before the fault was not healthy")

    def add_user_code(self, layer: str, code: Callable[[Tensor], Tensor]) -> None:
        """Pass the output of one layer of every policy through `code`, as a user's code might.

        The hook is on all modules, because a replay builds a new policy.
        """

        def hook(module: nn.Module, _inputs: object, output: Any) -> Any:
            return code(output) if _is_layer(module, layer) else None

        self.exits.callback(nn.modules.module.register_module_forward_hook(hook).remove)


def _is_layer(module: nn.Module, layer: str) -> bool:
    if layer == "feature_norm":
        return isinstance(module, nn.LayerNorm)
    widths = {"heads": sum(HEAD_SIZES), "critic": 1}
    return isinstance(module, nn.Linear) and module.out_features == widths[layer]


def make_setup(random: Random, exits: ExitStack, settings: dict[str, Any]) -> Setup:
    """Return an agent of random sizes and the rollout that it collected.

    Args:
        random: what everything is drawn from.
        exits: undoes what user code changes.
        settings: settings of the run that the fault needs; the others are drawn.
    """
    torch.manual_seed(random.randrange(2**31))
    sizes = {"feature_size": random.choice((8, 16, 32)), "lstm_size": random.choice((8, 16, 32))}
    drawn = {
        "ppo_epochs": random.choice((1, 2)),
        "minibatches": random.choice((2, 3)),
        "learning_rate": 10 ** random.uniform(-4, -2.5),
        "gamma": random.choice((1.0, 0.99)),
        "target_kl": 0.0,
        "rng_seed": random.randrange(2**31),
    }
    config = TrainingConfig(**{**drawn, **sizes, **settings})
    width = random.choice((5, 12, 20))
    policy = RecurrentPolicy(width, **sizes)
    agent = PPOAgent(policy, config, rng_seed=config.rng_seed)
    rollout = _collect(agent, random, width)
    return Setup(random, exits, agent, rollout)


def _collect(agent: PPOAgent, random: Random, width: int) -> Rollout:
    """Return what the agent did in an environment that rewards at random."""
    steps, hosts = random.randint(4, 7), random.randint(6, 10)
    state = agent.policy.initial_state(hosts)
    buffer = RolloutBuffer(state)
    no = torch.zeros(hosts, dtype=torch.bool)
    for step in range(steps):
        observations = torch.randn(hosts, width)
        mask = torch.ones(hosts, sum(HEAD_SIZES), dtype=torch.bool)
        slots = torch.rand(hosts, len(Op), HEAD_SIZES[0]) > 0.3
        slots[..., 0] = True
        slots[:, Op.WAIT] = True
        decision = agent.act(observations, mask, slots, state)
        state = decision.state
        ended = no | (step == steps - 1)
        buffer.add(observations, decision, torch.randn(hosts), ended, no, torch.zeros(hosts))
    return buffer.rollout(torch.zeros(hosts))


def capsule_of(setup: Setup) -> Capsule | None:
    """Have the agent learn, and keep what training would keep; None if all was finite."""
    result = setup.agent.update(setup.rollout)
    if result.start is None:
        return None
    return Capsule(
        update=1,
        config=settings_of(setup.agent.config),
        agent=result.start.agent,
        rollout=dict(setup.rollout.__dict__),
        minibatches=result.start.minibatches,
        minibatches_per_epoch=result.start.minibatches_per_epoch,
        old_log_probs=result.start.old_log_probs,
        injections=[],
        sightings=sighting_fields(result.figures.head_nonfinite),
        versions={"torch": str(torch.__version__)},
        threads=torch.get_num_threads(),
        device="cpu",
        torch_generator=torch.get_rng_state(),
    )
