"""How often an update waits for its device: once, at its end.

On the CPU nothing waits, so the test counts what would wait on a GPU: an operation whose result
the CPU needs before it can continue, or a call that copies a tensor to the CPU. Reading a tensor
that is already on the CPU does not count.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from esper.simic.agent.drill_hook import update_with_drills
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.drill import Injection

AgentMaker = Callable[..., PPOAgent]
RolloutMaker = Callable[..., Rollout]

_BRING_OVER = (torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist)
_WAITS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class OnHost(torch.Tensor):
    """A tensor that was brought over, or is made of nothing else."""


class HostTransfers(TorchFunctionMode):
    """Counts the transfers from device to host of all that runs under it, and names them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.is_on_host = False

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), settings: Any = None
    ) -> Any:
        settings = settings or {}
        before = self.is_on_host
        self.is_on_host = before or any(
            isinstance(leaf, OnHost) for leaf in tree_leaves((arguments, settings))
        )
        brought_over = function in _BRING_OVER and not self.is_on_host
        try:
            if brought_over:
                self.names.append(function.__name__)
                self.is_on_host = True
            result = function(*arguments, **settings)
        finally:
            self.is_on_host = before
        return result.as_subclass(OnHost) if function is torch.Tensor.cpu else result


class _Waiting(TorchDispatchMode):
    """Counts operations whose result the host has to know, and tensors made of its numbers."""

    def __init__(self, transfers: HostTransfers) -> None:
        super().__init__()
        self._transfers = transfers

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), settings: Any = None
    ) -> Any:
        if not self._transfers.is_on_host and self._is_transfer(function, arguments):
            self._transfers.names.append(str(function))
        return function(*arguments, **(settings or {}))

    def _is_transfer(self, function: Any, arguments: Any) -> bool:
        if function.name().split(".")[0] in _INDEXING:
            # The number of places that a mask picks is not known before it is counted.
            return any(place is not None and place.dtype == torch.bool for place in arguments[1])
        made_of_numbers = function is torch.ops.aten.lift_fresh.default
        return made_of_numbers or any(tag in function.tags for tag in _WAITS)


@contextmanager
def counted() -> Iterator[HostTransfers]:
    transfers = HostTransfers()
    with transfers, _Waiting(transfers):
        yield transfers


@pytest.mark.parametrize(
    "look",
    [
        lambda values: values.sum().item(),
        lambda values: bool(values.any()),
        lambda values: values[values > 0],
        lambda values: values.nonzero(),
        lambda values: values.tolist(),
        lambda values: values.cpu(),
        lambda values: values.masked_select(values > 0),
        lambda values: values.new_tensor(3.0),
        lambda values: values.__setitem__(values > 0, values[0]),
    ],
)
def test_whatever_waits_is_counted(look: Callable[[torch.Tensor], object]) -> None:
    values = torch.ones(3)
    with counted() as transfers:
        look(values)
    assert transfers.names


def test_what_was_brought_over_is_looked_at_for_nothing() -> None:
    with counted() as transfers:
        here = torch.ones(3).cpu()
        assert (here * 2).sum().item() == 6
        assert here[here > 0].tolist() == [1, 1, 1]
    assert transfers.names == ["cpu"]


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_clean_update_makes_one_transfer(
    make_agent: AgentMaker, make_rollout: RolloutMaker, amp: str
) -> None:
    agent = make_agent(amp=amp, ppo_epochs=2, minibatches=2)
    rollout = make_rollout(agent)
    agent.loss_scale.scale.clamp_(max=256.0)  # low enough that no gradient overflows
    for _ in range(2):  # the first makes the optimizer's state
        with counted() as transfers:
            result = agent.update(rollout)
        assert result.figures.minibatches == 4
        assert transfers.names == ["cpu"]


def test_a_broken_update_adds_few_transfers_for_any_number_of_minibatches(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    counts = []
    for epochs in (1, 3):
        agent = make_agent(ppo_epochs=epochs, minibatches=1)
        with counted() as transfers:
            result = update_with_drills(
                agent, make_rollout(agent), [Injection("op", "logits", "nan", 1)]
            )
        assert result.head_nan_detected["op"]
        counts.append(len(transfers.names))
    assert counts[0] == counts[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_clean_update_waits_on_the_gpu_once(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    host = make_agent()
    rollout = make_rollout(host)
    agent = PPOAgent(host.policy.to("cuda"), host.config, rng_seed=1)
    on_device = {
        name: tuple(part.cuda() for part in value) if isinstance(value, tuple) else value.cuda()
        for name, value in rollout.__dict__.items()
    }
    agent.update(Rollout(**on_device))
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            agent.update(Rollout(**on_device))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]
    assert len(waits) == 1, waits
