"""Sentences about a run: on the console, and in the run's log that Sanctum shows."""

from esper.leyline.telemetry import Notice
from esper.simic.telemetry.emitters import EventWriter
from esper.simic.training.progress import ProgressReport


class RunLog:
    """Reports sentences to the console and to the run's log.

    Args:
        writer: receives every telemetry event.
        progress: console progress reporter.
    """

    def __init__(self, writer: EventWriter, progress: ProgressReport) -> None:
        self.writer = writer
        self.progress = progress

    def say(self, sentence: str, level: str) -> None:
        """Print a sentence and write it into the run's log, as "info", "warning" or "error"."""
        self.progress.say(sentence)
        self.write(sentence, level)

    def write(self, sentence: str, level: str = "info") -> None:
        """Write a sentence into the run's log."""
        self.writer.emit(Notice(level=level, text=sentence))
