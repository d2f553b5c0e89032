"""A panel that grows at its end, and keeps its end in sight."""

from esper.karn.sanctum.drawing.panel import Panel


class TailPanel(Panel):
    """Follows what it shows unless it was scrolled away from its end, or told to stand still."""

    IS_RESTLESS = True

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._follows = True

    @property
    def follows(self) -> bool:
        """Whether the end is kept in sight."""
        return self._follows

    def follow(self, follows: bool) -> None:
        """Keep the end in sight from now on, or stand still."""
        self._follows = follows
        self.note("" if follows else "paused, End follows again")
        if follows:
            self.scroll_end(animate=False, force=True)

    def redraw(self) -> None:
        """Draw again and, if it follows, keep the end in sight."""
        size = self.virtual_size
        super().redraw()
        # At its end already it need not be laid out again, which costs more than drawing it.
        if self._follows and not (self.virtual_size == size and self.is_vertical_scroll_end):
            # Not immediate: where the screen is laid out again, the end is known only after that.
            # Forced: a panel that has just outgrown its room has no scrollbar yet.
            self.scroll_end(animate=False, force=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Follow once the end is in sight, until the user scrolls up."""
        super().watch_scroll_y(old_value, new_value)
        # Also called while the panel grows or the screen is laid out: that is no scrolling up.
        if self.is_vertical_scroll_end:
            self._follows = True
        elif new_value < old_value:
            self._follows = False
        self.note("" if self._follows else "paused, End follows again")

    def action_scroll_end(self) -> None:
        """Go to the end, and follow again."""
        self.follow(True)
