"""The last incident of a watched run: what was seen, and the operation in which it began."""

from typing import ClassVar, Final

from rich.text import Text

from esper.karn.sanctum.drawing.labelled_lines import labelled
from esper.karn.sanctum.drawing.origin_lines import origin_lines
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.sanctum.widgets.tamiyo_brain.seen_in_update import seen_in_update
from esper.karn.text.palette import DARK, Palette
from esper.leyline.text.plurals import counted
from esper.leyline.text.rank_words import ranks_words

#: Values that are listed.
_SEEN: Final = 2


def render_last_incident(
    snapshot: SanctumSnapshot, width: int, palette: Palette = DARK
) -> list[Text]:
    """Return the last incident as lines of at most `width` cells; empty if there was none."""
    if not snapshot.incidents:
        return []
    incident = snapshot.incidents[-1]
    lines = origin_lines(incident, width, palette)
    seen = seen_in_update(snapshot.tamiyo.evidence, incident.update)
    if len(seen) > _SEEN:
        seen = [*seen[:_SEEN], f"and {counted(len(seen) - _SEEN, 'other value')}: 2 opens Heads"]
    lines += labelled("seen", seen, width, palette)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


class LastIncidentPanel(Panel):
    """Shows the last incident, without a replay."""

    SHOWS: ClassVar[tuple[str, ...]] = ("incidents", "interventions.incidents")
    BORDER_TITLE = "Last incident"
    ABOUT = "the operation that first made an Inf or a NaN"

    def part(self, view: View) -> object:
        return view.snapshot.incidents, view.snapshot.tamiyo.evidence

    def show(self, view: View) -> None:
        """Show another view, and in the title which incident it is."""
        super().show(view)
        incidents = view.snapshot.incidents
        if incidents:
            last = incidents[-1]
            number = view.snapshot.interventions.incidents
            of = f" of {number}" if number > 1 else ""
            rank = "" if last.rank is None else f", {ranks_words([last.rank])}"
            self.retitle(f"Incident {last.number}{of}, update {last.update}{rank}")

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        lines = render_last_incident(view.snapshot, width, palette)
        if not lines:
            return Text("no incident: everything was finite", style=palette.muted, no_wrap=True)
        return Text("\n", no_wrap=True).join(lines)
