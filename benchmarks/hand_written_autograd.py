"""What each hand-written backward pass gains over the library, in one run.

    uv run python benchmarks/hand_written_autograd.py [--parts slot network] [--compile]

Parts: the layers of each blueprint, a host's convolution, normalisation, attention, blending, a
whole slot, a whole network with its seeds (forward and backward), and the likelihoods of the action
heads. `library_layers.py` has the library's ways; each computes in the layout that suits it, so no
copies between layouts count against it. All results and gradients are compared first. Sizes are
those of `esper ppo` on mnist1d: 16 hosts in a process, minibatches of 50 samples, 8 channels.

The ways take turns. Times are processor time; a ratio is the median over the rounds of the time of
a way over that of the hand-written way beside it, so above 1 the hand-written way is faster.
`--compile` adds `torch.compile` of each way and the seconds of its first call; it needs a C++
compiler. Which seeds share a batch changes with every step of an episode, and with it the shapes:
compiled code of a slot or a network is then compiled again.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from functools import partial
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from host_throughput import actions, make_hosts, mixed_seeds
from library_layers import (
    HAND_LAYERS,
    HAND_NODES,
    PLAIN,
    VmapChange,
    copied_norm,
    fused_attend,
    grouped_change,
    library_logits,
    library_slot,
    native_norm,
    plain_attend,
    plain_change,
    plain_conv,
    plain_mix,
    plain_norm,
    vmap_conv,
    vmap_way,
)
from library_layers import Way as LibraryWay
from paired_ways import Part, Way, Work, by_autograd
from rich.console import Console
from rich.table import Table
from torch import Tensor

from esper.growth.hosts import seeds as life
from esper.growth.hosts.forward import run, weights
from esper.growth.hosts.host import HostShape, input_columns
from esper.growth.hosts.plan import Plan, make_plan
from esper.growth.hosts.population import new_population, plant_hosts, plant_seed
from esper.growth.hosts.slot import blend_seeds
from esper.growth.kernel.blending import Mixing, mix, mix_backward
from esper.growth.kernel.blueprints import BLUEPRINTS, seed_layout
from esper.growth.kernel.layers import attend, layer_norm
from esper.growth.kernel.seed_layers import run_back, run_layers
from esper.leyline.heads import BLUEPRINT_CHOICES, HEAD_SIZES, SLOT_CHOICES, STYLE_CHOICES
from esper.tamiyo.categorical import likelihoods, masked_log_softmax, taken

MIXED = {
    "plain slot over hand-written layers": HAND_LAYERS,
    "plain over windows, norm and attention by hand": HAND_NODES,
}
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
    for blueprint in BLUEPRINTS:
        layout = seed_layout(blueprint, CHANNELS, 1)
        tensors = layout.split(0.5 * torch.randn(count, layout.size))[:-2]

        def hand(blueprint=blueprint, tensors=tensors) -> Sequence[Tensor]:
            result, saved = run_layers(blueprint.layers, features, tensors, None)
            back, own = run_back(blueprint.layers, gradient, saved, tensors, True, None)
            return result, back, *own

        part = Part(f"seeds: {blueprint.name}", hand, compiled=compiled)
        name = blueprint.name
        part.add(
            "plain",
            lambda x, *own, name=name: plain_change(name, x, own),
            (features, *tensors),
            gradient,
        )

        if name == "attention":
            part.add(
                "plain, F.scaled_dot_product_attention",
                lambda x, *own: plain_change("attention", x, own, fused_attend),
                (features, *tensors),
                gradient,
            )

        def side_by_side(tensor: Tensor) -> Tensor:
            return tensor.permute(3, 0, 1, 2).flatten(1, 2).contiguous()  # [B, n*C, L]

        part.add(
            "grouped",
            lambda x, *own, name=name: grouped_change(name, x, own),
            (side_by_side(features), *tensors),
            side_by_side(gradient),
            lambda tensor: tensor.unflatten(1, (count, CHANNELS)).permute(1, 2, 3, 0),
        )
        change = VmapChange([name], CHANNELS, torch.float32)
        part.add(
            "vmap",
            lambda x, *own, name=name, change=change: change(name, x, own),
            (batch_second(features), *tensors),
            batch_second(gradient),
            batch_last,
        )
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

    return [conv, norm, *(attention_part(hosts, n, compiled) for n in (19, 10, 5))]


def attention_part(hosts: int, length: int, compiled: bool) -> Part:
    """Return attention over the positions of a slot, one network of each host."""
    inner = CHANNELS // 2
    projected = torch.randn(hosts, 3 * inner, length, BATCH)
    seen = torch.randn(hosts, inner, length, BATCH)

    def hand(projected: Tensor) -> Tensor:
        return attend(*projected.chunk(3, dim=1))

    part = Part(
        f"attention over {length} positions",
        by_autograd(hand, (projected,), seen),
        compiled=compiled,
    )
    part.add("plain", plain_attend, (projected,), seen)
    part.add("F.scaled_dot_product_attention", fused_attend, (projected,), seen)
    part.add(
        "the same in its own layout",
        lambda x: F.scaled_dot_product_attention(*x.chunk(3, dim=-1)),
        (projected.permute(0, 3, 2, 1).contiguous(),),
        seen.permute(0, 3, 2, 1).contiguous(),
        lambda tensor: tensor.permute(0, 3, 2, 1),
    )
    return part


def blending_parts(hosts: int, compiled: bool) -> list[Part]:
    """Return the two arithmetics of blending that have gradients worth writing."""
    parts = []
    features, change, normal, gradient = (torch.randn(first_slot(hosts)) for _ in range(4))
    amount, gate = torch.rand(hosts, 1, 1, 1), torch.randn(hosts, 2 * CHANNELS)
    for mixing in (Mixing.MULTIPLY, Mixing.GATE):

        def hand(mixing: Mixing = mixing) -> Sequence[Tensor]:
            own = gate if mixing is Mixing.GATE else None
            blended, saved = mix(mixing, features, change, normal, amount, own)
            of_change = gradient * amount
            of_features, of_normal, of_gate = mix_backward(
                mixing, saved, of_change, features, change, normal, own
            )
            if mixing is Mixing.GATE:
                assert of_normal is not None
                assert of_gate is not None
                return blended, gradient, of_change, of_normal, of_gate
            assert of_features is not None
            return blended, of_features.add_(gradient), of_change

        part = Part(f"blending: {mixing.name.lower()}", hand, compiled=compiled)
        inputs = (features, change, normal, gate)
        if mixing is Mixing.MULTIPLY:
            part.add(
                "plain",
                lambda x, f: plain_mix(Mixing.MULTIPLY, x, f, normal, amount, gate, 1),
                inputs[:2],
                gradient,
            )
        else:
            part.add(
                "plain",
                lambda x, f, n, g: plain_mix(Mixing.GATE, x, f, n, amount, g, 1),
                inputs,
                gradient,
            )
        parts.append(part)
    return parts


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


def slot_part(hosts: int, compiled: bool) -> Part:
    """Return the first slot of hosts that all have a seed in it."""
    plan, _, (_, *rows) = occupied(hosts)
    jobs = plan.slots[0].main
    assert jobs is not None
    assert len(jobs.rows) == hosts
    count = len(jobs.batches)
    groups = plan.groups[:count]
    blueprints = [BLUEPRINTS[group.blueprint] for group in groups]
    stream, gradient = (torch.randn(first_slot(hosts)) for _ in range(2))

    def hand(stream: Tensor, *seeds: Tensor) -> Tensor:
        tensors = [g.layout.split(s.detach()) for g, s in zip(groups, seeds, strict=True)]
        return blend_seeds(stream, jobs, blueprints, list(seeds), tensors)

    inputs = stream, *rows[:count]
    part = Part(f"slot of {hosts} hosts", by_autograd(hand, inputs, gradient), compiled=compiled)
    part.add(
        "plain", lambda x, *seeds: library_slot(PLAIN, x, jobs, blueprints, seeds), inputs, gradient
    )
    for name, way in MIXED.items():
        part.add(
            name,
            lambda x, *seeds, way=way: library_slot(way, x, jobs, blueprints, seeds),
            inputs,
            gradient,
        )
    way = vmap_way(CHANNELS)
    part.add(
        "vmap",
        lambda x, *seeds: library_slot(way, x, jobs, blueprints, seeds),
        (batch_second(stream), *rows[:count]),
        batch_second(gradient),
        batch_last,
    )
    return part


def network_part(hosts: int, compiled: bool) -> Part:
    """Return whole hosts with a seed in every slot: logits, and gradients of all parameters."""
    plan, shape, pieces = occupied(hosts)
    inputs = torch.randn(hosts, 1, LENGTH, BATCH)
    gradient = torch.randn(hosts, CLASSES, BATCH)

    def hand(*own: Tensor) -> Tensor:
        return run(plan, shape, weights(plan, own), input_columns(inputs, shape))

    part = Part(f"network of {hosts} hosts", by_autograd(hand, pieces, gradient), compiled=compiled)
    for name, way in {"plain": PLAIN, **MIXED}.items():
        part.add(
            name,
            lambda *own, way=way: library_logits(way, plan, shape, inputs, *own),
            pieces,
            gradient,
        )
    way, native = vmap_way(CHANNELS), batch_second(inputs)
    part.add("vmap", lambda *own: library_logits(way, plan, shape, native, *own), pieces, gradient)
    return part


def step_part(hosts: int, compiled: bool) -> Part:
    """Return a whole step of the environment: 16 minibatches, and measuring on validation data."""
    del compiled  # the shapes change with every step
    env = make_hosts(hosts, 1, *mixed_seeds(hosts), occupied=True)
    wait = actions(hosts)

    def hand() -> tuple[Tensor, ...]:
        env.step(wait)
        return ()

    def library(way: LibraryWay) -> Work:
        def work() -> tuple[Tensor, ...]:
            with mock.patch("esper.growth.hosts.forward.blend_seeds", partial(library_slot, way)):
                return hand()

        return work

    part = Part(f"step of {hosts} hosts", hand, compiled=False)
    for name, way in {"plain": PLAIN, **MIXED}.items():
        part.ways.append(Way(name, library(way)))
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
        finite = log_probs.masked_fill(illegal, 0.0)
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
    "blending": blending_parts,
    "slot": lambda hosts, compiled: [slot_part(hosts, compiled)],
    "network": lambda hosts, compiled: [network_part(hosts, compiled)],
    "step": lambda hosts, compiled: [step_part(hosts, compiled)],
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
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
