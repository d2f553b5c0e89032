"""Scores of simple policies, to compare a run's score with.

They are means over the episodes of the evaluation of the shipped policy
(`esper/tamiyo/shipped/evaluation.json`; a test compares them), and only apply to its task and
number of steps.
"""

from typing import Final

#: Task and steps per episode of the scores.
GUIDED_TASK: Final = "mnist1d"
GUIDED_STEPS: Final = 24
#: Mean score, lowest first.
GUIDES: Final = {
    "never growing": 0.569,
    "random choices": 0.599,
    "best hand-written rule": 0.776,
    "shipped policy": 0.786,
}


def guides_of(task: str, steps: int) -> dict[str, float]:
    """Return the scores to compare with; empty for another task or number of steps."""
    return dict(GUIDES) if (task, steps) == (GUIDED_TASK, GUIDED_STEPS) else {}
