"""`esper run -- python train.py`: the script's output, exit code, run and signals."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from esper.karn.store.run_store import find_run

TRAIN = """
import sys
import torch, esper
from torch import nn
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
with esper.watch(model, optimizer, {"steer": 3}) as watch:
    for step in range(3):
        observations = torch.randn(8, 4)
        if "--broken" in sys.argv and step == 1:
            observations[0, 0] = float("nan")
        loss = model(observations).log_softmax(-1)[:, 0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print("trained to the end")
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(TRAIN)
    return path


def test_a_clean_script_is_recorded_with_its_output(run, script, tmp_path):
    code, out, err = run("run", "--", sys.executable, str(script))

    assert code == 0, err
    assert out.startswith("trained to the end")
    directory = find_run(tmp_path / "runs")
    assert directory.name.endswith("-train")
    assert (directory / "console.log").read_text() == "trained to the end\n"
    assert "HEALTHY" in out
    assert "--resume" not in out


def test_a_broken_script_is_named(run, script, tmp_path):
    code, out, _ = run("run", "--name", "bad", "--", sys.executable, str(script), "--broken")

    assert code == 0  # the script itself ended well
    assert find_run(tmp_path / "runs").name.endswith("-bad")
    assert "the shared part went NaN in observations" in out
    assert "esper replay" in out  # its operations were recorded


def test_the_exit_code_is_that_of_the_script(run, tmp_path):
    path = tmp_path / "ends.py"
    path.write_text("raise SystemExit(7)")
    code, out, _ = run("run", "--no-sanctum", "--", sys.executable, str(path))

    assert code == 7
    assert "did not call esper.watch" in out
    assert "exit code 7" in out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ([], "give the command after --"),
        (["--", "no-such-program"], "no program 'no-such-program'"),
        (["--", sys.executable, "absent.py"], "no script 'absent.py'"),
    ],
)
def test_a_command_that_cannot_run_is_refused(run, tmp_path, command, sentence):
    code, out, err = run("run", *command)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert not (tmp_path / "runs").exists()


def test_a_sigterm_ends_the_script(tmp_path):
    path = tmp_path / "waits.py"
    path.write_text(
        textwrap.dedent(
            """
            import time
            print("ready")
            time.sleep(60)
            """
        )
    )
    esper = [sys.executable, "-m", "esper", "run", "--no-sanctum", "--", sys.executable, str(path)]
    process = subprocess.Popen(
        esper, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)

    assert process.returncode == 128 + signal.SIGTERM
    assert f"exit code {128 + signal.SIGTERM}" in out
