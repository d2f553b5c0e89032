"""A panel that grows at its end, and keeps the end visible."""

from esper.karn.sanctum.drawing.panel import Panel


class TailPanel(Panel):
    """Keeps its end visible, unless it is scrolled away from it or following is switched off."""

    IS_RESTLESS = True

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._follows = True

    @property
    def follows(self) -> bool:
        """Whether the end is kept visible."""
        return self._follows

    def follow(self, follows: bool) -> None:
        """Switch following on or off."""
        self._follows = follows
        self.note("" if follows else "paused: press End to follow")
        if follows:
            self.scroll_end(animate=False, force=True)

    def redraw(self) -> None:
        """Draw again and, if it follows, keep the end visible."""
        size = self.virtual_size
        super().redraw()
        # At the end already, a new layout is not needed; it costs more than drawing.
        if self._follows and not (self.virtual_size == size and self.is_vertical_scroll_end):
            # Not immediate: the end is known only after a new layout of the screen.
            # Forced: a panel that has just outgrown its height has no scrollbar yet.
            self.scroll_end(animate=False, force=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Follow once the end is visible, until the user scrolls up."""
        super().watch_scroll_y(old_value, new_value)
        # Also called when the panel grows or the layout changes: that is not scrolling up.
        if self.is_vertical_scroll_end:
            self._follows = True
        elif new_value < old_value:
            self._follows = False
        self.note("" if self._follows else "paused: press End to follow")

    def action_scroll_end(self) -> None:
        """Scroll to the end, and follow again."""
        self.follow(True)
