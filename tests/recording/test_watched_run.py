"""`esper.watch` as a user calls it: what stands in the run afterwards, whatever ended it."""

import logging
import math
import os
import signal
import subprocess
import sys
import textwrap

import gymnasium as gym
import pytest
import torch
from printed import Printed
from torch import nn

import esper
from esper.karn.reports.health import health_as_json, health_text, read_health
from esper.watching.checks.held import HeldMinibatch

PRELUDE = """
import torch, esper
from torch import nn
from torch.nn.utils import clip_grad
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

def step(scale=1.0):
    optimizer.zero_grad()
    logits = model(torch.randn(16, 4))
    loss = (logits.log_softmax(-1)[:, 0] * scale).mean()
    loss.backward()
    clip_grad.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
"""


def script(tmp_path, body, *, environment=None, kill=False):
    """Run a script that watches its training; return its result and its run."""
    path = tmp_path / "train.py"
    path.write_text(PRELUDE + textwrap.dedent(body))
    result = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if kill:
        assert result.returncode == -signal.SIGKILL, result.stderr
    return result, esper.open_run(run_dir=tmp_path / "runs")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5))


def train(model, optimizer, count, *, bad=None):
    for number in range(1, count + 1):
        optimizer.zero_grad()
        observations = torch.randn(16, 4)
        if number == bad:
            observations[2, 1] = torch.nan
        model(observations).log_softmax(-1)[:, 0].mean().backward()
        optimizer.step()


def test_a_clean_run_has_its_figures(model, tmp_path):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    with esper.watch(
        model, optimizer, gym.spaces.MultiDiscrete([3, 2]), name="clean", run_dir=tmp_path,
        config={"gamma": 0.9},
    ) as watch:  # fmt: skip
        for update in range(3):
            train(model, optimizer, 2)
            watch.update(reward=float(update), loss=math.inf if update == 1 else 0.5)

    run = esper.open_run(run_dir=tmp_path)
    assert run.status == "FINISHED"
    assert not any(run.latches["inf"].values())
    history = run.history()
    assert [row["reward"] for row in history] == [0.0, 1.0, 2.0]
    assert history[1]["loss"] == math.inf
    assert history[0]["gradient_norm"] > 0
    assert history[0]["learning_rate"] == 0.002
    assert history[0]["policy_loss"] is None
    assert list(run.snapshot.run.heads) == ["action[0]", "action[1]"]
    assert run.snapshot.run.library.startswith("torch ")


def test_an_incident_names_head_operation_and_line(model, tmp_path, caplog):
    optimizer = torch.optim.Adam(model.parameters())
    with caplog.at_level(logging.WARNING, "esper"):
        with esper.watch(model, optimizer, {"a": 3, "b": 2}, run_dir=tmp_path) as watch:
            train(model, optimizer, 4, bad=3)
        assert watch.failures == 0, watch.last_failure

    run = esper.open_run(run_dir=tmp_path)
    assert run.latches["nan"]["shared"]
    (incident,) = run.snapshot.incidents
    assert incident.origin is not None
    assert incident.origin.file.endswith("test_watched_run.py")
    assert incident.origin.code == "observations[2, 1] = torch.nan"
    assert incident.origin.function == "train"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "shared NaN in observations" in caplog.text


def test_a_run_that_is_killed_after_an_incident_keeps_its_light(tmp_path):
    _, run = script(
        tmp_path,
        """
        import os, signal
        watch = esper.watch(model, optimizer, {"a": 3, "b": 2}, run_dir="runs")
        for number in range(5):
            if number == 3:
                with torch.no_grad():
                    model[2].bias[4] = float("nan")
            step()
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        kill=True,
    )

    # What else happened in the last moments is not known.
    assert run.latches["nan"] == {"a": None, "b": True, "shared": None}
    assert run.snapshot.incidents


def test_a_script_that_ends_finishes_its_run(tmp_path):
    result, run = script(tmp_path, 'esper.watch(model, optimizer, run_dir="runs")\nstep()\n')

    assert result.returncode == 0, result.stderr
    assert run.status == "FINISHED"
    assert len(run.history()) == 1


def test_an_exception_that_ends_the_script_is_the_reason(tmp_path):
    result, run = script(
        tmp_path,
        """
        watch = esper.watch(model, optimizer, {"a": 5}, run_dir="runs")
        step()
        torch.distributions.Categorical(logits=model(torch.full((2, 4), float("nan"))))
        """,
    )

    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert run.status == "FAILED"
    assert "ValueError" in run.snapshot.run.reason
    assert run.latches["nan"]["a"] or run.latches["nan"]["shared"]


def test_halt_ends_with_code_3_and_leaves_the_weights_finite(tmp_path):
    result, run = script(
        tmp_path,
        """
        watch = esper.watch(model, optimizer, {"a": 5}, run_dir="runs", on_nonfinite="halt")
        step()
        step(float("inf"))
        print("not reached")
        """,
    )

    assert result.returncode == 3
    assert "not reached" not in result.stdout
    assert "Traceback" not in result.stderr
    assert run.status == "HALTED"
    assert run.snapshot.interventions.halts == 1


def test_skip_leaves_the_step_out(model, tmp_path):
    optimizer = torch.optim.Adam(model.parameters())
    with esper.watch(model, optimizer, {"a": 5}, run_dir=tmp_path, on_nonfinite="skip"):
        train(model, optimizer, 4, bad=2)

    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    run = esper.open_run(run_dir=tmp_path)
    assert run.snapshot.interventions.updates_skipped == 1
    assert run.history()[0]["minibatches_skipped"] == 1


def test_a_forked_process_records_nothing(tmp_path):
    result, run = script(
        tmp_path,
        """
        import os
        watch = esper.watch(model, optimizer, {"a": 5}, run_dir="runs")
        step()
        pid = os.fork()
        if pid == 0:
            step(float("nan"))
            raise SystemExit(0)
        os.waitpid(pid, 0)
        step()
        """,
    )

    assert result.returncode == 0, result.stderr
    assert run.status == "FINISHED"
    assert not run.latches["nan"]["shared"]


def test_a_failure_of_the_watch_is_shown_and_training_continues(model, tmp_path, monkeypatch):
    optimizer = torch.optim.Adam(model.parameters())
    watch = esper.watch(model, optimizer, {"a": 5}, run_dir=tmp_path)
    monkeypatch.setattr(HeldMinibatch, "norm_of", lambda *_: 1 / 0)
    train(model, optimizer, 20)
    watch.close()

    assert watch.failures == 20
    run = esper.open_run(run_dir=tmp_path)
    texts = [entry.text for entry in run.snapshot.log if "the watch itself" in entry.text]
    assert [text.split(";")[0] for text in texts] == [
        "the watch itself failed",
        "the watch itself failed 10 times",
        "the watch itself failed 20 times",
    ]
    assert "ZeroDivisionError" in texts[0]
    health = read_health(watch.recorder.directory)
    assert health_as_json(health)["monitor_failures"] == {"count": 20, "last": texts[-1]}
    console = Printed(width=200)
    console.print(health_text(health))
    shown = console.text
    assert texts[-1] in shown
    assert "20 failures of the watch itself: lights may be missing" in shown
    assert "HEALTHY" not in shown


def test_weights_that_stand_still_are_reported(model, tmp_path):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with esper.watch(model, optimizer, run_dir=tmp_path) as watch:
        for _ in range(6):
            train(model, optimizer, 2)
            watch.update()

    training = esper.open_run(run_dir=tmp_path).snapshot.training
    assert training.stalled_latch
    assert training.still_updates == 5
    assert training.stalled_since == 2
    report = health_as_json(read_health(watch.recorder.directory))
    assert report["monitor_failures"] == {"count": 0, "last": None}
    assert (report["head_inf_latch"], report["head_nan_latch"]) == ({}, {})
    assert list(report["group_nan_latch"]) == ["shared"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"on_nonfinite": "explode"}, "on_nonfinite must be one of"),
        ({"when": "never"}, "when must be one of"),
        ({"when": "update", "on_nonfinite": "skip"}, "needs when='step'"),
        ({"replay": "yes"}, "replay must be one of"),
        ({"heads": 3}, "heads must be"),
        ({"heads": {"shared": 3}}, "a head cannot have the name 'shared'"),
        ({"name": 5}, "name must be a string, not 5"),
        ({"run_dir": 4}, "run_dir must be a path, not 4"),
        ({"output_layer": "0"}, "output_layer must be a module of the model, not '0'"),
        ({"groups": {"x": "nothing"}}, "matches no parameter"),
        ({"groups": {"x": "("}}, "group 'x' is not a regular expression"),
    ],
)
def test_what_cannot_be_watched_is_refused_in_a_sentence(model, tmp_path, arguments, sentence):
    with pytest.raises(esper.EsperError, match=sentence):
        esper.watch(model, **{"run_dir": tmp_path, **arguments})

    assert not list(tmp_path.iterdir())


def test_anything_but_a_model_is_refused(tmp_path):
    with pytest.raises(esper.EsperError, match="cannot watch a dict"):
        esper.watch({}, run_dir=tmp_path)
