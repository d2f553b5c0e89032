"""The panels of the Decisions screen: a list of decisions, and one decision in detail."""

from collections.abc import Hashable, Sequence
from typing import ClassVar

from rich.text import Text

from esper.karn.sanctum.decisions.decision_row import render_decision_row, when
from esper.karn.sanctum.decisions.decision_view import render_decision
from esper.karn.sanctum.drawing.choice_panel import ChoicePanel
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.view import View
from esper.karn.text.palette import Palette


class DecisionListPanel(ChoicePanel):
    """Shows the decisions of one step, one line per host.

    With 1,000 hosts, of which all change at each step, a refresh takes 45 ms of CPU time. Textual's
    `DataTable` takes 149 ms for the same cells (benchmarks/sanctum_tables.py).
    """

    SHOWS: ClassVar[tuple[str, ...]] = ("decisions",)
    BORDER_TITLE = "Decisions"
    ABOUT = "what the policy chose for each network"
    IS_RESTLESS = True
    HEADINGS: ClassVar[int] = 0

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._is_held = False  # an earlier step than the newest is shown
        self._is_last_act = False

    def hold(self, is_held: bool, *, is_last_act: bool = False) -> None:
        """Set whether an earlier step is shown, and whether it is the last one with an action."""
        self._is_held, self._is_last_act = is_held, is_last_act

    def part(self, view: View) -> object:
        return view.snapshot.decisions, view.snapshot.run.heads

    def redraw(self) -> None:
        """Draw the decisions, and show their update and step in the title."""
        super().redraw()
        if self._view is not None:
            at = when(self._view.snapshot.decisions, self._view.snapshot.run)
            way = "← → steps, n newest" if self._is_held else "← an earlier step"
            way = f"last step with an action · {way}" if self._is_last_act else way
            self.note(f"{at} · {way}" if at else "")

    def keys(self, view: View) -> Sequence[Hashable]:
        return [decision.host for decision in view.snapshot.decisions]

    def rows(self, view: View, width: int, palette: Palette) -> list[Text]:
        snapshot = view.snapshot
        if not snapshot.decisions:
            return [Text("no decision yet", style=palette.muted, no_wrap=True)]
        return [
            render_decision_row(decision, snapshot.run, width, palette)
            for decision in snapshot.decisions
        ]


class DecisionPanel(Panel):
    """Shows the choice of each head for one host, and the probabilities of all choices."""

    BORDER_TITLE = "Heads"
    ABOUT = "» marks the choice of each head, among all its choices"
    IS_RESTLESS = True

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._host: Hashable | None = None

    def choose(self, host: Hashable | None) -> None:
        """Show another host's decision."""
        if host != self._host:
            self._host = host
            self.retitle(f"Heads, host {host + 1}" if isinstance(host, int) else "Heads")
            self.redraw()

    def part(self, view: View) -> object:
        return view.snapshot.decisions, view.snapshot.run.heads

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        run, decisions = view.snapshot.run, view.snapshot.decisions
        hosts = [decision.host for decision in decisions]
        if self._host not in hosts:
            return Text("the chosen host's decision appears here", palette.muted, no_wrap=True)
        chosen, *others = decisions[hosts.index(self._host) :]
        lines = render_decision(chosen, run, width, height, palette)
        # A large terminal has room for the next hosts as well.
        for decision in others:
            more = render_decision(decision, run, width, height, palette)
            if len(lines) + 2 + len(more) > height:
                break
            heading = render_decision_row(decision, run, width + 2, palette)
            lines += [Text(no_wrap=True), heading[2:], *more]
        return Text("\n", no_wrap=True).join(lines)
