"""Make the policy that ships with the package: train it, evaluate it, and put it in its place.

    uv run python scripts/train_shipped_policy.py [--run RUN] [--out FOLDER]

Trains with the default settings and seed 0 in a run of its own. With --run, an existing run's
newest checkpoint is taken instead of training. The seed is fixed beforehand, so that no policy is
chosen by how well it came out.
"""

import argparse
import contextlib
import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from esper.growth.environment.observation import FEATURES
from esper.karn.store.run_store import CONFIG_NAME, RunReader, find_run
from esper.leyline.telemetry import EpisodesCompleted
from esper.services.policies import find_policy
from esper.simic.evaluation import evaluation_report
from esper.simic.evaluation.baseline_names import DEFAULT_BASELINES
from esper.simic.evaluation.contest import Evaluation, evaluate
from esper.tamiyo import shipped

SEED = 0
EPISODES = 64
EVENTS_AT_A_TIME = 5000


def main() -> None:
    """Make all files of the shipped policy."""
    options = _options()
    run_dir = options.run_dir
    if options.run is None:
        command = ("ppo", "--no-sanctum", "--seed", str(SEED), "--run-dir", str(run_dir))
        subprocess.run([sys.executable, "-m", "esper", *command], check=True)
    run = find_run(run_dir, options.run)
    options.out.mkdir(parents=True, exist_ok=True)

    trained = find_policy(run_dir, options.run)
    features = [feature.name for feature in FEATURES]
    shipped.save_policy(trained.policy, features, trained.episodes, options.out)
    shutil.copyfile(run / CONFIG_NAME, options.out / shipped.CONFIG_NAME)
    _write_curve(run, options.out / shipped.CURVE_NAME)

    result = evaluate(
        [trained],
        episodes=EPISODES,
        against=DEFAULT_BASELINES,
        rng_seed=0,
        say=lambda what: print(what),
    )
    report = json.dumps(evaluation_report.evaluation_as_json(result), indent=1)
    (options.out / shipped.EVALUATION_NAME).write_text(report + "\n", encoding="utf-8")
    (options.out / shipped.TABLE_NAME).write_text(_as_markdown(result), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", metavar="RUN", help="take this run instead of training one")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/shipped"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=shipped.SHIPPED, metavar="FOLDER")
    return parser.parse_args()


def _write_curve(run: Path, path: Path) -> None:
    reader = RunReader(run)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("update", "episodes_done", "mean_score", "mean_accuracy"))
        last = 0
        while events := reader.read(last, EVENTS_AT_A_TIME, bulk=False):
            last = events[-1].id
            for event in events:
                done = event.payload
                if isinstance(done, EpisodesCompleted):
                    means = (sum(values) / len(values) for values in (done.score, done.accuracy))
                    writer.writerow(
                        (done.update, done.episodes_done, *(f"{mean:.4f}" for mean in means))
                    )


def _as_markdown(result: Evaluation) -> str:
    text = io.StringIO()
    with contextlib.closing(text):
        console = Console(file=text, width=evaluation_report.WIDTH, highlight=False)
        console.print(evaluation_report.evaluation_text(result))
        return f"# The shipped policy, evaluated\n\n```\n{text.getvalue()}```\n"


if __name__ == "__main__":
    main()
