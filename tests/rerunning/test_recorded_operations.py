"""The recorded operations of a minibatch, and their replay."""

import json
import math
import os
import subprocess
import sys
from contextlib import suppress

import pytest
import recorded_runs
import torch
from recorded_runs import replayed, train
from sb3_faults import planted_step
from sb3_models import ALGORITHMS, ROLLOUT, Walk, build
from tiny_language_models import breakable_gpt2, overflow, poison, token_rows
from torch import nn

import esper
from esper.integrations.sb3 import EsperCallback
from esper.simic.replay.incidents import IncidentError
from esper.simic.replay.verdict import REPRODUCED


@pytest.fixture(autouse=True, scope="module")
def _alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("scale", "autocast", "operation", "phase"),
    [
        (-1.0, False, "aten.sqrt.default", "forward"),
        (0.0, False, "aten.div.Tensor", "backward"),
        (-1.0, True, "aten.sqrt.default", "forward"),
    ],
)
def test_a_plain_loop_is_repeated(scale, autocast, operation, phase, tmp_path):
    train(tmp_path, scale, autocast=autocast)

    replay = replayed(tmp_path)

    assert replay.verdict == REPRODUCED
    assert replay.seen == replay.recorded
    origin = replay.origin.operation
    assert (origin.name, origin.phase, origin.module) == (operation, phase, "Net")
    assert "self.scale.sqrt()" in origin.place.code
    assert "not the training script" in replay.remarks[0]


def test_recording_changes_nothing_that_training_computes(tmp_path):
    for scale in (-1.0, 0.0):
        own, own_losses = train(tmp_path / str(scale), scale, steps=6)
        plain, plain_losses = train(None, scale, watched=False, steps=6)

        torch.testing.assert_close(own_losses, plain_losses, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(
            own.state_dict(), plain.state_dict(), rtol=0, atol=0, equal_nan=True
        )


def test_it_is_repeated_in_a_fresh_process(tmp_path):
    train(tmp_path / "runs", -1.0)
    (run,) = (tmp_path / "runs").iterdir()

    result = subprocess.run(
        [sys.executable, "-m", "esper", "replay", "--json", str(run), "1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["verdict"] == REPRODUCED
    assert report["origin"]["op"] == "aten.sqrt.default"
    assert report["origin"]["file"] == recorded_runs.__file__


@pytest.mark.parametrize("breaks", [overflow, poison])
def test_a_language_model_is_repeated(breaks, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    from esper.integrations.transformers import EsperCallback

    monkeypatch.setenv("ESPER_RUN_DIR", str(tmp_path / "runs"))

    class Breaking(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                layer.fault = breaks

    model, layer = breakable_gpt2()
    arguments = transformers.TrainingArguments(
        str(tmp_path / "gpt"), max_steps=2, per_device_train_batch_size=2, report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    transformers.Trainer(
        model, arguments, train_dataset=token_rows(), callbacks=[Breaking(), EsperCallback()]
    ).train()

    replay = replayed(tmp_path / "runs")

    assert replay.verdict == REPRODUCED
    assert replay.origin.operation.place.file.endswith("tiny_language_models.py")


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SAC", {}),
        ("DQN", {}),
        ("PPO", {"policy_kwargs": {"activation_fn": type("Own", (torch.nn.Tanh,), {})}}),
    ],
)
def test_an_algorithm_that_cannot_be_rebuilt_is_repeated(name, settings, tmp_path):
    space = ALGORITHMS[name][3][0]
    model = build(name, space, Walk(space, planted_step(23, reward=math.nan)), **settings)
    callback = EsperCallback(run_dir=tmp_path)
    with suppress(ValueError):  # PyTorch refuses a NaN
        model.learn(3 * ROLLOUT, callback=callback)
    assert callback.watch.failures == 0, callback.watch.last_failure

    replay = replayed(tmp_path)

    assert replay.verdict == REPRODUCED
    assert "recorded PyTorch operations" in replay.remarks[0]
    assert replay.origin is not None


def test_unsupported_operations_are_reported(tmp_path):
    class Doubling(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, values):
            return torch.ops.esper_test.double(values)

        @staticmethod
        def backward(_ctx, gradient):
            return gradient * 2

    library = torch.library.Library("esper_test", "DEF")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", lambda values: values * 2, "CPU")
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with esper.watch(model, optimizer, run_dir=tmp_path):
        for number in range(3):
            loss = Doubling.apply(model(torch.randn(8, 4))).square().mean()
            if number == 2:
                loss = loss - torch.log(loss * 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    with pytest.raises(IncidentError, match=r"esper_test\.double") as raised:
        replayed(tmp_path)

    assert "\n" not in str(raised.value)
    assert "its origin was found: aten.log.default" in str(raised.value)


class Layers(nn.Module):
    """Layers whose derivatives need what their forward pass returned."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.GroupNorm(2, 4),
            nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Upsample(scale_factor=2), nn.Flatten(2),
        )  # fmt: skip
        self.sequence = nn.LSTM(16, 8)
        self.attention = nn.TransformerEncoderLayer(8, 2, 8, 0.0, batch_first=True)
        self.last = nn.Sequential(nn.GLU(), nn.LayerNorm(4), nn.Linear(4, 3))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        rows = self.attention(self.sequence(self.image(inputs))[0])
        return self.last(rows).mean(1) * self.scale.sqrt()


def test_layers_pass_the_checks_of_their_arguments(tmp_path):
    model = Layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with esper.watch(model, optimizer, run_dir=tmp_path):
        for number in range(2):
            if number == 1:
                with torch.no_grad():
                    model.scale.fill_(0.0)  # whose root has no slope: all is run backward
            loss = nn.functional.cross_entropy(
                model(torch.randn(2, 1, 16, 16)), torch.tensor([0, 2])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    replay = replayed(tmp_path)

    assert replay.verdict == REPRODUCED
    assert replay.origin.operation.phase == "backward"
