"""Every documented way to use a grown network, run for labels of every type."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.export.module_files import load_module, write_module
from esper.growth.tasks.loading import load_task
from esper.services.policies import find_policy
from esper.simic.growing.growth import grow
from esper.simic.growing.growth_card import growth_card
from esper.simic.growing.writing import write_checked

ROOT = Path(__file__).parents[2]
SAMPLES = 300
NUMBERS = np.arange(SAMPLES) % 3

LABELS = {
    "one character": np.array(["1", "2", "x"]),
    "digits of one character": np.array(["0", "1", "2"]),
    "texts": np.array(["saw", 'a "quoted" one', "ñandú\n"]),
    "bytes": np.array([b"saw", b"it's", b"\xff\n"]),
    "from 0": np.array([0, 1, 2]),
    "from 1": np.array([1, 2, 3]),
    "negative": np.array([-1, 0, 1]),
    "small integers": np.array([3, 5, 9], dtype=np.uint8),
    "whole floats": np.array([1.0, 2.0, 3.0]),
    "booleans": np.array([False, True]),
}


def blocks(text: str, marker: str) -> list[str]:
    return [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if marker in block]


#: Runs programs next to an exported network, without Esper: each in a forked process, in which
#: torch is already imported.
RUNNER = """
import contextlib, io, json, os, sys, traceback
sys.modules["esper"] = sys.modules["gymnasium"] = None
import torch, safetensors.torch
for line in sys.stdin:
    folder, program = json.loads(line)
    read, write = os.pipe()
    if os.fork() == 0:
        os.chdir(folder)
        sys.path[0] = ""
        output, errors = io.StringIO(), ""
        try:
            with contextlib.redirect_stdout(output):
                exec(program, {"__name__": "__main__"})
        except BaseException:  # whatever a recipe raises, SystemExit too, is reported
            errors = traceback.format_exc()
        with open(write, "w") as file:
            json.dump([output.getvalue(), errors], file)
        os._exit(0)
    os.close(write)
    with open(read) as file:
        print(file.read(), flush=True)
    os.wait()
"""


class Runner:
    """A process that runs programs one after the other."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, program: str, folder: Path) -> str:
        """Return what a program printed in a folder."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(folder), program]), file=self._process.stdin, flush=True)
        output, errors = json.loads(self._process.stdout.readline())
        assert errors == "", errors
        return str(output)


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Runner(process)


@pytest.mark.parametrize("kind", LABELS)
def test_recipes_run_for_labels_of_every_type(run: Runner, kind: str, tmp_path: Path) -> None:
    labels = LABELS[kind]
    y = labels[NUMBERS % len(labels)]
    x = np.random.default_rng(0).normal(size=(SAMPLES, 4)) + 5 * (NUMBERS % len(labels))[:, None]
    np.savez(tmp_path / "waves.npz", x=x, y=y)
    task = load_task(f"npz:{tmp_path / 'waves.npz'}")
    env = GrowthVectorEnv(1, task=task, autoreset_mode="Disabled")
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.zeros((1, 8), dtype=np.int64))
    folder = tmp_path / "waves"
    folder.mkdir()
    write_module(env.finished_network(0), task, folder)

    namespace: dict[str, object] = {"__file__": str(folder / "model.py"), "__name__": "model"}
    exec((folder / "model.py").read_text(), namespace)
    classes = namespace["CLASSES"]
    assert isinstance(classes, tuple)
    assert sorted(classes) == sorted(labels.tolist())
    assert {type(label) for label in classes} == {type(label) for label in labels.tolist()}
    with torch.no_grad():
        numbers = load_module(folder)(torch.from_numpy(x)).argmax(1)
    right = float(
        np.mean(
            [classes[number] == label for number, label in zip(numbers, y.tolist(), strict=True)]
        )
    )
    assert right > 0.9

    guide = (ROOT / "docs" / "growing.md").read_text()
    (recipe,) = blocks(guide, "from model import CLASSES, load")
    assert f"right: {right}" in run(recipe, folder)
    (recipe,) = blocks((ROOT / "README.md").read_text(), "from model import load")
    given = "import torch\nsamples = torch.zeros(2, 4)\n"
    assert run(given + recipe + "print(tuple(logits.shape))", folder) == f"(2, {len(labels)})\n"
    assert "Network().load_state_dict(safetensors.torch.load_file(...))" in guide
    run(
        "import safetensors.torch\nfrom model import Network\n"
        "Network().load_state_dict(safetensors.torch.load_file('weights.safetensors'))",
        folder,
    )


@pytest.mark.parametrize("kind", ["one character", "texts", "bytes", "from 1", "booleans"])
def test_the_snippet_of_a_card_prints_a_label(run: Runner, kind: str, tmp_path: Path) -> None:
    labels = LABELS[kind]
    y = labels[NUMBERS % len(labels)]
    x = np.random.default_rng(0).normal(size=(SAMPLES, 4))
    np.savez(tmp_path / "data.npz", x=x, y=y)
    policy = find_policy(tmp_path, "shipped")
    name = f"npz:{tmp_path / 'data.npz'}"
    grown = grow(policy, name, num_hosts=1, rng_seed=0, steps=1, finishes=False, say=print)
    (tmp_path / "out").mkdir()
    difference = write_checked(grown, tmp_path / "out")
    (snippet,) = blocks(growth_card(grown, difference), "from model import")
    printed = run(snippet, tmp_path / "out")
    assert printed in [f"{label}\n" for label in labels.tolist()]


def test_a_text_keeps_its_characters_as_one_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text('it is "what" it\tis\n\\' * 60)
    task = load_task(f"chars:{tmp_path / 't.txt'}?context=9")
    env = GrowthVectorEnv(1, task=task, batch=20, batches=2)
    env.reset(seed=0)
    write_module(env.finished_network(0), task, tmp_path)
    namespace: dict[str, object] = {"__file__": "model.py", "__name__": "model"}
    exec((tmp_path / "model.py").read_text(), namespace)
    assert namespace["CLASSES"] == "".join(task.vocabulary)


def test_a_task_without_labels_of_its_own_has_numbers(tmp_path: Path) -> None:
    task = replace(load_task("digits"), class_names=(), class_labels=())
    env = GrowthVectorEnv(1, task=task, batch=20, batches=2)
    env.reset(seed=0)
    write_module(env.finished_network(0), task, tmp_path)
    assert "CLASSES = tuple(range(10))\n" in (tmp_path / "model.py").read_text()


def test_the_replay_in_the_readme_is_that_of_the_guide_and_names_the_line_as_it_is() -> None:
    readme, guide = (
        (ROOT / name).read_text() for name in ("README.md", "docs/guides/find-a-nan.md")
    )
    (quoted,) = re.findall(r"^REPRODUCED\n.*?(?=^```)", readme, re.DOTALL | re.MULTILINE)
    assert set(quoted.splitlines()) <= set(guide.splitlines())
    (number,) = set(re.findall(r"esper/tamiyo/policy\.py:(\d+)", readme + guide))
    line = (ROOT / "src/esper/tamiyo/policy.py").read_text().splitlines()[int(number) - 1]
    assert "self.feature_norm(self.features(observations))" in line


def test_the_line_of_a_watched_run_in_the_readme_is_that_of_the_guide() -> None:
    (quoted,) = re.findall(r"^shared NaN in obs_tensor.*$", (ROOT / "README.md").read_text(), re.M)
    assert quoted in (ROOT / "docs/guides/find-a-nan.md").read_text().splitlines()
