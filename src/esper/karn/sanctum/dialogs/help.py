"""The help: panels, keys, fields, heads and signs of the screen below it."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Static

from esper.karn.sanctum.drawing.charts import MIXED_SIGN, NONFINITE_SIGNS
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.drawing.seed_stages import STAGE_SIGNS
from esper.karn.sanctum.drawing.themes import palette_of
from esper.karn.sanctum.frame.run_screen import RunScreen
from esper.karn.sanctum.runs.run_lines import OPEN
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import display_name
from esper.karn.text.figures import cut
from esper.karn.text.light_signs import FIRST_OUT_MARK, LIT, LIT_BY_DRILL, UNKNOWN, UNLIT
from esper.karn.text.palette import Palette
from esper.leyline.heads import HEAD_MEANINGS
from esper.leyline.records import RECORDS, TelemetryRecord, record_of
from esper.leyline.text.sighting_words import KIND_WORDS

_KEY_WIDTH = 14
_FIELD_WIDTH = 22
#: What has lights in a watched run.
_WATCHED = {
    "shared": "what no single head or group owns: inputs, losses, values, advantages",
    "categorical": "a head that chooses one of several actions",
    "binary": "a head that says yes or no",
    "gaussian": "one dimension of a continuous action, with its mean and spread",
    "module": "the output of one module of the model",
    "reward": "one reward function",
    "group": "some of the parameters: their gradients, values and optimizer state",
    "stalled": "in 3 or more updates steps were due, and no weight moved or all gradients were 0",
}


def _explained(rows: Iterable[tuple[Text, Text]], key_width: int = _KEY_WIDTH) -> Table:
    """Return a table of terms and their explanations, which wrap where they are long."""
    table = Table.grid()
    table.add_column(width=key_width)
    table.add_column(overflow="fold")
    for term, explanation in rows:
        table.add_row(term, explanation)
    table.add_row()  # before the next title
    return table


def render_keys(bindings: Iterable[tuple[str, str]], palette: Palette) -> Table:
    """Return a row for each pair of a key and its action."""
    return _explained(
        (Text(key, f"bold {palette.accent}"), Text(meaning, palette.ink))
        for key, meaning in bindings
    )


def render_signs(palette: Palette, *, is_watched: bool = False) -> Table:
    """Return a row for each sign of the cockpit and its meaning; a watched run has no seeds."""
    alert = f"bold {palette.critical}"
    signs = [
        (LIT, alert, "Inf or NaN was seen in this head; the light stays on for the whole run"),
        (
            LIT,
            f"{alert} reverse",
            "the same, not acknowledged yet: it blinks",
        ),
        (LIT_BY_DRILL, alert, "the same, caused by drills (--inject) only: not a fault of the run"),
        (UNLIT, palette.muted, "neither was seen so far"),
        (UNKNOWN, f"bold {palette.warning}", "not known: the store is damaged or incomplete"),
        (f"{LIT} now", alert, "also in the last update"),
        (f"{LIT}{FIRST_OUT_MARK}", alert, "first-out: the light that came on first in the run"),
    ]
    place = (
        ("7/4", "update 7, minibatch 4")
        if is_watched
        else (("7/2/4", "update 7, epoch 2, minibatch 4"))
    )
    signs.append((place[0], palette.ink, f"a place: {place[1]}"))
    for kind, sign in NONFINITE_SIGNS.items():
        name = KIND_WORDS[kind] if kind != "+inf" else "+Inf"
        signs.append((sign, alert, f"a {name} in a curve"))
    signs.append((MIXED_SIGN, alert, "several of these kinds in one cell of a curve"))
    for stage, sign in () if is_watched else STAGE_SIGNS.items():
        signs.append((sign, palette.ink, f"a slot whose seed is {stage.name.lower()}"))
    signs.append((OPEN, palette.ink, "in the list of runs: the run that is shown"))
    if not is_watched:
        alpha = "alpha: how much of a seed is blended into its host"
        signs.append(("▁ to █", palette.ink, alpha))
    return _explained(
        # Style the sign only, not the whole cell: one of the styles is reversed.
        (Text.assemble((sign, style)), Text(meaning, palette.ink))
        for sign, style, meaning in signs
    )


def records_of(panel: Panel) -> list[TelemetryRecord]:
    """Return the telemetry records of a panel's fields."""
    classes = {f"{kind.__module__}:{kind.__qualname__}" for kind in type(panel).__mro__}
    wired = [record for record in RECORDS if record.wiring.widget in classes]
    return wired + [record for path in panel.SHOWS if (record := record_of(path)) not in wired]


def render_records(records: Sequence[TelemetryRecord], palette: Palette) -> Table:
    """Return a row for each field: its meaning, unit and thresholds, then its id and source."""
    return _explained(
        (
            (Text(_label(record), f"bold {palette.accent}"), _record(record, palette))
            for record in records
        ),
        _FIELD_WIDTH,
    )


def _label(record: TelemetryRecord) -> str:
    """Return the name of a field on the screen."""
    label = record.wiring.label.strip(": ")
    return cut(label if len(label) > 1 else record.name, _FIELD_WIDTH - 1)


def _record(record: TelemetryRecord, palette: Palette) -> Text:
    limits = record.thresholds
    judged = f"healthy: {limits.healthy}; warning: {limits.warning}"
    if limits.is_critical_when_true:
        judged = f"healthy: {limits.healthy}; critical: {limits.critical}"
    return Text.assemble(
        (f"{record.question} {record.meaning}\n", palette.ink),
        (f"unit: {record.unit}; {judged}\n", palette.muted),
        (f"{record.id}, measured in {record.wiring.source}", palette.faint),
    )


def render_heads(palette: Palette) -> Table:
    """Return a row for each action head of the policy and its choice."""
    return _explained(
        (Text(display_name(head), f"bold {palette.accent}"), Text(meaning, palette.ink))
        for head, meaning in HEAD_MEANINGS.items()
    )


def render_watched(palette: Palette) -> Table:
    """Return a row for each kind of light that a watched run has."""
    return _explained(
        (Text(name, f"bold {palette.accent}"), Text(meaning, palette.ink))
        for name, meaning in _WATCHED.items()
    )


def render_about(panels: Iterable[Panel], palette: Palette) -> Table:
    """Return a row for each panel and its `ABOUT` text."""
    return _explained(
        (Text(panel.name_shown, f"bold {palette.accent}"), Text(panel.ABOUT, palette.ink))
        for panel in panels
        if panel.ABOUT and panel.name_shown
    )


def keys_of(screen: Screen[object]) -> list[tuple[str, str]]:
    """Return the keys of a screen and its focused panel, with their actions."""
    keys: dict[str, list[str]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        meaning = active.tooltip or binding.tooltip or binding.description
        # Textual always binds a key for copying a selection, which Sanctum does not support.
        if meaning and active.enabled and binding.action != "screen.copy_text":
            keys.setdefault(meaning, []).append(screen.app.get_key_display(binding))
    return [(" ".join(dict.fromkeys(shown)), meaning) for meaning, shown in keys.items()]


class HelpScreen(ModalScreen[None]):
    """Shows the panels and keys of the screen below, the focused panel's fields, and the signs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,ctrl+c", "dismiss", "Close", tooltip="Close the help"),
        Binding("k", "place('keys')", "Keys", tooltip="Scroll to the keys"),
        Binding("f", "place('fields')", "Fields", tooltip="Scroll to the focused panel's fields"),
        Binding("h", "place('heads-of')", "Heads", tooltip="Scroll to the heads"),
        Binding("s", "place('signs')", "Signs", tooltip="Scroll to the signs"),
    ]

    def __init__(self, panel: Panel | None = None) -> None:
        super().__init__()
        self._panel = panel  # in focus
        self._records = [] if panel is None else records_of(panel)

    def compose(self) -> ComposeResult:
        """Yield the help; it scrolls where it does not fit."""
        palette = palette_of(self.app.theme)
        below = self.app.screen_stack[-2]
        view = below.view if isinstance(below, RunScreen) else None
        is_watched = view is not None and view.snapshot.run.is_watched
        panels = [panel for panel in below.query(Panel) if panel.display and panel.region.area]
        with VerticalScroll(id="help"):
            yield Static("What this screen shows", classes="title")
            yield Static(render_about(panels, palette))
            yield Static("Keys", id="keys", classes="title")
            yield Static(render_keys(keys_of(below), palette))
            yield from self._fields(palette)
            if is_watched:
                yield Static("Lights: what is watched", id="heads-of", classes="title")
                yield Static(render_watched(palette))
            else:
                yield Static("Heads: what the policy chooses", id="heads-of", classes="title")
                yield Static(render_heads(palette))
            yield Static("Signs", id="signs", classes="title")
            yield Static(render_signs(palette, is_watched=is_watched))
        fields = "f fields   " if self._records else ""
        yield Static(f"k keys   {fields}h heads   s signs   esc closes", id="help-places")

    def _fields(self, palette: Palette) -> Iterable[Widget]:
        if self._panel is not None and self._records:
            title = f"Fields of {self._panel.name_shown}"
            yield Static(title, id="fields", classes="title", markup=False)
            yield Static(render_records(self._records, palette))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable the key of the fields where there are none."""
        return (action, parameters) != ("place", ("fields",)) or bool(self._records)

    def action_place(self, place: str) -> None:
        """Scroll to a part of the help."""
        for title in self.query(f"#{place}"):
            self.query_one("#help").scroll_to_widget(title, top=True, animate=False)
