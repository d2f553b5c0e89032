"""The recorded operations of a minibatch, and their replay."""

import copy
import json
import math
import os
import re
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from sb3_faults import planted_step
from sb3_models import ALGORITHMS, ROLLOUT, Walk, build
from tiny_language_models import breakable_gpt2, overflow, poison, token_rows
from torch import nn

import esper
from esper.incident_reports import incidents_of, replay_incident
from esper.integrations.sb3 import EsperCallback
from esper.leyline.files.incident_files import CAPSULE_NAME
from esper.recording.capsule import watched_capsule_of
from esper.rerunning.replaying import replay_watched
from esper.simic.command_progress import NoProgress
from esper.simic.replay.incidents import IncidentError
from esper.simic.replay.verdict import NOT_REPRODUCED, REPRODUCED
from esper.tracing.recorded import STORAGES


@pytest.fixture(autouse=True, scope="module")
def _alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Net(nn.Module):
    """A network whose output is scaled by a root, which breaks below 0 and has no slope at 0."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return self.head(self.body(inputs)) * self.scale.sqrt()


def train(folder, scale, *, autocast=False, watched=True, steps=4):
    """Train a network whose scale is set before the last step; return it and its losses."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    watch = esper.watch(model, optimizer, {"a": 3}, run_dir=folder) if watched else None
    losses = []
    for number in range(steps):
        inputs, targets = torch.randn(8, 4), torch.randint(0, 3, (8,))
        if number == steps - 1:
            with torch.no_grad():
                model.scale.fill_(scale)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    if watch is not None:
        watch.close()
        assert watch.failures == 0, watch.last_failure
    return model, losses


def replayed(folder, number=None):
    (run,) = folder.iterdir()
    return replay_incident(run.parent, str(run), number, update=None, progress=NoProgress()).replay


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
    assert report["origin"]["file"] == __file__


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


def test_what_uses_other_operations_says_so(tmp_path):
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
    assert "it was found to begin in aten.log.default" in str(raised.value)


@pytest.fixture(scope="module")
def capsule(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train(folder, -1.0)
    (run,) = folder.iterdir()
    (row,) = incidents_of(run).rows
    path = run / row["path"]
    return path, torch.load(path / CAPSULE_NAME, weights_only=True)


def refusal(capsule, change):
    path, values = capsule[0], copy.deepcopy(capsule[1])
    change(values)
    with pytest.raises(IncidentError) as raised:
        replay_watched(watched_capsule_of(values, path))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def at(*path, value):
    """Return a change of one place in a capsule."""

    def change(values):
        *before, last = path
        for step in before:
            values = values[step]
        values[last] = value

    return change


OPERATION = ("plan", "operations", 0)
INPUT = ("plan", "inputs", 0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (at(*OPERATION, 0, value="os.system.default"), "never repeated"),
        (at(*OPERATION, 0, value="aten.from_file.default"), "never repeated"),
        (at(*OPERATION, 0, value="aten.set_.source_Storage"), "never repeated"),
        (at(*OPERATION, 0, value="aten.resize_.default"), "never repeated"),
        (at(*OPERATION, 0, value="aten.bernoulli_.float"), "never repeated"),
        (at(*OPERATION, 0, value="aten.no_such_thing.default"), "no operation"),
        (at(*OPERATION, 0, value="aten.__class__.mro"), "never repeated|no operation"),
        (at(*OPERATION, 1, value=[{"tensor": 10**9}]), "no operation made"),
        (at(*OPERATION, 1, value=[{"tensor": "0"}]), "no operation made"),
        (at(*OPERATION, 1, value=[{"device": "cuda", "x": 1}]), "unknown kind"),
        (at(*OPERATION, 1, value=[{"dtype": "Generator"}]), "unknown kind"),
        (at(*OPERATION, 1, value=[{"memory_format": "load"}]), "unknown kind"),
        (at(*OPERATION, 1, value=["/etc/passwd"]), "unknown mode"),
        (at(*OPERATION, 1, value=[[[[[[1]]]]]]), "unknown kind"),
        (at(*OPERATION, 1, value=[]), "does not accept"),
        (at(*OPERATION, 3, value=[1, 2, 3, 4, 5]), "returned"),
        (at(*OPERATION, 4, value=10**6), "no place"),
        (at(*OPERATION, 4, value=-1), "no place"),
        (at("plan", "operations", value=[["aten.relu.default", [], {}, [], 0]] * 100_001), "more"),
        (at("plan", "operations", value="many"), "array"),
        (at("plan", value={}), "missing"),
        (at("plan", "extra", value=1), "unknown field"),
        (at("plan", "looked_at", value=[10**6]), "no operation made"),
        (at("plan", "storages", value=3000), "do not fit"),
        (at(*INPUT, "dtype", value="quint8"), "type or storage"),
        (at(*INPUT, "storage", value=-1), "type or storage"),
        (at(*INPUT, "shape", value=[2**40]), "shape|storage"),
        (at(*INPUT, "offset", value=-8), "shape"),
        (at(*INPUT, "offset", value=10**12), "larger than its storage"),
        (at(*INPUT, "stride", value=[]), "shape|storage"),
        (lambda values: values["plan"]["inputs"][0].update(shape=[2**42], stride=[0]), "too large"),
        (at("data", STORAGES, value=None), "missing"),
        (at("data", STORAGES, 0, value=torch.ones(3)), "bytes"),
        (at("data", STORAGES, 0, value=torch.zeros(0, dtype=torch.uint8)), "larger"),
    ],
)
def test_a_tampered_recording_is_refused_in_one_sentence(change, expected, capsule):
    message = refusal(capsule, change)

    assert any(word in message for word in expected.split("|")), message


@pytest.mark.parametrize(
    "operations",
    [
        [
            ["aten.zeros.default", [[1]], {}, [9000], 0],
            ["aten.expand.default", [{"tensor": 9000}, [2**42]], {}, [9001], 0],
            ["aten.sum.default", [{"tensor": 9001}], {}, [9002], 0],
        ],
        [
            ["aten.zeros.default", [[1]], {}, [9000], 0],
            ["aten.as_strided.default", [{"tensor": 9000}, [2**42], [0], 0], {}, [9001], 0],
        ],
        [["aten.zeros.default", [[1] * 5_000_000], {}, [9000], 0]],
    ],
)
def test_a_recording_cannot_take_endless_time(operations, capsule):
    def change(values):
        values["plan"]["operations"][:0] = operations

    assert re.search("too large|too long", refusal(capsule, change))


@pytest.mark.parametrize(
    "operation",
    [
        ["aten.zeros.default", [[2**38]], {}, [9000], 0],
        ["aten.full.default", [[2**20, 2**20], 1.0], {}, [9000], 0],
    ],
)
def test_a_recording_cannot_take_the_memory_of_the_machine(operation, capsule):
    def change(values):
        values["plan"]["operations"].insert(0, operation)

    assert "memory" in refusal(capsule, change)


def test_an_altered_recording_is_not_reproduced(capsule):
    path, values = capsule[0], copy.deepcopy(capsule[1])
    (fill,) = (one for one in values["plan"]["operations"] if one[0] == "aten.fill_.Scalar")
    fill[1][1] = 1.0

    replay, _ = replay_watched(watched_capsule_of(values, path))

    assert replay.verdict == NOT_REPRODUCED
    assert replay.origin is None
