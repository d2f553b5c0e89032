"""Progress of a training process on its terminal or in its console log."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from esper.leyline.telemetry import EpisodesCompleted, PPOUpdatePayload
from esper.leyline.text.plain_text import printable
from esper.leyline.text.sighting_words import sighting_lines
from esper.simic.pace import Pace
from esper.simic.time_left import TimeLeftColumn
from esper.simic.training.process.outputs import GuardedStream

#: Seconds without a line after which a plain log shows the progress of the batch.
SECONDS_BETWEEN_LINES = 10.0


class ProgressReport(Protocol):
    """Receives the progress of training, once per step and once per update."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def say(self, sentence: str) -> None: ...
    def stage(self, what: str) -> None:
        """Show the current work before training begins."""

    def begin(self, episodes_done: int, largest_class: float) -> None:
        """Start to measure the pace.

        Args:
            episodes_done: episodes of the run that were trained earlier.
            largest_class: validation accuracy of always answering with the largest class.
        """

    def stepped(self, update: int, step: int, steps: int, episodes: float) -> None:
        """Show how far training is.

        Args:
            update: number of the update that uses this step, counted from 1.
            step: number of the step within its episode, counted from 1.
            steps: steps in an episode.
            episodes: episodes done, including fractions of the current ones.
        """

    def updated(self, update: PPOUpdatePayload, episodes: EpisodesCompleted) -> None: ...


class PlainLines:
    """One plain line per update, and one every ten seconds in between, for logs and pipes.

    Args:
        total: number of episodes of the run.
        stream: the stream to print to.
        clock: returns the seconds of a monotonic clock.
    """

    def __init__(
        self,
        total: int,
        stream: GuardedStream | TextIO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._total = total
        self._clock = clock
        self._pace = Pace(total, clock)
        self._last_line = clock()
        self._largest_class = math.nan

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        self._last_line = self._clock()
        self._stream.write(f"{printable(sentence)}\n")
        self._stream.flush()

    def stage(self, what: str) -> None:
        """Print nothing: a log begins with the description of the task."""

    def begin(self, episodes_done: int, largest_class: float) -> None:
        """Start to measure the pace."""
        self._pace.begin(episodes_done)
        self._largest_class = largest_class

    def stepped(self, update: int, step: int, steps: int, episodes: float) -> None:
        """Print the progress of the batch, if nothing was printed for a while."""
        if self._clock() - self._last_line >= SECONDS_BETWEEN_LINES:
            self.say(f"update {update}  step {step} of {steps}  {self._pace.words(episodes)}")

    def updated(self, update: PPOUpdatePayload, episodes: EpisodesCompleted) -> None:
        """Print the figures of an update."""
        self.say(
            f"update {update.update}  episodes {update.episodes_done} of {self._total}  "
            f"{figures(update, episodes, self._largest_class)}  "
            f"{self._pace.words(update.episodes_done)}"
        )
        for line in latched(update):
            self.say(line)


class ProgressBar:
    """A line per update, and below them a bar with a clock, for a terminal.

    Args:
        total: number of episodes of the run.
        console: the terminal.
    """

    def __init__(self, total: int, console: Console) -> None:
        self._pace = Pace(total)
        self._largest_class = math.nan
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("episodes"),
            TimeElapsedColumn(),
            TimeLeftColumn(self._pace),
            console=console,
        )
        self._task = self._bar.add_task("starting", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._bar.console.print(printable(sentence), markup=False)

    def stage(self, what: str) -> None:
        """Show the current work before training begins."""
        self._bar.update(self._task, description=what)

    def begin(self, episodes_done: int, largest_class: float) -> None:
        """Start to measure the pace."""
        self._pace.begin(episodes_done)
        self._largest_class = largest_class
        self._bar.update(self._task, description="training", completed=episodes_done)

    def stepped(self, update: int, step: int, steps: int, episodes: float) -> None:
        """Move the bar by a step."""
        self._bar.update(
            self._task,
            description=f"update {update} step {step}/{steps}",
            completed=episodes,
        )

    def updated(self, update: PPOUpdatePayload, episodes: EpisodesCompleted) -> None:
        """Print the figures of an update above the bar."""
        self._bar.update(self._task, completed=update.episodes_done)
        self.say(f"update {update.update}  {figures(update, episodes, self._largest_class)}")
        for line in latched(update):
            self._bar.console.print(line, style="bold red", markup=False)


class Several:
    """Several reports as one, such as the terminal and the run's console log."""

    def __init__(self, reports: Sequence[ProgressReport]) -> None:
        self._reports = reports
        self._entered = ExitStack()

    def __enter__(self) -> Self:
        for report in self._reports:
            self._entered.enter_context(report)
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.close()

    def say(self, sentence: str) -> None:
        """Print a sentence in all reports."""
        for report in self._reports:
            report.say(sentence)

    def stage(self, what: str) -> None:
        """Show the current work in all reports."""
        for report in self._reports:
            report.stage(what)

    def begin(self, episodes_done: int, largest_class: float) -> None:
        """Start to measure the pace in all reports."""
        for report in self._reports:
            report.begin(episodes_done, largest_class)

    def stepped(self, update: int, step: int, steps: int, episodes: float) -> None:
        """Show a step in all reports."""
        for report in self._reports:
            report.stepped(update, step, steps, episodes)

    def updated(self, update: PPOUpdatePayload, episodes: EpisodesCompleted) -> None:
        """Print the figures of an update in all reports."""
        for report in self._reports:
            report.updated(update, episodes)


def figures(update: PPOUpdatePayload, episodes: EpisodesCompleted, largest_class: float) -> str:
    """Return the main figures of an update; means are over finite hosts.

    Args:
        update: the update.
        episodes: the episodes of its batch.
        largest_class: validation accuracy of always answering with the largest class.
    """
    pairs = zip(episodes.score, episodes.accuracy, strict=True)
    finite = [pair for pair in pairs if math.isfinite(pair[0])]
    score, accuracy = (
        (sum(values) / len(values) for values in zip(*finite, strict=True))
        if finite
        else (math.nan, math.nan)
    )
    broken = len(episodes.score) - len(finite)
    not_finite = f"  hosts not finite {broken}" if broken else ""
    skipped = f"  skipped {update.minibatches_skipped}" if update.minibatches_skipped else ""
    speed = (update.samples_per_second or 0.0) / 1000
    return (
        f"score {score:.3f}  accuracy {accuracy:.3f} (largest class {largest_class:.3f})  "
        f"KL {update.approximate_kl:.4f}  {speed:.0f}k samples/s"
        f"{not_finite}{skipped}"
    )


def latched(update: PPOUpdatePayload) -> list[str]:
    """Return a line for each non-finite quantity of the update."""
    return [
        f"NON-FINITE  update {update.update}: {words}"
        for words in sighting_lines(update.head_nonfinite)
    ]
