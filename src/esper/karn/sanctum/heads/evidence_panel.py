"""The list of the Heads screen: what was non-finite in which head, where and when."""

from collections.abc import Hashable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from esper.karn.sanctum.drawing.choice_panel import ChoicePanel
from esper.karn.sanctum.fold.attention import Lamps
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.heads.evidence_rows import HeadRow, render_rows, rows_of
from esper.karn.text.palette import Palette


class EvidencePanel(ChoicePanel):
    """Shows the evidence of the lights (TELE-302, TELE-303), a row of which can be chosen."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        "tamiyo.head_inf_latch",
        "tamiyo.head_nan_latch",
        "tamiyo.evidence",
        "tamiyo.first",
    )
    BORDER_TITLE = "Evidence"
    ABOUT = "what was Inf or NaN, in which head, and when"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.open_incident", "Incident", tooltip="Open the row's incident"),
    ]

    def show(self, view: View) -> None:
        """Show another view, and in the title how its places are written."""
        super().show(view)
        has_places = bool(view.snapshot.tamiyo.evidence)
        self.note("first and last: update/epoch/minibatch" if has_places else "")

    def part(self, view: View) -> object:
        tamiyo = view.snapshot.tamiyo
        heads = view.snapshot.run.heads
        return tamiyo.evidence, tamiyo.first, heads, view.acknowledgements, view.doubt

    def keys(self, view: View) -> Sequence[Hashable]:
        return [row.key for row in rows_of(view)]

    def rows(self, view: View, width: int, palette: Palette) -> list[Text]:
        return render_rows(view, width, palette, self.lamps)

    def show_lamps(self, lamps: Lamps) -> None:
        """Show the lights in a phase of blinking, or in a lamp test."""
        changed = lamps != self.lamps
        super().show_lamps(lamps)
        if changed:
            self.redraw()

    def chosen_row(self, view: View) -> HeadRow | None:
        """Return the chosen row in a view; None if there are no heads."""
        return next((row for row in rows_of(view) if row.key == self.chosen), None)
