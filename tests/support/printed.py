"""A console that keeps what is printed."""

import io

from rich.console import Console


class Printed(Console):
    """A console that keeps what is printed, as a pipe would get it unless it is a terminal."""

    def __init__(self, **options):
        self.kept = io.StringIO()
        super().__init__(file=self.kept, **options)

    @property
    def text(self):
        return self.kept.getvalue()

    @property
    def lines(self):
        return self.text.splitlines()
