"""Stages with plain loops: single-file scripts of PPO, recurrent PPO, and supervised training."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import esper
from esper.watching.agreement import OnNonfinite
from esper.watching.watch import Watch
from watched_loops import broken_layers, plain_ppo, plain_recurrent, supervised
from watched_loops.broken_layers import UserLayer
from watched_loops.stage import Stage, World
from watched_loops.truth import LINEAR, Line, Where

PICK = ("index", "select", "slice")


def _watched(stage: Stage, watched: Mapping[str, Any]) -> None:
    @contextmanager
    def watching(mode: OnNonfinite, folder: Path) -> Iterator[Watch]:
        with esper.watch(**watched, run_dir=folder, on_nonfinite=mode) as stage.watch:
            yield stage.watch

    stage.watching = watching


def head_rows(space: gym.Space) -> dict[str, range]:
    """Return the rows of the output layer for each component of an action space."""
    if isinstance(space, gym.spaces.Discrete):
        return {"action": range(int(space.n))}
    if isinstance(space, gym.spaces.MultiDiscrete):
        stops = np.cumsum(space.nvec).tolist()
        sizes = zip(stops, space.nvec.tolist(), strict=True)
        return {f"action[{n}]": range(stop - size, stop) for n, (stop, size) in enumerate(sizes)}
    count = int(space.n) if isinstance(space, gym.spaces.MultiBinary) else int(space.shape[0])
    if count == 1 and isinstance(space, gym.spaces.Box):
        return {"action": range(1)}
    return {f"action[{n}]": range(n, n + 1) for n in range(count)}


def setter_of(log_std: nn.Parameter) -> Callable[[int, float], None]:
    """Return a function that sets one of the logarithms of standard deviations."""

    def set_log_std(number: int, value: float) -> None:
        log_std.data.view(-1)[number] = value

    return set_log_std


def _where(loop: Any, agent: str) -> dict[str, Where]:
    call = Line(loop, "_, newlogprob, entropy, newvalue")
    trunk = Line(loop, "hidden = self.network(x)")
    log_prob = Line(loop, "logprob = torch.stack(" if agent != "box" else "return (")
    output = Line(loop, "logits = self.actor(" if agent != "box" else "action_mean = self.actor")
    advantages = Line(loop, "mb_advantages = b_advantages[mb_inds]")
    returns = Line(loop, "v_loss = 0.5")
    ratio = Line(loop, "logratio = ")
    table = {
        "observations": Where(("obs",), (*PICK, *LINEAR), (call, trunk)),
        "acted": Where(("obs", "features"), (*PICK, *LINEAR), (call, trunk)),
        "advantages": Where(("advantages",), PICK, (advantages,)),
        "returns": Where(("returns",), PICK, (returns,)),
        "rewards": Where(("rewards", "advantages", "returns"), PICK, (advantages, returns)),
        "log_probs": Where(("logprobs",), PICK, (ratio,)),
        "output": Where(("parameters", "moments"), LINEAR, (output,)),
        "trunk": Where(("parameters", "moments"), LINEAR, (trunk,)),
        "value": Where(
            ("parameters", "moments"), LINEAR,
            (Line(loop, "return action, logprob.sum(0)" if agent != "box" else "return ("),
             Line(loop, "return self.critic(")),
        ),
        "loss": Where(("loss",), ("mul", "sub", "add"), (Line(loop, "loss = pg_loss"),)),
        "ratio": Where(
            ("ratio", "loss"), ("exp", "mul", "sub", "sum", "mean", "pow"),
            (Line(loop, "ratio = logratio.exp()"), ratio, Line(loop, "v_loss = 0.5"),
             Line(loop, "pg_loss"), log_prob, Line(loop, "loss = pg_loss"), output),
        ),
    }  # fmt: skip
    if agent == "box":
        std = Line(loop, "action_std = torch.exp(")
        expand = Line(loop, "action_logstd = ")
        table["log_std"] = Where(("parameters", "std", "prob", "moments"), ("exp", "expand"),
                                 (std, expand))  # fmt: skip
    return table


def layer_where(name: str, quantities: tuple[str, ...]) -> Where:
    """Return where a fault of the user's layer happens first."""
    table = {
        "overflow": (("exp",), "return values + torch.exp("),
        "division": (("div",), "return (values + 1e-3) / count"),
        "logarithm": (("log",), "return torch.log(-1"),
        "distance": (("div",), "length = offset.square()"),
        "masked_mean": (("div",), "mean = values.sum("),
        "function": (("div",), "return gradient / (values - values)"),
    }
    operations, code = table[name]
    return Where(quantities, operations, (Line(broken_layers, code),))


def _ppo(random: Random, agent: str, *, masks: bool = False, recurrent: bool = False) -> Stage:
    seed = random.randrange(1 << 30)
    torch.manual_seed(seed)
    np.random.seed(seed % (1 << 31))
    world, layer, args = World(), UserLayer(), plain_ppo.Args(random)
    space: gym.Space
    if agent == "box":
        space = gym.spaces.Box(-1, 1, (random.randint(1, 3),), np.float32)
    elif agent == "discrete":
        space = gym.spaces.Discrete(random.randint(2, 5))
    else:
        space = gym.spaces.MultiDiscrete([random.randint(2, 4) for _ in range(3)])
    heads = head_rows(space)
    sizes = [len(rows) for rows in heads.values()]
    fill = random.choice([-1e8, -1e8, float("-inf")])
    model: Any
    if recurrent:
        model = plain_recurrent.RecurrentAgent(sizes, layer)
    elif agent == "box":
        model = plain_ppo.BoxAgent(sum(sizes), layer)
    else:
        model = plain_ppo.DiscreteAgent(sizes, layer, fill)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    loop = plain_recurrent if recurrent else plain_ppo
    with_critic = random.random() < 0.5
    stage = Stage(
        random,
        model,
        [optimizer],
        loop.train,
        watching=None,  # type: ignore[arg-type]
        where=_where(loop, agent),
        heads=heads,
        output=model.actor_mean if agent == "box" else model.actor,
        trunk=(model.network[0].weight, "shared"),
        layer=layer,
        value=(model.critic.weight, "critic" if with_critic else "shared"),
        set_log_std=setter_of(model.actor_logstd) if agent == "box" else None,
        places=("observations", "advantages", "returns", "log_probs"),
        settings={
            "value coefficient": lambda value: setattr(args, "vf_coef", value),
            "entropy coefficient": lambda value: setattr(args, "ent_coef", value),
        },
        world=world,
        tags=frozenset({"masked"} if masks else ()) | {"acts", "ppo", "dead"},
        extra={
            "agent": model,
            "envs": plain_ppo.Envs(seed, sizes, world, masks=masks),
            "args": args,
            "action_size": len(heads),
        },
    )
    watched = {"model": model, "optimizer": optimizer, "heads": space}
    if with_critic:
        watched["groups"] = {"critic": "critic"}
    if args.max_grad_norm:
        stage.tags |= {"clips"}
    _watched(stage, watched)
    return stage


def _supervised(random: Random, kind: str) -> Stage:
    seed = random.randrange(1 << 30)
    torch.manual_seed(seed)
    world, layer = World(), UserLayer()
    model = supervised.Classifier(layer)
    dtype = None
    if kind == "amp":
        dtype = random.choice([torch.float16, torch.bfloat16])
    scale = random.choice([2.0**8, 2.0**22]) if dtype == torch.float16 else 1.0
    settings = supervised.Settings(
        dtype,
        torch.amp.GradScaler("cpu", init_scale=scale, enabled=dtype == torch.float16),
        accumulate=2 if kind == "accumulating" else 1,
        max_norm=random.choice([0.0, 1.0]),
    )
    make: Callable[..., torch.optim.Optimizer] = random.choice(
        [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop]
    )
    optimizer = make([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    groups = {name: name for name in ("frozen", "encoder", "decoder", "unused")}
    forward = Line(supervised, "hidden = self.encoder(")
    loss = Line(supervised, "loss = (losses")
    cast = ("_to_copy",) if dtype is not None else ()
    batch = Line(supervised, "batch = inputs[")
    table = {
        "observations": Where(("inputs", "batch"), (*PICK, *LINEAR, *cast), (batch, forward)),
        "advantages": Where(
            ("weights",), (*PICK, "mul"), (loss, Line(supervised, "batch_weights = "))
        ),
        "output": Where(
            ("parameters", "moments"), (*LINEAR, *cast), (Line(supervised, "return self.head("),)
        ),
        "trunk": Where(("parameters", "moments"), (*LINEAR, *cast), (forward,)),
        "loss": Where(("loss",), ("mul",), (loss,)),
        "unused": Where(
            ("parameters", "moments"), (*LINEAR, *cast), (Line(supervised, "return self.head("),)
        ),
    }
    stage = Stage(
        random,
        model,
        [optimizer],
        supervised.train,
        watching=None,  # type: ignore[arg-type]
        where=table,
        heads={"class": range(supervised.CLASSES)},
        output=model.head,
        trunk=(model.encoder[0].weight, "encoder"),
        layer=layer,
        layer_owner="encoder",
        places=("observations", "advantages"),
        settings={"loss": lambda value: setattr(settings, "loss_scale", value)},
        world=world,
        first_update=2 if scale > 2.0**20 else 1,
        steps_per_update=supervised.ROWS // supervised.BATCH // settings.accumulate,
        tags=frozenset(
            {"supervised", kind}
            | ({"clips"} if settings.max_norm else set())
            | ({"rmsprop"} if make is torch.optim.RMSprop else set())
            | ({"half"} if dtype == torch.float16 else set())
            | ({"scaled"} if scale > 2.0**20 else set())
        ),
        extra={"agent": model, "settings": settings, "seed": seed},
    )
    watched = {
        "model": model, "optimizer": optimizer, "heads": {"class": 5}, "groups": groups,
    }  # fmt: skip
    _watched(stage, watched)
    return stage


LIBRARIES: dict[str, Callable[[Random], Stage]] = {
    "plain-discrete": lambda random: _ppo(random, "discrete"),
    "plain-multidiscrete": lambda random: _ppo(random, "multidiscrete"),
    "plain-masked": lambda random: _ppo(
        random, random.choice(["discrete", "multidiscrete"]), masks=True
    ),
    "plain-box": lambda random: _ppo(random, "box"),
    "plain-recurrent": lambda random: _ppo(
        random, random.choice(["discrete", "multidiscrete"]), recurrent=True
    ),
    "supervised": lambda random: _supervised(random, "plain"),
    "supervised-accumulating": lambda random: _supervised(random, "accumulating"),
    "supervised-amp": lambda random: _supervised(random, "amp"),
}
