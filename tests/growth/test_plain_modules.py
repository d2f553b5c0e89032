"""Plain networks as standalone modules: they compute the same as the plain opponents."""

from pathlib import Path

import numpy as np
import pytest
import torch

from esper.growth.export.module_files import load_module, logits_of, write_portable
from esper.growth.export.onnx_file import write_onnx
from esper.growth.hosts.host import HostShape
from esper.growth.plain_modules import plain_module
from esper.growth.plain_networks import plain_shape
from esper.growth.tasks.arrays import task_of_arrays
from esper.growth.tasks.loading import load_task
from esper.growth.tasks.task import Task


def arrays(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    labels = np.arange(60) % 3
    return generator.normal(size=(60, *shape)) * 40 + 1e6, labels


def task_of(kind: str, folder: Path) -> Task:
    match kind:
        case "vectors":
            return task_of_arrays("vectors", arrays(6))
        case "signals":
            return task_of_arrays("signals", arrays(30, 2))
        case "images":
            return task_of_arrays("images", arrays(9, 8, 3))
    path = folder / "text.txt"
    path.write_text("".join(np.random.default_rng(5).choice(list("ab c\n"), size=800)))
    return load_task(f"chars:{path}?context=12")


@pytest.mark.parametrize("kind", ["vectors", "signals", "images", "characters"])
def test_a_written_plain_network_equals_the_plain_opponent(kind: str, tmp_path: Path) -> None:
    task = task_of(kind, tmp_path)
    shape = plain_shape(HostShape(task.input_shape, task.classes, task.channels, task.symbols), 700)
    portable = plain_module(shape, task, 3)
    assert portable.parameters == shape.parameters
    network = portable.module().train()
    inputs = task.raw(task.train)
    network(inputs)  # batch normalisation learns its statistics
    portable = portable.with_weights(network)
    opponent = shape.module()
    own = [(name, value) for name, value in portable.state.items() if name not in ("mean", "std")]
    others = [name for name in opponent.state_dict() if not name.endswith("num_batches_tracked")]
    state = {name: value for name, (_, value) in zip(others, own, strict=True)}
    opponent.load_state_dict(state)
    opponent.eval()
    with torch.no_grad():
        expected = opponent(task.test.ready(task.test.inputs))
    write_portable(portable, tmp_path)
    written = logits_of(load_module(tmp_path), task.raw(task.test))
    torch.testing.assert_close(written, expected, rtol=1e-3, atol=1e-4)
    if kind in ("images", "characters"):
        torch.testing.assert_close(
            write_onnx(load_module(tmp_path), task, tmp_path), written, rtol=1e-3, atol=1e-4
        )


def test_the_random_seed_draws_the_first_weights_and_leaves_other_draws_alone() -> None:
    task = task_of_arrays("vectors", arrays(6))
    shape = plain_shape(HostShape(task.input_shape, task.classes, task.channels), 700)
    torch.manual_seed(1)
    before = torch.rand(1)
    torch.manual_seed(1)
    states = [plain_module(shape, task, seed).state["layer0.weight"] for seed in (0, 0, 1)]
    assert torch.rand(1) == before
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_the_widest_network_within_a_limit_is_found() -> None:
    task = task_of_arrays("vectors", arrays(6))
    shape = plain_shape(HostShape(task.input_shape, task.classes, task.channels), 700)
    widest = shape.within(lambda each: each.parameters <= 500)
    assert widest is not None
    assert widest.parameters <= 500 < widest.resized(2000).parameters
    assert shape.within(lambda _: False) is None
