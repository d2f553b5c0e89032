"""The list of the Hosts screen: every host in a line."""

from collections.abc import Hashable, Sequence
from typing import ClassVar, Final

from rich.text import Text

from esper.karn.sanctum.drawing.charts import sparkline
from esper.karn.sanctum.drawing.choice_panel import ChoicePanel
from esper.karn.sanctum.drawing.judgement import figure_style
from esper.karn.sanctum.drawing.seed_stages import stage_sign, stage_style
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.overview.hosts_panel import largest_class
from esper.karn.sanctum.schema import HostState, SanctumSnapshot
from esper.karn.text.figures import count, cut, percentage
from esper.karn.text.palette import DARK, Palette

_INDEX_WIDTH: Final = 5  # the cursor and the host's number
_PERCENT_WIDTH: Final = 7
_COUNT_WIDTH: Final = 6
_LONGEST_CURVE: Final = 16
_SLOTS: Final = "slots"


def render_host_list(snapshot: SanctumSnapshot, width: int, palette: Palette = DARK) -> list[Text]:
    """Return a heading and a line for each host; the first cell is for a cursor.

    The accuracy curve takes the remaining room, and is the first to be left out.
    """
    hosts = snapshot.hosts
    if not hosts:
        return [Text(cut("no step completed yet", width), style=palette.muted, no_wrap=True)]
    slots = max(len(_SLOTS), *(len(host.slots) for host in hosts))
    room = width - _INDEX_WIDTH - _PERCENT_WIDTH - slots - 1
    has_count = room >= _COUNT_WIDTH + 1
    curve = min(_LONGEST_CURVE, room - (_COUNT_WIDTH + 1) * has_count)
    heading = "host".rjust(_INDEX_WIDTH) + " acc."
    heading = heading.ljust(_INDEX_WIDTH + 1 + _PERCENT_WIDTH + max(0, curve))
    heading += "params".ljust(_COUNT_WIDTH + 1) if has_count else ""
    lines = [Text(f"{heading}{_SLOTS}", style=palette.muted, no_wrap=True)]
    for host in hosts:
        line = Text(f"{host.host + 1}".rjust(_INDEX_WIDTH) + " ", palette.muted, no_wrap=True)
        style = figure_style("hosts[…].accuracy", host.accuracy, snapshot.run.update, palette)
        line.append(percentage(host.accuracy).ljust(_PERCENT_WIDTH - 1), style)
        if curve > 1:
            line.append_text(sparkline(host.accuracy_history, curve, palette))
        line.append(" ")
        if has_count:
            line.append(count(host.parameters).ljust(_COUNT_WIDTH + 1), palette.ink)
        line.append_text(_signs(host, palette))
        lines.append(line)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _signs(host: HostState, palette: Palette) -> Text:
    signs = Text(no_wrap=True)
    for slot in host.slots:
        signs.append(stage_sign(slot.stage), stage_style(slot.stage, palette))
    return signs


class HostListPanel(ChoicePanel):
    """Shows every host, one of which can be chosen."""

    IS_RESTLESS = True

    SHOWS: ClassVar[tuple[str, ...]] = (
        "hosts[…].accuracy",
        "hosts[…].parameters",
        "hosts[…].slots[…].stage",
    )
    BORDER_TITLE = "Hosts"
    ABOUT = "choose one"

    def part(self, view: View) -> object:
        return view.snapshot.hosts, view.snapshot.run.update, largest_class(view.snapshot.run)

    def redraw(self) -> None:
        """Draw again, and show in the title the accuracy of always choosing the largest class."""
        super().redraw()
        if self._view is None or self.size.width < 1:
            return
        compared = largest_class(self._view.snapshot.run)
        is_narrow = self.size.width < len(f"Hosts · {compared}")
        self.note(compared.replace(" class", "") if is_narrow else compared)

    def keys(self, view: View) -> Sequence[Hashable]:
        return [host.host for host in view.snapshot.hosts]

    def rows(self, view: View, width: int, palette: Palette) -> list[Text]:
        return render_host_list(view.snapshot, width, palette)
