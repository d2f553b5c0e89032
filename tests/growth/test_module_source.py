"""Grown networks as ordinary modules: they compute what their hosts do, and need only torch."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from esper.growth.export.module_files import load_module, logits_of, write_module
from esper.growth.export.module_source import module_source
from esper.growth.export.onnx_file import write_onnx
from esper.growth.hosts.finished import finished_network
from esper.growth.hosts.host import HostShape
from esper.growth.hosts.lockstep import predict
from esper.growth.hosts.plan import make_final_plan
from esper.growth.hosts.population import Population, added_parameters, new_population
from esper.growth.hosts.seeds import Seeds, empty_seeds
from esper.growth.tasks.arrays import task_of_arrays
from esper.growth.tasks.loading import load_task
from esper.growth.tasks.task import Task
from esper.leyline.heads import ALPHA_TARGETS, BLUEPRINT_CHOICES, STYLE_CHOICES, Stage

COMBINATIONS = [
    (blueprint, style)
    for blueprint in range(len(BLUEPRINT_CHOICES))
    for style in range(len(STYLE_CHOICES))
]
SLOTS = 3


def arrays(*shape: int, samples: int = 1300, dtype: type = float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    labels = generator.integers(3, size=samples)
    inputs = (
        generator.normal(size=(samples, *shape)) * 40 + 128 + labels.reshape(-1, *[1] * len(shape))
    )
    return inputs.clip(0, 255).astype(dtype), np.array(["cat", "dog", "eel"])[labels]


def text_task(folder: Path) -> Task:
    path = folder / "text.txt"
    path.write_text("".join(np.random.default_rng(5).choice(list("ab c\n"), size=2000)))
    return load_task(f"chars:{path}?context=12")


TASKS: dict[str, Callable[[Path], Task]] = {
    "vectors": lambda _: task_of_arrays("vectors", arrays(6)),
    "signals": lambda _: task_of_arrays("signals", arrays(20), kind="signal"),
    "signals of channels": lambda _: task_of_arrays("signals", arrays(2, 30)),
    "grey images": lambda _: task_of_arrays("images", arrays(9, 8)),
    "images, channels last": lambda _: task_of_arrays("images", arrays(8, 9, 3, dtype=np.uint8)),
    "large images": lambda _: task_of_arrays("images", arrays(3, 14, 13, dtype=np.uint8)),
    "characters": text_task,
}


def grown(task: Task, hosts: int = len(COMBINATIONS)) -> tuple[Population, Seeds]:
    """Return hosts that hold every blueprint with every style in every slot, at every alpha."""
    shape = HostShape(task.input_shape, task.classes, task.channels, task.symbols)
    population = new_population(
        hosts, SLOTS, shape, device=torch.device("cpu"), dtype=torch.float32
    )
    numbers = torch.Generator().manual_seed(1)
    population.state[0] = 0.3 * torch.randn(population.state[0].shape, generator=numbers)
    seeds = empty_seeds(hosts, SLOTS)
    for host in range(hosts):
        for slot in range(SLOTS):
            number = (host + 11 * slot) % len(COMBINATIONS)
            seeds.stage[host, slot] = Stage.FOSSILIZED
            seeds.blueprint[host, slot], seeds.style[host, slot] = COMBINATIONS[number]
            seeds.alpha[host, slot] = ALPHA_TARGETS[(host + slot) % len(ALPHA_TARGETS)]
    return population, seeds


@pytest.mark.parametrize("kind", TASKS)
def test_a_module_says_what_its_host_says(kind: str, tmp_path: Path) -> None:
    task = TASKS[kind](tmp_path)
    population, seeds = grown(task)
    expected = predict(population, make_final_plan(population, seeds), task.test)
    added = added_parameters(population, seeds, np.ones_like(seeds.stage, dtype=bool))
    for host in range(population.hosts):
        network = finished_network(population, seeds, host)
        write_module(network, task, tmp_path)
        module = load_module(tmp_path)
        assert not module.training
        logits = logits_of(module, task.raw(task.test))
        torch.testing.assert_close(logits, expected[host], rtol=1e-4, atol=1e-4)
        count = sum(parameter.numel() for parameter in module.parameters())
        assert count == network.parameters == population.shape.layout.size + added[host]


@pytest.mark.parametrize("kind", TASKS)
def test_an_onnx_file_says_what_the_module_says(kind: str, tmp_path: Path) -> None:
    task = TASKS[kind](tmp_path)
    population, seeds = grown(task)
    # Together the three hosts hold every blueprint and style; an export takes a second.
    for host in (0, 14, 28) if kind == "signals" else (14,):
        write_module(finished_network(population, seeds, host), task, tmp_path)
        module = load_module(tmp_path)
        logits = logits_of(module, task.raw(task.test))
        torch.testing.assert_close(write_onnx(module, task, tmp_path), logits, rtol=1e-4, atol=1e-4)


def test_only_what_is_fossilized_stays(tmp_path: Path) -> None:
    task = TASKS["signals"](tmp_path)
    population, seeds = grown(task, hosts=1)
    seeds.stage[0] = [Stage.HOLDING, Stage.FOSSILIZED, Stage.TRAINING]
    network = finished_network(population, seeds, 0)
    assert [seed.slot for seed in network.seeds] == ["middle"]
    expected = predict(population, make_final_plan(population, seeds), task.test)
    write_module(network, task, tmp_path)
    logits = logits_of(load_module(tmp_path), task.raw(task.test))
    torch.testing.assert_close(logits, expected[0], rtol=1e-4, atol=1e-4)
    source = (tmp_path / "model.py").read_text()
    assert "early" not in source
    assert "late" not in source


@pytest.mark.parametrize("kind", TASKS)
def test_sources_are_short_and_well_formed(kind: str, tmp_path: Path) -> None:
    task = TASKS[kind](tmp_path)
    population, seeds = grown(task)
    for host in range(population.hosts):
        source = module_source(finished_network(population, seeds, host), task)
        (tmp_path / f"model_{host}.py").write_text(source)
        assert source.count("\n") < 140
        assert "esper" not in source.replace("Esper", "").lower().split("import", 1)[1]
    for command in (("check", "--select", "E,F,I"), ("format", "--check")):
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--line-length", "100", str(tmp_path)],
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout + result.stderr


def test_a_module_runs_where_there_is_only_torch(tmp_path: Path) -> None:
    task = TASKS["large images"](tmp_path)
    population, seeds = grown(task)
    write_module(finished_network(population, seeds, 3), task, tmp_path)
    program = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("esper", "safetensors", "gymnasium"):
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
import torch
from model import CLASSES, load
assert CLASSES == ("cat", "dog", "eel")
print(tuple(load()(torch.zeros(2, 3, 14, 13, dtype=torch.uint8)).shape))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout == "(2, 3)\n", result.stderr


def test_weights_are_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    task = TASKS["vectors"](tmp_path)
    population, seeds = grown(task, hosts=1)
    write_module(finished_network(population, seeds, 0), task, tmp_path)
    theirs = load_file(tmp_path / "weights.safetensors")
    ours = load_module(tmp_path).state_dict()
    assert theirs.keys() == ours.keys()
    assert all(tensor.equal(ours[name]) for name, tensor in theirs.items())


def test_a_name_cannot_break_out_of_the_source(tmp_path: Path) -> None:
    inputs, labels = arrays(6)
    labels = np.where(labels == "cat", 'a"""\n' + "long " * 20, labels)
    task = task_of_arrays('npz:a"""\nimport os\\', (inputs, labels))
    population, seeds = grown(task, hosts=1)
    write_module(finished_network(population, seeds, 0), task, tmp_path)
    namespace: dict[str, object] = {"__file__": "model.py", "__name__": "model"}
    exec((tmp_path / "model.py").read_text(), namespace)
    assert namespace["CLASSES"] == task.class_names
    assert "os" not in namespace
