"""The last lines of a training command: verdict, score against simple policies, what to do next."""

import math
from pathlib import Path
from typing import Final

from esper.karn.run_commands import run_command
from esper.karn.sanctum.follower import Frame, RunFollower
from esper.karn.sanctum.verdict import master_verdict
from esper.leyline.checkpoint_file import CHECKPOINTS_NAME, newest_whole
from esper.leyline.health import LEVEL_WORDS
from esper.leyline.score_guides import guides_of

_OUT: Final = "grown"


def closing_lines(run: Path) -> list[str]:
    """Return the lines about a run that ended.

    Args:
        run: the run's directory.
    """
    frame = RunFollower(run).catch_up()
    return [*_outcome(run, frame), "next:", *(f"  {line}" for line in _next_commands(run, frame))]


def _outcome(run: Path, frame: Frame) -> list[str]:
    state, score = frame.snapshot.run, frame.snapshot.training.score
    verdict = master_verdict(frame.snapshot, frame.status, doubt=frame.store_doubt)
    reason = f": {verdict.reasons[0]}" if verdict.reasons else ""
    lines = [f"{run.name} {frame.status.kind.lower()}, {LEVEL_WORDS[verdict.level]}{reason}"]
    if score is not None and math.isfinite(score):
        guides = guides_of(state.task, state.steps)
        compared = ", ".join(f"{name} {value:.3f}" for name, value in guides.items())
        versus = f" (for comparison: {compared})" if compared else ""
        lines.append(f"mean score of the last episodes: {score:.3f}{versus}")
    return lines


def _next_commands(run: Path, frame: Frame) -> list[str]:
    state = frame.snapshot.run
    commands = [run_command(run, "sanctum")]
    # The checkpoint decides what is done: the store may tell of updates that are to be repeated.
    checkpoint = newest_whole(run / CHECKPOINTS_NAME).summary
    if checkpoint is not None:
        commands.append(run_command(run, "esper", "eval"))
        # A store that could not be written may not know the task.
        task = state.task or checkpoint.settings.get("task")
        if isinstance(task, str) and task:
            grow = ("grow", "--task", task, "--out", _OUT, "--policy")
            commands.append(run_command(run, "esper", *grow))
    done = checkpoint.episodes_done if checkpoint else 0
    is_done = done >= state.episodes > 0
    more = ("--episodes", 2 * state.episodes) if is_done else ()
    return [*commands, run_command(run, "esper", "ppo", "--resume", more=more)]
