"""What Esper's own backward passes and layout gain over the library, in one run.

    uv run python benchmarks/hand_written_autograd.py [--parts layers network] [--compile]

| part    | Esper's way                                              | the library's               |
|---------|----------------------------------------------------------|-----------------------------|
| layers  | windows and norm with backward passes by hand            | autograd, its own kernels   |
| heads   | gradients of log-probabilities and entropies by hand     | autograd, distributions     |
| seeds   | the layers of each blueprint, differentiated by autograd | grouped convolutions, vmap  |
| network | whole hosts with a seed in every slot                    | vmap                        |

`library_layers.py` has the library's ways; each computes in the layout that suits it, so no copies
between layouts count against it. All results and gradients are compared first. Sizes are those of
`esper ppo` on mnist1d: 16 hosts in a process, minibatches of 50 samples, 8 channels.

The ways take turns. Times are processor time; a ratio is the median over the rounds of the time of
a way over that of Esper's way beside it, so above 1 Esper's is faster. `--compile` adds
`torch.compile` of each library way and the seconds of its first call; it needs a C++ compiler.
Which seeds share a batch changes with every step of an episode, and with it the shapes: compiled
code of seeds or a network is then compiled again.
"""

import argparse
import random
from collections.abc import Callable

import numpy as np
import torch
from benchmark_output import make_console
from library_layers import (
    VmapChange,
    copied_norm,
    grouped_change,
    native_norm,
    plain_conv,
    plain_norm,
    vmap_conv,
    vmap_logits,
)
from paired_ways import Part, by_autograd
from rich.table import Table
from torch import Tensor

from esper.growth.blueprints.table import BLUEPRINTS, Blueprint, seed_layout
from esper.growth.hosts import seeds as life
from esper.growth.hosts.forward import run
from esper.growth.hosts.host import HostShape, input_columns
from esper.growth.hosts.plan import Plan, make_plan
from esper.growth.hosts.population import new_population, plant_hosts, plant_seed
from esper.growth.kernel.layers import layer_norm
from esper.leyline.heads import BLUEPRINT_CHOICES, HEAD_SIZES, SLOT_CHOICES, STYLE_CHOICES
from esper.tamiyo.categorical import likelihoods, masked_log_softmax, taken

BATCH, CHANNELS, CLASSES, LENGTH = 50, 8, 10, 40


def batch_last(tensor: Tensor) -> Tensor:
    """Return `[R, B, C, L]` as `[R, C, L, B]`."""
    return tensor.movedim(1, -1)


def batch_second(tensor: Tensor) -> Tensor:
    """Return `[R, C, L, B]` as `[R, B, C, L]`."""
    return tensor.movedim(-1, 1).contiguous()


def first_slot(hosts: int) -> tuple[int, ...]:
    """Return the shape of the features in the first slot of mnist1d's hosts."""
    shape = HostShape((1, LENGTH), CLASSES, CHANNELS)
    return (hosts, CHANNELS, *shape.blocks[0].positions, BATCH)


def seed_parts(hosts: int, compiled: bool) -> list[Part]:
    """Return a part for each blueprint: as many seeds as hosts share out among the blueprints."""
    parts = []
    count = max(1, hosts // len(BLUEPRINTS))
    features, gradient = (torch.randn(first_slot(count)) for _ in range(2))

    def side_by_side(tensor: Tensor) -> Tensor:
        return tensor.permute(3, 0, 1, 2).flatten(1, 2).contiguous()  # [B, n*C, L]

    def side_by_side_undone(tensor: Tensor) -> Tensor:
        return tensor.unflatten(1, (count, CHANNELS)).permute(1, 2, 3, 0)

    change = VmapChange(BLUEPRINT_CHOICES, CHANNELS)
    for blueprint in BLUEPRINTS:
        name = blueprint.name
        layout = seed_layout(blueprint, CHANNELS, 1)
        tensors = layout.split(0.5 * torch.randn(count, layout.size))[:-2]

        def ours(x: Tensor, *own: Tensor, blueprint: Blueprint = blueprint) -> Tensor:
            return blueprint.change(x, own)

        def grouped(x: Tensor, *own: Tensor, name: str = name) -> Tensor:
            return grouped_change(name, x, own)

        def vmapped(x: Tensor, *own: Tensor, name: str = name) -> Tensor:
            return change(name, x, own)

        work = by_autograd(ours, (features, *tensors), gradient)
        part = Part(f"seeds: {name}", work, compiled=compiled)
        sides = side_by_side(features), side_by_side(gradient)
        part.add("grouped", grouped, (sides[0], *tensors), sides[1], side_by_side_undone)
        seconds = batch_second(features), batch_second(gradient)
        part.add("vmap", vmapped, (seconds[0], *tensors), seconds[1], batch_last)
        parts.append(part)
    return parts


def layer_parts(hosts: int, compiled: bool) -> list[Part]:
    """Return convolution of a host, normalisation and attention."""
    features, gradient = (torch.randn(first_slot(hosts)) for _ in range(2))
    block = HostShape((1, LENGTH), CLASSES, CHANNELS).blocks[1]
    tensors = torch.randn(hosts, CHANNELS, CHANNELS, block.kernel), torch.randn(hosts, CHANNELS)
    out = torch.randn(hosts, CHANNELS, *block.positions, BATCH)

    def hand_conv(x: Tensor, *own: Tensor) -> Tensor:
        return block.run(x, own)

    conv = Part(
        "host's convolution", by_autograd(hand_conv, (features, *tensors), out), compiled=compiled
    )
    geometry = block.stride, block.padding
    conv.add(
        "plain", lambda x, w, b: plain_conv(x, w, b, *geometry).relu(), (features, *tensors), out
    )
    conv.add(
        "vmap (a grouped convolution)",
        lambda x, w, b: vmap_conv(x, w, b, *geometry).relu(),
        (batch_second(features), *tensors),
        batch_second(out),
        batch_last,
    )

    norm = Part("normalisation", by_autograd(layer_norm, (features,), gradient), compiled=compiled)
    norm.add("plain", plain_norm, (features,), gradient)
    norm.add("F.layer_norm and copies", copied_norm, (features,), gradient)
    norm.add(
        "F.layer_norm", native_norm, (batch_second(features),), batch_second(gradient), batch_last
    )

    return [conv, norm]


def occupied(hosts: int) -> tuple[Plan, HostShape, list[Tensor]]:
    """Return a plan of hosts with a seed in every slot, and all parameters, drawn at random."""
    shape = HostShape((1, LENGTH), CLASSES, CHANNELS)
    slots = len(SLOT_CHOICES)
    population = new_population(
        hosts, slots, shape, device=torch.device("cpu"), dtype=torch.float32
    )
    plant_hosts(population, np.arange(hosts), np.arange(hosts))
    seeds, draw = life.empty_seeds(hosts), np.random.default_rng(0)
    for host in range(hosts):
        for slot in range(slots):
            blueprint = int(draw.integers(len(BLUEPRINT_CHOICES)))
            style = int(draw.integers(len(STYLE_CHOICES)))
            life.germinate(seeds, host, slot, blueprint=blueprint, style=style, tempo=1, target=1.0)
            plant_seed(population, host, slot, blueprint, 1)
    life.begin_slice(seeds)
    for host in range(hosts):
        for slot in range(slots):
            life.advance(seeds, host, slot)
    life.begin_slice(seeds)
    plan = make_plan(population, seeds)
    rows = [0.5 * torch.randn(len(g.hosts), g.layout.size) for g in plan.groups]
    own = population.state[0, plan.columns[: plan.sizes[0]]].view(hosts, -1)
    return plan, shape, [own, *rows]


def network_part(hosts: int, compiled: bool) -> Part:
    """Return whole hosts with a seed in every slot: logits, and gradients of all parameters."""
    plan, shape, pieces = occupied(hosts)
    inputs = torch.randn(hosts, 1, LENGTH, BATCH)
    gradient = torch.randn(hosts, CLASSES, BATCH)
    native = batch_second(inputs)
    change = VmapChange(BLUEPRINT_CHOICES, CHANNELS)

    def ours(*own: Tensor) -> Tensor:
        return run(plan, shape, own, input_columns(inputs, shape))

    def vmapped(*own: Tensor) -> Tensor:
        return vmap_logits(change, plan, shape, native, *own)

    part = Part(f"network of {hosts} hosts", by_autograd(ours, pieces, gradient), compiled=compiled)
    part.add("vmap", vmapped, pieces, gradient)
    return part


def head_part(hosts: int, compiled: bool) -> Part:
    """Return log-probabilities and entropies of all heads in a minibatch of PPO."""
    steps, episodes = 24, max(1, 2 * hosts // 4)
    size = max(HEAD_SIZES), steps, episodes, len(HEAD_SIZES)
    choices = torch.randn(size)
    illegal = torch.rand(size) < 0.3
    illegal |= torch.arange(size[0]).view(-1, 1, 1, 1) >= torch.tensor(HEAD_SIZES)
    illegal[0] = False
    actions = torch.zeros(size[1:], dtype=torch.int64)
    gradient = tuple(torch.randn(2, *size[1:]))

    def plain(choices: Tensor) -> tuple[Tensor, ...]:
        log_probs = masked_log_softmax(choices, illegal)
        finite = log_probs.masked_fill(log_probs.isneginf(), 0.0)
        return taken(log_probs, actions), -(log_probs.exp() * finite).sum(0)

    def distributions(choices: Tensor) -> tuple[Tensor, ...]:
        logits = choices.masked_fill(illegal_last, -1e9)
        heads = torch.distributions.Categorical(logits=logits, validate_args=False)
        return heads.log_prob(actions), heads.entropy()

    illegal_last = illegal.movedim(0, -1).contiguous()

    def hand(choices: Tensor) -> tuple[Tensor, ...]:
        return likelihoods(choices, illegal, actions)

    part = Part(
        "likelihoods of the heads",
        by_autograd(hand, (choices,), gradient),
        compiled=compiled,
        results=2,
    )
    part.add("plain", plain, (choices,), gradient)
    last = choices.movedim(0, -1).contiguous()
    part.add(
        "torch.distributions",
        distributions,
        (last,),
        gradient,
        lambda tensor: tensor.movedim(-1, 0) if tensor.shape == last.shape else tensor,
    )
    return part


PARTS: dict[str, Callable[[int, bool], list[Part]]] = {
    "seeds": seed_parts,
    "layers": layer_parts,
    "network": lambda hosts, compiled: [network_part(hosts, compiled)],
    "heads": lambda hosts, compiled: [head_part(hosts, compiled)],
}


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--hosts", type=int, default=16, help="hosts in one process (default: 16)")
    parser.add_argument("--rounds", type=int, default=21, help="measurements (default: 21)")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    compiled = options.compile
    if compiled:
        try:
            torch.compile(torch.sin)(torch.ones(3))
        except Exception as error:  # noqa: BLE001 - whatever its cause, there is nothing to compare
            print(f"torch.compile does not work here: {type(error).__name__}: {error}")
            compiled = False
    table = Table(title=f"processor time of forward and backward pass, {options.hosts} hosts")
    for heading in ("part", "way", "ms", "ratio", "first call, s"):
        table.add_column(heading, justify="left" if heading in ("part", "way") else "right")
    for name in options.parts:
        for part in PARTS[name](options.hosts, compiled):
            part.measure(options.rounds)
            for row in part.rows():
                table.add_row(*row)
    make_console().print(table)


if __name__ == "__main__":
    main()
