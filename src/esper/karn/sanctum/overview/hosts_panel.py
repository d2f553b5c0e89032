"""The hosts in one line each: accuracy, size, and the seeds in the slots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.charts import sparkline
from esper.karn.sanctum.drawing.judgement import figure_style, finite_style
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.drawing.seed_stages import STAGE_SIGNS, alpha_sign, stage_sign, stage_style
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.schema import HostState, RunState, SanctumSnapshot, SlotState
from esper.karn.text.columns import flowed
from esper.karn.text.figures import count, cut, figure, percentage
from esper.karn.text.palette import DARK, Palette
from esper.leyline.text.plain_text import name_at

_INDEX_WIDTH: Final = 3
_PERCENT_WIDTH: Final = 7
_COUNT_WIDTH: Final = 6
_SIGNS_WIDTH: Final = 3  # stage, alpha and a gap
_SHORTEST_NAME: Final = 6
_LONGEST_NAME: Final = 14
_FIGURE_WIDTH: Final = 6
_SHORTEST_CURVE: Final = 5
_LONGEST_CURVE: Final = 24
_GAP: Final = 2  # between two columns of hosts
_TIGHT_PERCENT_WIDTH: Final = 6
_TIGHT_SLOT_WIDTH: Final = 1  # the stage


@dataclass(frozen=True)
class _Columns:
    """Widths in cells of the columns of one host's line."""

    width: int
    curve: int
    name: int = 0  # of a blueprint; 0 where only signs fit
    figures: bool = False  # whether loss and reward fit
    is_tight: bool = False  # whether only the most important columns fit, without a heading

    @property
    def slot(self) -> int:
        if self.is_tight:
            return _TIGHT_SLOT_WIDTH
        return _SIGNS_WIDTH + (self.name + 1 if self.name else 0)

    @property
    def percent(self) -> int:
        return _TIGHT_PERCENT_WIDTH if self.is_tight else _PERCENT_WIDTH


def render_hosts(
    snapshot: SanctumSnapshot, width: int, height: int = 8, palette: Palette = DARK
) -> Text:
    """Return a heading, a line per host and, if there is room, a legend of the signs.

    Hosts that do not fit below each other are put side by side, as far as `width` allows.
    """
    hosts, run = snapshot.hosts, snapshot.run
    if not hosts:
        return Text("no step completed yet", style=palette.muted, no_wrap=True)
    slots = max(len(run.slots), *(len(host.slots) for host in hosts))
    columns, flows = _flows(len(hosts), slots, run.blueprints, width, height)
    rows = -(-len(hosts) // flows)
    gap = Text(" " * _GAP, no_wrap=True)
    lines = []
    if not columns.is_tight:
        lines.append(gap.join([_heading(run, slots, columns, palette)] * flows))
    for row in range(rows):
        cells = [_host_line(host, run, slots, columns, palette) for host in hosts[row::rows]]
        lines.append(gap.join(cells))
    legend = _legend(run, width, palette)
    if len(lines) + len(legend) < height:
        lines += [Text(""), *legend]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines)


def _flows(
    hosts: int, slots: int, blueprints: Sequence[str], width: int, height: int
) -> tuple[_Columns, int]:
    """Return the columns of a host's line, and the number of hosts side by side."""
    narrowest = _fixed_width(slots) + _SHORTEST_CURVE
    flows = 1
    while hosts > flows * (height - 1) and (width + _GAP) // (flows + 1) >= narrowest + _GAP:
        flows += 1
    if hosts <= flows * (height - 1):
        return _columns((width + _GAP) // flows - _GAP, slots, blueprints), flows
    tight = _INDEX_WIDTH + _TIGHT_PERCENT_WIDTH + slots * _TIGHT_SLOT_WIDTH + 1
    tight_flows = max(1, min((width + _GAP) // (tight + _GAP), -(-hosts // height)))
    if tight_flows <= flows:
        return _columns((width + _GAP) // flows - _GAP, slots, blueprints), flows
    room = (width + _GAP) // tight_flows - _GAP
    # A curve of one or two cells is useless.
    curve = room - tight if room - tight >= _SHORTEST_CURVE else 0
    return _Columns(room, min(_LONGEST_CURVE, curve), is_tight=True), tight_flows


def _fixed_width(slots: int) -> int:
    return _INDEX_WIDTH + _PERCENT_WIDTH + _COUNT_WIDTH + slots * _SIGNS_WIDTH + 1


def _columns(width: int, slots: int, blueprints: Sequence[str]) -> _Columns:
    rest = width - _fixed_width(slots) - _SHORTEST_CURVE
    name = 0
    if slots and rest // slots > _SHORTEST_NAME:
        longest = max(map(len, blueprints), default=_SHORTEST_NAME)
        name = min(_LONGEST_NAME, longest, rest // slots - 1)
        rest -= slots * (name + 1)
    figures = rest >= 2 * (_FIGURE_WIDTH + 1)
    rest -= 2 * (_FIGURE_WIDTH + 1) if figures else 0
    curve = max(0, min(_LONGEST_CURVE, _SHORTEST_CURVE + rest))
    return _Columns(width, curve, name, figures)


def _heading(run: RunState, slots: int, columns: _Columns, palette: Palette) -> Text:
    line = Text(no_wrap=True, style=palette.muted)
    line.append("#".rjust(_INDEX_WIDTH - 1) + " ")
    line.append("accuracy".ljust(_PERCENT_WIDTH + columns.curve + 1))
    line.append("params".ljust(_COUNT_WIDTH + 1))
    if columns.figures:
        line.append("loss".ljust(_FIGURE_WIDTH + 1) + "reward".ljust(_FIGURE_WIDTH + 1))
    names = [run.slots[slot] if slot < len(run.slots) else str(slot + 1) for slot in range(slots)]
    if columns.name:
        for name in names:
            line.append(cut(name, columns.slot - 1).ljust(columns.slot))
    else:
        line.append("slots")  # there is no room for their names
    line.truncate(columns.width, pad=True)
    return line


def _host_line(
    host: HostState, run: RunState, slots: int, columns: _Columns, palette: Palette
) -> Text:
    line = Text(no_wrap=True)
    line.append(f"{host.host + 1}".rjust(_INDEX_WIDTH - 1) + " ", palette.muted)
    line.append(
        percentage(host.accuracy).ljust(columns.percent),
        figure_style("hosts[…].accuracy", host.accuracy, run.update, palette),
    )
    line.append_text(sparkline(host.accuracy_history, columns.curve, palette)).append(" ")
    if not columns.is_tight:
        line.append(count(host.parameters).ljust(_COUNT_WIDTH + 1), palette.ink)
    if columns.figures:
        for name, value in (("loss", host.loss), ("reward", host.reward)):
            style = figure_style(f"hosts[…].{name}", value, run.update, palette)
            line.append(figure(value, _FIGURE_WIDTH).ljust(_FIGURE_WIDTH + 1), style)
    for slot in range(slots):
        state = host.slots[slot] if slot < len(host.slots) else SlotState()
        line.append_text(_slot(state, run.blueprints, columns, palette))
    line.truncate(columns.width, pad=True)
    return line


# Most slots do not change in a step, and many hosts have equal slots.
@lru_cache(maxsize=1024)
def _slot(
    state: SlotState, blueprints: tuple[str, ...], columns: _Columns, palette: Palette
) -> Text:
    style = stage_style(state.stage, palette)
    cell = Text(no_wrap=True).append(stage_sign(state.stage), style)
    if columns.is_tight:
        if math.isfinite(state.alpha):
            return cell
        cell = Text(no_wrap=True)  # a non-finite alpha is shown in any case
    cell.append(alpha_sign(state.alpha), finite_style(state.alpha, palette, palette.curve))
    if columns.name and state.blueprint >= 0:
        name = cut(name_at(blueprints, state.blueprint), columns.name)
        cell.append(f" {name}", palette.muted)
    cell.truncate(columns.slot, pad=True)
    return cell


def largest_class(run: RunState) -> str:
    """Return the accuracy of always choosing the largest class, in words; empty if not known."""
    return "" if run.largest_class is None else f"largest class {percentage(run.largest_class)}"


def _legend(run: RunState, width: int, palette: Palette) -> list[Text]:
    """Return the meaning of the signs and of accuracies, wrapped to `width`."""
    entries = []
    for stage, sign in STAGE_SIGNS.items():
        entry = Text(no_wrap=True).append(f"{sign} ", stage_style(stage, palette))
        entries.append(entry.append(stage.name.lower(), palette.muted))
    entries.append(Text(no_wrap=True).append("▁█", palette.curve).append(" alpha", palette.muted))
    if compared := largest_class(run):
        entries.append(Text(f"accuracy of the {compared}", palette.muted, no_wrap=True))
    return flowed(entries, width)


class HostsPanel(Panel):
    """Shows every host that is being trained."""

    BORDER_TITLE = "Hosts"
    ABOUT = "the networks that are grown"
    IS_RESTLESS = True

    def part(self, view: View) -> object:
        run = view.snapshot.run
        return view.snapshot.hosts, run.slots, run.blueprints, run.update, run.largest_class

    def show(self, view: View) -> None:
        super().show(view)
        self.note(largest_class(view.snapshot.run))

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_hosts(view.snapshot, width, height, palette)
