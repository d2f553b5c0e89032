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
from esper.leyline.text.plurals import counted


class EvidencePanel(ChoicePanel):
    """Shows the evidence of the lights (TELE-302, TELE-303), a row of which can be chosen."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        "tamiyo.head_inf_latch",
        "tamiyo.head_nan_latch",
        "tamiyo.evidence",
        "tamiyo.first",
        "run.head_kinds",
        "training.stalled_latch",
    )
    BORDER_TITLE = "Evidence"
    ABOUT = "what was Inf or NaN, in which head, and when"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.open_incident", "Incident", tooltip="Open the row's incident"),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._search = ""
        self._rows: tuple[object, list[HeadRow]] = (None, [])  # and what they were made of

    def search(self, text: str) -> None:
        """Show the rows with every word of a text in their head, kind, quantity or value."""
        if text == self._search:
            return
        self._search = text
        if self._view is not None:
            before = self.chosen
            self._keys = self.keys(self._view)
            self.redraw()
            self._keep_visible()
            self._take_note(self._view)
            if self.chosen != before:
                self.post_message(self.Chosen(self, self.chosen))

    def show(self, view: View) -> None:
        """Show another view, and in the title how its places are written."""
        super().show(view)
        self._take_note(view)

    def _take_note(self, view: View) -> None:
        if self._search:
            found = len(self._rows_of(view))
            self.note(f"{counted(found, 'row')} with {self._search!r}: / changes it, esc ends it")
            return
        epoch = "" if view.snapshot.run.is_watched else "epoch/"
        has_places = bool(view.snapshot.tamiyo.evidence)
        self.note(f"first and last: update/{epoch}minibatch" if has_places else "")

    def part(self, view: View) -> object:
        tamiyo = view.snapshot.tamiyo
        training = view.snapshot.training
        stalled = training.stalled_latch, training.stalled_since, training.still_updates
        heads = view.snapshot.run.heads
        shown = tamiyo.evidence, tamiyo.first, heads, view.acknowledgements, view.doubt
        return *shown, *stalled

    def _rows_of(self, view: View) -> list[HeadRow]:
        """Return the rows; those of the last view if it showed the same."""
        made_of = self.part(view), self._search
        if self._rows[0] != made_of:
            self._rows = made_of, rows_of(view, self._search)
        return self._rows[1]

    def keys(self, view: View) -> Sequence[Hashable]:
        return [row.key for row in self._rows_of(view)]

    def rows(self, view: View, width: int, palette: Palette) -> list[Text]:
        return render_rows(view, width, palette, self.lamps, rows=self._rows_of(view))

    def show_lamps(self, lamps: Lamps) -> None:
        """Show the lights in a phase of blinking, or in a lamp test."""
        changed = lamps != self.lamps
        super().show_lamps(lamps)
        if changed:
            self.redraw()

    def chosen_row(self, view: View) -> HeadRow | None:
        """Return the chosen row in a view; None if there are no heads."""
        chosen = self.chosen
        return next((row for row in self._rows_of(view) if row.key == chosen), None)
