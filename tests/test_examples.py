"""The examples, run as a user runs them, with small settings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import esper

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(tmp_path, name, *arguments):
    """Run an example; return its exit code, its output and its run."""
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return (
        result.returncode,
        result.stdout + result.stderr,
        esper.open_run(run_dir=tmp_path / "runs"),
    )


class TestPlainLoop:
    def test_it_ends_healthy(self, tmp_path):
        code, output, run = example(tmp_path, "plain_loop.py", "--updates", "2")

        assert code == 0, output
        assert (run.status, run.snapshot.run.update) == ("FINISHED", 2)
        assert not any(run.latches["nan"].values())
        assert set(run.snapshot.training.logged) == {"pg_loss", "v_loss", "value"}

    def test_a_broken_observation_is_named(self, tmp_path):
        code, output, run = example(tmp_path, "plain_loop.py", "--updates", "2", "--break-at", "60")

        assert code == 1
        assert "shared NaN in observation" in output
        assert run.latches["nan"]["shared"]


class TestNanInBackward:
    def test_the_operation_is_named_though_every_loss_is_finite(self, tmp_path):
        code, output, run = example(tmp_path, "nan_in_backward.py")

        assert code == 0, output
        assert run.latches["nan"]["encoder"]
        assert all(row["loss"] == row["loss"] for row in run.history()[:1])
        (incident,) = run.snapshot.incidents
        assert incident.origin is not None
        assert incident.origin.phase == "backward"
        assert "sqrt" in incident.origin.code

    def test_the_mended_model_is_healthy(self, tmp_path):
        code, output, run = example(tmp_path, "nan_in_backward.py", "--mended")

        assert code == 0, output
        assert not any(run.latches["nan"].values())


class TestStableBaselines3:
    def test_it_ends_healthy(self, tmp_path):
        code, output, run = example(tmp_path, "sb3_ppo.py", "--steps", "1000")

        assert code == 0, output
        assert (run.status, run.snapshot.run.update) == ("FINISHED", 2)
        assert run.snapshot.run.task == "CartPole-v1"
        assert run.snapshot.training.logged["time/total_timesteps"] == 1024.0
        assert run.snapshot.training.logged["train/approx_kl"] >= 0

    def test_a_broken_observation_is_named(self, tmp_path):
        code, output, run = example(tmp_path, "sb3_ppo.py", "--steps", "600", "--break-at", "200")

        assert code == 1
        assert "shared NaN in obs" in output
        (incident,) = run.snapshot.incidents
        assert incident.origin is not None
        assert "obs_tensor[0, 1] is nan" in incident.origin.cause


class TestTransformers:
    def test_a_broken_weight_is_named(self, tmp_path):
        arguments = ("--steps", "6", "--break-at", "4")
        code, output, run = example(tmp_path, "transformers_trainer.py", *arguments)

        assert code == 0, output
        assert (run.status, run.snapshot.run.update) == ("FINISHED", 6)
        (incident,) = run.snapshot.incidents
        assert incident.update == 4
        assert incident.origin is not None
        assert "transformer.h.1.mlp.c_fc.weight[0, 0] is +inf" in incident.origin.cause
        assert run.latches["inf"]["shared"]
        assert not run.latches["inf"]["lm_head"]


class TestRewards:
    def test_a_reward_function_has_a_light(self, tmp_path):
        code, output, run = example(tmp_path, "trl_grpo.py", "--steps", "2")

        assert code == 0, output
        assert run.latches["inf"]["sentence_length"]
        assert not run.latches["inf"]["variety"]
        assert "trl_grpo.py" in run.snapshot.incidents[0].no_origin

    def test_the_mended_one_is_healthy(self, tmp_path):
        code, output, run = example(tmp_path, "trl_grpo.py", "--steps", "2", "--mended")

        assert code == 0, output
        assert not any(run.latches["inf"].values())


class TestLightning:
    def test_a_broken_batch_is_named(self, tmp_path):
        arguments = ("--batches", "20", "--break-at", "12")
        code, output, run = example(tmp_path, "lightning_loop.py", *arguments)

        assert code == 0, output
        assert (run.status, run.snapshot.run.update) == ("FINISHED", 20)
        (incident,) = run.snapshot.incidents
        assert incident.update == 12
        assert incident.origin is not None
        assert "batch[0][0, 0] is nan" in incident.origin.cause
        assert "self.body(points)" in incident.origin.code


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sb3_ppo.py", ("--break-at", "900")),
        ("plain_loop.py", ("--learning-rate", "1e30", "--updates", "1")),
        ("nan_in_backward.py", ()),
    ],
)
def test_the_guide_quotes_what_the_example_says(tmp_path, name, arguments):
    _, output, _ = example(tmp_path, name, *arguments)
    guide = (EXAMPLES.parent / "docs/guides/find-a-nan.md").read_text(encoding="utf-8")
    line = next(line for line in output.splitlines() if "; it " in line)
    quote = line.partition(" (run ")[0].replace(f"{EXAMPLES}/", "examples/")

    assert without_numbers(quote) in [without_numbers(quoted) for quoted in guide.splitlines()]


def without_numbers(text):
    """Return a text without the values and line numbers that depend on library versions."""
    return re.sub(r"\d[\d.]*(e[+-]\d+)?", "#", text)


def test_every_example_has_a_test():
    text = Path(__file__).read_text(encoding="utf-8")
    missing = [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in text]
    assert missing == []


class TestRLlib:
    """Needs Ray: `uv run --with 'ray[rllib]' pytest -n 0 tests/test_examples.py -k RLlib`."""

    @pytest.fixture(autouse=True)
    def _ray(self, monkeypatch):
        pytest.importorskip("ray.rllib")
        monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

    def test_a_broken_observation_is_named_where_it_is_acted_on(self, tmp_path):
        code, output, _ = example(tmp_path, "rllib_ppo.py", "--break-at", "300")

        assert code == 1, output
        acting = esper.open_run("acting", run_dir=tmp_path / "runs")
        (first,) = acting.first
        assert (first.quantity, first.phase) == ("batch['obs']", "acting")

    def test_gradients_that_are_replaced_by_zeros_are_told(self, tmp_path):
        arguments = ("--updates", "5", "--break-rewards-at", "300")
        code, output, _ = example(tmp_path, "rllib_ppo.py", *arguments)

        assert code == 0, output
        learning = esper.open_run("learning", run_dir=tmp_path / "runs")
        assert {one.quantity for one in learning.first} == {"policy_loss"}
        assert learning.first[0].phase == "update"
        assert learning.snapshot.training.stalled_latch
