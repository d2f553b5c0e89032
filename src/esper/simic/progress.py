"""What a training process says of itself on its own terminal, or in its log."""

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from esper.leyline.plain_text import printable
from esper.leyline.telemetry import EpisodesCompleted, PPOUpdatePayload
from esper.simic.outputs import GuardedStream


class ProgressReport(Protocol):
    """Takes what happened, once per update."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def say(self, sentence: str) -> None: ...
    def updated(self, update: PPOUpdatePayload, episodes: EpisodesCompleted) -> None: ...


class PlainLines:
    """One plain line per update, for logs and pipes."""

    def __init__(self, stream: GuardedStream | None = None) -> None:
        # By default standard output, as it is when a line is printed.
        self._stream = stream or GuardedStream(lambda: sys.stdout, "standard output")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        self._stream.write(f"{printable(sentence)}\n")
        self._stream.flush()

    def updated(self, update: PPOUpdatePayload, episodes: EpisodesCompleted) -> None:
        """Print the figures of an update."""
        self.say(
            f"update {update.update}  episodes {update.episodes_done}  {figures(update, episodes)}"
        )
        for line in latched(update):
            self.say(line)


class ProgressBar:
    """A bar with the figures that matter, for a terminal."""

    def __init__(self, total: int, stream: GuardedStream) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("episodes"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", style="dim"),
            console=Console(file=stream, highlight=False),  # type: ignore[arg-type]  # write, flush
        )
        self._task = self._bar.add_task("training", total=total, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._bar.console.print(printable(sentence), markup=False)

    def updated(self, update: PPOUpdatePayload, episodes: EpisodesCompleted) -> None:
        """Move the bar."""
        self._bar.update(
            self._task, completed=update.episodes_done, figures=figures(update, episodes)
        )
        for line in latched(update):
            self._bar.console.print(line, style="bold red", markup=False)


class Several:
    """Several reports as one: the terminal and the run's console log."""

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
        """Say it everywhere."""
        for report in self._reports:
            report.say(sentence)

    def updated(self, update: PPOUpdatePayload, episodes: EpisodesCompleted) -> None:
        """Report it everywhere."""
        for report in self._reports:
            report.updated(update, episodes)


def figures(update: PPOUpdatePayload, episodes: EpisodesCompleted) -> str:
    """Return the main figures of an update in a few words; means are over finite hosts."""
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
    return (
        f"score {score:.3f}  accuracy {accuracy:.3f}  KL {update.approximate_kl:.4f}  "
        f"{update.samples_per_second / 1000:.0f}k samples/s{not_finite}{skipped}"
    )


def latched(update: PPOUpdatePayload) -> list[str]:
    """Return a line for each non-finite quantity of the update."""
    return [
        f"NON-FINITE  {seen.head} {seen.quantity} {seen.kind}  update {update.update}, "
        f"epoch {seen.epoch}, minibatch {seen.minibatch}"
        for seen in update.head_nonfinite
    ]
