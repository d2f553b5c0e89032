"""Subjects of the tests of ranks: trainings that several processes watch together.

    torchrun --nproc-per-node 2 ranked_training.py all
    RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=N python ranked_training.py killed

Each training makes a run in `ESPER_RUN_DIR`. Rank 1 makes what is not finite.
"""

import math
import os
import signal
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad

import esper

HEADS = {"left": 2, "right": 3}
BAD_STEP = 21  # counted from 0: in the second update, after some finite ones


def new_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5))


def train(model, optimizer, *, steps=40, bad_input=-1, bad_gradient=-1):
    """Take steps; rank 1 has a NaN in the input of one, or an Inf in the gradient of another."""
    for step in range(steps):
        optimizer.zero_grad()
        observations = torch.randn(8, 4)
        if step == bad_input and dist.get_rank() == 1:
            observations[2, 1] = math.nan
        model(observations).log_softmax(-1)[:, 0].mean().backward()
        if step == bad_gradient and dist.get_rank() == 1:
            last = list(model.parameters())[-1]
            last.grad.to_local()[-1] = math.inf
        clip_grad.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()


def check(watch, model, *, is_finite):
    """Print what the test asks of this rank, on one line."""
    own = [getattr(one, "_local_tensor", one).detach() for one in model.parameters()]
    weights = all(bool(one.isfinite().all()) for one in own)
    assert weights == is_finite, "weights"
    assert watch.failures == 0, watch.last_failure


def ddp(mode):
    model = DistributedDataParallel(new_model())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with esper.watch(model, optimizer, HEADS, name=f"ddp-{mode}", on_nonfinite=mode) as watch:
        train(model, optimizer, bad_input=BAD_STEP)
        check(watch, model, is_finite=mode == "skip")


def closures(mode, *, is_uneven):
    """Train with closures; in rank 1, one call is bad. If uneven, rank 1 calls more of them."""
    model = new_model() if is_uneven else DistributedDataParallel(new_model())
    often = 2 + (dist.get_rank() if is_uneven else 0)
    optimizer = torch.optim.LBFGS(
        model.parameters(), lr=1e-2, max_iter=often, tolerance_change=0, tolerance_grad=0
    )
    name = "uneven" if is_uneven else f"closures-{mode}"
    with esper.watch(model, optimizer, HEADS, name=name, on_nonfinite=mode) as watch:
        for step in range(8):
            observations = torch.randn(8, 4)
            if step == 5 and dist.get_rank() == 1:
                observations[2, 1] = math.nan

            def closure(observations=observations):
                optimizer.zero_grad()
                loss = -model(observations).log_softmax(-1)[:, 0].mean()
                loss.backward()
                return loss

            optimizer.step(closure)
        assert all(bool(one.isfinite().all()) for one in model.parameters()), "weights"
        assert bool(watch.troubles) == (dist.get_rank() == 1 or not is_uneven)
        failures = "call their closures a different number of times" if is_uneven else ""
        assert failures in watch.last_failure, watch.last_failure
        assert watch.failures == int(is_uneven)
        assert watch._minibatches.record.left_out == (dist.get_rank() if is_uneven else 1)


def fsdp(mode):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = new_model()
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with esper.watch(model, optimizer, HEADS, name=f"fsdp-{mode}", on_nonfinite=mode) as watch:
        train(model, optimizer, bad_gradient=BAD_STEP)
        check(watch, model, is_finite=mode == "skip")


def accelerated():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    own = new_model()
    model, optimizer = accelerator.prepare(own, torch.optim.SGD(own.parameters(), lr=1e-3))
    with esper.watch(model, optimizer, HEADS, name="accelerate") as watch:
        train(model, optimizer, bad_input=BAD_STEP)
        check(watch, model, is_finite=False)


def all_trainings():
    dist.init_process_group("gloo")
    ddp("report")
    ddp("skip")
    fsdp("report")
    fsdp("skip")
    accelerated()
    closures("skip", is_uneven=False)
    closures("skip", is_uneven=True)
    ddp("halt")


def killed():
    """Watch a training in which rank 1 is killed, and rank 0 continues until it is stopped."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = new_model()  # no wrapper: the ranks do not wait for each other
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch = esper.watch(model, optimizer, HEADS, name="killed")
    train(model, optimizer, steps=20, bad_input=5)
    watch.recorder._writer.flush()
    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    print("killed", flush=True)
    sys.stdin.readline()
    os._exit(0)  # as a rank that is killed later


if __name__ == "__main__":
    {"all": all_trainings, "killed": killed}[sys.argv[1]]()
