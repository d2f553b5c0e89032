"""The panels of one host: its curves, its growth and its network."""

from collections.abc import Hashable
from typing import ClassVar

from rich.text import Text

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.hosts.growth_timeline import render_timeline
from esper.karn.sanctum.hosts.host_curves import render_curves
from esper.karn.sanctum.hosts.network_drawing import render_network
from esper.karn.sanctum.schema import HostState, RunState
from esper.karn.text.palette import Palette


class HostPanel(Panel):
    """Shows the chosen host; subclasses draw it in `draw_host`."""

    TITLE: ClassVar[str] = ""
    IS_RESTLESS = True

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._host: Hashable | None = None
        self.retitle(self.TITLE)

    def choose(self, host: Hashable | None) -> None:
        """Show another host."""
        if host != self._host:
            self._host = host
            self.retitle(
                f"{self.TITLE} of host {host + 1}" if isinstance(host, int) else self.TITLE
            )
            self.redraw()

    def draw_host(
        self, host: HostState, run: RunState, width: int, height: int, palette: Palette
    ) -> list[Text]:
        """Return the lines of the panel for a host."""
        raise NotImplementedError

    def part(self, view: View) -> object:
        run = view.snapshot.run
        return self._found(view), run.step, run.update, run.slots, run.blueprints

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        host = self._found(view)
        if host is None:
            return Text("no step completed yet", style=palette.muted, no_wrap=True)
        lines = self.draw_host(host, view.snapshot.run, width, height, palette)
        return Text("\n", no_wrap=True).join(lines)

    def _found(self, view: View) -> HostState | None:
        return next((host for host in view.snapshot.hosts if host.host == self._host), None)


class CurvesPanel(HostPanel):
    """Shows accuracy, loss, reward and size per step of the episode."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        "hosts[…].accuracy",
        "hosts[…].loss",
        "hosts[…].reward",
        "hosts[…].parameters",
    )
    TITLE = "Curves"
    ABOUT = "how this network learns, step by step"

    def draw_host(
        self, host: HostState, run: RunState, width: int, height: int, palette: Palette
    ) -> list[Text]:
        return render_curves(host, run, width, height, palette)


class TimelinePanel(HostPanel):
    """Shows what grew in each slot, and when."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        "hosts[…].slots[…].stage",
        "hosts[…].slots[…].alpha",
        "hosts[…].slots[…].blueprint",
    )
    TITLE = "Growth"
    ABOUT = "what grew in each of its slots, and when"

    def draw_host(
        self, host: HostState, run: RunState, width: int, height: int, palette: Palette
    ) -> list[Text]:
        return render_timeline(host, run, width, height, palette)


class NetworkPanel(HostPanel):
    """Shows the network with its grown seeds."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        "hosts[…].parameters",
        "run.host_parameters",
        "hosts[…].slots[…].blueprint",
        "hosts[…].slots[…].alpha",
    )
    TITLE = "Network"
    ABOUT = "the network as it has grown"

    def draw_host(
        self,
        host: HostState,
        run: RunState,
        width: int,
        height: int,
        palette: Palette,
    ) -> list[Text]:
        return render_network(host, run, width, palette)
