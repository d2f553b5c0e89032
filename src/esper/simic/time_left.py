"""The estimated time left, as a column of a progress bar."""

from rich.progress import ProgressColumn, Task
from rich.text import Text

from esper.simic.pace import Pace, duration


class TimeLeftColumn(ProgressColumn):
    """Shows the estimated time left."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def render(self, task: Task) -> Text:
        left = self._pace.left(task.completed)
        return Text("" if left is None else f"about {duration(left)} left", style="cyan")
