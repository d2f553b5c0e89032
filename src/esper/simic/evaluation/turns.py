"""Progress of an evaluation: which contestant runs, how many are left, and each result."""

from collections.abc import Callable

import numpy as np

from esper.simic.command_progress import Report, no_report
from esper.simic.evaluation.outcomes import Outcomes


class Turns:
    """Reports the runs of contestants; without arguments it reports nothing.

    Args:
        total: number of runs.
        largest_class: test accuracy of always answering with the largest class.
        say: receives a line when a run begins and when it ends.
        report: receives the current work, and the fraction of all work that is done.
    """

    def __init__(
        self,
        total: int = 1,
        largest_class: float = 0.0,
        say: Callable[[str], None] = lambda _: None,
        report: Report = no_report,
    ) -> None:
        self._total = total
        self._largest_class = largest_class
        self._say = say
        self._report = report
        self._done = 0
        self._what = ""

    def begin(self, what: str) -> None:
        """Report that a run begins."""
        self._what = what
        self._say(f"[{self._done + 1} of {self._total}] {what}")
        self.at(0.0)

    def at(self, fraction: float) -> None:
        """Report the fraction of the current run that is done, 0 to 1."""
        self._report(self._what, min(1.0, (self._done + fraction) / self._total))

    def finish(self, line: str) -> None:
        """Report the end of a search; the lines of results do not include it."""
        self._done += 1
        self._say(f"    {line}")
        self.at(0.0)

    def end(self, outcomes: Outcomes) -> None:
        """Report the result of the current run."""
        self._done += 1
        accuracy, score = np.mean(outcomes.test_accuracy), np.mean(outcomes.score)
        self._say(
            f"    test accuracy {accuracy:.3f} (largest class {self._largest_class:.3f}), "
            f"score {score:.3f}; {max(0, self._total - self._done)} left"
        )
        self.at(0.0)
