"""The end of a run: verdict, score against simple policies, what to do next.

The last lines of a training command and the closing screen of Sanctum show the same.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper.karn.reports.incident_advice import advice_on, where_it_began
from esper.karn.reports.run_commands import resume_command, run_command
from esper.karn.sanctum.fold.attention import is_drill
from esper.karn.sanctum.fold.verdict import master_verdict
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.following.run_frame import Frame
from esper.leyline.files.checkpoint_file import CHECKPOINTS_NAME, newest_whole
from esper.leyline.health import LEVEL_WORDS
from esper.leyline.score_guides import guides_of

_OUT: Final = "grown"
#: Label of the score.
SCORE_NAME: Final = "mean score of the last episodes"


@dataclass(frozen=True)
class NextStep:
    """A suggested command for a run that ended.

    Attributes:
        purpose: purpose in one to three words.
        command: command line, ready to paste.
    """

    purpose: str
    command: str


@dataclass(frozen=True)
class RunEnd:
    """How a run ended.

    Attributes:
        run: its id.
        ending: how its process ended: "finished", "stopped" and so on.
        word: the verdict in a word.
        reason: the most serious reason for the verdict; empty if there is none.
        score: mean score of the last episodes; None if unknown.
        guides: scores of simple policies, lowest first; empty if they do not apply.
        next_steps: suggested commands.
        origin: where the first incident of a watched run began, or why that is not known; empty
            without an incident, and where only a replay finds it.
    """

    run: str
    ending: str
    word: str
    reason: str
    score: float | None
    guides: dict[str, float]
    next_steps: tuple[NextStep, ...]
    origin: str = ""

    @property
    def verdict(self) -> str:
        """The verdict with its reason."""
        return f"{self.word}: {self.reason}" if self.reason else self.word


def end_of(run: Path) -> RunEnd:
    """Return how a run ended.

    Args:
        run: the run's directory.
    """
    frame = RunFollower(run).catch_up()
    snapshot = frame.snapshot
    verdict = master_verdict(snapshot, frame.status, doubt=frame.doubt)
    reason = verdict.reasons[0] if verdict.reasons else ""
    if reason and "drill" not in reason and is_drill(snapshot.tamiyo):
        reason = f"drill: {reason}"
    score = snapshot.training.score
    return RunEnd(
        run=run.name,
        ending=frame.status.kind.lower(),
        word=LEVEL_WORDS[verdict.level],
        reason=reason,
        origin=next(filter(None, map(where_it_began, snapshot.incidents[:1])), ""),
        score=None if score is None or not math.isfinite(score) else score,
        guides=guides_of(snapshot.run.task, snapshot.run.steps),
        next_steps=tuple(_next_steps(run, frame)),
    )


def closing_lines(run: Path) -> list[str]:
    """Return the lines about a run that ended.

    Args:
        run: the run's directory.
    """
    end = end_of(run)
    lines = [f"{end.run} {end.ending}, {end.verdict}"]
    if end.origin:
        is_known = end.origin.startswith(("began", "came", "was"))
        lines.append(f"it {end.origin}" if is_known else end.origin)
    if end.score is not None:
        compared = ", ".join(f"{name} {value:.3f}" for name, value in end.guides.items())
        versus = f" (for comparison: {compared})" if compared else ""
        lines.append(f"{SCORE_NAME}: {end.score:.3f}{versus}")
    return [*lines, "next:", *(f"  {step.command}" for step in end.next_steps)]


def _next_steps(run: Path, frame: Frame) -> list[NextStep]:
    state = frame.snapshot.run
    advice = advice_on(run, frame.snapshot.incidents)
    steps = [] if advice is None else [NextStep(advice.purpose, advice.command)]
    steps.append(NextStep("watch", run_command(run, "sanctum")))
    if state.is_watched:  # its own script trains it, and Esper cannot resume or evaluate it
        return [*steps, NextStep("report", run_command(run, "esper", "health"))]
    # The checkpoint counts: the store may have later updates, which a resume repeats.
    checkpoint = newest_whole(run / CHECKPOINTS_NAME).summary
    if checkpoint is not None:
        steps.append(NextStep("evaluate", run_command(run, "esper", "eval")))
        # A store that could not be written may lack the task.
        task = state.task or checkpoint.settings.get("task")
        if isinstance(task, str) and task:
            grow = ("grow", "--task", task, "--out", _OUT, "--policy")
            steps.append(NextStep("grow with it", run_command(run, "esper", *grow)))
    done = checkpoint.episodes_done if checkpoint else 0
    is_done = done >= state.episodes > 0
    more = ("--episodes", 2 * state.episodes) if is_done else ()
    purpose = "train longer" if is_done else "resume"
    return [*steps, NextStep(purpose, resume_command(run, frame.ranks, more))]
